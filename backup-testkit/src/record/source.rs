//! A source whose calls are recorded.

use super::Recorder;
use crate::Method;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{
    Content, Cursor, Estimate, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version,
};
use backup_core::model::{EntryName, Identity};
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// Any source, its calls recorded, and the entries that it delivers.
#[derive(Debug)]
pub struct RecordingSource {
    inner: Arc<dyn Source>,
    recorder: Recorder,
}

impl RecordingSource {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, recorder: Recorder) -> Arc<Self> {
        Arc::new(Self { inner, recorder })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Source for RecordingSource {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> SourceProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.recorder.call(Method::Check, "", 0, self.inner.check()).await
    }

    async fn estimate(&self) -> Result<Estimate> {
        self.recorder.call(Method::Estimate, "", 0, self.inner.estimate()).await
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let recorder = self.recorder.clone();
        let events = self.inner.clone().events(after, ctx);
        self.recorder.begin(Method::Events, "", None).items(events, move |_, event| {
            if let SourceEvent::Entry(entry) = event {
                let inline = match &entry.content {
                    Content::Inline { bytes, .. } => bytes.len() as u64,
                    Content::None | Content::Stored { .. } => 0,
                };
                recorder.entry(&entry.name, inline);
            }
        })
    }

    async fn read(
        &self,
        entry: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        let mut running = self.recorder.begin(Method::Read, entry, Some(range.clone()));
        match self.inner.read(entry, version, range, ctx).await {
            Ok(opened) => Ok(Opened { content: running.body(opened.content), ..opened }),
            failed => {
                running.end(&failed);
                failed
            }
        }
    }
}
