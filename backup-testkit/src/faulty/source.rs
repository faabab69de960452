//! A source that fails by a script.

use super::{Script, body};
use crate::Method;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{Cursor, Estimate, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version};
use backup_core::model::{EntryName, Identity};
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// Any source, failing by a [`Script`].
#[derive(Debug)]
pub struct FaultySource {
    inner: Arc<dyn Source>,
    script: Script,
}

impl FaultySource {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, script: Script) -> Arc<Self> {
        Arc::new(Self { inner, script })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Source for FaultySource {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> SourceProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.script.call(Method::Check, "", self.inner.check()).await
    }

    async fn estimate(&self) -> Result<Estimate> {
        self.script.call(Method::Estimate, "", self.inner.estimate()).await
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let fault = self.script.decide(Method::Events, "");
        body::items(move || self.inner.clone().events(after, ctx), fault)
    }

    async fn read(
        &self,
        entry: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        let fault = self.script.open(Method::Read, entry).await?;
        let opened = self.inner.read(entry, version, range, ctx).await?;
        Ok(Opened { content: body::body(opened.content, fault), ..opened })
    }
}
