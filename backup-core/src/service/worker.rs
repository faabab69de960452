//! The worker: claims what is due and runs it, some operations at once.

use super::operations::connections;
use super::spec::Spec;
use super::{BackupService, Inner, ServiceEvent};
use crate::engine::{BackupWork, Claimed, Limits, OperationHandle, RestoreWork, TakeOver, holder_is_dead};
use crate::model::{
    Capabilities, Connection, LogPosition, LogRecord, Operation, OperationConnections, OperationId, OperationQuery,
    Request,
};
use crate::state::State;
use crate::{Error, ErrorClass, Result};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// How often, in looks and at the longest, what dead processes of this host left is looked for, and what this worker leaves to others. The
/// leases of the dead run out anyway; this is only faster.
const ORPHANS_EVERY: (u32, Duration) = (15, Duration::from_secs(15));
/// The longest pause after faults of the store.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So many of the newest operations that wait or stand still are looked through for what this worker leaves to others.
const LOOK_THROUGH: u32 = 500;
/// The longest pause before the store is asked for connections again: a lease runs meanwhile.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// The first pause before adapters are built again.
const FIRST_WAIT: Duration = Duration::from_millis(200);
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
        let (service, left) = (Arc::downgrade(&self.inner), HashMap::new());
        let declined = HashSet::new();
        let worker = Worker { service, options, stop: stop.clone(), left, declined, keys_told: false };
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

    /// What this process can work with.
    ///
    /// # Errors
    /// Why the keys cannot be got.
    async fn capabilities(&self) -> Result<Capabilities> {
        let ring = self.inner.keys.ring().await?;
        Ok(Capabilities { keys: ring.opens().collect(), ..self.without_keys() })
    }

    fn without_keys(&self) -> Capabilities {
        let kinds = self.inner.adapters.all().map(|adapter| adapter.kind().to_owned()).collect();
        Capabilities { kinds, keys: BTreeSet::new() }
    }

    /// Whether the operation itself is one that this process can go on with.
    ///
    /// # Errors
    /// `Unsupported` when a newer version made it; `Unauthorized` when it only has to complete an archive for which there are no keys. One
    /// that is still reading pauses for want of them, so that somebody hears of it.
    fn knows_how(&self, operation: &Operation) -> Result<()> {
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
    async fn lacks_a_key(&self, claimed: &Claimed, error: &Error) -> bool {
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
    async fn lacks(&self, able: &Capabilities, operation: &Operation) -> Result<Option<Error>> {
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

#[derive(Debug)]
struct Worker {
    /// The service owns its worker.
    service: Weak<Inner>,
    options: WorkerOptions,
    stop: CancellationToken,
    /// Operations that wait for a worker with other adapters or keys, and whether that was told.
    left: HashMap<OperationId, bool>,
    /// Operations that it claimed and gave back, which was told.
    declined: HashSet<OperationId>,
    /// Whether it was told that the keys cannot be got.
    keys_told: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackupService")
    }
}

impl Worker {
    async fn run(mut self) {
        let mut running = JoinSet::new();
        let mut pause = self.options.look_every;
        let mut orphans = tokio::time::interval(ORPHANS_EVERY.1.min(self.options.look_every * ORPHANS_EVERY.0));
        orphans.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            let Some(service) = self.service() else { break };
            // The first tick comes at once: what a process before this one left goes on at the start.
            let look_for_orphans = futures::FutureExt::now_or_never(orphans.tick()).is_some();
            match self.claim(&service, &mut running, look_for_orphans).await {
                Ok(()) => pause = self.options.look_every,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "the worker cannot look for operations");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            let due = service.inner.due.notified();
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = due => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = running.join_next() => told(ended),
            }
        }
        // Each job hears of the stop by itself.
        while let Some(ended) = running.join_next().await {
            told(ended);
        }
    }

    fn service(&self) -> Option<BackupService> {
        self.service.upgrade().map(|inner| BackupService { inner, _guard: None })
    }

    /// Claims as many operations as there is room for.
    async fn claim(
        &mut self,
        service: &BackupService,
        running: &mut JoinSet<()>,
        look_for_orphans: bool,
    ) -> Result<()> {
        if !self.has_room(running) {
            return Ok(());
        }
        let able = self.able(service).await;
        if look_for_orphans {
            let mut query = OperationQuery { states: vec!["running", "committing"], ..OperationQuery::default() };
            loop {
                let page = service.inner.store.query(&query).await?;
                let Some(last) = page.last() else { break };
                query.before = Some(last.new.id.clone());
                for operation in page.iter().filter(|operation| operation.new.connections.is_some()) {
                    if !self.has_room(running) {
                        return Ok(());
                    }
                    // A pause that its worker did not live to see is seen to in its place.
                    if !operation.holder.as_ref().is_some_and(holder_is_dead) {
                        continue;
                    }
                    if operation.state == State::Running && operation.request == Some(Request::Pause) {
                        // Another worker may have been faster.
                        if let Err(error) = service.pause(&operation.new.id).await {
                            tracing::warn!(operation = %operation.new.id, error = %error.chain(), "a pause could not be seen to");
                        }
                    } else if service.lacks(&able, operation).await?.is_none()
                        && let Some(claimed) = service.inner.engine.claim_orphan(operation).await?
                    {
                        self.start(service, running, claimed).await;
                    }
                }
            }
        }
        while self.has_room(running) {
            match service.inner.engine.claim_next(self.options.per_connection, Some(able.clone())).await? {
                Some(claimed) => self.start(service, running, claimed).await,
                None if look_for_orphans => return self.tell_what_is_left(service, &able).await,
                None => break,
            }
        }
        Ok(())
    }

    fn has_room(&self, running: &mut JoinSet<()>) -> bool {
        while let Some(ended) = running.try_join_next() {
            told(ended);
        }
        running.len() < self.options.parallel && !self.stop.is_cancelled()
    }

    /// What this worker can work with now. Without keys it still runs what has no secrets.
    async fn able(&mut self, service: &BackupService) -> Capabilities {
        match service.capabilities().await {
            Ok(able) => {
                self.keys_told = false;
                able
            }
            Err(error) => {
                if !std::mem::replace(&mut self.keys_told, true) {
                    tracing::warn!(error = %error.chain(), "the worker leaves operations of connections with secrets to others");
                }
                service.without_keys()
            }
        }
    }

    /// Says once of each operation that is still waiting why this worker does not take it, in its job log too: there may be no worker
    /// that does.
    async fn tell_what_is_left(&mut self, service: &BackupService, able: &Capabilities) -> Result<()> {
        let (states, limit) = (vec!["pending", "paused", "failed"], Some(LOOK_THROUGH));
        let mut waiting = HashSet::new();
        for operation in
            service.inner.store.query(&OperationQuery { states, limit, ..OperationQuery::default() }).await?
        {
            let id = operation.new.id.clone();
            let waits = operation.state == State::Pending || operation.request == Some(Request::Resume);
            if operation.new.connections.is_none() || !waits {
                continue;
            }
            let Some(lacks) = service.lacks(able, &operation).await? else { continue };
            waiting.insert(id.clone());
            match self.left.get(&id) {
                // Another worker may be about to take it.
                None => drop(self.left.insert(id, false)),
                Some(false) => {
                    tell(service, &id, &lacks).await?;
                    self.left.insert(id, true);
                }
                Some(true) => {}
            }
        }
        self.left.retain(|id, _| waiting.contains(id));
        Ok(())
    }

    /// Begins with what was claimed, unless this worker does not know how to: then it is left to others, who may.
    async fn start(&mut self, service: &BackupService, running: &mut JoinSet<()>, claimed: Claimed) {
        let Err(lacks) = service.knows_how(claimed.operation()) else {
            let job = Job { inner: service.inner.clone(), stop: self.stop.clone() };
            running.spawn(job.run(claimed));
            return;
        };
        let id = claimed.operation().new.id.clone();
        if self.left.get(&id) != Some(&true)
            && self.declined.insert(id.clone())
            && let Err(error) = tell(service, &id, &lacks).await
        {
            tracing::warn!(operation = %id, error = %error.chain(), "the job log does not tell yet why it is left to others");
            self.declined.remove(&id);
        }
        if let Err(error) = claimed.leave_to_others().await {
            tracing::warn!(operation = %id, error = %error.chain(), "it could not be given back; its lease runs out");
        }
    }
}

/// Says why an operation is left to others.
async fn tell(service: &BackupService, id: &OperationId, lacks: &Error) -> Result<()> {
    let text = format!("left to other workers: {}", lacks.chain());
    tracing::warn!(operation = %id, "{text}");
    let holder = service.inner.engine.holder();
    let log = LogRecord::warning("left", format!("Process {} on {}: {text}", holder.pid, holder.host));
    service.inner.store.append_log(id, LogPosition::new_writer(), &[log]).await
}

/// A job that panicked is no reason for the others to stop; its lease runs out.
fn told(ended: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an operation was broken off");
    }
}

/// One attempt at one operation.
struct Job {
    inner: Arc<Inner>,
    stop: CancellationToken,
}

impl Job {
    async fn run(self, claimed: Claimed) {
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
async fn begin(
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
