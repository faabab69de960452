//! A source whose calls are retried.

use super::resume::{Reopen, resuming};
use super::{Retrying, retry};
use crate::adapter::{
    ByteStream, Cursor, Estimate, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version,
};
use crate::model::{EntryName, Identity};
use crate::{Error, Result};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// Every call is repeated.
///
/// - `events`: a stream that breaks off is opened again after the last delivered entry's cursor, so that each entry comes
///   once. A warning after that entry may come twice. A pause that comes while it waits ends the stream.
/// - `read`: the stream goes on at the offset reached, in the same version of the item: another version is `Changed`. An end
///   before the item's size counts as broken off; an item that has become shorter ends where it ends now.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Source + ?Sized> Source for Retrying<T> {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> SourceProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.call("checking the source", || self.inner.check()).await
    }

    async fn estimate(&self) -> Result<Estimate> {
        self.call("estimating the source", || self.inner.estimate()).await
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let mut attempts = self.attempts("listing the source");
        let mut cursor = after;
        async_stream::try_stream! {
            let mut events = self.inner.clone().events(cursor.clone(), ctx.clone());
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        if let SourceEvent::Entry(entry) = &event {
                            cursor = Some(entry.cursor.clone());
                            attempts.progress();
                        }
                        yield event;
                    }
                    Err(error) => {
                        // What the broken stream holds of the memory budget is free for the next one.
                        drop(events);
                        let stopped = tokio::select! {
                            biased;
                            waited = attempts.failed(error) => waited.map(|()| false),
                            () = ctx.stop.cancelled() => Ok(true),
                        };
                        if stopped? {
                            return;
                        }
                        events = self.inner.clone().events(cursor.clone(), ctx.clone());
                    }
                }
            }
        }
        .boxed()
    }

    async fn read(
        &self,
        entry: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        let mut attempts = self.attempts("reading an entry");
        let opened = retry(&mut attempts, || self.inner.read(entry, version, range.clone(), ctx)).await?;
        let rest = Rest {
            inner: self.inner.clone(),
            name: entry.clone(),
            version: opened.version.clone().or_else(|| version.cloned()),
            range: range.clone(),
            ctx: ctx.clone(),
        };
        let end = rest.end(opened.size);
        let content = resuming(opened.content, range.start, Some(end), attempts, entry.clone(), rest);
        Ok(Opened { content, ..opened })
    }
}

struct Rest<T: ?Sized> {
    inner: Arc<T>,
    name: EntryName,
    version: Option<Version>,
    range: Range<u64>,
    ctx: ReadContext,
}

impl<T: ?Sized> Rest<T> {
    /// Where the stream must end when the item has `size` bytes.
    fn end(&self, size: u64) -> u64 {
        self.range.end.min(size).max(self.range.start)
    }
}

#[async_trait]
impl<T: Source + ?Sized> Reopen for Rest<T> {
    async fn reopen(&mut self, at: u64, end: &mut Option<u64>) -> Result<ByteStream> {
        let opened = self.inner.read(&self.name, self.version.as_ref(), at..self.range.end, &self.ctx).await?;
        if let (Some(before), Some(now)) = (&self.version, &opened.version)
            && before != now
        {
            return Err(Error::changed("the entry changed while it was read").on(&self.name));
        }
        *end = Some(self.end(opened.size).max(at));
        Ok(opened.content)
    }
}
