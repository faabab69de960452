//! A store whose calls are recorded.

use super::Recorder;
use crate::Method;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{ConnectionStore, Store};
use backup_core::model::{
    ArchiveId, Checkpoint, Claim, ClaimNext, ClaimRequest, Connection, ConnectionCheck, ConnectionContent,
    ConnectionId, ConnectionQuery, Fence, Identity, KnownArchive, LogPage, LogPosition, LogQuery, LogRecord,
    NewConnection, NewOperation, Operation, OperationId, OperationQuery, OperationTotals, Progress, Renewal, Request,
    StorageUse, Transition,
};
use std::sync::Arc;
use std::time::Duration;

/// Any store, its calls recorded.
#[derive(Debug)]
pub struct RecordingStore {
    inner: Arc<dyn Store>,
    recorder: Recorder,
}

impl RecordingStore {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Store>, recorder: Recorder) -> Arc<Self> {
        Arc::new(Self { inner, recorder })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for RecordingStore {
    async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        let id = new.id.clone();
        self.recorder.call(Method::Create, id, 0, self.inner.create(new, checkpoint)).await
    }

    async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        self.recorder.call(Method::Get, id, 0, self.inner.get(id)).await
    }

    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        self.recorder.call(Method::Query, "", 0, self.inner.query(query)).await
    }

    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim> {
        self.recorder.call(Method::Claim, id, 0, self.inner.claim(id, request)).await
    }

    async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        self.recorder.call(Method::Renew, &fence.operation, 0, self.inner.renew(fence, lease, progress)).await
    }

    async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let call = self.inner.save_checkpoint(fence, checkpoint);
        self.recorder.call(Method::SaveCheckpoint, &fence.operation, checkpoint.0.len() as u64, call).await
    }

    async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        self.recorder.call(Method::Checkpoint, id, 0, self.inner.checkpoint(id)).await
    }

    /// The subject names the event too, as in `20261120T061500Z-1a2b3c4d complete`.
    async fn transition(&self, transition: Transition) -> Result<Operation> {
        let subject = format!("{} {}", transition.operation, transition.event.name());
        self.recorder.call(Method::Transition, subject, 0, self.inner.transition(transition)).await
    }

    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        self.recorder.call(Method::Request, id, 0, self.inner.request(id, request)).await
    }

    async fn append_log(&self, id: &OperationId, at: LogPosition, records: &[LogRecord]) -> Result<()> {
        self.recorder.call(Method::AppendLog, id, 0, self.inner.append_log(id, at, records)).await
    }

    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        self.recorder.call(Method::PageLog, id, 0, self.inner.page_log(id, query)).await
    }

    async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals> {
        self.recorder.call(Method::Totals, "", 0, self.inner.totals(query)).await
    }

    async fn claim_next(&self, request: &ClaimNext) -> Result<Option<Claim>> {
        self.recorder.call(Method::ClaimNext, "", 0, self.inner.claim_next(request)).await
    }

    async fn clear_logs(&self, before: jiff::Timestamp) -> Result<u64> {
        self.recorder.call(Method::ClearLogs, "", 0, self.inner.clear_logs(before)).await
    }

    async fn places(&self, archive: &ArchiveId) -> Result<Vec<KnownArchive>> {
        self.recorder.call(Method::Places, archive, 0, self.inner.places(archive)).await
    }

    async fn protect(&self, destination: &Identity, archive: &ArchiveId, protected: bool) -> Result<()> {
        self.recorder.call(Method::Protect, archive, 0, self.inner.protect(destination, archive, protected)).await
    }

    async fn storage(&self) -> Result<Vec<StorageUse>> {
        self.recorder.call(Method::Storage, "", 0, self.inner.storage()).await
    }

    async fn archives(&self, destination: &Identity) -> Result<Vec<KnownArchive>> {
        self.recorder.call(Method::Archives, destination, 0, self.inner.archives(destination)).await
    }

    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        self.recorder.call(Method::ForgetArchive, archive, 0, self.inner.forget_archive(destination, archive)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ConnectionStore for RecordingStore {
    async fn create_connection(&self, new: NewConnection) -> Result<Connection> {
        let id = new.id.clone();
        self.recorder.call(Method::CreateConnection, id, 0, self.inner.create_connection(new)).await
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>> {
        self.recorder.call(Method::Connection, id, 0, self.inner.connection(id)).await
    }

    async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<Connection>> {
        self.recorder.call(Method::Connections, "", 0, self.inner.connections(query)).await
    }

    async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        content: ConnectionContent,
    ) -> Result<Connection> {
        self.recorder.call(Method::UpdateConnection, id, 0, self.inner.update_connection(id, version, content)).await
    }

    async fn record_check(&self, id: &ConnectionId, check: ConnectionCheck) -> Result<Connection> {
        self.recorder.call(Method::RecordCheck, id, 0, self.inner.record_check(id, check)).await
    }

    async fn delete_connection(&self, id: &ConnectionId, version: u64) -> Result<()> {
        self.recorder.call(Method::DeleteConnection, id, 0, self.inner.delete_connection(id, version)).await
    }
}
