//! What happens in this process, for live views.

use super::BackupService;
use crate::adapter::LogSink;
use crate::model::{LogRecord, Operation, OperationId};
use tokio::sync::broadcast;

/// Something that has happened to an operation that runs in this process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// The worker has begun an attempt.
    Started(Box<Operation>),
    /// A job log record arose.
    Log {
        /// The operation.
        operation: OperationId,
        /// The record.
        record: LogRecord,
    },
    /// An attempt is over: the operation is completed, paused, failed, cancelled, handed over, or another worker has it.
    Ended(OperationId),
}

/// Passes job log records on as events.
#[derive(Debug)]
pub(super) struct EventSink(pub(super) broadcast::Sender<ServiceEvent>);

impl LogSink for EventSink {
    fn record(&self, operation: &OperationId, record: &LogRecord) {
        // Without listeners there is nobody to miss it.
        let _ = self.0.send(ServiceEvent::Log { operation: operation.clone(), record: record.clone() });
    }
}

impl BackupService {
    /// What happens from now on to operations that run in this process. For those of other processes, follow
    /// [`watch`](Self::watch) and [`follow_log`](Self::follow_log), which read the store. A listener that is too slow
    /// is told how many events it has missed.
    pub fn events(&self) -> broadcast::Receiver<ServiceEvent> {
        self.inner.events.subscribe()
    }
}
