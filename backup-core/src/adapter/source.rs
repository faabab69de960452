//! Where data is read.

use super::ByteStream;
use crate::Result;
use crate::budget::{ByteBudget, Permit};
use crate::limit::RateLimit;
use crate::model::{EntryKind, EntryName, GroupName, Identity, Metadata, Naming, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The largest [`Content::Inline`], in bytes. Slices should be a good deal shorter; this leaves room for one document of 16 MiB, which
/// cannot be cut.
pub const MAX_INLINE: usize = 17 << 20;
/// The longest [`Cursor`], in bytes.
pub const MAX_CURSOR: usize = 64 << 10;

/// A source's position in its single emission order: everything up to and including the entry that
/// carries it has been delivered. Opaque to the engine; versioned by the source; at most [`MAX_CURSOR`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

/// Which state of an item was seen, so that a later read can tell whether it is still the same
/// (an ETag, a change time and inode). Opaque to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub Arc<str>);

/// How much there is to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Number of entries, if it can be told at a fair price.
    pub entries: Option<u64>,
    /// Content bytes, if they can be told at a fair price.
    pub bytes: Option<u64>,
}

/// How a source likes to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceProperties {
    /// How many [`Source::read`] calls at once are useful, at least 1.
    pub parallel_reads: usize,
    /// A read with a version never delivers bytes of another one (`If-Match`). Otherwise the engine asks once more behind the last
    /// byte whether the item has changed while it was read.
    pub pins_version: bool,
    /// What the names of its entries are.
    pub naming: Naming,
}

/// What a source works with while it is read.
#[derive(Clone, Debug)]
pub struct ReadContext {
    /// Bytes of [`Content::Inline`] that the source holds or has handed out are taken from here before they are read.
    pub budget: ByteBudget,
    /// Content bytes are taken from here as they are read.
    pub limit: RateLimit,
    /// A pause: deliver what has been read, then end the stream of events.
    pub stop: CancellationToken,
    /// Places that must not be read although they lie inside the source: the destination of this very backup.
    pub excluded: Arc<[Identity]>,
}

/// The content of an entry.
#[derive(Clone, Debug)]
pub enum Content {
    /// The entry has none (a directory, a symbolic link).
    None,
    /// All of it, at most [`MAX_INLINE`] bytes.
    Inline {
        /// The bytes.
        bytes: Bytes,
        /// The part of [`ReadContext::budget`] that they occupy; may be shared by a batch of entries.
        permit: Option<Arc<Permit>>,
    },
    /// To be fetched by [`Source::read`].
    Stored {
        /// Length in bytes when it was listed.
        size: u64,
        /// The state in which it was listed.
        version: Option<Version>,
    },
}

/// One item of a source.
#[derive(Clone, Debug)]
pub struct SourceEntry {
    /// Its name; unique among the entries of one run, but for entries that replace those of a superseded group.
    pub name: EntryName,
    /// What it is. A [`HardLink`](EntryKind::HardLink) carries the content all the same, so that it can be read when the other name could not.
    pub kind: EntryKind,
    /// Last modification.
    pub mtime: Option<Timestamp>,
    /// The group that it belongs to.
    pub group: Option<GroupName>,
    /// What is known before the content is opened.
    pub metadata: Metadata,
    /// The content.
    pub content: Content,
    /// The content changed while it was read inline.
    pub inconsistent: bool,
    /// The position behind this entry.
    pub cursor: Cursor,
}

/// Something about the source that does not stop the backup, e.g. an item that was skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceWarning {
    /// The item, if it is about one.
    pub name: Option<EntryName>,
    /// What happened, for people; starts with what became of the item: `skipped: permission denied`.
    pub message: String,
}

/// What a source knows of itself at the end, for the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFacts {
    /// In what sense the entries belong to one moment, e.g. `{"kind":"snapshot","cluster_time":…}`.
    pub consistency: serde_json::Value,
    /// Digests of groups over all their entries, as the source defines them. Each may be told as soon as its group is complete.
    pub group_digests: std::collections::BTreeMap<GroupName, String>,
}

/// What a source tells while it is read.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// An entry.
    Entry(Box<SourceEntry>),
    /// Everything delivered of this group so far is void; it comes again, or not at all. Holds from the next entry on: after a cursor
    /// from before it, the source may as well go on without.
    Supersede {
        /// The group.
        group: GroupName,
    },
    /// Something to record; the position behind it is that of the next entry.
    Warning(SourceWarning),
    /// What the source knows of itself. A later consistency that is not null replaces an earlier one, and so does a later digest of a group.
    Facts(SourceFacts),
}

/// An item that was opened.
pub struct Opened {
    /// Metadata learnt by opening it; replaces that of the entry.
    pub metadata: Option<Metadata>,
    /// Last modification now, if opening it tells.
    pub mtime: Option<Timestamp>,
    /// The length of the whole item now, in bytes.
    pub size: u64,
    /// The state of the item now.
    pub version: Option<Version>,
    /// The bytes of the range.
    pub content: ByteStream,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("size", &self.size).field("version", &self.version).finish_non_exhaustive()
    }
}

/// Where data is read. Nothing of it is ever written.
#[async_trait]
pub trait Source: std::fmt::Debug + Send + Sync + 'static {
    /// The place that this source stands for.
    ///
    /// # Behavior
    /// - Does no I/O and always answers the same.
    /// - Carries no secret.
    fn identity(&self) -> Identity;

    /// How it likes to be read.
    ///
    /// # Behavior
    /// - Does no I/O; `parallel_reads` is at least 1.
    fn properties(&self) -> SourceProperties;

    /// Reaches the source with its credentials, before anything starts.
    ///
    /// # Behavior
    /// - Success means that listing works now.
    /// - A place that does not exist is `NotFound`; wrong credentials are `Unauthorized`.
    async fn check(&self) -> Result<()>;

    /// Counts what there is to read, for progress only.
    ///
    /// # Behavior
    /// - Answers unknown rather than reading everything at a high price.
    /// - May be wrong; nothing but progress depends on it.
    async fn estimate(&self) -> Result<Estimate>;

    /// Delivers everything in one fixed order, from the start or from behind a cursor.
    ///
    /// # Behavior
    /// - Without a cursor every item is delivered once, or named in a warning that says why not.
    /// - After the cursor of an entry exactly the entries behind it follow, in the same order, also in another process.
    /// - Cursors are at most [`MAX_CURSOR`] bytes.
    /// - A cursor that this source did not make is `Invalid`.
    /// - Inline content is at most [`MAX_INLINE`] bytes and occupies `ctx.budget` until it is dropped.
    /// - When `ctx.stop` is cancelled, the stream ends after what has been read: nothing that was read is thrown away.
    /// - Trouble with one item is a warning, not an error; an error ends the stream.
    /// - Places in `ctx.excluded` are not delivered.
    /// - Dropping the stream stops all work for it.
    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>>;

    /// Opens a range of an entry with [`Content::Stored`] content.
    ///
    /// # Behavior
    /// - `range` lies within the size that was listed; an empty range is allowed.
    /// - Delivers exactly the range, or less only when the item has become shorter; a connection that breaks off is an error of the stream.
    /// - An item that is gone is `NotFound`; one that may not be read is `Permanent`. `Unauthorized` is only for credentials that are refused as a whole: it pauses the backup, while trouble of one item is a warning.
    /// - When `version` is given and the item is another version: either `Changed`, or the new state in [`Opened::version`].
    /// - The stream takes its bytes from `ctx.limit`.
    async fn read(
        &self,
        entry: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened>;
}
