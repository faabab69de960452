//! Where data is put back.

use super::{ByteStream, SourceFacts};
use crate::model::{Entry, EntryKind, EntryName, Identity, Naming};
use crate::{Digest, Error, Result, Sha256};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// In what portions a target takes the entries of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Each entry by itself, several at once, in any order.
    Slice,
    /// Each entry by itself, those of one group one after the other in their order.
    OrderedSlices,
    /// All slices of a group as one content; restarted from its first slice on a resume.
    Whole,
}

/// A small entry, its content verified.
#[derive(Clone, Debug)]
pub struct SmallEntry {
    /// What it is.
    pub entry: Entry,
    /// Its whole content; empty for kinds without content.
    pub content: Bytes,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was not there and is now.
    Created,
    /// Something was there and was replaced, as the plan allowed.
    Replaced,
    /// The same was there already.
    AlreadyThere,
    /// It will be made by [`RestoreTarget::finish`].
    Deferred,
}

/// Something that does not stop the restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The entry, if it is about one.
    pub name: Option<EntryName>,
    /// What happened, for people.
    pub message: String,
    /// The entry is missing or has other content, and not just other metadata. Without a name: so are entries that are not named.
    pub left_out: bool,
}

/// Which entries are meant.
pub type Wanted = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// Where a plan gets its entries; the engine implements it on an archive's index.
#[async_trait]
pub trait PlanEntries: std::fmt::Debug + Send + Sync + 'static {
    /// The entries that are restored, in the archive's order, from the start.
    /// Superseded ones are left out. May be called several times.
    fn entries(&self) -> BoxStream<'static, Result<Entry>>;

    /// The archive's entry of a name, also one that is not restored; for the few whose meaning depends on another entry, as a hard
    /// link's does. Superseded ones are not found. What is provided looks through [`entries`](PlanEntries::entries).
    async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        let mut entries = self.entries();
        while let Some(entry) = entries.next().await.transpose()? {
            if entry.name == *name {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The contents of those entries with content that are wanted, in the archive's order, verified; for what a target needs before, after
    /// or beside the entries that it is given: the options of a collection, a log to be replayed. Entries of more than 16 MiB are an error.
    /// One content at a time should be held. What is provided has none to give.
    fn contents(&self, wanted: Wanted) -> BoxStream<'static, Result<SmallEntry>> {
        let _ = wanted;
        let error = Error::unsupported("this plan gives the contents of its entries only to be written");
        futures::stream::once(async move { Err(error) }).boxed()
    }

    /// Whether an entry of this name would be restored, also one that the archive does not have: for what a target makes itself of
    /// others. What is provided selects everything.
    fn selects(&self, name: &EntryName) -> bool {
        let _ = name;
        true
    }

    /// What the source said of itself as a whole. What is provided knows nothing.
    fn facts(&self) -> SourceFacts {
        SourceFacts::default()
    }

    /// Up to which kind an entry is known to differ from the archive's, because somebody has been warned of it already:
    /// for one that was left out, [`Content`](MismatchKind::Content).
    fn known_to_differ(&self, name: &EntryName) -> Option<MismatchKind> {
        let _ = name;
        None
    }

    /// How many entries earlier attempts have written at the target, as far as that was saved; `None` when it is not known that one has
    /// prepared it. A target that is not there any more, or is empty again, is not to be made anew after that: its disk may not be mounted.
    fn written(&self) -> Option<u64> {
        None
    }

    /// What large entries recorded that are not done, for a target that [discards](RestoreTarget::discard) by upload ids and
    /// the like. What was begun and has recorded nothing, or not in time, is not among it.
    fn unfinished(&self) -> Vec<SavedProgress> {
        Vec::new()
    }
}

/// What is to be restored, and how.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// Tells this restore apart from others at the same target, e.g. in the names of staged files. Characters as in an object name's component.
    pub tag: String,
    /// The number of this attempt at it: greater than those of all attempts before, also of one that was taken for dead and is not.
    pub attempt: u64,
    /// An earlier attempt of the same restore may have left parts behind.
    pub resumed: bool,
    /// Existing items may be replaced.
    pub overwrite: bool,
    /// What the names of the entries are.
    pub naming: Naming,
    /// The entries.
    pub entries: Arc<dyn PlanEntries>,
}

/// What reading back a target gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Entries compared.
    pub entries: u64,
    /// Content bytes read back.
    pub bytes: u64,
    /// Entries that are not as the archive has them, without the known ones: of each kind the first 1,000.
    pub mismatches: Vec<Mismatch>,
    /// How many differ in their content, without the known ones.
    pub mismatch_count: u64,
    /// How many differ in nothing but their metadata, without the known ones.
    pub metadata_count: u64,
    /// How many differ as the plan [knows](PlanEntries::known_to_differ) already.
    pub known_count: u64,
}

