//! What a worker is able to work with, and what it leaves to others.

use crate::engine::Claimed;
use crate::model::{Capabilities, LogPosition, LogRecord, Operation, OperationConnections, OperationId};
use crate::service::BackupService;
use crate::service::operations::connections;
use crate::service::spec::Spec;
use crate::state::State;
use crate::{Error, ErrorClass, Result};
use std::collections::BTreeSet;

impl BackupService {
    /// What this process can work with.
    ///
    /// # Errors
    /// Why the keys cannot be got.
    pub(super) async fn capabilities(&self) -> Result<Capabilities> {
        let ring = self.inner.keys.ring().await?;
        Ok(Capabilities { keys: ring.opens().collect(), ..self.without_keys() })
    }

    pub(super) fn without_keys(&self) -> Capabilities {
        let kinds = self.inner.adapters.all().map(|adapter| adapter.kind().to_owned()).collect();
        Capabilities { kinds, keys: BTreeSet::new() }
    }

    /// Whether the operation itself is one that this process can go on with.
    ///
    /// # Errors
    /// `Unsupported` when a newer version made it; `Unauthorized` when it only has to complete an archive for which there are no keys. One
    /// that is still reading pauses for want of them, so that somebody hears of it.
    pub(super) fn knows_how(&self, operation: &Operation) -> Result<()> {
        let sealed = match Spec::of(operation)? {
            Spec::Backup { sealed, .. } => sealed,
            Spec::Restore { .. } => false,
        };
        if sealed && operation.state == State::Committing && self.inner.archive_keys.is_none() {
            return Err(Error::unauthorized("the archive is sealed, and this program has no keys for archives"));
        }
        Ok(())
    }

    /// Whether an operation that only has to complete could not begin here for want of a key that another worker may have.
    pub(super) async fn lacks_a_key(&self, claimed: &Claimed, error: &Error) -> bool {
        let operation = claimed.operation();
        if operation.state != State::Committing || error.class() != ErrorClass::Unauthorized {
            return false;
        }
        match self.capabilities().await {
            Ok(able) => matches!(self.lacks(&able, operation).await, Ok(Some(_))),
            Err(_) => true,
        }
    }

    /// What is lacking for an operation, if anything is.
    ///
    /// # Errors
    /// What the store met.
    pub(super) async fn lacks(&self, able: &Capabilities, operation: &Operation) -> Result<Option<Error>> {
        if let Err(lacks) = self.knows_how(operation) {
            return Ok(Some(lacks));
        }
        let OperationConnections { source, destination } = connections(operation)?;
        for id in [source, destination] {
            // One that is gone is told of when the operation begins.
            let lacks = self.inner.store.connection(&id).await?.map(|connection| able.check(&connection));
            if let Some(Err(lacks)) = lacks {
                return Ok(Some(lacks));
            }
        }
        Ok(None)
    }
}

/// Says why an operation is left to others.
pub(super) async fn tell(service: &BackupService, id: &OperationId, lacks: &Error) -> Result<()> {
    let text = format!("left to other workers: {}", lacks.chain());
    tracing::warn!(operation = %id, "{text}");
    let holder = service.inner.engine.holder();
    let log = LogRecord::warning("left", format!("Process {} on {}: {text}", holder.pid, holder.host));
    service.inner.store.append_log(id, LogPosition::new_writer(), &[log]).await
}
