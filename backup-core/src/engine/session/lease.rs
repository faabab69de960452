//! Keeps the lease of an operation while its work runs, and hears of requests meanwhile.

use super::{RENEW_AT_MOST, Session};
use crate::engine::process::boot_time;
use crate::model::Request;
use crate::{Error, ErrorClass, Result};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Session {
    /// Runs `work` while renewing the lease; stops it when the hold is lost.
    pub(in crate::engine) async fn hold<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
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
}
