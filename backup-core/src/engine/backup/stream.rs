//! Writes the archive's raw stream: entries in, frames out, and the position behind each frame.

use super::checkpoint::{Blob, OpenEntry, Position};
use super::frame::{HashIn, Part, RawFrame, Staged, has_content};
use crate::Result;
use crate::adapter::{SourceEntry, SourceFacts, Version};
use crate::archive::{
    END_OF_ARCHIVE, SupersededGroup, TarEntry, TarKind, WARNINGS_FILE, header_length, padding, write_header,
};
use crate::budget::{ByteBudget, Permit};
use crate::engine::session::Session;
use crate::model::{Entry, EntryKind, GroupName, Metadata, Timestamp};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Bytes of names, targets and metadata at which a frame ends: its index lines must not become longer than a frame may be.
const MAX_METADATA: usize = 1 << 20;

/// Groups that were read again of which `BACKUP-WARNINGS.txt` speaks.
const MAX_NOTES: usize = 1000;

/// Bytes that an entry's name, target and metadata take in the index, roughly.
pub(super) fn weight(entry: &SourceEntry) -> usize {
    let target = match &entry.kind {
        EntryKind::Symlink { target } => target.len(),
        EntryKind::HardLink { target } => target.as_bytes().len(),
        EntryKind::File | EntryKind::Directory | EntryKind::Slice => 0,
    };
    entry.name.as_bytes().len() + target + weight_of(&entry.metadata)
}

fn weight_of(metadata: &Metadata) -> usize {
    let texts = |map: &std::collections::BTreeMap<String, String>| -> usize {
        map.iter().map(|(k, v)| k.len() + v.len()).sum()
    };
    let xattrs: usize = metadata.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() * 4 / 3).sum();
    64 + xattrs + texts(&metadata.headers) + texts(&metadata.user_metadata) + texts(&metadata.tags)
}

/// What the assembler sends to be packed.
#[derive(Debug)]
pub(super) enum ToPack {
    /// The next frame.
    Frame(Box<RawFrame>),
    /// The volume ends here.
    Cut,
}

/// The receiving stage is gone; whoever stopped it knows why.
#[derive(Debug)]
pub(super) struct Stopped;

/// Cuts the stream into frames.
#[derive(Debug)]
pub(super) struct StreamWriter {
    pub(super) position: Position,
    session: Arc<Session>,
    frame: RawFrame,
    /// Names and metadata in the frame; they stand in the index, and extended attributes nowhere else.
    metadata: usize,
    frame_size: u64,
    volume_age: Duration,
    /// When the volume ends for its age.
    pub(super) cut_at: Instant,
    /// Something was sent since the last timed cut.
    uncut: bool,
    /// Warnings behind the source's position: a resumed backup meets them again.
    warnings: Vec<String>,
    /// Groups that become void once the source's position is behind the next entry: until then a resumed backup may go on without.
    void: Vec<SupersededGroup>,
    /// Where the memory of contents comes from.
    budgets: [ByteBudget; 2],
    out: mpsc::Sender<ToPack>,
}

/// How much of a piece of content a frame takes that has so many bytes and should get `size`; nothing when it shall end before the piece.
///
/// A frame that is one piece is packed without a copy, so a piece is not cut where that can be avoided: a frame may become up to a
/// quarter longer than it should, or end when it has a quarter.
fn fitting(piece: usize, frame: u64, size: u64) -> usize {
    let (length, most) = (piece as u64, size + size / 4);
    if frame + length <= most {
        piece
    } else if length <= most && frame >= size / 4 {
        0
    } else {
        // A frame that only just began takes at least a little, so that each one makes progress.
        usize::try_from(size.saturating_sub(frame).max(1)).unwrap_or(usize::MAX).min(piece)
    }
}

/// What whoever unpacks with `tar` must know of groups that were read again: what was not written again is unpacked as well.
///
/// These are no warnings. Nothing of the source is missing, and whoever reads by the index gets the right entries; a database whose
/// backup was interrupted would else never be backed up without warnings.
fn notes_on_void(groups: &[SupersededGroup]) -> String {
    let mut text = String::new();
    for SupersededGroup { group, last, .. } in groups.iter().take(MAX_NOTES) {
        text.push_str(&format!(
            "group {group} was read again; files of it from the first reading (among the first {} of the tar stream) that were \
             not written again are void\n",
            last + 1
        ));
    }
    if let Some(more) = groups.len().checked_sub(MAX_NOTES).filter(|more| *more > 0) {
        text.push_str(&format!("… and {more} more, which the manifest names under `superseded`\n"));
    }
    text
}

