//! A destination that fails by a script.

use super::{Script, body};
use crate::Method;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use backup_core::model::{Identity, ObjectName};
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// Any destination, failing by a [`Script`].
#[derive(Debug)]
pub struct FaultyDestination {
    inner: Arc<dyn Destination>,
    script: Script,
}

impl FaultyDestination {
    /// Wraps a destination.
    pub fn new(inner: Arc<dyn Destination>, script: Script) -> Arc<Self> {
        Arc::new(Self { inner, script })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Destination for FaultyDestination {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> DestinationProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.script.call(Method::Check, "", self.inner.check()).await
    }

    async fn now(&self) -> Result<jiff::Timestamp> {
        self.script.call(Method::Now, "", self.inner.now()).await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        self.script.call(Method::Put, name, self.inner.put(name, body)).await
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        let fault = self.script.open(Method::Get, name).await?;
        Ok(body::body(self.inner.get(name, range).await?, fault))
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.script.call(Method::Stat, name, self.inner.stat(name)).await
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        let prefix = prefix.cloned();
        let subject = prefix.as_ref().map(ObjectName::as_str).unwrap_or_default();
        let fault = self.script.decide(Method::List, subject);
        body::items(move || self.inner.list(prefix.as_ref()), fault)
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        body::items(|| self.inner.list_roots(), self.script.decide(Method::ListRoots, ""))
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.script.call(Method::Delete, name, self.inner.delete(name)).await
    }

    /// One after the other, each a call of `delete` to the script: a fault may tear the many apart anywhere.
    async fn delete_many(&self, names: &[ObjectName]) -> Result<()> {
        for name in names {
            let one = self.inner.delete_many(std::slice::from_ref(name));
            self.script.call(Method::Delete, name, one).await?;
        }
        Ok(())
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        self.script.call(Method::RemoveStaged, prefix, self.inner.remove_staged(prefix)).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.script.call(Method::FreeSpace, "", self.inner.free_space()).await
    }
}
