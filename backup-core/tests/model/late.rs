//! Puts that arrive late: once sent, they take effect even when their sender is dead by then.

use async_trait::async_trait;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use backup_core::model::{Identity, ObjectName};
use backup_core::{Digest, Result};
use backup_testkit::doubles::MemoryDestination;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A destination behind a slow network. Time is virtual: the least delay is one in which everybody else comes to rest.
#[derive(Debug)]
pub(crate) struct LateDestination {
    inner: MemoryDestination,
    seed: u64,
    puts: AtomicU64,
}

impl LateDestination {
    pub(crate) fn new(inner: MemoryDestination, seed: u64) -> Arc<Self> {
        Arc::new(Self { inner, seed, puts: AtomicU64::new(0) })
    }

    /// Every third put on average is late, by up to half a minute.
    fn delay(&self) -> Option<Duration> {
        let put = self.puts.fetch_add(1, Ordering::Relaxed);
        let draw = Digest::of(format!("{} {put}", self.seed).as_bytes()).0;
        draw[0].is_multiple_of(3).then(|| Duration::from_millis(1 << (draw[1] % 16)))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Destination for LateDestination {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> DestinationProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn now(&self) -> Result<jiff::Timestamp> {
        self.inner.now().await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        let Some(delay) = self.delay() else { return self.inner.put(name, body).await };
        let (inner, name) = (self.inner.clone(), name.clone());
        let sent = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            inner.put(&name, body).await
        });
        sent.await.unwrap()
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.inner.get(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.inner.stat(name).await
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        self.inner.list(prefix)
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        self.inner.list_roots()
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.inner.delete(name).await
    }

    async fn delete_many(&self, names: &[ObjectName]) -> Result<()> {
        self.inner.delete_many(names).await
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        self.inner.remove_staged(prefix).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space().await
    }
}
