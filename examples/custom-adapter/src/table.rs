//! The source.

use async_stream::try_stream;
use async_trait::async_trait;
use backup_core::adapter::{
    Content, Cursor, Estimate, Opened, ReadContext, Source, SourceEntry, SourceEvent, SourceProperties, Version,
};
use backup_core::model::{EntryKind, EntryName, Identity, Metadata, Naming};
use backup_core::{Digest, Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, PoisonError, RwLock};

/// Values up to this length come with their entry; longer ones are read piece by piece.
const INLINE: usize = 64 << 10;
/// Bytes handed out at once of a longer value.
const PIECE: usize = 256 << 10;
/// First byte of our cursors: their version.
const CURSOR_VERSION: u8 = 1;

/// Keys and values, delivered in the order of the keys. Clones share the table, which may change at any time.
#[derive(Clone, Debug)]
pub struct TableSource {
    identity: Identity,
    rows: Arc<RwLock<BTreeMap<String, Bytes>>>,
}

impl TableSource {
    /// A table with a name that tells it apart from others.
    pub fn new(name: &str, rows: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        Self { identity: Identity::new("table", name), rows: Arc::new(RwLock::new(rows.into_iter().collect())) }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.identity.location
    }

    /// Sets a value.
    pub fn insert(&self, key: impl Into<String>, value: impl Into<Bytes>) {
        self.rows.write().unwrap_or_else(PoisonError::into_inner).insert(key.into(), value.into());
    }

    /// Removes a value.
    pub fn remove(&self, key: &str) {
        self.rows.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn get(&self, key: &str) -> Option<Bytes> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// The first row behind a key: what makes the order fixed and every row a place to go on from.
    fn next(&self, after: Option<&str>) -> Option<(String, Bytes)> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        rows.range::<str, _>((from, Bound::Unbounded)).next().map(|(key, value)| (key.clone(), value.clone()))
    }

    fn is_excluded(&self, key: &str, ctx: &ReadContext) -> bool {
        ctx.excluded.iter().any(|place| {
            let inside = |below: &str| key == below || key.strip_prefix(below).is_some_and(|k| k.starts_with('/'));
            self.identity.below(place).is_some_and(inside)
        })
    }
}

/// Which state of a value was seen. A digest costs little here; a database would have a row version.
fn version(value: &Bytes) -> Version {
    Version(Digest::of(value).to_string().into())
}

fn cursor(key: &str) -> Cursor {
    let mut bytes = vec![CURSOR_VERSION];
    bytes.extend_from_slice(key.as_bytes());
    Cursor(bytes.into())
}

fn key_of(cursor: &Cursor) -> Result<String> {
    match cursor.0.split_first() {
        Some((&CURSOR_VERSION, key)) => {
            String::from_utf8(key.to_vec()).map_err(|e| Error::invalid("not a cursor of a table").because(e))
        }
        _ => Err(Error::invalid("not a cursor of a table")),
    }
}

#[async_trait]
impl Source for TableSource {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn properties(&self) -> SourceProperties {
        SourceProperties { parallel_reads: 4, pins_version: false, naming: Naming::Paths }
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn estimate(&self) -> Result<Estimate> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Estimate {
            entries: Some(rows.len() as u64),
            bytes: Some(rows.values().map(|value| value.len() as u64).sum()),
        })
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        try_stream! {
            let mut after = after.as_ref().map(key_of).transpose()?;
            while let Some((key, value)) = self.next(after.as_deref()) {
                if ctx.stop.is_cancelled() {
                    break;
                }
                if !self.is_excluded(&key, &ctx) {
                    let content = if value.len() <= INLINE {
                        let size = value.len() as u64;
                        // What waits in the pipeline counts, so the room for it is taken before it is handed out.
                        let permit = Arc::new(ctx.budget.take(size).await);
                        ctx.limit.take(size).await;
                        Content::Inline { bytes: value, permit: Some(permit) }
                    } else {
                        Content::Stored { size: value.len() as u64, version: Some(version(&value)) }
                    };
                    yield SourceEvent::Entry(Box::new(SourceEntry {
                        name: EntryName::from(key.as_str()),
                        kind: EntryKind::File,
                        mtime: None,
                        group: None,
                        metadata: Metadata::default(),
                        content,
                        inconsistent: false,
                        cursor: cursor(&key),
                    }));
                }
                after = Some(key);
            }
        }
        .boxed()
    }

    async fn read(
        &self,
        entry: &EntryName,
        seen: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        let value = entry
            .as_str()
            .and_then(|key| self.get(key))
            .ok_or_else(|| Error::not_found("there is no such key any more").on(entry))?;
        let now = version(&value);
        if seen.is_some_and(|seen| *seen != now) {
            return Err(Error::changed("the value is another one now").on(entry));
        }
        let size = value.len() as u64;
        // A value that has become shorter delivers less, and the engine sees that.
        let at = |position: u64| usize::try_from(position.min(size)).unwrap_or(value.len());
        let content = value.slice(at(range.start)..at(range.end).max(at(range.start)));
        let limit = ctx.limit.clone();
        let content = stream::unfold(content, move |mut rest| {
            let limit = limit.clone();
            async move {
                if rest.is_empty() {
                    return None;
                }
                let piece = rest.split_to(rest.len().min(PIECE));
                limit.take(piece.len() as u64).await;
                Some((Ok(piece), rest))
            }
        });
        Ok(Opened { metadata: None, mtime: None, size, version: Some(now), content: content.boxed() })
    }
}
