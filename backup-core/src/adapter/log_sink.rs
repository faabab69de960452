//! Where job log records go besides the store.

use crate::model::{LogRecord, OperationId};

/// Receives job log records as they arise, e.g. to print them. The store keeps them in any case.
pub trait LogSink: std::fmt::Debug + Send + Sync + 'static {
    /// Takes a record.
    ///
    /// # Behavior
    /// - Does not block and does not fail; a sink that cannot keep up drops records.
    /// - Records of one operation come in the order in which they arose.
    fn record(&self, operation: &OperationId, record: &LogRecord);
}
