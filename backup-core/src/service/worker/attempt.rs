//! One attempt at an operation: its adapters are built, and it runs until it ends or the worker stops.

use super::LONGEST_PAUSE;
use super::able::tell;
use crate::engine::{BackupWork, Claimed, Limits, OperationHandle, RestoreWork};
use crate::model::{Connection, OperationConnections};
use crate::service::operations::connections;
use crate::service::spec::Spec;
use crate::service::{BackupService, Inner, ServiceEvent};
use crate::{Error, Result};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The longest pause before the store is asked for connections again: a lease runs meanwhile.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// The first pause before adapters are built again.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// One attempt at one operation.
pub(super) struct Attempt {
    pub(super) inner: Arc<Inner>,
    pub(super) stop: CancellationToken,
}

impl Attempt {
    pub(super) async fn run(self, claimed: Claimed) {
        let service = BackupService { inner: self.inner.clone(), _guard: None };
        let id = claimed.operation().new.id.clone();
        let attempt = claimed.operation().attempt;
        // Nobody may be listening.
        let _ = self.inner.events.send(ServiceEvent::Started(Box::new(claimed.operation().clone())));
        let token = claimed.hand_over_token();
        let mut work = std::pin::pin!(self.work(&service, claimed));
        let result = tokio::select! {
            result = &mut work => result,
            () = self.stop.cancelled() => {
                token.cancel();
                work.await
            }
        };
        if let Err(error) = result {
            tracing::warn!(operation = %id, error = %error.chain(), "the attempt failed");
        }
        let mut limits = self.inner.limits.lock().unwrap_or_else(PoisonError::into_inner);
        // A later attempt of the same operation may run here already.
        if limits.get(&id).is_some_and(|(of, _)| *of == attempt) {
            limits.remove(&id);
        }
        drop(limits);
        let _ = self.inner.events.send(ServiceEvent::Ended(id));
    }

    async fn work(&self, service: &BackupService, claimed: Claimed) -> Result<()> {
        let (id, attempt) = (claimed.operation().new.id.clone(), claimed.operation().attempt);
        let Some((handle, limits)) = Box::pin(begin(service, claimed, false)).await? else { return Ok(()) };
        self.inner.limits.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (attempt, limits));
        handle.wait().await.map(|_| ())
    }
}

/// What an operation is continued with.
#[derive(Debug)]
enum Work {
    Backup(BackupWork),
    Restore(RestoreWork),
}

/// Builds the adapters of a claimed operation and begins. When they cannot be built, the operation pauses or fails; `None` when it was
/// asked to stop before that.
pub(super) async fn begin(
    service: &BackupService,
    claimed: Claimed,
    keep_going: bool,
) -> Result<Option<(OperationHandle, Limits)>> {
    let engine = &service.inner.engine;
    match claimed.before_work(Box::pin(prepare_patiently(service, &claimed))).await {
        Ok(Some((Work::Backup(work), limits))) => Ok(Some((engine.continue_backup(claimed, work).await?, limits))),
        Ok(Some((Work::Restore(work), limits))) => {
            let work = RestoreWork { keep_going, ..work };
            Ok(Some((engine.continue_restore(claimed, work).await?, limits)))
        }
        Ok(None) => claimed.stop().await.map(|_| None),
        Err(error) if service.lacks_a_key(&claimed, &error).await => {
            if let Err(second) = tell(service, &claimed.operation().new.id, &error).await {
                tracing::warn!(error = %second.chain(), "the job log does not tell why an operation is left to others");
            }
            claimed.leave_to_others().await?;
            Err(error.context("left to other workers"))
        }
        Err(error) => {
            let text = error.chain();
            claimed.broke_off(error).await?;
            Err(Error::conflict(format!("it was paused: {text}")))
        }
    }
}

/// Passing faults of what is asked to build an adapter are met again and again before they count; those of the store never count, as
/// long as the lease can be renewed.
async fn prepare_patiently(service: &BackupService, claimed: &Claimed) -> Result<(Work, Limits)> {
    let OperationConnections { source, destination } = connections(claimed.operation())?;
    let (mut store_wait, mut wait) = (FIRST_WAIT, FIRST_WAIT);
    loop {
        let stored = async { Ok((service.stored(&source).await?, service.stored(&destination).await?)) };
        let (source, destination) = match stored.await {
            Ok(stored) => stored,
            Err(error) if Error::is_retryable(&error) => {
                tracing::warn!(error = %error.chain(), "the connections of an operation cannot be read yet");
                tokio::time::sleep(store_wait).await;
                store_wait = (store_wait * 2).min(STORE_PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        };
        match prepare(service, claimed, &source, &destination).await {
            Err(error) if error.is_retryable() && wait <= LONGEST_PAUSE => {
                tracing::warn!(error = %error.chain(), "the adapters of an operation cannot be built yet");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            result => return result,
        }
    }
}

async fn prepare(
    service: &BackupService,
    claimed: &Claimed,
    source: &Connection,
    destination: &Connection,
) -> Result<(Work, Limits)> {
    match Spec::of(claimed.operation())? {
        Spec::Backup { options, sealed, limits } => {
            let limits = limits.limits();
            let work = BackupWork {
                source: service.source_of(source, &options).await?,
                destination: service.destination_of(destination).await?,
                // Without keys the engine says so in its own way.
                keys: service.archive_keys(sealed).unwrap_or_default(),
                limits: limits.clone(),
            };
            Ok((Work::Backup(work), limits))
        }
        Spec::Restore { options, allow_unsealed, limits } => {
            let limits = limits.limits();
            let work = RestoreWork {
                destination: service.destination_of(source).await?,
                target: service.target_of(destination, &options).await?,
                open: service.open_options(allow_unsealed),
                limits: limits.clone(),
                keep_going: false,
            };
            Ok((Work::Restore(work), limits))
        }
    }
}
