//! The worker: claims what is due and runs it, some operations at once.

mod able;
mod attempt;
mod claiming;

use super::BackupService;
use crate::engine::{OperationHandle, TakeOver};
use crate::model::OperationId;
use crate::{Error, Result};
use attempt::begin;
use claiming::Worker;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest pause after faults of the store, and before adapters are built again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An operation cannot work with less.
const LEAST_MEMORY: u64 = 64 << 20;

/// How a worker works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerOptions {
    /// Operations at once in this process, 1 to 256; they share the engine's memory, each of them takes at least 64 MiB.
    pub parallel: usize,
    /// Operations at once that work with one connection, over all workers of the store; at least 1.
    pub per_connection: u32,
    /// How often an idle worker asks the store for what is due, 10 ms to an hour: one query each time.
    pub look_every: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self { parallel: 2, per_connection: 2, look_every: Duration::from_secs(1) }
    }
}

impl WorkerOptions {
    /// # Errors
    /// `Invalid`, and what is wrong, when no worker could work like this.
    pub(super) fn check(&self) -> Result<()> {
        let Self { parallel, per_connection, look_every } = self;
        if !(1..=256).contains(parallel) {
            return Err(Error::invalid("a worker runs 1 to 256 operations at once"));
        }
        if *per_connection == 0 {
            return Err(Error::invalid("at least one operation at once must be allowed for a connection"));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(look_every) {
            return Err(Error::invalid("a worker looks for work every 10 ms to an hour"));
        }
        Ok(())
    }

    /// What each operation may take of the memory.
    ///
    /// # Errors
    /// `Invalid` when it is too little.
    pub(super) fn memory_of_one(&self, memory: u64) -> Result<u64> {
        let one = memory / self.parallel.max(1) as u64;
        if one < LEAST_MEMORY {
            let text = format!(
                "{} operations at once need {} MiB of memory at least; allow fewer, or more memory",
                self.parallel,
                self.parallel as u64 * (LEAST_MEMORY >> 20)
            );
            return Err(Error::invalid(text));
        }
        Ok(one)
    }
}

/// A worker that runs; it stops at once when it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    stop: CancellationToken,
    /// Cancelled when the worker has ended.
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BackupService {
    pub(super) fn start_worker(&self, options: WorkerOptions, stop: CancellationToken) {
        let worker = Worker::new(Arc::downgrade(&self.inner), options, stop.clone());
        let ended = CancellationToken::new();
        let tell = ended.clone().drop_guard();
        let work = async move {
            worker.run().await;
            drop(tell);
        };
        let running = Running { stop, ended, task: tokio::spawn(work) };
        *self.inner.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
    }

    /// Begins to work on one operation in this process, now, beside whatever the worker does. `None` when another living worker has it,
    /// or when it was paused before it could begin. `keep_going` is as [`RestoreOptions::keep_going`](crate::engine::RestoreOptions).
    /// The handle is the caller's: dropping it stops the work at once.
    ///
    /// # Errors
    /// `Conflict` when it is completed or cancelled, or could not begin and was paused; `NotFound` when there is none; `Unsupported` or
    /// `Unauthorized` when this process lacks an adapter or a key for it, and it stays as it was; why its adapters cannot be built: it
    /// has failed then; what the store met.
    pub async fn run_now(
        &self,
        id: &OperationId,
        take_over: TakeOver,
        keep_going: bool,
    ) -> Result<Option<OperationHandle>> {
        let operation = self.operation(id).await?;
        self.lacks(&self.capabilities().await?, &operation).await?.map_or(Ok(()), Err)?;
        match self.inner.engine.try_claim(id, take_over).await? {
            Some(claimed) => Ok(Box::pin(begin(self, claimed, keep_going)).await?.map(|(handle, _)| handle)),
            None => Ok(None),
        }
    }

    /// Stops the worker of this process: its operations store what they have read and are handed over to whichever worker is next. Returns
    /// when that is done, whoever asked for it first. What is asked of the service afterwards waits for workers elsewhere.
    pub async fn shutdown(&self) {
        let ended = {
            let running = self.inner.worker.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(running) = &*running else { return };
            running.stop.cancel();
            running.ended.clone()
        };
        ended.cancelled().await;
    }
}
