//! Hands the planned entries and their frames to whoever writes them: small ones in batches, large ones by themselves.

use super::large::LargeWriter;
use super::ledger::Ledger;
use super::plan::{Plan, Planned};
use super::small::SmallWriter;
use crate::adapter::{Granularity, RestoreTarget};
use crate::engine::backup::has_content;
use crate::engine::fetch::Decoded;
use crate::engine::handle::AbortOnDrop;
use crate::model::{Entry, EntryKind, GroupName};
use crate::{Error, Result};
use bytes::Bytes;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Content up to this length is held in memory and written in batches; longer content is streamed.
pub(super) const LARGE: u64 = 16 << 20;
/// Large entries at once.
pub(super) const PARALLEL_LARGE: usize = 2;

/// How the transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Complete,
    Paused,
}

/// Hands entries and frames to whoever writes them.
#[derive(Debug)]
pub(super) struct Splitter {
    pub(super) plan: Plan,
    pub(super) target: Arc<dyn RestoreTarget>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) small: SmallWriter,
    pub(super) large: LargeWriter,
    pub(super) running: VecDeque<AbortOnDrop<Result<()>>>,
    /// Groups that are taken as a whole and have been begun.
    pub(super) groups: HashSet<GroupName>,
    /// Entries whose content has not come yet, in order.
    pub(super) queue: VecDeque<Planned>,
    pub(super) pause: CancellationToken,
    /// Leave out what is damaged.
    pub(super) keep_going: bool,
}

impl Splitter {
    pub(super) async fn frames(&mut self, decoded: Decoded) -> Result<()> {
        self.advance(Some(&decoded)).await?;
        if let Some(why) = &decoded.lost {
            // What of this chunk's content was not there comes no more.
            self.lose_before(decoded.chunk.raw_end(), why).await?;
        }
        // What is written must not keep the memory of frames that are done with.
        self.small.flush().await
    }

    /// Leaves out the entries at the front of the queue that lack content before this place in the raw stream.
    async fn lose_before(&mut self, raw: u64, why: &str) -> Result<()> {
        while let Some(Planned { entry, .. }) = self.queue.pop_front_if(|planned| {
            let waits = !planned.apart && planned.entry.size > 0 && !is_large(&*self.target, &planned.entry);
            waits && self.small.front.next_of(&planned.entry) < raw
        }) {
            self.small.lost(&entry, why).await?;
            self.advance(None).await?;
        }
        Ok(())
    }

    /// Deals with the entries at the front of the queue as far as their content is there.
    pub(super) async fn advance(&mut self, decoded: Option<&Decoded>) -> Result<()> {
        let mut frames = decoded.map(|d| d.frames.iter()).into_iter().flatten();
        let mut frame = frames.next();
        while let Some(Planned { entry, apart, lost }) = self.queue.front() {
            if *lost {
                let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                self.small
                    .lost(&entry, "the part of the archive's index that says where its content is, is damaged")
                    .await?;
            } else if is_large(&*self.target, entry) || (*apart && entry.size > 0) {
                if !self.begin_large().await? {
                    return Ok(());
                }
            } else if entry.size == 0 {
                let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                self.small.add(entry, Bytes::new(), None).await?;
            } else {
                let Some(present) = frame else { break };
                if self.keep_going && self.small.front.next_of(entry) < present.start {
                    let why = decoded.and_then(|decoded| decoded.lost.as_deref());
                    let why = why.unwrap_or("its content is not where the index says").to_owned();
                    let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                    self.small.lost(&entry, &why).await?;
                    continue;
                }
                match self.small.front.take(entry, present)? {
                    Some(content) => {
                        let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                        self.small.add(entry, content, decoded).await?;
                    }
                    None => frame = frames.next(),
                }
            }
        }
        Ok(())
    }

    /// Begins the entry at the front of the queue when there is room; `false` when a pause came before.
    async fn begin_large(&mut self) -> Result<bool> {
        // What comes before is written before: a private directory is not made with other rights on the way to the entry, and a
        // symbolic link is there to be met. Also, each work is of consecutive entries so, and figures are those of whole works.
        self.small.drain().await?;
        let Some(Planned { entry, apart, lost }) = self.queue.pop_front() else { return Ok(true) };
        let whole = is_whole(&*self.target, &entry);
        if let Some(group) = entry.group.as_ref().filter(|_| whole)
            && !self.groups.insert(group.clone())
        {
            // Its group's writer reads it.
            self.ledger.handed_out(entry.ordinal + 1);
            return Ok(true);
        }
        let pause = self.pause.clone();
        while self.running.len() >= PARALLEL_LARGE {
            tokio::select! {
                biased;
                () = pause.cancelled() => {
                    self.queue.push_front(Planned { entry, apart, lost });
                    return Ok(false);
                }
                done = self.first_done() => done?,
            }
        }
        let work = self.ledger.begin(entry.ordinal);
        self.ledger.handed_out(entry.ordinal + 1);
        let writer = self.large.clone();
        let task = match entry.group.clone().filter(|_| whole) {
            Some(group) => self.ledger.spawn(writer.group(self.plan.clone(), entry, group, work)),
            None => self.ledger.spawn(writer.entry(entry, work)),
        };
        self.running.push_back(task);
        Ok(true)
    }

    async fn first_done(&mut self) -> Result<()> {
        let Some(task) = self.running.front_mut() else { return Ok(()) };
        // It stays in the queue while it runs, so that whoever stops the queue waits for it too.
        let done = task.join().await;
        self.running.pop_front();
        done
    }

    /// Stops everything that was begun.
    pub(super) async fn stop(&mut self) {
        self.small.stop().await;
        for task in self.running.drain(..) {
            task.stop().await;
        }
    }

    /// Waits for everything that was begun.
    pub(super) async fn finish(&mut self) -> Result<Ended> {
        let pause = self.pause.clone();
        if self.keep_going {
            self.lose_before(u64::MAX, "its content is not where the index says").await?;
            if !self.queue.is_empty() {
                return Ok(Ended::Paused); // Nothing else keeps an entry there.
            }
        } else if let Some(Planned { entry, .. }) = self.queue.front() {
            return Err(Error::corrupt("the index names content that no frame holds").on(&entry.name));
        }
        self.small.drain().await?;
        while !self.running.is_empty() {
            tokio::select! {
                // Large entries keep what they have recorded.
                () = pause.cancelled() => return Ok(Ended::Paused),
                done = self.first_done() => done?,
            }
        }
        Ok(Ended::Complete)
    }
}

pub(super) fn is_large(target: &dyn RestoreTarget, entry: &Entry) -> bool {
    has_content(&entry.kind) && (entry.size > LARGE || is_whole(target, entry))
}

fn is_whole(target: &dyn RestoreTarget, entry: &Entry) -> bool {
    entry.kind == EntryKind::Slice && entry.group.is_some() && target.granularity(&entry.kind) == Granularity::Whole
}
