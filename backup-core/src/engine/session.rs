//! A worker's hold on an operation: claim, lease, requests, job log, and the end.

use super::claimed::{self, Claimed};
use super::journal::Journal;
use super::process::{boot_time, holder_is_dead};
use super::progress::Meter;
use super::{Engine, Outcome, TakeOver};
use crate::adapter::{LogSink, Store};
use crate::model::{
    Checkpoint, Claim, Fence, Guard, LogRecord, NewOperation, Operation, OperationId, Request, Transition,
};
use crate::retry::RetryPolicy;
use crate::state::{Event, PauseReason, State};
use crate::{Error, ErrorClass, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a worker renews at the longest, so that a request of another process is soon seen.
const RENEW_AT_MOST: Duration = Duration::from_secs(1);
/// How long a worker that has lost its hold tries to bring the rest of its log into the store.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// The first time for which an operation that this worker cannot go on with is kept from all workers.
const LEFT_FIRST: Duration = Duration::from_secs(1);

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

    /// Runs `work` while renewing the lease; stops it when the hold is lost.
    pub(super) async fn hold<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let keep = async {
            tokio::select! {
                () = self.keep() => {}
                () = self.lost.cancelled() => {}
                () = self.watch_deadline() => {}
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            () = keep => Err(self.lost_error()),
        }
    }

    /// Ends when the lease has run out, whatever a call to the store is still waiting for.
    async fn watch_deadline(&self) {
        while self.ensure_held().is_ok() {
            tokio::time::sleep(RENEW_AT_MOST.min(self.lease / 3)).await;
        }
    }

    /// Renews until the hold is lost; publishes progress and flushes the log meanwhile.
    async fn keep(&self) {
        let pace = (self.lease / 3).min(RENEW_AT_MOST);
        let mut tick = tokio::time::interval(pace.min(Duration::from_millis(250)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewed = boot_time();
        loop {
            tick.tick().await;
            let progress = self.meter.publish();
            let start = boot_time();
            if self.leaving.load(Ordering::Acquire) {
                continue;
            }
            if start < renewed + pace {
                if self.journal.wants_flush() {
                    self.try_flush_log().await;
                }
                continue;
            }
            // A store that hangs is asked again in time.
            let patience = (self.lease / 3).max(RENEW_AT_MOST);
            let renewal =
                tokio::time::timeout(patience, self.store.renew(&self.fence, self.lease, Some(&progress))).await;
            match renewal.unwrap_or_else(|_| Err(Error::transient("the store does not answer in time"))) {
                Ok(renewal) => {
                    self.lease_runs_from(start);
                    renewed = start;
                    match renewal.request {
                        Some(Request::Pause) if !self.is_completing() => self.pause.cancel(),
                        Some(Request::Pause | Request::Resume) | None => {}
                    }
                    self.try_flush_log().await;
                }
                Err(_) if self.leaving.load(Ordering::Acquire) => {}
                Err(e) if e.class() == ErrorClass::Conflict => return self.lost.cancel(),
                // The store may come back before the lease has run out.
                Err(e) => {
                    tracing::warn!(error = %e.chain(), "the lease could not be renewed yet");
                    if self.ensure_held().is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Writes the log once; what goes wrong is tried again at the next turn. Never repeated here: the lease must be renewed meanwhile.
    async fn try_flush_log(&self) {
        let Ok(_one_at_a_time) = self.journal.appending.try_lock() else { return };
        let (at, records) = self.journal.waiting();
        if records.is_empty() {
            return;
        }
        let patience = (self.lease / 3).max(RENEW_AT_MOST);
        let written = tokio::time::timeout(patience, self.store.append_log(&self.fence.operation, at, &records)).await;
        match written.unwrap_or_else(|_| Err(Error::transient("the store does not answer in time"))) {
            Ok(()) => self.journal.written(records.len()),
            Err(e) => tracing::warn!(error = %e.chain(), "the job log could not be written yet"),
        }
    }

    /// Adds a job log record; it reaches the store within about a second, and before the next change of state.
    pub(super) fn log(&self, record: LogRecord) {
        // Whoever wants to see records as they arise gives a sink; at this level they would be told twice.
        tracing::debug!(operation = %self.fence.operation, step = record.step, level = ?record.level, "{}", record.message);
        for sink in self.sinks.iter() {
            sink.record(&self.fence.operation, &record);
        }
        self.journal.push(record);
    }

    /// Holds the work up while too much of the log waits for the store, so that its memory stays bounded.
    pub(super) async fn log_pressure(&self) -> Result<()> {
        if self.journal.is_full() { self.flush_log().await } else { Ok(()) }
    }

    /// Brings the records so far into the store. They leave the queue only when they are there: a flush that is dropped loses none.
    pub(super) async fn flush_log(&self) -> Result<()> {
        let _one_at_a_time = self.journal.appending.lock().await;
        let (at, records) = self.journal.waiting();
        if records.is_empty() {
            return Ok(());
        }
        self.persist(|| self.store.append_log(&self.fence.operation, at, &records)).await?;
        self.journal.written(records.len());
        Ok(())
    }

    /// Brings the rest of the log into the store for a worker that has lost its hold, or cannot store its end: a log needs no fence.
    /// Gives up after a while, for nobody waits for these records.
    async fn last_words(&self) {
        let write = async {
            let _one_at_a_time = self.journal.appending.lock().await;
            let mut wait = self.retry.initial;
            loop {
                let (at, records) = self.journal.waiting();
                if records.is_empty() {
                    return Ok(());
                }
                match self.store.append_log(&self.fence.operation, at, &records).await {
                    Ok(()) => self.journal.written(records.len()),
                    Err(error) if error.is_retryable() => {
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(self.retry.max);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let timeout = tokio::time::timeout(LAST_WORDS, write).await;
        if let Err(error) = timeout.unwrap_or_else(|_| Err(Error::transient("the store does not answer in time"))) {
            tracing::warn!(error = %error.chain(), "the last records of the job log could not be written");
        }
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

    /// Changes the state under this claim, after the log records so far.
    pub(super) async fn transition(
        &self,
        event: Event,
        log: LogRecord,
        with: impl FnOnce(&mut Transition),
    ) -> Result<Operation> {
        self.flush_log().await?;
        for sink in self.sinks.iter() {
            sink.record(&self.fence.operation, &log);
        }
        let guard = Guard::Fence(self.fence.clone());
        let mut transition = Transition::new(self.fence.operation.clone(), guard, event, log);
        transition.progress = Some(self.meter.publish());
        with(&mut transition);
        self.leaving.store(transition.event != Event::Commit, Ordering::Release);
        let commits = transition.event == Event::Commit;
        let result = self.change(transition).await;
        if commits && result.is_ok() {
            self.completing.store(true, Ordering::Release);
        }
        if let Err(error) = &result {
            self.leaving.store(false, Ordering::Release);
            if error.class() == ErrorClass::Conflict {
                self.lost.cancel();
            }
        }
        result
    }

    /// Makes a change of state, again while passing faults are all that it meets and the hold lasts. One whose answer got lost has
    /// happened.
    async fn change(&self, transition: Transition) -> Result<Operation> {
        let mut wait = self.retry.initial;
        let mut repeated = false;
        loop {
            let error = match self.store.transition(transition.clone()).await {
                Ok(operation) => return Ok(operation),
                Err(error) => error,
            };
            let passing = error.is_retryable() && self.ensure_held().is_ok();
            if passing || repeated {
                let now = self.store.get(&self.fence.operation).await;
                if let Ok(Some(now)) = now
                    && (now.attempt, now.nonce) == (self.fence.attempt, self.fence.nonce)
                    && has_happened(&transition.event, &now.state)
                {
                    return Ok(now);
                }
            }
            if !passing {
                return Err(error);
            }
            tracing::warn!(error = %error.chain(), "the store does not answer as it should; trying again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(self.retry.max);
            repeated = true;
        }
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

    /// Gives the operation back as it is: any worker may claim it when this time has passed, and none before.
    pub(super) async fn release(&self, after: Duration) -> Result<()> {
        self.flush_log().await?;
        self.persist(|| self.store.renew(&self.fence, after, None)).await?;
        self.lost.cancel();
        Ok(())
    }

    /// Leaves the operation as it is to a worker that can go on with it. The more attempts it has had, the longer it rests before the
    /// next one, which may be by this worker again.
    pub(super) async fn leave_to_others(&self) -> Result<()> {
        let doublings = u32::try_from(self.fence.attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        self.release((LEFT_FIRST * 2_u32.pow(doublings)).min(self.lease)).await
    }

    /// Leaves a completing archive to a worker that has its key. It never fails for want of it.
    pub(super) async fn completed_elsewhere(&self, error: &Error) {
        let text = format!("left to a worker with the archive's key, which only has to complete it: {}", error.chain());
        self.log(LogRecord::warning("left", text));
        if let Err(second) = self.leave_to_others().await {
            tracing::warn!(error = %second.chain(), "an operation could not be given back; its lease runs out");
            self.last_words().await;
        }
    }

    /// Waits until no task of this worker writes any more; all have been told to stop.
    pub(super) async fn writers_stopped(&self) {
        self.writers.close();
        self.writers.wait().await;
    }

    /// How the operation has ended or paused, when that has happened although this worker met an error: it was cancelled,
    /// or the answer to this worker's own change of state got lost.
    pub(super) async fn settled(&self) -> Option<Outcome> {
        let operation = self.persist(|| self.store.get(&self.fence.operation)).await.ok()??;
        let own = (operation.attempt, operation.nonce) == (self.fence.attempt, self.fence.nonce);
        match operation.state {
            State::Cancelled => {
                self.last_words().await;
                Some(Outcome::Cancelled)
            }
            State::Completed { warnings } if own => {
                Some(Outcome::Completed { warnings, progress: self.meter.snapshot() })
            }
            State::Paused { reason, resume_at } if own => Some(Outcome::Paused { reason, resume_at, message: None }),
            State::Pending if own => Some(Outcome::HandedOver),
            _ => None,
        }
    }

    /// Makes sure that an operation whose data is complete stands in `Committing`, from which it cannot be cancelled: after a
    /// failure there it was claimed as `Running`.
    pub(super) async fn committing(&self) -> Result<()> {
        let operation = self.persist(|| self.store.get(&self.fence.operation)).await?;
        let operation = operation.ok_or_else(|| no_such(&self.fence.operation))?;
        if operation.state == State::Running {
            let log = LogRecord::info("commit", "all data had been stored before; completing the archive");
            self.transition(Event::Commit, log, |_| {}).await?;
        }
        Ok(())
    }

    /// Stops on request: paused, or handed over. A pause that somebody has asked for meanwhile goes before a hand-over.
    pub(super) async fn paused(&self) -> Result<Outcome> {
        if self.is_completing() {
            self.release(Duration::ZERO).await?;
            return Ok(Outcome::HandedOver);
        }
        if self.hand_over.is_cancelled() {
            let operation = self.persist(|| self.store.get(&self.fence.operation)).await?;
            if operation.is_none_or(|operation| operation.request != Some(Request::Pause)) {
                let text = "handed over: everything that was read is stored, and any worker may go on";
                self.transition(Event::HandOver, LogRecord::info("hand-over", text), |_| {}).await?;
                return Ok(Outcome::HandedOver);
            }
        }
        let log = LogRecord::info("pause", "paused on request; everything that was read is stored");
        self.pause_for(PauseReason::Requested, None, None, log).await
    }

    async fn pause_for(
        &self,
        reason: PauseReason,
        resume_at: Option<jiff::Timestamp>,
        message: Option<String>,
        log: LogRecord,
    ) -> Result<Outcome> {
        self.transition(Event::Pause { reason: reason.clone(), resume_at }, log, |_| {}).await?;
        Ok(Outcome::Paused { reason, resume_at, message })
    }

    /// Ends an attempt that met an error: pauses when a human can mend it, else fails. The operation can be resumed either way.
    pub(super) async fn broke_off(&self, error: Error) -> Result<Outcome> {
        if self.is_lost() {
            self.last_words().await;
            return Err(error);
        }
        let chain = error.chain();
        let (reason, resume_at) = match error.class() {
            ErrorClass::Unauthorized => (Some(PauseReason::Unauthorized), None),
            ErrorClass::NoSpace => (Some(PauseReason::NoSpace), None),
            ErrorClass::ConsistencyLost => (Some(PauseReason::ConsistencyLost), None),
            ErrorClass::Throttled { after } => {
                let wait = after.unwrap_or(Duration::from_secs(3600));
                let at =
                    jiff::SignedDuration::try_from(wait).ok().and_then(|d| jiff::Timestamp::now().checked_add(d).ok());
                (Some(PauseReason::Quota), at)
            }
            _ => (None, None),
        };
        let paused = match reason {
            Some(reason) => {
                let log = LogRecord::error("pause", format!("paused until somebody sees to it: {chain}"));
                Some(self.pause_for(reason, resume_at, Some(chain.clone()), log).await)
            }
            None => None,
        };
        let ended = match paused {
            Some(Ok(outcome)) => Ok(Some(outcome)),
            // What is completing cannot pause.
            Some(Err(e)) if e.class() != ErrorClass::Conflict => Err(e),
            Some(Err(_)) | None => {
                let log = LogRecord::error("failed", chain.clone());
                self.transition(Event::Fail { error: chain }, log, |_| {}).await.map(|_| None)
            }
        };
        match ended {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => Err(error),
            Err(second) => match self.settled().await {
                Some(outcome) => Ok(outcome),
                None => {
                    // The state stays as it was and the lease runs out: the operation can still be resumed.
                    tracing::error!(error = %second.chain(), "the end of the attempt could not be stored");
                    self.last_words().await;
                    Err(error)
                }
            },
        }
    }

    /// Pauses because the worker has no key.
    pub(super) async fn key_needed(&self, error: Error) -> Result<Outcome> {
        let chain = error.chain();
        let log = LogRecord::error("pause", format!("paused: {chain}"));
        self.pause_for(PauseReason::KeyNeeded, None, Some(chain), log).await
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

/// Whether a state is what an event has led to.
fn has_happened(event: &Event, state: &State) -> bool {
    match (event, state) {
        (Event::Commit, State::Committing) | (Event::HandOver, State::Pending) => true,
        (Event::Complete { warnings }, State::Completed { warnings: has }) => warnings == has,
        (Event::Pause { reason, .. }, State::Paused { reason: has, .. }) => reason == has,
        (Event::Fail { error }, State::Failed { error: has }) => error == has,
        _ => false,
    }
}

/// Stores a pause request; an operation whose worker is dead is paused on the spot.
pub(super) async fn request_pause(store: &Arc<dyn Store>, id: &OperationId) -> Result<Operation> {
    loop {
        match try_request_pause(store, id).await {
            // It changed meanwhile; look again, unless what it is now takes no pause.
            Err(e) if e.class() == ErrorClass::Conflict => {
                let now = store.get(id).await?.ok_or_else(|| no_such(id))?;
                if now.state != State::Running {
                    return Err(e);
                }
            }
            result => return result,
        }
    }
}

async fn try_request_pause(store: &Arc<dyn Store>, id: &OperationId) -> Result<Operation> {
    let operation = store.get(id).await?.ok_or_else(|| no_such(id))?;
    let dead = operation.holder.as_ref().is_some_and(holder_is_dead) || !operation.lease_running;
    if operation.state == State::Running && dead {
        let log = LogRecord::info("pause", "paused on request; its worker had died");
        let event = Event::Pause { reason: PauseReason::Requested, resume_at: None };
        return store.transition(Transition::new(id.clone(), Guard::Version(operation.version), event, log)).await;
    }
    operation.state.after(&Event::Pause { reason: PauseReason::Requested, resume_at: None })?;
    store.request(id, Request::Pause).await
}
