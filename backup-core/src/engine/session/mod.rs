//! A worker's hold on an operation: claim, lease, requests, job log, and the end.

mod change;
mod ending;
mod lease;
mod log;

pub(super) use change::request_pause;

use super::claimed::{self, Claimed};
use super::journal::Journal;
use super::process::boot_time;
use super::progress::Meter;
use super::{Engine, TakeOver};
use crate::adapter::{LogSink, Store};
use crate::model::{Checkpoint, Claim, Fence, Guard, LogRecord, NewOperation, Operation, OperationId, Transition};
use crate::retry::RetryPolicy;
use crate::state::{Event, State};
use crate::{Error, ErrorClass, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a worker renews at the longest, so that a request of another process is soon seen.
const RENEW_AT_MOST: Duration = Duration::from_secs(1);

/// The hold of this worker on one operation.
#[derive(Debug)]
pub(super) struct Session {
    store: Arc<dyn Store>,
    sinks: Arc<[Arc<dyn LogSink>]>,
    fence: Fence,
    lease: Duration,
    /// [`boot_time`] in milliseconds until which the lease surely runs.
    deadline: AtomicU64,
    /// Cancelled when the work is to stop at the next point from which it can go on.
    pub(super) pause: CancellationToken,
    /// Cancelled when it is to stop so for another worker; cancels `pause` too.
    pub(super) hand_over: CancellationToken,
    /// Cancelled when the claim is void.
    lost: CancellationToken,
    /// A change of state that ends this hold is under way: the store may refuse a renewal, which then means nothing.
    leaving: AtomicBool,
    /// It is `Committing`: it can neither pause nor be handed over.
    completing: AtomicBool,
    retry: RetryPolicy,
    journal: Journal,
    pub(super) meter: Meter,
    /// What writes at the destination on tasks of its own.
    pub(super) writers: TaskTracker,
}

impl Session {
    /// Creates an operation and claims it. One that cannot be claimed is cancelled, so that none is left that nobody knows of.
    ///
    /// # Errors
    /// What the store met; when the operation may be there all the same, the error names it.
    pub(super) async fn create(engine: &Engine, new: NewOperation, first: &Checkpoint) -> Result<Arc<Self>> {
        let id = create(engine, new, first).await?.new.id;
        match Self::claim(engine, &id, TakeOver::WhenFree).await {
            Ok((session, _)) => Ok(session),
            Err(error) => Err(Self::abandon(engine, &id, error).await),
        }
    }

    /// Cancels an operation that this worker created and could not claim. Gives the error for the caller.
    async fn abandon(engine: &Engine, id: &OperationId, error: Error) -> Error {
        let abandoned = async {
            let operation = engine.store.get(id).await?.ok_or_else(|| no_such(id))?;
            // The reply to the claim may have been lost; but what another worker has taken is its own.
            let free = operation.state == State::Pending || operation.holder.as_ref() == Some(&engine.options.holder);
            if !free {
                return Err(Error::conflict("another worker has it"));
            }
            let log = LogRecord::error("cancel", format!("given up, since it could not be begun: {}", error.chain()));
            let guard = Guard::Version(operation.version);
            engine.store.transition(Transition::new(id.clone(), guard, Event::Cancel, log)).await
        };
        match abandoned.await {
            Ok(_) => error.context("the operation could not be begun, and was cancelled; nothing was written"),
            Err(second) => {
                tracing::debug!(error = %second.chain(), "an operation that could not be begun stays");
                error.context(may_be_there(id))
            }
        }
    }

    /// Claims an operation; waits while another living worker has it, unless told to take over.
    pub(super) async fn claim(engine: &Engine, id: &OperationId, take_over: TakeOver) -> Result<(Arc<Self>, Claim)> {
        loop {
            match claimed::try_claim(engine, id, take_over).await? {
                Some(Claimed { session, claim }) => return Ok((session, claim)),
                // Somebody holds it or was faster; look again.
                None => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// The hold of a claim that was asked for at this [`boot_time`].
    pub(super) fn of(engine: &Engine, claim: &Claim, before: Duration) -> Arc<Self> {
        let hand_over = CancellationToken::new();
        let session = Self {
            store: engine.store.clone(),
            sinks: engine.sinks.clone(),
            fence: claim.fence.clone(),
            lease: engine.options.lease,
            deadline: AtomicU64::new(0),
            pause: hand_over.child_token(),
            hand_over,
            lost: CancellationToken::new(),
            leaving: AtomicBool::new(false),
            completing: AtomicBool::new(claim.operation.state == State::Committing),
            retry: engine.options.retry,
            journal: Journal::default(),
            meter: Meter::new(claim.operation.progress.clone()),
            writers: TaskTracker::new(),
        };
        session.lease_runs_from(before);
        Arc::new(session)
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }

    fn lease_runs_from(&self, start: Duration) {
        let end = u64::try_from((start + self.lease).as_millis()).unwrap_or(u64::MAX);
        self.deadline.store(end, Ordering::Relaxed);
    }

    /// To be called before each external effect: fails when another worker may have taken over.
    pub(super) fn ensure_held(&self) -> Result<()> {
        let now = u64::try_from(boot_time().as_millis()).unwrap_or(u64::MAX);
        if self.lost.is_cancelled() || now >= self.deadline.load(Ordering::Relaxed) {
            self.lost.cancel();
            return Err(self.lost_error());
        }
        Ok(())
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    fn is_completing(&self) -> bool {
        self.completing.load(Ordering::Acquire)
    }

    fn lost_error(&self) -> Error {
        Error::conflict("this worker no longer holds the operation: it was cancelled, taken over, or the lease ran out")
            .on(format!("operation {}", self.fence.operation))
    }

    /// Repeats a call to the store that is harmless to repeat, while passing faults are all that it meets and the hold lasts.
    async fn persist<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let mut wait = self.retry.initial;
        loop {
            match call().await {
                Err(e) if e.is_retryable() && self.ensure_held().is_ok() => {
                    tracing::warn!(error = %e.chain(), "the store does not answer as it should; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(self.retry.max);
                }
                Err(e) if e.class() == ErrorClass::Conflict => {
                    self.lost.cancel();
                    return Err(e);
                }
                result => return result,
            }
        }
    }

    /// Saves a checkpoint under this claim, after the log records that whoever goes on from there would not write again.
    pub(super) async fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        self.ensure_held()?;
        if self.journal.would_be_missed() {
            self.flush_log().await?;
        }
        self.persist(|| self.store.save_checkpoint(&self.fence, checkpoint)).await
    }

    /// Runs what comes before the work of an attempt, under the lease. `None` when the attempt is to stop before that.
    pub(super) async fn before_work<T>(&self, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        tokio::select! {
            biased;
            result = self.hold(work) => result.map(Some),
            () = self.told_to_stop() => Ok(None),
        }
    }

    async fn told_to_stop(&self) {
        // What is completing is left for another worker at the most.
        if self.is_completing() { self.hand_over.cancelled().await } else { self.pause.cancelled().await }
    }
}

/// Creates an operation.
///
/// # Errors
/// What the store met; when the operation may be there all the same, the error names it.
pub(super) async fn create(engine: &Engine, new: NewOperation, first: &Checkpoint) -> Result<Operation> {
    let id = new.id.clone();
    match engine.store.create(new, Some(first)).await {
        Ok(operation) => Ok(operation),
        // The reply may have been lost.
        Err(error) => match engine.store.get(&id).await {
            Ok(Some(operation)) => Ok(operation),
            Ok(None) => Err(error),
            Err(_) => Err(error.context(may_be_there(&id))),
        },
    }
}

fn may_be_there(id: &OperationId) -> String {
    format!("operation {id} was created but could not be begun; resume it, or cancel it")
}

pub(super) fn no_such(id: &OperationId) -> Error {
    Error::not_found("there is no such operation in this store").on(format!("operation {id}"))
}
