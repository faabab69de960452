//! A source in memory.

mod items;
mod position;
mod trouble;

use super::{Blob, lock};
use async_trait::async_trait;
use backup_core::adapter::{
    Content, Cursor, Estimate, MAX_INLINE, Opened, ReadContext, Source, SourceEntry, SourceEvent, SourceFacts,
    SourceProperties, SourceWarning, Version,
};
use backup_core::model::{EntryKind, EntryName, GroupName, Identity, Naming};
use backup_core::{Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use items::{Item, Items};
use position::Position;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use trouble::Live;

pub use items::{MemoryContent, MemoryEntry, OnResume, Synthetic};
pub use trouble::{OnChange, Trouble, TroubleAt};

/// Stored content is delivered in pieces of this many bytes: odd, so that nobody relies on a round size.
const PIECE: u64 = 61_441;

/// A source in memory: a list of entries and groups, or a generator of any number of them.
///
/// Built by value and then shared:
/// ```
/// # use backup_testkit::doubles::{Blob, MemorySource};
/// # use std::sync::Arc;
/// let source = Arc::new(
///     MemorySource::new("files")
///         .directory("docs")
///         .file("docs/a.txt", "inline content")
///         .stored("docs/large.bin", Blob::pattern(1, 100 << 20))
///         .slices("shop.orders", vec!["first".into(), "second".into()]),
/// );
/// # drop(source);
/// ```
///
/// Its order is the order of building. The cursor is the position in it. Stricter than most sources: a read beyond the size that was
/// listed, of an entry without [`Stored`](Content::Stored) content or with a reversed range is `Invalid`; an item that changes while it
/// is read delivers the new bytes from there on, as a file does.
#[derive(Debug)]
pub struct MemorySource {
    identity: Identity,
    items: Items,
    by_name: HashMap<EntryName, usize>,
    /// Only items that trouble was made for; all others are as they were built.
    live: Arc<Mutex<HashMap<EntryName, Live>>>,
    on_change: OnChange,
    estimate_known: bool,
    parallel_reads: usize,
    naming: Naming,
    facts: SourceFacts,
}

impl MemorySource {
    /// A source without entries; `name` tells it apart from others in [`Source::identity`].
    pub fn new(name: &str) -> Self {
        Self::of(name, Items::Listed(Vec::new()))
    }

    /// Many entries that are made while they are delivered, so that the source itself takes no memory.
    pub fn synthetic(name: &str, entries: Synthetic) -> Self {
        Self::of(name, Items::Synthetic(entries))
    }

    fn of(name: &str, items: Items) -> Self {
        let consistency = serde_json::json!({ "kind": "memory" });
        Self {
            identity: Identity::new("memory", name),
            items,
            by_name: HashMap::new(),
            live: Arc::default(),
            on_change: OnChange::Error,
            estimate_known: true,
            parallel_reads: 4,
            naming: Naming::Paths,
            facts: SourceFacts { consistency, ..SourceFacts::default() },
        }
    }

    /// Adds an entry. A synthetic source takes none: its entries stay as they are.
    #[must_use]
    pub fn entry(self, entry: MemoryEntry) -> Self {
        self.item(Item::Entry(Box::new(entry)))
    }

    fn item(mut self, item: Item) -> Self {
        if let Items::Listed(items) = &mut self.items {
            if let Item::Entry(entry) = &item {
                self.by_name.insert(entry.name.clone(), items.len());
            }
            items.push(item);
        }
        self
    }

    /// Adds a file with inline content.
    #[must_use]
    pub fn file(self, name: &str, content: impl Into<Blob>) -> Self {
        self.entry(MemoryEntry::new(name, EntryKind::File, MemoryContent::Inline(content.into())))
    }

    /// Adds a file whose content is fetched by [`Source::read`].
    #[must_use]
    pub fn stored(self, name: &str, content: impl Into<Blob>) -> Self {
        self.entry(MemoryEntry::new(name, EntryKind::File, MemoryContent::Stored(content.into())))
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, name: &str) -> Self {
        self.entry(MemoryEntry::new(name, EntryKind::Directory, MemoryContent::None))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        let target = Bytes::copy_from_slice(target.as_bytes());
        self.entry(MemoryEntry::new(name, EntryKind::Symlink { target }, MemoryContent::None))
    }

    /// Adds a group of slices with inline content, which a resume inside it goes on with.
    #[must_use]
    pub fn slices(self, group: &str, slices: Vec<Blob>) -> Self {
        self.group(group, slices, OnResume::Continue)
    }

    /// Adds a group of slices with inline content: `shop.orders` becomes `shop/orders/000000.bin` and so on.
    #[must_use]
    pub fn group(self, group: &str, slices: Vec<Blob>, on_resume: OnResume) -> Self {
        self.item(Item::Group { name: GroupName(group.into()), slices, on_resume })
    }

    /// Adds something that could not be delivered.
    #[must_use]
    pub fn warning(self, name: &str, message: &str) -> Self {
        self.item(Item::Warning(SourceWarning { name: Some(name.into()), message: message.into() }))
    }

    /// What it says of itself at the end.
    #[must_use]
    pub fn with_facts(mut self, facts: SourceFacts) -> Self {
        self.facts = facts;
        self
    }

    /// How it tells that an item is not the version asked for.
    #[must_use]
    pub fn with_on_change(mut self, on_change: OnChange) -> Self {
        self.on_change = on_change;
        self
    }

    /// Does not know how much there is.
    #[must_use]
    pub fn with_unknown_estimate(mut self) -> Self {
        self.estimate_known = false;
        self
    }

    /// How many reads at once it says are useful, at least 1.
    #[must_use]
    pub fn with_parallel_reads(mut self, reads: usize) -> Self {
        self.parallel_reads = reads.max(1);
        self
    }

    /// What it says that the names of its entries are.
    #[must_use]
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// Plans trouble with an entry that has stored content; whether there is such an entry.
    pub fn at_read(&self, name: &str, at: TroubleAt, trouble: Trouble) -> bool {
        self.with_live(&name.into(), |live| live.plan(at, trouble)).is_some()
    }

    /// Makes trouble with an entry that has stored content now; whether there is such an entry.
    pub fn trouble_now(&self, name: &str, trouble: Trouble) -> bool {
        self.with_live(&name.into(), |live| live.apply(&trouble)).is_some()
    }

    /// The content of an entry now; of slices, see [`MemorySource::group_content`].
    pub fn content(&self, name: &str) -> Option<Bytes> {
        let name = EntryName::from(name);
        match self.find(&name)?.content {
            MemoryContent::None => None,
            MemoryContent::Inline(blob) => Some(blob.bytes()),
            MemoryContent::Stored(blob) => Some(lock(&self.live).get(&name).map_or(blob, |live| live.blob()).bytes()),
        }
    }

    /// All slices of a group in order, as a first run delivers them.
    pub fn group_content(&self, group: &str) -> Option<Bytes> {
        let Items::Listed(items) = &self.items else { return None };
        items.iter().find_map(|item| match item {
            Item::Group { name, slices, .. } if &*name.0 == group => {
                Some(slices.iter().map(Blob::bytes).collect::<Vec<_>>().concat().into())
            }
            _ => None,
        })
    }

    fn find(&self, name: &EntryName) -> Option<MemoryEntry> {
        match &self.items {
            Items::Synthetic(synthetic) => synthetic.find(name),
            Items::Listed(items) => match items.get(*self.by_name.get(name)?)? {
                Item::Entry(entry) => Some(MemoryEntry::clone(entry)),
                _ => None,
            },
        }
    }

    fn with_live<T>(&self, name: &EntryName, act: impl FnOnce(&mut Live) -> T) -> Option<T> {
        let MemoryContent::Stored(blob) = self.find(name)?.content else { return None };
        Some(act(lock(&self.live).entry(name.clone()).or_insert_with(|| Live::new(blob))))
    }

    /// The entry as a listing delivers it, `None` when it is gone. Content that is inline is taken from the budget and the limit.
    async fn deliver(&self, entry: MemoryEntry, cursor: Cursor, ctx: &ReadContext) -> Option<SourceEntry> {
        let content = match entry.content {
            MemoryContent::None => Content::None,
            MemoryContent::Inline(blob) => {
                debug_assert!(blob.size() <= MAX_INLINE as u64, "inline content of {} bytes", blob.size());
                let permit = ctx.budget.take(blob.size()).await;
                ctx.limit.take(blob.size()).await;
                Content::Inline { bytes: blob.bytes(), permit: Some(Arc::new(permit)) }
            }
            MemoryContent::Stored(blob) => match lock(&self.live).get(&entry.name) {
                Some(live) => live.listed()?,
                None => Content::Stored { size: blob.size(), version: Some(Live::first_version()) },
            },
        };
        Some(SourceEntry {
            name: entry.name,
            kind: entry.kind,
            mtime: entry.mtime,
            group: entry.group,
            metadata: entry.metadata,
            content,
            inconsistent: entry.inconsistent,
            cursor,
        })
    }
}

/// Whether a place that is to be left out covers the entry.
fn excluded(source: &Identity, excluded: &[Identity], name: &EntryName) -> bool {
    excluded.iter().any(|place| {
        source.below(place).is_some_and(|path| {
            path.is_empty()
                || name.as_bytes().strip_prefix(path.as_bytes()).is_some_and(|r| r.is_empty() || r.starts_with(b"/"))
        })
    })
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Source for MemorySource {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn properties(&self) -> SourceProperties {
        SourceProperties { parallel_reads: self.parallel_reads, pins_version: false, naming: self.naming }
    }

    async fn check(&self) -> Result<()> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn estimate(&self) -> Result<Estimate> {
        tokio::task::yield_now().await;
        Ok(if self.estimate_known { self.items.estimate() } else { Estimate::default() })
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        async_stream::try_stream! {
            let start = match &after {
                None => Position::default(),
                Some(cursor) => Position::parse(cursor, &self.identity, &self.items)?,
            };
            let mut at = start;
            // A resume inside a group that cannot go on delivers the whole group again.
            if let Some(group) = self.items.superseded_at(&mut at) {
                yield SourceEvent::Supersede { group };
            }
            while !ctx.stop.is_cancelled() {
                let Some((event, next)) = self.items.at(at) else {
                    yield SourceEvent::Facts(self.facts.clone());
                    break;
                };
                at = next;
                match event {
                    items::Event::Warning(warning) => yield SourceEvent::Warning(warning),
                    items::Event::Nothing => {}
                    items::Event::Entry(entry) => {
                        if excluded(&self.identity, &ctx.excluded, &entry.name) {
                            continue;
                        }
                        let cursor = next.cursor(&self.identity);
                        // Nothing of it has been read while it waits for memory, so a pause need not wait for that.
                        let delivered = tokio::select! {
                            biased;
                            () = ctx.stop.cancelled() => break,
                            delivered = self.deliver(*entry, cursor, &ctx) => delivered,
                        };
                        if let Some(entry) = delivered {
                            yield SourceEvent::Entry(Box::new(entry));
                        }
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
        tokio::task::yield_now().await;
        let found = self.find(entry).ok_or_else(|| Error::not_found("no such entry").on(entry))?;
        let MemoryContent::Stored(blob) = found.content else {
            return Err(Error::invalid("an entry without stored content is read").on(entry));
        };
        // Only entries with trouble are remembered, so that 10^6 reads take no memory.
        let tracked = lock(&self.live).get_mut(entry).map(|live| live.open(&range, version, self.on_change));
        let untracked = || {
            let first = Live::first_version();
            trouble::check_range(&range, blob.size())?;
            trouble::check_version(version, &first, self.on_change)?;
            Ok((blob.size(), first, 0))
        };
        let (size, version, read) = tracked.unwrap_or_else(untracked).map_err(|e: Error| e.on(entry))?;
        let (name, limit, live) = (entry.clone(), ctx.limit.clone(), self.live.clone());
        let content = async_stream::try_stream! {
            let mut at = range.start;
            while at < range.end {
                tokio::task::yield_now().await;
                let next = at..range.end.min(at + PIECE);
                let changed =
                    lock(&live).get_mut(&name).map(|live| live.piece(read, at - range.start, next.clone()));
                let piece = changed.unwrap_or_else(|| Ok(blob.slice(next))).map_err(|e| e.on(&name))?;
                if piece.is_empty() {
                    break;
                }
                limit.take(piece.len() as u64).await;
                at += piece.len() as u64;
                yield piece;
            }
        };
        Ok(Opened {
            metadata: Some(found.metadata),
            mtime: None,
            size,
            version: Some(version),
            content: content.boxed(),
        })
    }
}
