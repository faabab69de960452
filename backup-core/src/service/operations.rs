//! Operations: start, watch, pause, resume, cancel, and their history.

use super::BackupService;
use super::spec::{Rates, Spec};
use crate::adapter::RestoreTarget;
use crate::engine::{BackupOptions, BackupRequest, CancelRestore, Limits, OpenOptions, RestoreOptions, RestoreRequest};
use crate::model::{
    ArchiveId, ConnectionId, Operation, OperationConnections, OperationId, OperationQuery, OperationTotals, Request,
    StorageUse,
};
use crate::state::State;
use crate::{Error, ErrorClass, Result};
use futures::Stream;
use serde_json::Value;
use std::num::NonZeroU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How often the store is asked for what another process may have changed.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A backup to be made.
#[derive(Clone, Debug)]
pub struct NewBackup {
    /// The connection that is read.
    pub source: ConnectionId,
    /// The connection where the archive goes.
    pub destination: ConnectionId,
    /// A name for people, by which the archive can be found again; may be empty, but not `latest`.
    pub name: String,
    /// What the source's adapter lets choose, such as patterns of what is left out; null for nothing in particular.
    pub source_options: Value,
    /// How the archive is written.
    pub options: BackupOptions,
    /// Seal the archive. `None`: when the service has keys for archives.
    pub sealed: Option<bool>,
    /// Bytes a second that are read at most.
    pub limit_read: Option<NonZeroU64>,
    /// Bytes a second that are written at most.
    pub limit_write: Option<NonZeroU64>,
    /// Who asks for it, as the frontend names people; may be empty.
    pub created_by: String,
}

impl NewBackup {
    /// A backup with default options.
    pub fn new(source: &ConnectionId, destination: &ConnectionId) -> Self {
        Self {
            source: source.clone(),
            destination: destination.clone(),
            name: String::new(),
            source_options: Value::Null,
            options: BackupOptions::default(),
            sealed: None,
            limit_read: None,
            limit_write: None,
            created_by: String::new(),
        }
    }
}

/// A restore to be made.
#[derive(Clone, Debug)]
pub struct NewRestore {
    /// The connection where the archive is.
    pub archive_at: ConnectionId,
    /// The archive.
    pub archive: ArchiveId,
    /// The connection where the data is put back.
    pub target: ConnectionId,
    /// What the target's adapter lets choose; null for nothing in particular.
    pub target_options: Value,
    /// What and how.
    pub options: RestoreOptions,
    /// Accept an archive that is not sealed, that this store knows nothing of, although the service has keys for archives.
    pub allow_unsealed: bool,
    /// Bytes a second that are read at most.
    pub limit_read: Option<NonZeroU64>,
    /// Bytes a second that are written at most.
    pub limit_write: Option<NonZeroU64>,
    /// Who asks for it, as the frontend names people; may be empty.
    pub created_by: String,
}

impl NewRestore {
    /// A restore of a whole archive with default options.
    pub fn new(archive_at: &ConnectionId, archive: &ArchiveId, target: &ConnectionId) -> Self {
        Self {
            archive_at: archive_at.clone(),
            archive: archive.clone(),
            target: target.clone(),
            target_options: Value::Null,
            options: RestoreOptions::default(),
            allow_unsealed: false,
            limit_read: None,
            limit_write: None,
            created_by: String::new(),
        }
    }
}

impl BackupService {
    /// Creates a backup; the next worker that is free runs it.
    ///
    /// # Errors
    /// `NotFound` when a connection is not there; `Invalid` when options cannot work, the source lies inside the destination, or it
    /// is to be sealed and the service has no keys for archives; why source or destination cannot be used; what the store met. Nothing
    /// is created then.
    pub async fn backup(&self, new: NewBackup) -> Result<Operation> {
        let NewBackup {
            source,
            destination,
            name,
            source_options,
            options,
            sealed,
            limit_read,
            limit_write,
            created_by,
        } = new;
        let sealed = sealed.unwrap_or(self.inner.archive_keys.is_some());
        let limits = Rates { read: limit_read, write: limit_write };
        let request = BackupRequest {
            source: self.source(&source, &source_options).await?,
            destination: self.destination(&destination).await?,
            name,
            options,
            keys: self.archive_keys(sealed)?,
            limits: Limits::default(),
            spec: Spec::Backup { options: source_options, sealed, limits }.to_json()?,
            connections: Some(OperationConnections { source, destination }),
            created_by,
        };
        let created = self.inner.engine.create_backup(request).await?;
        self.inner.due.notify_waiters();
        Ok(created)
    }

