//! The stream of events: small objects are fetched many at a time and delivered in order.
//!
//! One task follows the listing, takes memory and bandwidth for each object in turn, and starts fetching it; the tasks that
//! fetch stand in a bounded queue, from which they are awaited in order. Nothing is fetched behind an object whose content the
//! reader is to fetch, before the reader has taken that: a pause may end the reading there, and then nothing was fetched in vain.

use super::fetch::{self, Events, INLINE, warning};
use super::get::Getter;
use super::list::{Listed, joined};
use super::object::Object;
use backup_core::Result;
use backup_core::adapter::{ReadContext, SourceEvent};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

/// How many objects are fetched at once.
const IN_FLIGHT: usize = 32;

/// What the task that follows the listing hands over.
enum Pending {
    Ready(Events),
    Fetched(AbortOnDropHandle<Result<Events>>),
    /// An object that is fetched later; the listing goes on when the sender has been used.
    Stored(AbortOnDropHandle<Result<Events>>, oneshot::Sender<()>),
}

/// The events of what is listed.
pub(super) fn events(
    getter: Arc<Getter>,
    listing: BoxStream<'static, Result<Listed>>,
    ctx: ReadContext,
) -> BoxStream<'static, Result<SourceEvent>> {
    async_stream::try_stream! {
        let (out, mut pending) = mpsc::channel(IN_FLIGHT);
        let producer = Producer { getter, ctx, out };
        let mut producer = AbortOnDropHandle::new(tokio::spawn(producer.run(listing)));
        while let Some(next) = pending.recv().await {
            let mut taken = None;
            let events = match next {
                Pending::Ready(events) => events,
                Pending::Fetched(task) => joined(task.await)?,
                Pending::Stored(task, sender) => {
                    taken = Some(sender);
                    joined(task.await)?
                }
            };
            for event in events {
                yield event;
            }
            if let Some(taken) = taken {
                let _ = taken.send(());
            }
        }
        // What was listed before an error has been delivered by now.
        joined((&mut producer).await)?;
    }
    .boxed()
}

struct Producer {
    getter: Arc<Getter>,
    ctx: ReadContext,
    out: mpsc::Sender<Pending>,
}

impl Producer {
    /// Follows the listing to its end, or until a pause; nobody is waiting any more when the receiver is gone.
    async fn run(self, mut listing: BoxStream<'static, Result<Listed>>) -> Result<()> {
        let stop = self.ctx.stop.clone();
        let all = async {
            while let Some(listed) = listing.next().await.transpose()? {
                let Ok(slot) = self.out.reserve().await else { return Ok(()) };
                match listed {
                    Listed::Odd(name, why) => slot.send(Pending::Ready(vec![warning(name, format!("skipped: {why}"))])),
                    Listed::Object(object) if object.is_delete_marker() => {
                        slot.send(Pending::Ready(fetch::delete_marker(&object)?));
                    }
                    Listed::Object(object) if object.size > INLINE => {
                        let (sender, taken) = oneshot::channel();
                        slot.send(Pending::Stored(self.stored(object), sender));
                        if taken.await.is_err() {
                            return Ok(());
                        }
                    }
                    Listed::Object(object) => slot.send(Pending::Fetched(self.inline(object).await)),
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = all => ended,
        }
    }

    /// Starts fetching a small object, as soon as there is memory and bandwidth for it.
    async fn inline(&self, object: Object) -> AbortOnDropHandle<Result<Events>> {
        let permit = self.ctx.budget.take(object.size).await;
        self.ctx.limit.take(object.size).await;
        let getter = self.getter.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { fetch::inline(&getter, object, permit).await }))
    }

    fn stored(&self, object: Object) -> AbortOnDropHandle<Result<Events>> {
        let getter = self.getter.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { fetch::stored(&getter, object).await }))
    }
}
