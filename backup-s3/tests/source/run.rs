//! Follows a source as the engine does: with retries, and large objects in ranges.

use backup_core::Result;
use backup_core::adapter::{Content, Cursor, ReadContext, Source, SourceEntry, SourceEvent, Version};
use backup_core::budget::ByteBudget;
use backup_core::limit::RateLimit;
use backup_core::model::{EntryName, Metadata, Timestamp};
use backup_core::retry::{RetryPolicy, Retrying};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(16 << 20),
        limit: RateLimit::default(),
        stop: Default::default(),
        excluded: Arc::default(),
    }
}

/// The same number of attempts as in real life, with short pauses.
pub(crate) fn retrying(source: Arc<dyn Source>) -> Arc<dyn Source> {
    let policy =
        RetryPolicy { initial: Duration::from_millis(1), max: Duration::from_millis(5), ..RetryPolicy::default() };
    Retrying::new(source, policy)
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Got {
    pub name: String,
    pub content: Bytes,
    pub metadata: Metadata,
    pub mtime: Option<Timestamp>,
    pub group: Option<String>,
    pub cursor: Cursor,
}

/// What a run gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub entries: Vec<Got>,
    /// By the name of the entry.
    pub warnings: BTreeMap<String, String>,
}

impl Run {
    pub(crate) fn names(&self) -> Vec<&str> {
        self.entries.iter().map(|got| &*got.name).collect()
    }

    pub(crate) fn get(&self, name: &str) -> &Got {
        self.entries.iter().find(|got| got.name == name).unwrap_or_else(|| panic!("{name:?} in {:?}", self.names()))
    }
}

/// Everything behind a cursor.
pub(crate) async fn run(source: Arc<dyn Source>, after: Option<Cursor>) -> Result<Run> {
    run_with(source, after, &context()).await
}

pub(crate) async fn run_with(source: Arc<dyn Source>, after: Option<Cursor>, ctx: &ReadContext) -> Result<Run> {
    let mut run = Run::default();
    let mut events = source.clone().events(after, ctx.clone());
    while let Some(event) = events.try_next().await? {
        match event {
            SourceEvent::Entry(entry) => run.entries.push(got(&*source, *entry, ctx).await?),
            SourceEvent::Warning(warning) => {
                let name = warning.name.map(|name| name.to_string()).unwrap_or_default();
                run.warnings.insert(name, warning.message);
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(run)
}

async fn got(source: &dyn Source, entry: SourceEntry, ctx: &ReadContext) -> Result<Got> {
    let mut metadata = entry.metadata;
    let content = match entry.content {
        Content::None => panic!("an object without content"),
        Content::Inline { bytes, .. } => bytes,
        Content::Stored { size, version } => {
            let (content, opened) = read(source, &entry.name, version.as_ref(), size, ctx).await?;
            metadata = opened.unwrap_or(metadata);
            content
        }
    };
    Ok(Got {
        name: entry.name.as_str().unwrap().to_owned(),
        content,
        metadata,
        mtime: entry.mtime,
        group: entry.group.map(|group| group.to_string()),
        cursor: entry.cursor,
    })
}

/// An object in ranges of 4 MiB, with the metadata that came with the first.
pub(crate) async fn read(
    source: &dyn Source,
    name: &EntryName,
    version: Option<&Version>,
    size: u64,
    ctx: &ReadContext,
) -> Result<(Bytes, Option<Metadata>)> {
    let mut content = Vec::new();
    let mut metadata = None;
    let mut start = 0;
    loop {
        let range = start..size.min(start + (4 << 20));
        start = range.end;
        let opened = source.read(name, version, range, ctx).await?;
        metadata = metadata.or(opened.metadata);
        let mut pieces = opened.content;
        while let Some(piece) = pieces.next().await.transpose()? {
            content.extend_from_slice(&piece);
        }
        if start >= size {
            return Ok((content.into(), metadata));
        }
    }
}
