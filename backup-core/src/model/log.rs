//! The job log of an operation.

use serde::{Deserialize, Serialize};

/// How grave a log record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Detail for whoever looks for a fault; the first to be left out when there is no room.
    Debug,
    /// A step that went as it should.
    Info,
    /// Something was skipped, retried or doubtful.
    Warning,
    /// The operation, or a part of it, failed.
    Error,
}

/// One line of a job log, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When it happened, on the clock of the worker.
    pub time: jiff::Timestamp,
    /// How grave it is.
    pub level: LogLevel,
    /// The step, a short stable word: `connect`, `list`, `transfer`, `checkpoint`, `verify`, `done`, …
    pub step: String,
    /// What happened, for people; of a failure the whole chain of causes.
    pub message: String,
    /// Figures and names for machines: a JSON object, or null.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub context: serde_json::Value,
}

impl LogRecord {
    /// A record of now.
    pub fn new(level: LogLevel, step: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            time: jiff::Timestamp::now(),
            level,
            step: step.into(),
            message: message.into(),
            context: serde_json::Value::Null,
        }
    }

    /// A record of level debug.
    pub fn debug(step: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(LogLevel::Debug, step, message)
    }

    /// A record of level info.
    pub fn info(step: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(LogLevel::Info, step, message)
    }

    /// A record of level warning.
    pub fn warning(step: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(LogLevel::Warning, step, message)
    }

    /// A record of level error.
    pub fn error(step: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(LogLevel::Error, step, message)
    }

    /// Adds figures and names for machines.
    #[must_use]
    pub fn with(mut self, context: serde_json::Value) -> Self {
        self.context = context;
        self
    }
}

/// Where records stand among all that one writer adds to the log of an operation, so that adding them can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// Random bits, drawn once by each writer.
    pub writer: u64,
    /// How many records the writer has added before these.
    pub first: u64,
}

impl LogPosition {
    /// The beginning of a new writer.
    pub fn new_writer() -> Self {
        Self { writer: rand::random(), first: 0 }
    }
}

/// A record as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLogRecord {
    /// Its number within the operation; starts at 1 and grows. What was [cleared](crate::adapter::Store::clear_logs) leaves the only gaps.
    pub sequence: u64,
    /// The record.
    #[serde(flatten)]
    pub record: LogRecord,
}

/// Which records to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Only records with a higher sequence; 0 reads from the start.
    pub after: u64,
    /// Only records of this level or graver.
    pub min_level: LogLevel,
    /// At most so many records, 1 to 10,000.
    pub limit: u32,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self { after: 0, min_level: LogLevel::Info, limit: 1000 }
    }
}

/// A page of a job log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    /// The records, in order.
    pub records: Vec<StoredLogRecord>,
    /// What to give as `after` for the next page: records left out by the level are behind it too.
    pub next_after: u64,
    /// Whether more records were there when the page was read.
    pub more: bool,
}