    /// Creates a restore; the next worker that is free runs it.
    ///
    /// # Errors
    /// As for [`backup`](Self::backup); also when the archive cannot be opened, or is not the one that the store remembers.
    pub async fn restore(&self, new: NewRestore) -> Result<Operation> {
        let NewRestore {
            archive_at,
            archive,
            target,
            target_options,
            options,
            allow_unsealed,
            limit_read,
            limit_write,
            created_by,
        } = new;
        let destination = self.destination(&archive_at).await?;
        let place = destination.identity();
        // What the store knows is compared with what it knows, sealed or not.
        let known = self.inner.store.places(&archive).await?.into_iter().find(|k| k.record.destination == place);
        let allow_unsealed = allow_unsealed || known.is_some();
        let limits = Rates { read: limit_read, write: limit_write };
        let request = RestoreRequest {
            destination,
            archive,
            target: self.target(&target, &target_options).await?,
            open: self.open_options(allow_unsealed),
            options,
            limits: Limits::default(),
            name: known.map(|known| known.record.name).unwrap_or_default(),
            spec: Spec::Restore { options: target_options, allow_unsealed, limits }.to_json()?,
            connections: Some(OperationConnections { source: archive_at, destination: target }),
            created_by,
        };
        let created = self.inner.engine.create_restore(request).await?;
        self.inner.due.notify_waiters();
        Ok(created)
    }

    /// An operation.
    ///
    /// # Errors
    /// `NotFound` when there is none; what the store met.
    pub async fn operation(&self, id: &OperationId) -> Result<Operation> {
        let found = self.inner.store.get(id).await?;
        found.ok_or_else(|| Error::not_found("there is no such operation").on(id))
    }

    /// Asks for a pause; wherever the operation runs, its worker sees it within two seconds, finishes what is in flight and keeps the
    /// state. One whose worker is dead is paused at once.
    ///
    /// # Errors
    /// `Conflict` when it is not running; `NotFound` when there is none; what the store met.
    pub async fn pause(&self, id: &OperationId) -> Result<Operation> {
        self.inner.engine.request_pause(id).await
    }

    /// Lets a paused or failed operation go on from where it stopped; the next worker that is free takes it.
    ///
    /// # Errors
    /// `Conflict` when it is neither; `NotFound` when there is none; `Unsupported` when it was not made by a service; what the store met.
    pub async fn resume(&self, id: &OperationId) -> Result<Operation> {
        Spec::of(&self.operation(id).await?)?;
        let resumed = self.inner.store.request(id, Request::Resume).await?;
        self.inner.due.notify_waiters();
        Ok(resumed)
    }

    /// Lets a failed operation go on from where it broke off. The same as [`resume`](Self::resume), for failed operations only.
    ///
    /// # Errors
    /// As for [`resume`](Self::resume); `Conflict` when it has not failed.
    pub async fn retry(&self, id: &OperationId) -> Result<Operation> {
        let operation = self.operation(id).await?;
        match operation.state {
            State::Failed { .. } => self.resume(id).await,
            state => Err(Error::conflict(format!("an operation that is {state} has nothing to retry")).on(id)),
        }
    }

    /// Cancels an operation, running or not: a backup's archive is removed, a restore's staged leftovers are. Its worker, wherever it
    /// is, notices within two seconds. Of one that is cancelled already, what is left is removed.
    ///
    /// # Errors
    /// `Conflict` when it is completing or completed; `NotFound` when there is none; `Unsupported` when it was not made by a service;
    /// otherwise what store, destination or target met: the operation may be cancelled all the same (look at its state), and cancelling
    /// again goes on.
    pub async fn cancel(&self, id: &OperationId) -> Result<Operation> {
        let operation = self.operation(id).await?;
        let spec = Spec::of(&operation)?;
        let OperationConnections { source, destination } = connections(&operation)?;
        // First the state, whatever the places are like: from here on no worker goes on.
        self.inner.engine.give_up(id).await?;
        let removed = async {
            match spec {
                Spec::Backup { .. } => {
                    self.inner.engine.cancel_backup(id, &self.destination(&destination).await?).await
                }
                Spec::Restore { options, allow_unsealed, .. } => {
                    let target: Arc<dyn RestoreTarget> = self.target(&destination, &options).await?;
                    let at = self.destination(&source).await?;
                    let open = self.open_options(allow_unsealed);
                    let cancel = CancelRestore { operation: id.clone(), destination: at, target, open };
                    self.inner.engine.cancel_restore(cancel).await
                }
            }
        };
        removed.await.map_err(|e| {
            e.context("the operation is cancelled, but what it left could not be removed; cancelling it again goes on")
        })
    }

