//! A destination whose calls are recorded.

use super::Recorder;
use crate::Method;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use backup_core::model::{Identity, ObjectName};
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// Any destination, its calls recorded.
#[derive(Debug)]
pub struct RecordingDestination {
    inner: Arc<dyn Destination>,
    recorder: Recorder,
}

impl RecordingDestination {
    /// Wraps a destination.
    pub fn new(inner: Arc<dyn Destination>, recorder: Recorder) -> Arc<Self> {
        Arc::new(Self { inner, recorder })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Destination for RecordingDestination {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> DestinationProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.recorder.call(Method::Check, "", 0, self.inner.check()).await
    }

    async fn now(&self) -> Result<jiff::Timestamp> {
        self.recorder.call(Method::Now, "", 0, self.inner.now()).await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        self.recorder.call(Method::Put, name, body.len(), self.inner.put(name, body)).await
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        let mut running = self.recorder.begin(Method::Get, name, range.clone());
        match self.inner.get(name, range).await {
            Ok(stream) => Ok(running.body(stream)),
            failed => {
                running.end(&failed);
                failed
            }
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.recorder.call(Method::Stat, name, 0, self.inner.stat(name)).await
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        let subject = prefix.map(ObjectName::as_str).unwrap_or_default();
        self.recorder.begin(Method::List, subject, None).items(self.inner.list(prefix), |_, _| {})
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        self.recorder.begin(Method::ListRoots, "", None).items(self.inner.list_roots(), |_, _| {})
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.recorder.call(Method::Delete, name, 0, self.inner.delete(name)).await
    }

    async fn delete_many(&self, names: &[ObjectName]) -> Result<()> {
        let first = names.first().map(ObjectName::as_str).unwrap_or_default();
        self.recorder.call(Method::DeleteMany, first, 0, self.inner.delete_many(names)).await
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        self.recorder.call(Method::RemoveStaged, prefix, 0, self.inner.remove_staged(prefix)).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.recorder.call(Method::FreeSpace, "", 0, self.inner.free_space()).await
    }
}
