//! The engine: moves data between adapters and archives, and keeps every operation resumable.

mod archive;
mod backup;
mod catalog;
mod claimed;
mod export;
mod fetch;
mod handle;
mod index_reader;
mod journal;
mod keys;
mod lookup;
mod options;
mod process;
mod progress;
mod rekey;
mod remove;
mod restore;
mod selection;
mod session;
mod verify;
mod warnings;

pub use archive::Archive;
pub use catalog::{ArchiveStatus, ArchiveSummary, find_archive, list_archives};
pub use claimed::Claimed;
pub use handle::{OperationHandle, Outcome};
pub use options::{
    BackupOptions, BackupRequest, BackupWork, CancelRestore, EngineOptions, Limits, OpenOptions, RestoreOptions,
    RestoreRequest, RestoreWork, ResumeBackup, ResumeRestore, Selection, TakeOver,
};
pub use process::{holder_is_dead, this_process};
pub use rekey::{OldKey, RekeyOutcome, rekey};
pub use remove::{SweepOptions, SweepReport, delete_archive, sweep};
pub use verify::{Finding, VerifyMode, VerifyOutcome};

use crate::adapter::{Destination, LogSink, Store};
use crate::model::{Capabilities, Holder, NewOperation, Operation, OperationId};
use crate::retry::{RetryPolicy, Retrying};
use crate::{Error, Result};
use std::sync::Arc;

/// Runs operations on a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    store: Arc<dyn Store>,
    sinks: Arc<[Arc<dyn LogSink>]>,
    options: Arc<EngineOptions>,
}