    /// Waits until an operation stands still: completed, failed, cancelled, or paused without a time to go on by itself.
    ///
    /// # Errors
    /// `NotFound` when there is none; what the store met, when that is more than a passing fault.
    pub async fn wait(&self, id: &OperationId) -> Result<Operation> {
        let mut events = self.events();
        loop {
            match self.operation(id).await {
                Ok(operation) if stands_still(&operation) => return Ok(operation),
                Ok(_) => {}
                Err(e) if e.is_retryable() => {
                    tracing::warn!(error = %e.chain(), "the store does not answer as it should")
                }
                Err(e) => return Err(e),
            }
            let ended = async {
                loop {
                    match events.recv().await {
                        Ok(super::ServiceEvent::Ended(ended)) if ended == *id => return,
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                        Ok(_) | Err(_) => {}
                    }
                }
            };
            let _ = tokio::time::timeout(LOOK_EVERY, ended).await;
        }
    }

    /// Follows an operation, wherever it runs: the state and progress now, then each that differs, about one in a second, until it
    /// stands still.
    pub fn watch(&self, id: &OperationId) -> impl Stream<Item = Result<Operation>> + Send + use<> {
        let (service, id) = (self.clone(), id.clone());
        async_stream::try_stream! {
            let mut last: Option<Operation> = None;
            loop {
                let now = match service.operation(&id).await {
                    // The store comes back, or another look says that it does not.
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(error = %error.chain(), "the store does not answer as it should");
                        tokio::time::sleep(LOOK_EVERY).await;
                        continue;
                    }
                    now => now?,
                };
                let still = stands_still(&now);
                if last.as_ref() != Some(&now) {
                    last = Some(now.clone());
                    yield now;
                }
                if still {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Changes the bandwidth of an operation that the worker of this process runs, from now on; `false` when it does not.
    pub fn set_limits(&self, id: &OperationId, read: Option<NonZeroU64>, write: Option<NonZeroU64>) -> bool {
        let limits = self.inner.limits.lock().unwrap_or_else(PoisonError::into_inner);
        match limits.get(id) {
            Some((_, limits)) => {
                limits.read.set(read);
                limits.write.set(write);
                true
            }
            None => false,
        }
    }

    /// A page of the history, the newest first.
    ///
    /// # Errors
    /// What the store met.
    pub async fn history(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        self.inner.store.query(query).await
    }

    /// How many operations the filters leave, by state; with them the success rate.
    ///
    /// # Errors
    /// What the store met.
    pub async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals> {
        self.inner.store.totals(query).await
    }

    /// What archives take up, by destination, as far as the store remembers them.
    ///
    /// # Errors
    /// What the store met.
    pub async fn storage(&self) -> Result<Vec<StorageUse>> {
        self.inner.store.storage().await
    }

    pub(super) fn archive_keys(&self, sealed: bool) -> Result<Option<Arc<dyn crate::archive::KeyProvider>>> {
        match (sealed, &self.inner.archive_keys) {
            (false, _) => Ok(None),
            (true, Some(keys)) => Ok(Some(keys.clone())),
            (true, None) => Err(Error::invalid("the service has no keys to seal archives with")),
        }
    }

    pub(super) fn open_options(&self, allow_unsealed: bool) -> OpenOptions {
        OpenOptions { keys: self.inner.archive_keys.clone(), allow_unsealed }
    }
}

/// The connections of an operation.
///
/// # Errors
/// `Unsupported` when it has none.
pub(super) fn connections(operation: &Operation) -> Result<OperationConnections> {
    let text = "the operation has no stored connections; go on with it where it was started";
    operation.new.connections.clone().ok_or_else(|| Error::new(ErrorClass::Unsupported, text).on(&operation.new.id))
}

fn stands_still(operation: &Operation) -> bool {
    let goes_on = operation.request == Some(Request::Resume);
    match &operation.state {
        State::Completed { .. } | State::Cancelled => true,
        State::Failed { .. } => !goes_on,
        State::Paused { resume_at, .. } => !goes_on && resume_at.is_none(),
        State::Pending | State::Running | State::Committing => false,
    }
}
