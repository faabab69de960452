//! Brings the job log of an operation into the store.

use super::{RENEW_AT_MOST, Session};
use crate::model::LogRecord;
use crate::{Error, Result};
use std::time::Duration;

/// How long a worker that has lost its hold tries to bring the rest of its log into the store.
const LAST_WORDS: Duration = Duration::from_secs(3);

impl Session {
    /// Adds a job log record; it reaches the store within about a second, and before the next change of state.
    pub(in crate::engine) fn log(&self, record: LogRecord) {
        // Whoever wants to see records as they arise gives a sink; at this level they would be told twice.
        tracing::debug!(operation = %self.fence.operation, step = record.step, level = ?record.level, "{}", record.message);
        for sink in self.sinks.iter() {
            sink.record(&self.fence.operation, &record);
        }
        self.journal.push(record);
    }

    /// Holds the work up while too much of the log waits for the store, so that its memory stays bounded.
    pub(in crate::engine) async fn log_pressure(&self) -> Result<()> {
        if self.journal.is_full() { self.flush_log().await } else { Ok(()) }
    }

    /// Brings the records so far into the store. They leave the queue only when they are there: a flush that is dropped loses none.
    pub(in crate::engine) async fn flush_log(&self) -> Result<()> {
        let _one_at_a_time = self.journal.appending.lock().await;
        let (at, records) = self.journal.waiting();
        if records.is_empty() {
            return Ok(());
        }
        self.persist(|| self.store.append_log(&self.fence.operation, at, &records)).await?;
        self.journal.written(records.len());
        Ok(())
    }

    /// Writes the log once; what goes wrong is tried again at the next turn. Never repeated here: the lease must be renewed meanwhile.
    pub(super) async fn try_flush_log(&self) {
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

    /// Brings the rest of the log into the store for a worker that has lost its hold, or cannot store its end: a log needs no fence.
    /// Gives up after a while, for nobody waits for these records.
    pub(super) async fn last_words(&self) {
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
}
