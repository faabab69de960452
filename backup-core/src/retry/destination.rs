//! A destination whose calls are retried.

use super::resume::{Reopen, resuming};
use super::{Retrying, retry};
use crate::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use crate::model::{Identity, ObjectName};
use crate::{Error, Result};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// Every call is repeated; a put whose reply was lost finds its own bytes there, which is success.
///
/// - `get`: the stream goes on at the offset reached; with a range, an early end counts as broken off. Without one, the end is
///   not known beforehand and is asked for with `stat` when the stream breaks off; an end without an error is believed.
/// - `list`, `list_roots`: tried again only as long as nothing was delivered. A listing has no order, so that one that breaks
///   off later could be taken up only by remembering everything that it delivered; its error is the caller's.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Destination + ?Sized> Destination for Retrying<T> {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> DestinationProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.call("checking the destination", || self.inner.check()).await
    }

    async fn now(&self) -> Result<jiff::Timestamp> {
        self.call("asking the destination's clock", || self.inner.now()).await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        self.call("putting an object", || self.inner.put(name, body.clone())).await
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        let mut attempts = self.attempts("getting an object");
        let stream = retry(&mut attempts, || self.inner.get(name, range.clone())).await?;
        let (start, end) = range.map_or((0, None), |range| (range.start, Some(range.end)));
        let rest = Rest { inner: self.inner.clone(), name: name.clone() };
        Ok(resuming(stream, start, end, attempts, name.clone(), rest))
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.call("looking for an object", || self.inner.stat(name)).await
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        let prefix = prefix.cloned();
        self.until_first("listing objects", move || self.inner.list(prefix.as_ref()))
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        self.until_first("listing the destination", move || self.inner.list_roots())
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.call("deleting an object", || self.inner.delete(name)).await
    }

    async fn delete_many(&self, names: &[ObjectName]) -> Result<()> {
        // What failed is halved, so that in the end each object has as many attempts as if it were deleted alone.
        let mut todo = vec![names];
        while let Some(some) = todo.pop() {
            if let [name] = some {
                self.delete(name).await.map_err(|e| e.on(name))?;
            } else if let Err(error) = self.inner.delete_many(some).await {
                self.attempts("deleting objects").failed(error).await?;
                let (first, second) = some.split_at(some.len() / 2);
                todo.extend([second, first]);
            }
        }
        Ok(())
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        self.call("removing staged leftovers", || self.inner.remove_staged(prefix)).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.call("asking for free space", || self.inner.free_space()).await
    }
}

impl<T: Destination + ?Sized> Retrying<T> {
    /// A listing that is started again as long as it delivers nothing.
    fn until_first<'a, I: Send + 'a>(
        &self,
        what: &'static str,
        open: impl Fn() -> BoxStream<'a, Result<I>> + Send + 'a,
    ) -> BoxStream<'a, Result<I>> {
        let mut attempts = self.attempts(what);
        async_stream::try_stream! {
            let mut items = open();
            let mut first = true;
            while let Some(item) = items.next().await {
                match item {
                    Ok(item) => {
                        first = false;
                        yield item;
                    }
                    Err(error) if first => {
                        attempts.failed(error).await?;
                        items = open();
                    }
                    Err(error) => Err(error)?,
                }
            }
        }
        .boxed()
    }
}

struct Rest<T: ?Sized> {
    inner: Arc<T>,
    name: ObjectName,
}

#[async_trait]
impl<T: Destination + ?Sized> Reopen for Rest<T> {
    async fn reopen(&mut self, at: u64, end: &mut Option<u64>) -> Result<ByteStream> {
        if end.is_none() && at > 0 {
            let gone = || Error::not_found("the object vanished while it was read").on(&self.name);
            *end = Some(self.inner.stat(&self.name).await?.ok_or_else(gone)?.size);
        }
        match *end {
            Some(end) if end < at => {
                Err(Error::corrupt(format!("the object ends at {end}, but was read up to {at}")).on(&self.name))
            }
            Some(end) if end == at => Ok(futures::stream::empty().boxed()),
            Some(end) => self.inner.get(&self.name, Some(at..end)).await,
            None => self.inner.get(&self.name, None).await,
        }
    }
}