/// Mismatches of each kind that a report keeps.
const KEPT: u64 = 1000;

impl VerifyReport {
    /// Counts a mismatch, and keeps it while there is room and the plan does not know of it.
    pub fn mismatch(&mut self, plan: &RestorePlan, name: &EntryName, kind: MismatchKind, message: impl Into<String>) {
        if plan.entries.known_to_differ(name) >= Some(kind) {
            self.known_count += 1;
            return;
        }
        let count = self.count(kind);
        *count += 1;
        if *count <= KEPT {
            self.mismatches.push(Mismatch { name: name.clone(), message: message.into(), kind });
        }
    }

    /// Adds the report of another part of the plan.
    pub fn add(&mut self, other: Self) {
        let Self { entries, bytes, mismatches, mismatch_count, metadata_count, known_count } = other;
        self.entries += entries;
        self.bytes += bytes;
        self.known_count += known_count;
        let mut room =
            [MismatchKind::Content, MismatchKind::Metadata].map(|kind| KEPT.saturating_sub(*self.count(kind)));
        for mismatch in mismatches {
            let [content, metadata] = &mut room;
            let room = if mismatch.kind == MismatchKind::Content { content } else { metadata };
            if *room > 0 {
                *room -= 1;
                self.mismatches.push(mismatch);
            }
        }
        self.mismatch_count += mismatch_count;
        self.metadata_count += metadata_count;
    }

    fn count(&mut self, kind: MismatchKind) -> &mut u64 {
        match kind {
            MismatchKind::Metadata => &mut self.metadata_count,
            MismatchKind::Content => &mut self.mismatch_count,
        }
    }
}

/// How an entry differs; the later one is the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MismatchKind {
    /// The content is right, but owner, permissions, times or attributes are not.
    Metadata,
    /// It is missing, cannot be read, is of another kind, leads elsewhere or has other bytes.
    Content,
}

/// An entry that is not as the archive has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The entry.
    pub name: EntryName,
    /// What differs.
    pub message: String,
    /// The worst kind of difference.
    pub kind: MismatchKind,
}

/// State of a half-written large entry, kept in the restore's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProgress {
    /// Content bytes that the target has taken over.
    pub offset: u64,
    /// The hash over them.
    pub hash: Sha256,
    /// What the target needs to go on: upload id and parts, name of a staged file.
    pub state: serde_json::Value,
}

/// The place where a target records how far a large entry has come.
#[derive(Clone, Debug, Default)]
pub struct EntryProgress(Arc<Mutex<Option<SavedProgress>>>);

impl EntryProgress {
    /// Continues from saved progress.
    pub fn resumed(saved: Option<SavedProgress>) -> Self {
        Self(Arc::new(Mutex::new(saved)))
    }

    /// Records that everything that `content` has delivered so far has been taken over, and what the target needs to go on from there.
    /// A target that has to be asked to make it durable does so in [`RestoreTarget::sync`].
    pub fn record(&self, content: &ContentReader, state: serde_json::Value) {
        let saved = SavedProgress { offset: content.hash.length(), hash: content.hash.clone(), state };
        self.save(saved);
    }

    /// Records an earlier position of the content, of which [`ContentReader::hash`] gave the hash when it was there: for a target
    /// that sends several parts at once and reads on meanwhile.
    pub fn save(&self, saved: SavedProgress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
    }

    /// What was recorded last.
    pub fn saved(&self) -> Option<SavedProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The content of a large entry, as it comes out of the archive.
///
/// Failure modes: a damaged or missing volume is an error of [`next`](ContentReader::next); content whose digest is not the
/// recorded one is an error of [`finish`](ContentReader::finish). Only after `finish` succeeded may the entry be published.
pub struct ContentReader {
    stream: ByteStream,
    /// What has arrived and was not delivered yet.
    held: Bytes,
    hash: Sha256,
    size: Option<u64>,
    expected: Option<Digest>,
}

impl ContentReader {
    /// A reader over `stream`, which delivers the content from `hash.length()` on. With `size` and `expected` given, they are checked at the end.
    pub fn new(stream: ByteStream, hash: Sha256, size: Option<u64>, expected: Option<Digest>) -> Self {
        Self { stream, held: Bytes::new(), hash, size, expected }
    }

    /// Bytes delivered so far, counted from the start of the content (so a resumed reader does not start at 0).
    pub fn position(&self) -> u64 {
        self.hash.length()
    }

