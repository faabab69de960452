//! What a caller holds of a running operation.

use super::session::Session;
use crate::model::{ArchiveId, OperationId, Progress};
use crate::state::PauseReason;
use crate::{Error, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How an operation ended, or why it stands still. A failure is an error instead.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done.
    Completed {
        /// How many warnings it met; they are in the job log, and those of a backup in the archive.
        warnings: u64,
        /// Final figures.
        progress: Progress,
    },
    /// Stands still and can be resumed.
    Paused {
        /// Why.
        reason: PauseReason,
        /// When it may go on by itself.
        resume_at: Option<jiff::Timestamp>,
        /// The error behind it, as a chain of causes, unless it was asked for.
        message: Option<String>,
    },
    /// Waits for any worker to go on, since this one shut down.
    HandedOver,
    /// Given up; the objects of its archive, or what was staged at its target, are removed.
    Cancelled,
}

/// A running operation. Dropping it stops the work at once, in a state from which it continues.
#[derive(Debug)]
pub struct OperationHandle {
    pub(super) id: OperationId,
    pub(super) archive: ArchiveId,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) pause: CancellationToken,
    pub(super) hand_over: CancellationToken,
    pub(super) task: AbortOnDrop<Result<Outcome>>,
}

impl OperationHandle {
    /// Begins work under a claim.
    pub(super) fn of(
        session: &Session,
        archive: ArchiveId,
        work: impl Future<Output = Result<Outcome>> + Send + 'static,
    ) -> Self {
        Self {
            id: session.fence().operation.clone(),
            archive,
            progress: session.meter.subscribe(),
            pause: session.pause.clone(),
            hand_over: session.hand_over.clone(),
            task: AbortOnDrop(tokio::spawn(work)),
        }
    }

    /// The operation's id.
    pub fn id(&self) -> &OperationId {
        &self.id
    }

    /// The archive that is written or read.
    pub fn archive(&self) -> &ArchiveId {
        &self.archive
    }

    /// Follows the progress; the latest value is always there.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Asks for a pause: what was read is stored, then [`wait`](Self::wait) returns `Paused`.
    pub fn pause(&self) {
        self.pause.cancel();
    }

    /// A token that asks for a pause when it is cancelled, for a signal handler.
    pub fn pause_token(&self) -> CancellationToken {
        self.pause.clone()
    }

    /// Shuts this worker down: as [`pause`](Self::pause), but the operation ends up `Pending`, so that any worker may go on at
    /// once, and [`wait`](Self::wait) returns `HandedOver`. A pause that was asked for through the store goes before it.
    pub fn hand_over(&self) {
        self.hand_over.cancel();
    }

    /// A token that hands over when it is cancelled, for a signal handler. It cancels the [pause token](Self::pause_token) too.
    pub fn hand_over_token(&self) -> CancellationToken {
        self.hand_over.clone()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Whatever made the operation fail; its state is then `Failed`, from which it can be resumed. `Conflict` when another
    /// worker took it over.
    pub async fn wait(mut self) -> Result<Outcome> {
        self.task.join().await
    }
}

/// A task that ends with its handle.
#[derive(Debug)]
pub(super) struct AbortOnDrop<T>(pub(super) JoinHandle<T>);

impl<T> AbortOnDrop<Result<T>> {
    pub(super) async fn join(&mut self) -> Result<T> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(e) if e.is_cancelled() => Err(Error::cancelled("the task was stopped")),
            Err(e) => Err(Error::permanent("a task of the engine panicked").because(e)),
        }
    }
}

impl<T> AbortOnDrop<T> {
    /// Stops the task, and waits until it does nothing any more.
    pub(super) async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
