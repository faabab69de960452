//! Memory for pieces, given in the order in which they will be delivered.
//!
//! Several collections are read at once under one budget. If memory were given as they ask for it, one whose turn comes late could
//! hold all of it while the one whose turn it is waits. So there is one queue of turns: memory is given in its order, and pieces are
//! delivered in its order.

use backup_core::budget::{ByteBudget, Permit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// One who asks for memory, a piece at a time.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Bytes that its next pieces will have, as far as it can tell.
    most: Arc<AtomicU64>,
    permits: mpsc::UnboundedSender<Permit>,
}

impl Asked {
    /// One who asks, and where it gets what it asked for.
    pub(super) fn new(closed: CancellationToken) -> (Self, Granted) {
        let (permits, granted) = mpsc::unbounded_channel();
        (Self { most: Arc::new(AtomicU64::new(super::lane::FIRST)), permits }, Granted { permits: granted, closed })
    }

    /// How many bytes the next pieces will have.
    pub(super) fn expect(&self, bytes: u64) {
        self.most.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

/// Memory as it is given.
#[derive(Debug)]
pub(super) struct Granted {
    permits: mpsc::UnboundedReceiver<Permit>,
    closed: CancellationToken,
}

impl Granted {
    /// Memory for the next piece; none when no more is given.
    pub(super) async fn next(&mut self) -> Option<Permit> {
        tokio::select! {
            biased;
            permit = self.permits.recv() => permit,
            () = self.closed.cancelled() => self.permits.try_recv().ok(),
        }
    }
}

/// Gives memory in the order in which it is asked for.
#[derive(Debug)]
pub(super) struct Turns {
    queue: mpsc::UnboundedSender<Asked>,
    /// No more is given.
    pub(super) closed: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Turns {
    /// Gives from `budget` until `stop`.
    pub(super) fn new(budget: ByteBudget, stop: CancellationToken) -> Self {
        let (queue, mut asked) = mpsc::unbounded_channel::<Asked>();
        let closed = CancellationToken::new();
        let over = closed.clone();
        let task = async move {
            let _over = over.drop_guard();
            let give = async {
                while let Some(next) = asked.recv().await {
                    let permit = budget.take(next.most()).await;
                    // Who has ended in the meantime lets go of it at once.
                    let _ = next.permits.send(permit);
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = give => {}
            }
        };
        Self { queue, closed, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Asks for the next piece of somebody.
    pub(super) fn ask(&self, who: &Asked) {
        // After a stop nobody is given anything, and nobody waits for it.
        let _ = self.queue.send(who.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn memory_is_given_in_turn_and_none_after_a_stop() {
        let (budget, stop) = (ByteBudget::new(10 << 10), CancellationToken::new());
        let turns = Turns::new(budget, stop.clone());
        let (one, mut to_one) = Asked::new(turns.closed.clone());
        let (two, mut to_two) = Asked::new(turns.closed.clone());
        one.expect(8 << 10);
        two.expect(4 << 10);
        turns.ask(&one);
        turns.ask(&two);
        turns.ask(&one);
        let first = to_one.next().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), to_two.next()).await.is_err());
        drop(first);
        let second = to_two.next().await.unwrap();
        // One kibibyte of the third's eight is missing: it is not given to anybody.
        assert!(tokio::time::timeout(Duration::from_millis(20), to_one.next()).await.is_err());
        stop.cancel();
        assert!(to_one.next().await.is_none());
        drop(second);
        assert!(to_two.next().await.is_none());
    }
}