fn empty_frame(hash_in: HashIn) -> RawFrame {
    RawFrame {
        parts: Vec::new(),
        length: 0,
        hash_in,
        hash_out: None,
        position: Position::default(),
        permits: Vec::new(),
        cut: false,
    }
}

impl StreamWriter {
    pub(super) fn new(
        position: Position,
        session: Arc<Session>,
        frame_size: u32,
        volume_age: Duration,
        budgets: [ByteBudget; 2],
        out: mpsc::Sender<ToPack>,
    ) -> Self {
        let hash = position.open.as_ref().map(|open| open.hash.clone()).unwrap_or_default();
        Self {
            position,
            session,
            frame: empty_frame(HashIn::Known(hash)),
            metadata: 0,
            frame_size: u64::from(frame_size),
            volume_age,
            cut_at: Instant::now() + volume_age,
            uncut: false,
            warnings: Vec::new(),
            void: Vec::new(),
            budgets,
            out,
        }
    }

    /// Whether the frame keeps memory for which somebody waits: what comes next may need it.
    pub(super) fn keeps_wanted_memory(&self) -> bool {
        !self.frame.permits.is_empty() && self.budgets.iter().any(ByteBudget::is_wanted)
    }

    /// Records a warning; it belongs to the archive once the source's position is behind it.
    pub(super) fn warn(&mut self, line: String) {
        self.warnings.push(line);
        let count = self.position.warnings.count + self.warnings.len() as u64;
        self.session.meter.update(|p| p.warnings = count);
    }

    /// The entries so far of a group are void; `false` when there are none at all.
    pub(super) fn supersede(&mut self, group: &GroupName) -> bool {
        let Some(last) = self.position.ordinal.checked_sub(1) else { return false };
        self.void.push(SupersededGroup { group: group.clone(), first: 0, last });
        true
    }

    /// Takes what the source knows of itself.
    pub(super) fn facts(&mut self, facts: SourceFacts) {
        let SourceFacts { consistency, group_digests } = facts;
        let known = Arc::make_mut(&mut self.position.facts);
        if !consistency.is_null() {
            known.consistency = consistency;
        }
        known.group_digests.extend(group_digests);
    }

    /// What waited for the source's position to move on.
    fn settle(&mut self) {
        self.keep_warnings();
        if !self.void.is_empty() {
            let facts = Arc::make_mut(&mut self.position.facts);
            self.void.iter().for_each(|void| drop(facts.group_digests.remove(&void.group)));
            // One record of a group covers those before it; they are a part of each checkpoint.
            let groups = Arc::make_mut(&mut self.position.groups);
            for void in self.void.drain(..) {
                match groups.iter_mut().find(|before| before.group == void.group) {
                    Some(before) => before.last = void.last,
                    None => groups.push(void),
                }
            }
        }
    }

    fn keep_warnings(&mut self) {
        if !self.warnings.is_empty() {
            let tally = Arc::make_mut(&mut self.position.warnings);
            self.warnings.drain(..).for_each(|line| tally.add(&line));
        }
    }

    /// Turns an entry of the source into one of the archive, and chooses its tar path.
    fn stage(&mut self, entry: &SourceEntry, kind: &EntryKind, size: u64) -> Staged {
        let path = match self.position.paths.next(&entry.name, kind) {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(path),
        };
        let link_path = match kind {
            EntryKind::HardLink { target } => Some(self.position.paths.path(target).into_owned()),
            _ => None,
        };
        let mut staged = Staged {
            entry: Entry {
                name: entry.name.clone(),
                kind: kind.clone(),
                size,
                mtime: entry.mtime,
                metadata: entry.metadata.clone(),
                sha256: None,
                offset: 0,
                ordinal: self.position.ordinal,
                group: entry.group.clone(),
                inconsistent: entry.inconsistent,
                superseded: false,
            },
            path,
            link_path,
        };
        self.metadata += weight(entry);
        let header = staged.header_length();
        staged.entry.offset = self.position.raw + header;
        self.advance(header);
        staged
    }

    fn advance(&mut self, raw: u64) {
        self.position.raw += raw;
        self.frame.length += raw;
    }

