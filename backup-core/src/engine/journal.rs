//! The job log records of an attempt on their way to the store.
//!
//! They are written in batches. While the store is away, up to [`FULL`] bytes wait; then records of level debug are left out, which a
//! record tells later, and all others hold the work up until there is room.

use crate::model::{LogLevel, LogPosition, LogRecord};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that may wait, before records are left out and the work is held up.
const FULL: usize = 4 << 20;
/// Bytes that wait at most before they are written without waiting for the next turn.
const BATCH: usize = 256 << 10;
/// What a record takes besides its texts.
const RECORD: usize = size_of::<LogRecord>();

/// The step of records that tell of a checkpoint: the next one tells more.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// Records that the store does not have yet.
#[derive(Debug, Default)]
pub(super) struct Journal {
    waiting: Mutex<Waiting>,
    /// Records are appended by one caller at a time, so that they keep their order.
    pub(super) appending: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    records: Vec<LogRecord>,
    /// Of the first of them.
    at: LogPosition,
    bytes: usize,
    left_out: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { records: Vec::new(), at: LogPosition::new_writer(), bytes: 0, left_out: 0 }
    }
}

impl Journal {
    /// Adds a record, unless it is left out.
    pub(super) fn push(&self, record: LogRecord) {
        let mut waiting = self.lock();
        if record.level == LogLevel::Debug && waiting.bytes >= FULL {
            waiting.left_out += 1;
            return;
        }
        if waiting.bytes < FULL {
            waiting.tell_gap();
        }
        waiting.push(record);
    }

    /// Whether so much waits that it should be written now.
    pub(super) fn wants_flush(&self) -> bool {
        self.lock().bytes >= BATCH
    }

    /// Whether the work must wait until the store has taken records.
    pub(super) fn is_full(&self) -> bool {
        self.lock().bytes >= FULL
    }

    /// Whether records wait that nobody writes again who goes on from a checkpoint behind them.
    pub(super) fn would_be_missed(&self) -> bool {
        self.lock().records.iter().any(|record| record.level > LogLevel::Debug && record.step != CHECKPOINT)
    }

    /// All that waits, and its place in the log. It stays until [`written`](Self::written): a write that is dropped loses nothing, and one
    /// that is repeated doubles nothing.
    pub(super) fn waiting(&self) -> (LogPosition, Vec<LogRecord>) {
        let mut waiting = self.lock();
        if waiting.bytes < FULL {
            waiting.tell_gap();
        }
        (waiting.at, waiting.records.clone())
    }

    /// Takes out the first so many, which the store has now.
    pub(super) fn written(&self, count: usize) {
        let mut waiting = self.lock();
        let bytes: usize = waiting.records.drain(..count).map(|record| size(&record)).sum();
        waiting.bytes -= bytes;
        waiting.at.first += count as u64;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Says how many records were left out, if any were.
    fn tell_gap(&mut self) {
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            let text =
                format!("{left_out} records of level debug were left out, because the store did not take them in time");
            self.push(LogRecord::debug("log", text));
        }
    }

    fn push(&mut self, record: LogRecord) {
        self.bytes += size(&record);
        self.records.push(record);
    }
}

fn size(record: &LogRecord) -> usize {
    RECORD + record.step.len() + record.message.len() + size_of_value(&record.context)
}

fn size_of_value(value: &serde_json::Value) -> usize {
    use serde_json::Value as V;
    match value {
        V::Null | V::Bool(_) | V::Number(_) => size_of::<V>(),
        V::String(text) => size_of::<V>() + text.len(),
        V::Array(items) => size_of::<V>() + items.iter().map(size_of_value).sum::<usize>(),
        V::Object(fields) => {
            size_of::<V>() + fields.iter().map(|(name, v)| name.len() + size_of_value(v)).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_is_full_only_debug_records_are_left_out_and_counted() {
        let journal = Journal::default();
        let text = "x".repeat(1 << 20);
        while !journal.is_full() {
            journal.push(LogRecord::info("transfer", text.clone()));
        }
        let before = journal.waiting().1.len();
        assert!(before <= 4 && journal.wants_flush());
        journal.push(LogRecord::debug("transfer", "lost"));
        journal.push(LogRecord::debug("transfer", "lost"));
        journal.push(LogRecord::warning("transfer", "kept"));
        assert_eq!(journal.waiting().1.len(), before + 1);
        journal.written(before);
        assert!(!journal.is_full());
        journal.push(LogRecord::debug("transfer", "kept"));
        let texts: Vec<String> = journal.waiting().1.into_iter().map(|record| record.message).collect();
        assert_eq!(texts[0], "kept");
        assert!(texts[1].starts_with("2 records of level debug"), "{texts:?}");
        assert_eq!(texts[2..], ["kept"]);
        journal.written(3);
        assert!(journal.waiting().1.is_empty() && !journal.wants_flush());
        assert_eq!(journal.waiting().0.first, before as u64 + 3);
    }
}
