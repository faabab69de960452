//! Sinks for job logs besides the store.

use crate::adapter::LogSink;
use crate::model::{LogLevel, LogRecord, OperationId};

/// Passes job log records on to [`tracing`], with the target `backup::job` and the operation as a field.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl LogSink for TracingSink {
    fn record(&self, operation: &OperationId, record: &LogRecord) {
        let LogRecord { time: _, level, step, message, context } = record;
        match level {
            LogLevel::Debug => tracing::debug!(target: "backup::job", %operation, step, %context, "{message}"),
            LogLevel::Info => tracing::info!(target: "backup::job", %operation, step, %context, "{message}"),
            LogLevel::Warning => tracing::warn!(target: "backup::job", %operation, step, %context, "{message}"),
            LogLevel::Error => tracing::error!(target: "backup::job", %operation, step, %context, "{message}"),
        }
    }
}