    /// Adds an entry whose content, if it has any, is all there.
    pub(super) async fn whole(
        &mut self,
        entry: &SourceEntry,
        kind: &EntryKind,
        content: Bytes,
        permit: Option<Arc<Permit>>,
    ) -> Result<(), Stopped> {
        let size = content.len() as u64;
        let staged = self.stage(entry, kind, size);
        self.advance(size + padding(size) as u64);
        self.frame.parts.push(Part::Whole { staged: Box::new(staged), content });
        if let Some(permit) = permit
            && !self.frame.permits.last().is_some_and(|last| Arc::ptr_eq(last, &permit))
        {
            self.frame.permits.push(permit);
        }
        self.position.inconsistent += u64::from(entry.inconsistent);
        self.position.content += size;
        self.entry_done(entry);
        self.flush_full().await
    }

    fn entry_done(&mut self, entry: &SourceEntry) {
        self.position.ordinal += 1;
        self.position.open = None;
        self.passed(entry);
    }

    /// The source's position is behind this entry now, whatever became of it.
    pub(super) fn passed(&mut self, entry: &SourceEntry) {
        self.position.cursor = Some(Blob(entry.cursor.0.clone()));
        self.settle();
    }

    /// Begins an entry whose content comes in pieces.
    pub(super) fn open(&mut self, entry: &SourceEntry, size: u64, version: Option<Version>, tries: u32) {
        debug_assert!(has_content(&entry.kind), "only kinds with content are opened");
        let staged = self.stage(entry, &entry.kind, size);
        let content_at = staged.entry.offset;
        self.frame.parts.push(Part::Open { staged: Box::new(staged) });
        self.position.open = Some(OpenEntry::new(entry, size, version, content_at, tries));
        // A resumed backup goes on with the events behind it.
        self.settle();
    }

