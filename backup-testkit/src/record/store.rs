//! A store whose calls are recorded.

use super::Recorder;
use crate::Method;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::Store;
use backup_core::model::{
    ArchiveId, ArchiveRecord, Checkpoint, Claim, ClaimRequest, Fence, Identity, LogPage, LogQuery, LogRecord,
    NewOperation, Operation, OperationId, OperationQuery, Progress, Renewal, Request, Transition,
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

    async fn append_log(&self, id: &OperationId, records: &[LogRecord]) -> Result<()> {
        self.recorder.call(Method::AppendLog, id, 0, self.inner.append_log(id, records)).await
    }

    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        self.recorder.call(Method::PageLog, id, 0, self.inner.page_log(id, query)).await
    }

    async fn archives(&self, destination: &Identity) -> Result<Vec<ArchiveRecord>> {
        self.recorder.call(Method::Archives, destination, 0, self.inner.archives(destination)).await
    }

    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        self.recorder.call(Method::ForgetArchive, archive, 0, self.inner.forget_archive(destination, archive)).await
    }
}