impl Engine {
    /// An engine with default options.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with_options(store, EngineOptions::default(), Vec::new())
    }

    /// An engine with options, and sinks that receive each job log record besides the store.
    pub fn with_options(store: Arc<dyn Store>, options: EngineOptions, sinks: Vec<Arc<dyn LogSink>>) -> Self {
        Self { store, sinks: sinks.into(), options: Arc::new(options) }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Creates a backup and starts it.
    ///
    /// # Errors
    /// When the options are invalid, source or destination do not pass their check, the source lies inside the destination, or the store fails. Nothing is left behind then.
    pub async fn backup(&self, request: BackupRequest) -> Result<OperationHandle> {
        backup::start(self, request).await
    }

    /// Creates a backup and leaves it to any worker of the store.
    ///
    /// # Errors
    /// As for [`backup`](Self::backup); also `Invalid` when it names no connections, by which workers build its adapters.
    pub async fn create_backup(&self, request: BackupRequest) -> Result<Operation> {
        backup::create(self, request).await
    }

    /// Continues a backup that is paused, failed, pending, or whose worker died.
    ///
    /// # Errors
    /// `Conflict` when it cannot be continued or somebody else holds it; `NotFound` when there is none; `Invalid` when source or destination are other ones than at the start.
    pub async fn resume_backup(&self, request: ResumeBackup) -> Result<OperationHandle> {
        backup::resume(self, request).await
    }

    /// Creates a restore and starts it.
    ///
    /// # Errors
    /// When the archive cannot be opened, the target does not pass its check, or the store fails.
    pub async fn restore(&self, request: RestoreRequest) -> Result<OperationHandle> {
        restore::start(self, request).await
    }

    /// Continues a restore.
    ///
    /// # Errors
    /// As for [`resume_backup`](Self::resume_backup).
    pub async fn resume_restore(&self, request: ResumeRestore) -> Result<OperationHandle> {
        restore::resume(self, request).await
    }

    /// Creates a restore and leaves it to any worker of the store.
    ///
    /// # Errors
    /// As for [`restore`](Self::restore); also `Invalid` when it names no connections, by which workers build its adapters.
    pub async fn create_restore(&self, request: RestoreRequest) -> Result<Operation> {
        restore::create(self, request).await
    }

    /// Who this process is to others.
    pub(crate) fn holder(&self) -> &Holder {
        &self.options.holder
    }

    /// Claims the operation with connections that has been due for longest, if there is one: see
    /// [`Store::claim_next`], which also tells of `per_connection` and of what the worker is `able` to work with.
    ///
    /// # Errors
    /// What the store met.
    pub async fn claim_next(&self, per_connection: u32, able: Option<Capabilities>) -> Result<Option<Claimed>> {
        self.options.check()?;
        claimed::next(self, per_connection, able).await
    }

    /// Claims an operation, once. `None` when another living worker has it, or was faster.
    ///
    /// # Errors
    /// `Conflict` when it is completed or cancelled; `NotFound` when there is none; what the store met.
    pub async fn try_claim(&self, id: &OperationId, take_over: TakeOver) -> Result<Option<Claimed>> {
        self.options.check()?;
        claimed::try_claim(self, id, take_over).await
    }

    /// Claims an operation whose worker was a process of this host that is dead, whatever its lease. `None` when that is not so, or
    /// when another worker was faster.
    ///
    /// # Errors
    /// What the store met.
    pub async fn claim_orphan(&self, operation: &Operation) -> Result<Option<Claimed>> {
        self.options.check()?;
        claimed::orphan(self, operation).await
    }

    /// Works on a claimed backup.
    ///
    /// # Errors
    /// As for [`resume_backup`](Self::resume_backup); the operation has then paused or failed.
    pub async fn continue_backup(&self, claimed: Claimed, work: BackupWork) -> Result<OperationHandle> {
        backup::go_on(self, claimed, work).await
    }

    /// Works on a claimed restore.
    ///
    /// # Errors
    /// As for [`resume_restore`](Self::resume_restore); the operation has then paused or failed.
    pub async fn continue_restore(&self, claimed: Claimed, work: RestoreWork) -> Result<OperationHandle> {
        restore::go_on(self, claimed, work).await
    }

    /// Asks whoever works on an operation to pause it. A worker in another process sees it within a third of its lease, at most some seconds.
    ///
    /// # Errors
    /// `Conflict` when it is not running; `NotFound` when there is none.
    pub async fn request_pause(&self, id: &OperationId) -> Result<Operation> {
        session::request_pause(&self.store, id).await
    }

    /// Cancels a backup, running or not, and removes the objects of its archive; of one that is cancelled already, what is left
    /// of them. An archive that has a manifest stays: it was completed by a worker with a copy of the store, or just before the
    /// operation failed; delete it by its name.
    ///
    /// # Errors
    /// `Conflict` when it is already completing or completed; `Invalid` when it is not a backup, or goes elsewhere; otherwise
    /// what the store or the destination met. When only the removal failed, the operation is cancelled all the same, and
    /// cancelling it again goes on, or a sweep removes the rest.
    pub async fn cancel_backup(
        &self,
        id: &OperationId,
        destination: &Arc<impl Destination + ?Sized>,
    ) -> Result<Operation> {
        let destination = Retrying::new(destination.clone(), self.options.retry);
        remove::cancel_backup(&self.store, id, &*destination).await
    }

    /// Cancels an operation without removing what it has written; cancelling it by its kind then does that. No place need be reached.
    ///
    /// # Errors
    /// `Conflict` when it is already completing or completed; `NotFound` when there is none; what the store met.
    pub async fn give_up(&self, id: &OperationId) -> Result<Operation> {
        remove::set_cancelled(&self.store, id, |_| Ok(())).await
    }

    /// Cancels a restore, running or not, and removes what it left staged at its target; of one that is cancelled already, what is
    /// left of that. Entries that were restored stay.
    ///
    /// # Errors
    /// `Conflict` when it is completed; `Invalid` when it is not a restore, or one of another archive or target; otherwise what
    /// the store, the archive or the target met. When only the removal failed, the operation is cancelled all the same, and
    /// cancelling it again goes on.
    pub async fn cancel_restore(&self, request: CancelRestore) -> Result<Operation> {
        restore::cancel(self, request).await
    }
}

/// The one place at which calls outside of an operation get their retries.
fn retrying<D: Destination + ?Sized>(destination: &Arc<D>) -> Arc<Retrying<D>> {
    Retrying::new(destination.clone(), RetryPolicy::default())
}

/// What is left to any worker must say with which connections.
fn for_any_worker(new: &NewOperation) -> Result<()> {
    match new.connections {
        Some(_) => Ok(()),
        None => Err(Error::invalid("only an operation of stored connections can be left to any worker")),
    }
}
