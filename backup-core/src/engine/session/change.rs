//! Changes of an operation's state under a hold, and what asks for one from outside.

use super::{Session, no_such};
use crate::adapter::Store;
use crate::engine::process::holder_is_dead;
use crate::model::{Guard, LogRecord, Operation, OperationId, Request, Transition};
use crate::state::{Event, PauseReason, State};
use crate::{ErrorClass, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Session {
    /// Changes the state under this claim, after the log records so far.
    pub(in crate::engine) async fn transition(
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

    /// Makes sure that an operation whose data is complete stands in `Committing`, from which it cannot be cancelled: after a
    /// failure there it was claimed as `Running`.
    pub(in crate::engine) async fn committing(&self) -> Result<()> {
        let operation = self.persist(|| self.store.get(&self.fence.operation)).await?;
        let operation = operation.ok_or_else(|| no_such(&self.fence.operation))?;
        if operation.state == State::Running {
            let log = LogRecord::info("commit", "all data had been stored before; completing the archive");
            self.transition(Event::Commit, log, |_| {}).await?;
        }
        Ok(())
    }
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
pub(in crate::engine) async fn request_pause(store: &Arc<dyn Store>, id: &OperationId) -> Result<Operation> {
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
