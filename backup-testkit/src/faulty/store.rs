//! A store that fails by a script.

use super::Script;
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

/// Any store, failing by a [`Script`].
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    script: Script,
}

impl FaultyStore {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Store>, script: Script) -> Arc<Self> {
        Arc::new(Self { inner, script })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for FaultyStore {
    async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        let id = new.id.clone();
        self.script.call(Method::Create, id, self.inner.create(new, checkpoint)).await
    }

    async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        self.script.call(Method::Get, id, self.inner.get(id)).await
    }

    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        self.script.call(Method::Query, "", self.inner.query(query)).await
    }

    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim> {
        self.script.call(Method::Claim, id, self.inner.claim(id, request)).await
    }

    async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        self.script.call(Method::Renew, &fence.operation, self.inner.renew(fence, lease, progress)).await
    }

    async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let call = self.inner.save_checkpoint(fence, checkpoint);
        self.script.call(Method::SaveCheckpoint, &fence.operation, call).await
    }

    async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        self.script.call(Method::Checkpoint, id, self.inner.checkpoint(id)).await
    }

    /// The subject names the event too, as in `20261120T061500Z-1a2b3c4d complete`.
    async fn transition(&self, transition: Transition) -> Result<Operation> {
        let subject = format!("{} {}", transition.operation, transition.event.name());
        self.script.call(Method::Transition, subject, self.inner.transition(transition)).await
    }

    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        self.script.call(Method::Request, id, self.inner.request(id, request)).await
    }

    async fn append_log(&self, id: &OperationId, at: LogPosition, records: &[LogRecord]) -> Result<()> {
        self.script.call(Method::AppendLog, id, self.inner.append_log(id, at, records)).await
    }

    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        self.script.call(Method::PageLog, id, self.inner.page_log(id, query)).await
    }

    async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals> {
        self.script.call(Method::Totals, "", self.inner.totals(query)).await
    }

    async fn claim_next(&self, request: &ClaimNext) -> Result<Option<Claim>> {
        self.script.call(Method::ClaimNext, "", self.inner.claim_next(request)).await
    }

    async fn clear_logs(&self, before: jiff::Timestamp) -> Result<u64> {
        self.script.call(Method::ClearLogs, "", self.inner.clear_logs(before)).await
    }

    async fn places(&self, archive: &ArchiveId) -> Result<Vec<KnownArchive>> {
        self.script.call(Method::Places, archive, self.inner.places(archive)).await
    }

    async fn protect(&self, destination: &Identity, archive: &ArchiveId, protected: bool) -> Result<()> {
        self.script.call(Method::Protect, archive, self.inner.protect(destination, archive, protected)).await
    }

    async fn storage(&self) -> Result<Vec<StorageUse>> {
        self.script.call(Method::Storage, "", self.inner.storage()).await
    }

    async fn archives(&self, destination: &Identity) -> Result<Vec<KnownArchive>> {
        self.script.call(Method::Archives, destination, self.inner.archives(destination)).await
    }

    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        self.script.call(Method::ForgetArchive, archive, self.inner.forget_archive(destination, archive)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ConnectionStore for FaultyStore {
    async fn create_connection(&self, new: NewConnection) -> Result<Connection> {
        let id = new.id.clone();
        self.script.call(Method::CreateConnection, id, self.inner.create_connection(new)).await
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>> {
        self.script.call(Method::Connection, id, self.inner.connection(id)).await
    }

    async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<Connection>> {
        self.script.call(Method::Connections, "", self.inner.connections(query)).await
    }

    async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        content: ConnectionContent,
    ) -> Result<Connection> {
        self.script.call(Method::UpdateConnection, id, self.inner.update_connection(id, version, content)).await
    }

    async fn record_check(&self, id: &ConnectionId, check: ConnectionCheck) -> Result<Connection> {
        self.script.call(Method::RecordCheck, id, self.inner.record_check(id, check)).await
    }

    async fn delete_connection(&self, id: &ConnectionId, version: u64) -> Result<()> {
        self.script.call(Method::DeleteConnection, id, self.inner.delete_connection(id, version)).await
    }
}