    /// The hash over the bytes delivered so far.
    pub fn hash(&self) -> &Sha256 {
        &self.hash
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// Whatever reading the archive met.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.next_up_to(usize::MAX).await
    }

    /// The next bytes, at most so many (at least 1), so that parts can end where they should; `None` at the end.
    ///
    /// # Errors
    /// Whatever reading the archive met.
    pub async fn next_up_to(&mut self, most: usize) -> Result<Option<Bytes>> {
        while self.held.is_empty() {
            let Some(bytes) = self.stream.next().await.transpose()? else { return Ok(None) };
            self.held = bytes;
        }
        let bytes = self.held.split_to(most.max(1).min(self.held.len()));
        // Hashing a piece of a frame takes far less than a millisecond; a hop to another thread would cost more than it saves.
        self.hash.update(&bytes);
        Ok(Some(bytes))
    }

    /// Confirms, after the last bytes, that length and digest are those of the index.
    ///
    /// # Errors
    /// `Corrupt` when they are not, or when the end was not reached.
    pub fn finish(self) -> Result<Digest> {
        let length = self.hash.length();
        if !self.held.is_empty() {
            return Err(Error::corrupt("the content goes on where it was taken to end"));
        }
        if let Some(size) = self.size.filter(|size| *size != length) {
            return Err(Error::corrupt(format!("the content has {length} bytes where the index says {size}")));
        }
        let digest = self.hash.finish();
        match self.expected {
            Some(expected) if expected != digest => {
                Err(Error::corrupt("the content's SHA-256 is not the recorded one"))
            }
            _ => Ok(digest),
        }
    }
}

impl std::fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentReader")
            .field("position", &self.position())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Where data is put back.
///
/// The engine calls `check`, `prepare`, then `write_small`, `write_large` and `sync` at will and several at once, then `finish`
/// once, then `verify` if asked. A resumed restore goes through all of it again and writes what its checkpoint does not cover.
/// One that is cancelled ends with `discard` instead.
#[async_trait]
pub trait RestoreTarget: std::fmt::Debug + Send + Sync + 'static {
    /// The place that this target stands for.
    ///
    /// # Behavior
    /// - Does no I/O and always answers the same.
    /// - Carries no secret.
    fn identity(&self) -> Identity;

    /// In what portions it takes entries of a kind.
    ///
    /// # Behavior
    /// - Does no I/O and always answers the same.
    fn granularity(&self, kind: &EntryKind) -> Granularity;

    /// Reaches the target with its credentials, and changes nothing.
    ///
    /// # Behavior
    /// - Success means that writing can be expected to work; a root that does not exist yet is fine if it can be made.
    /// - Wrong credentials are `Unauthorized`.
    async fn check(&self) -> Result<()>;

    /// Whether nothing is there yet that a restore could meet.
    ///
    /// # Behavior
    /// - A root that does not exist is empty; staged leftovers do not count.
    async fn is_empty(&self) -> Result<bool>;

    /// Makes the root ready.
    ///
    /// # Behavior
    /// - Creates the root if it is missing; writes no entry. Where it may be missing because a disk is not mounted, that is `NotFound`
    ///   when an earlier attempt is known to have [written](PlanEntries::written) there.
    /// - Repeating it is harmless.
    async fn prepare(&self, plan: &RestorePlan) -> Result<()>;

    /// Writes small entries, whose digests have been verified.
    ///
    /// # Behavior
    /// - Answers for each entry, in the order of the batch; an outer error means the target as a whole is in trouble (no space, no connection).
    /// - An entry is published whole or not at all, also when the call is dropped or the process dies.
    /// - The same item already there is `AlreadyThere`; another one is `Conflict` and stays, unless the plan says overwrite.
    /// - Missing parents are made. A name that would leave the root, or go through a symbolic link, is `Invalid` for that entry and writes nothing.
    /// - Repeating it is harmless.
    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>>;

    /// Writes an entry of any size from a reader. For [`Granularity::Whole`], `entry` is the first slice of the group.
    ///
    /// # Behavior
    /// - Publishes only after [`ContentReader::finish`] succeeded; until then nothing is visible under the entry's name.
    /// - Existing items are treated as by `write_small`.
    /// - The inner error is about this entry, which is then left out with a warning; an outer error means the target as a whole is in trouble, or the reader.
    /// - With saved progress, the reader starts at its offset, and the result is the same as without interruption; when the saved state is of no use any more, the inner error is `Changed` and the engine starts the entry over.
    /// - An error of the reader is returned as it is, as the outer error, and nothing is published.
    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>>;