    /// Adds content of the open entry.
    pub(super) async fn content(&mut self, mut bytes: Bytes, permit: &Arc<Permit>) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(fitting(bytes.len(), self.frame.length, self.frame_size));
            if piece.is_empty() {
                self.flush(false).await?;
                continue;
            }
            self.took(piece.len() as u64);
            self.frame.parts.push(Part::Content(piece));
            self.frame.permits.push(permit.clone());
            self.flush_full().await?;
        }
        Ok(())
    }

    fn took(&mut self, length: u64) {
        self.advance(length);
        self.position.content += length;
        if let Some(open) = &mut self.position.open {
            open.offset += length;
        }
    }

    /// Fills the open entry with zeros up to its size.
    pub(super) async fn fill(&mut self) -> Result<(), Stopped> {
        while let Some(left) = self.position.open.as_ref().map(|open| open.size - open.offset).filter(|left| *left > 0)
        {
            let step = left.min(self.frame_size.saturating_sub(self.frame.length).max(1));
            self.took(step);
            self.frame.parts.push(Part::Filler(step));
            self.flush_full().await?;
        }
        Ok(())
    }

    /// Ends the open entry, all of whose content is in. A superseded one leaves the source's position where it was.
    pub(super) async fn close(&mut self, superseded: bool) -> Result<(), Stopped> {
        let Some(open) = self.position.open.take() else { return Ok(()) };
        self.advance(padding(open.size) as u64);
        self.position.inconsistent += u64::from(open.inconsistent);
        self.position.superseded += u64::from(superseded);
        if !superseded {
            self.position.cursor = Some(open.cursor.clone());
            self.settle();
        }
        let entry = Entry {
            name: open.name,
            kind: open.kind,
            size: open.size,
            mtime: open.mtime,
            metadata: open.metadata,
            sha256: None,
            offset: open.content_at,
            ordinal: self.position.ordinal,
            group: open.group,
            inconsistent: open.inconsistent,
            superseded,
        };
        self.position.ordinal += 1;
        self.frame.parts.push(Part::Close { entry: Box::new(entry) });
        self.flush_full().await
    }

    /// Writes the list of warnings and of void groups, if there are any, and the end of the tar stream.
    pub(super) async fn end(&mut self) -> Result<(), Stopped> {
        if self.position.ended {
            return Ok(());
        }
        self.settle();
        let mut text = String::new();
        let warnings = self.position.warnings.clone();
        if warnings.count > 0 {
            text = format!(
                "{} warnings were recorded while this archive was written:\n{}",
                warnings.count, warnings.lines
            );
            if warnings.left_out > 0 {
                text.push_str(&format!("… and {} more, which are in the job log of the backup\n", warnings.left_out));
            }
        }
        text.push_str(&notes_on_void(&self.position.groups));
        if !text.is_empty() {
            let now = jiff::Timestamp::now();
            let entry = TarEntry {
                path: WARNINGS_FILE,
                true_name: None,
                kind: TarKind::File,
                size: text.len() as u64,
                mtime: Some(Timestamp { seconds: now.as_second(), nanos: 0 }),
                metadata: &Metadata { mode: Some(0o644), ..Metadata::default() },
            };
            let mut raw = Vec::new();
            write_header(&entry, &mut raw);
            debug_assert_eq!(raw.len() as u64, header_length(&entry));
            raw.extend_from_slice(text.as_bytes());
            raw.resize(raw.len() + padding(text.len() as u64), 0);
            self.advance(raw.len() as u64);
            self.frame.parts.push(Part::Raw(raw.into()));
        }
        self.advance(END_OF_ARCHIVE as u64);
        self.frame.parts.push(Part::End);
        self.position.ended = true;
        Ok(())
    }

    async fn flush_full(&mut self) -> Result<(), Stopped> {
        let full = self.frame.length >= self.frame_size || self.metadata >= MAX_METADATA;
        if full { self.flush(false).await } else { Ok(()) }
    }

    /// Sends what there is of the frame; with `cut`, the volume ends behind it.
    ///
    /// The end of an entry goes into the frame of its last bytes: by itself it may have no length, and no frame may be empty. So
    /// a frame at whose end all content of the open entry is in waits for that end, which comes next.
    pub(super) async fn flush(&mut self, cut: bool) -> Result<(), Stopped> {
        let before_the_end = self.position.open.as_ref().is_some_and(|open| open.offset == open.size);
        self.send(cut, before_the_end).await
    }

    /// Sends all that there is, also before the end of an entry: nothing else comes. The volume ends behind it.
    pub(super) async fn finish(&mut self) -> Result<(), Stopped> {
        self.send(true, false).await
    }

    async fn send(&mut self, cut: bool, keep: bool) -> Result<(), Stopped> {
        // The end of an entry alone, without padding, goes into the next frame. It belongs to no checkpoint as long as there is none.
        if keep || self.frame.length == 0 {
            if cut && self.uncut {
                self.cut_is_sent();
                return self.out.send(ToPack::Cut).await.map_err(|_| Stopped);
            }
            return Ok(());
        }
        let mut hash_in = HashIn::Known(crate::Sha256::new());
        let mut hash_out = None;
        if self.position.open.is_some() {
            let (sender, receiver) = oneshot::channel();
            hash_in = HashIn::FromBefore(receiver);
            hash_out = Some(sender);
        }
        let mut frame = std::mem::replace(&mut self.frame, empty_frame(hash_in));
        self.metadata = 0;
        frame.hash_out = hash_out;
        frame.position = self.position.clone();
        frame.cut = cut;
        if cut {
            self.cut_is_sent()
        } else {
            self.uncut = true
        }
        let (entries, bytes) = (self.position.ordinal, self.position.content);
        self.session.meter.update(|p| (p.entries, p.bytes) = (entries, bytes));
        self.out.send(ToPack::Frame(Box::new(frame))).await.map_err(|_| Stopped)
    }

    fn cut_is_sent(&mut self) {
        self.uncut = false;
        self.cut_at = Instant::now() + self.volume_age;
    }

    /// Ends the volume when it has become old.
    pub(super) async fn cut_if_old(&mut self) -> Result<(), Stopped> {
        if Instant::now() < self.cut_at {
            return Ok(());
        }
        self.flush(true).await?;
        self.cut_at = Instant::now() + self.volume_age;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_only_where_frames_would_become_far_too_long_or_short() {
        const SIZE: usize = 4 << 20;
        let frame = |length: usize, piece: usize| fitting(piece, length as u64, SIZE as u64);
        assert_eq!(frame(0, SIZE), SIZE);
        assert_eq!(frame(512, SIZE), SIZE, "behind the header of its entry");
        assert_eq!(frame(SIZE / 2, SIZE), 0, "a frame of its own");
        assert_eq!(frame(SIZE - 1, 65536), 65536);
        assert_eq!(frame(0, 3 * SIZE), SIZE, "a piece that is longer than any frame is cut");
        assert_eq!(frame(SIZE / 2, 3 * SIZE), SIZE / 2);
        for (length, piece) in [(SIZE + SIZE / 4, 1), (2 * SIZE, 1), (2 * SIZE, 3 * SIZE), (0, 1)] {
            // The frame ends, or it grows: there is progress in any case.
            assert!(frame(length, piece) > 0 || length > 0);
        }
    }
}
