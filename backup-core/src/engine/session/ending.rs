//! How a worker's hold on an operation ends: given back, paused, failed, or settled by somebody else.

use super::Session;
use crate::engine::Outcome;
use crate::model::{LogRecord, Request};
use crate::state::{Event, PauseReason, State};
use crate::{Error, ErrorClass, Result};
use std::time::Duration;

/// The first time for which an operation that this worker cannot go on with is kept from all workers.
const LEFT_FIRST: Duration = Duration::from_secs(1);

impl Session {
    /// Waits until no task of this worker writes any more; all have been told to stop.
    pub(in crate::engine) async fn writers_stopped(&self) {
        self.writers.close();
        self.writers.wait().await;
    }

    /// Gives the operation back as it is: any worker may claim it when this time has passed, and none before.
    pub(in crate::engine) async fn release(&self, after: Duration) -> Result<()> {
        self.flush_log().await?;
        self.persist(|| self.store.renew(&self.fence, after, None)).await?;
        self.lost.cancel();
        Ok(())
    }

    /// Leaves the operation as it is to a worker that can go on with it. The more attempts it has had, the longer it rests before the
    /// next one, which may be by this worker again.
    pub(in crate::engine) async fn leave_to_others(&self) -> Result<()> {
        let doublings = u32::try_from(self.fence.attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        self.release((LEFT_FIRST * 2_u32.pow(doublings)).min(self.lease)).await
    }

    /// Leaves a completing archive to a worker that has its key. It never fails for want of it.
    pub(in crate::engine) async fn completed_elsewhere(&self, error: &Error) {
        let text = format!("left to a worker with the archive's key, which only has to complete it: {}", error.chain());
        self.log(LogRecord::warning("left", text));
        if let Err(second) = self.leave_to_others().await {
            tracing::warn!(error = %second.chain(), "an operation could not be given back; its lease runs out");
            self.last_words().await;
        }
    }

    /// How the operation has ended or paused, when that has happened although this worker met an error: it was cancelled,
    /// or the answer to this worker's own change of state got lost.
    pub(in crate::engine) async fn settled(&self) -> Option<Outcome> {
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

    /// Stops on request: paused, or handed over. A pause that somebody has asked for meanwhile goes before a hand-over.
    pub(in crate::engine) async fn paused(&self) -> Result<Outcome> {
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
    pub(in crate::engine) async fn broke_off(&self, error: Error) -> Result<Outcome> {
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
    pub(in crate::engine) async fn key_needed(&self, error: Error) -> Result<Outcome> {
        let chain = error.chain();
        let log = LogRecord::error("pause", format!("paused: {chain}"));
        self.pause_for(PauseReason::KeyNeeded, None, Some(chain), log).await
    }
}