    /// Makes everything durable that was written, and every progress recorded, before the call.
    ///
    /// # Behavior
    /// - May run beside writes, which it need not cover.
    async fn sync(&self) -> Result<()>;

    /// Warnings about what was written, so that they outlive this process: the engine takes them before each of its checkpoints.
    ///
    /// # Behavior
    /// - Does no I/O.
    /// - Each warning is given once, here or by `finish`.
    fn take_warnings(&self) -> Vec<Warning>;

    /// Completes what needs all entries to be there: hard links, directory times, indexes, views; removes leftovers of this plan; makes all durable.
    ///
    /// # Behavior
    /// - Repeating it is harmless.
    /// - Afterwards no staged leftover of this plan remains.
    /// - Trouble with one entry is a returned warning, not an error.
    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>>;

    /// Gives the restore up: removes what unfinished entries of this plan left behind, such as staged files and unfinished uploads.
    ///
    /// # Behavior
    /// - Removes what any attempt at the plan left, also of another process: found by tag, entries and [`PlanEntries::unfinished`], as `finish` finds it.
    /// - Waits for what calls of this target that were dropped still do, so that they leave nothing either.
    /// - Published entries stay, and so does everything that is not of this plan.
    /// - Needs no `prepare`; where there is no root, there is nothing to do, and none is made.
    /// - Repeating it is harmless.
    async fn discard(&self, plan: &RestorePlan) -> Result<()>;

    /// Reads the target back and compares it with the plan.
    ///
    /// # Behavior
    /// - Every entry of the plan is compared, content by digest and metadata as far as the target keeps it.
    /// - An entry that is missing or differs is a mismatch in the report, not an error; one in nothing but metadata is of that kind.
    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Knows;

    impl PlanEntries for Knows {
        fn entries(&self) -> BoxStream<'static, Result<Entry>> {
            futures::stream::empty().boxed()
        }

        fn known_to_differ(&self, name: &EntryName) -> Option<MismatchKind> {
            match name.as_bytes() {
                b"left" => Some(MismatchKind::Content),
                b"noted" => Some(MismatchKind::Metadata),
                _ => None,
            }
        }
    }

    #[tokio::test]
    async fn content_can_be_cut_where_a_part_ends_and_its_hash_is_that_of_what_was_delivered() {
        let pieces = [&b"abcde"[..], b"", b"fgh", b"i"].map(|piece| Ok(Bytes::from_static(piece)));
        let stream = futures::stream::iter(pieces).boxed();
        let mut content = ContentReader::new(stream, Sha256::new(), Some(9), Some(Digest::of(b"abcdefghi")));
        let mut taken = Vec::new();
        for most in [3, 100, 2, 1, 5, 5] {
            let piece = content.next_up_to(most).await.unwrap();
            taken.extend_from_slice(piece.as_deref().unwrap_or_default());
            assert_eq!(content.hash().clone().finish(), Digest::of(&taken));
            assert_eq!(content.position(), taken.len() as u64);
        }
        assert_eq!(taken, b"abcdefghi");
        content.finish().unwrap();
        let stream = futures::stream::iter([Ok(Bytes::from_static(b"ab"))]).boxed();
        let mut cut = ContentReader::new(stream, Sha256::new(), None, None);
        cut.next_up_to(1).await.unwrap();
        assert_eq!(cut.finish().unwrap_err().class(), crate::ErrorClass::Corrupt);
    }

    #[test]
    fn a_report_counts_each_kind_apart_and_leaves_out_what_is_known() {
        use MismatchKind::{Content, Metadata};
        let plan = RestorePlan {
            tag: "t".into(),
            attempt: 1,
            resumed: false,
            overwrite: false,
            naming: Naming::Paths,
            entries: Arc::new(Knows),
        };
        let mut whole = VerifyReport::default();
        for _ in 0..2 {
            let mut part = VerifyReport { entries: 1700, bytes: 10, ..VerifyReport::default() };
            for name in ["left", "noted", "new"] {
                part.mismatch(&plan, &name.into(), Content, "bytes");
                part.mismatch(&plan, &name.into(), Metadata, "owner");
            }
            (0..700).for_each(|_| part.mismatch(&plan, &"many".into(), Metadata, "owner"));
            whole.add(part);
        }
        assert_eq!((whole.entries, whole.bytes), (3400, 20));
        assert_eq!((whole.mismatch_count, whole.metadata_count, whole.known_count), (4, 1402, 6));
        let kept = |kind| whole.mismatches.iter().filter(|m| m.kind == kind).count();
        assert_eq!((kept(Content), kept(Metadata)), (4, 1000));
        assert!(whole.mismatches.iter().all(|m| m.name != "left".into()));
    }
}
