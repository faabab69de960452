//! What a backup needs to go on anywhere: the checkpoint and its parts.
//!
//! Layout: magic, length of the head (u32, big endian), head (JSON), body (zstd-compressed JSON; sealed when the archive is).
//! The head holds what is needed to reach the archive key; the body holds names and content bytes.

use super::chapters::Chapter;
use crate::adapter::{Cursor, SourceEntry, SourceFacts, Version};
use crate::archive::{
    ArchiveKey, PieceRecord, Previous, SupersededGroup, TarPaths, seal_checkpoint, unseal_checkpoint,
};
use crate::engine::BackupOptions;
use crate::model::{ArchiveId, Checkpoint, EntryKind, EntryName, GroupName, Metadata, Timestamp};
use crate::{Error, Result, Sha256};
use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"BKUPCKP1";
/// A body may not unpack to more than this.
const MAX_BODY: u64 = 256 << 20;

mod base64_bytes {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(bytes: &Bytes, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
        bytes.map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

/// Bytes that JSON holds as base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Blob(#[serde(with = "base64_bytes")] pub(super) Bytes);

/// What stands before the sealed part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) archive: ArchiveId,
    /// The exact bytes of `header.json`.
    pub(super) header: Blob,
    /// The exact bytes of `keys/0.json`; exactly for sealed archives.
    pub(super) keys: Option<Blob>,
}

/// An entry with stored content whose content is partly in the archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OpenEntry {
    pub(super) name: EntryName,
    pub(super) kind: EntryKind,
    pub(super) mtime: Option<Timestamp>,
    pub(super) group: Option<GroupName>,
    pub(super) metadata: Metadata,
    /// The size that stands in its tar header.
    pub(super) size: u64,
    pub(super) version: Option<Version>,
    pub(super) cursor: Blob,
    /// Where its content starts in the raw tar stream.
    pub(super) content_at: u64,
    /// Content bytes that are in the stream.
    pub(super) offset: u64,
    /// The hash over them.
    pub(super) hash: Sha256,
    pub(super) inconsistent: bool,
    /// It cannot be read to its end; what follows in the stream up to its size is filler.
    #[serde(default)]
    pub(super) broken: bool,
    /// How often it was added before this time and broke off.
    pub(super) tries: u32,
}

/// A position in the archive's stream, and everything that follows from what lies before it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// The source's position; `None` at the start.
    pub(super) cursor: Option<Blob>,
    /// The entry that the position lies inside of.
    pub(super) open: Option<OpenEntry>,
    /// State of the tar path maker.
    pub(super) paths: TarPaths,
    /// Ordinal of the next entry.
    pub(super) ordinal: u64,
    /// Length of the raw stream.
    pub(super) raw: u64,
    /// Content bytes so far.
    pub(super) content: u64,
    pub(super) inconsistent: u64,
    pub(super) superseded: u64,
    pub(super) groups: Arc<Vec<SupersededGroup>>,
    pub(super) warnings: Arc<WarningTally>,
    pub(super) facts: Arc<SourceFacts>,
    /// Names of files that could not be read, so that no hard link points to them.
    pub(super) unread: Arc<Unread>,
    /// The end of the tar stream is written.
    pub(super) ended: bool,
}

/// Warnings for `BACKUP-WARNINGS.txt`: as many lines as fit, and how many there were.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct WarningTally {
    pub(super) count: u64,
    pub(super) lines: String,
    pub(super) left_out: u64,
}

impl WarningTally {
    /// Bounded, because it is part of each checkpoint; the job log has them all.
    const LIMIT: usize = 128 << 10;

    pub(super) fn add(&mut self, line: &str) {
        self.count += 1;
        if self.lines.len() + line.len() < Self::LIMIT {
            self.lines.push_str(line);
            self.lines.push('\n');
        } else {
            self.left_out += 1;
        }
    }
}

/// Files that could not be read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Unread {
    names: Vec<EntryName>,
    /// More than can be kept: from then on no hard link is trusted.
    overflow: bool,
}

impl Unread {
    /// Bytes of names, which are a part of each checkpoint.
    const LIMIT: usize = 64 << 10;

    pub(super) fn add(&mut self, name: EntryName) {
        if self.overflow {
            return;
        }
        let kept: usize = self.names.iter().map(|name| name.as_bytes().len()).sum();
        if kept + name.as_bytes().len() <= Self::LIMIT { self.names.push(name) } else { self.overflow = true }
    }

    pub(super) fn may_contain(&self, name: &EntryName) -> bool {
        self.overflow || self.names.contains(name)
    }
}

/// Volumes with consecutive numbers that one attempt wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) attempt: u64,
    pub(super) nonce: u32,
    pub(super) count: u64,
}

/// Adds one more object of an attempt to the runs.
pub(super) fn extend(runs: &mut Vec<Run>, attempt: u64, nonce: u32) {
    match runs.last_mut() {
        Some(run) if (run.attempt, run.nonce) == (attempt, nonce) => run.count += 1,
        _ => runs.push(Run { attempt, nonce, count: 1 }),
    }
}

/// A durable index piece.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) record: PieceRecord,
    /// Stored length of its volumes, to be compared with what the destination lists.
    pub(super) volume_bytes: u64,
}

/// Index lines of durable volumes that no piece holds yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tail {
    /// JSON lines.
    pub(super) text: String,
    pub(super) raw_start: u64,
    pub(super) raw_end: u64,
    pub(super) first_entry: u64,
    pub(super) first_volume: u64,
    pub(super) volumes: u64,
    pub(super) volume_bytes: u64,
    pub(super) names: NameRange,
}

/// Which entry names some index lines hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NameRange {
    pub(super) count: u64,
    pub(super) smallest: Option<EntryName>,
    pub(super) greatest: Option<EntryName>,
    /// The first and the last one, to see whether what follows goes on in order.
    first: Option<EntryName>,
    last: Option<EntryName>,
    pub(super) unsorted: bool,
}

impl NameRange {
    /// Appends one more line.
    pub(super) fn add(&mut self, name: &EntryName) {
        if self.first.is_none() {
            self.first = Some(name.clone());
        }
        self.append(1, Some(name), Some(name), Some(name), false);
        self.last = Some(name.clone());
    }

    /// Appends later lines.
    pub(super) fn join(&mut self, later: &NameRange) {
        if self.first.is_none() {
            self.first.clone_from(&later.first);
        }
        let (first, smallest, greatest) = (later.first.as_ref(), later.smallest.as_ref(), later.greatest.as_ref());
        self.append(later.count, first, smallest, greatest, later.unsorted);
        if later.last.is_some() {
            self.last.clone_from(&later.last);
        }
    }

    fn append(
        &mut self,
        count: u64,
        first: Option<&EntryName>,
        smallest: Option<&EntryName>,
        greatest: Option<&EntryName>,
        unsorted: bool,
    ) {
        self.count += count;
        self.unsorted |= unsorted || matches!((&self.last, first), (Some(last), Some(first)) if last >= first);
        if smallest.is_some() && (self.smallest.is_none() || smallest < self.smallest.as_ref()) {
            self.smallest = smallest.cloned();
        }
        if greatest > self.greatest.as_ref() {
            self.greatest = greatest.cloned();
        }
    }
}

/// The exact manifest to be put.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ManifestBytes(pub(super) Blob);

/// The part of a checkpoint that is sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) options: BackupOptions,
    pub(super) position: Position,
    pub(super) volumes: Vec<Run>,
    pub(super) volume_count: u64,
    pub(super) stored_bytes: u64,
    /// The last pieces, all of them once the manifest is made.
    pub(super) pieces: Vec<Piece>,
    /// Where the records of those before them are.
    #[serde(default)]
    pub(super) chapter: Option<Chapter>,
    pub(super) tail: Tail,
    pub(super) previous: Option<Previous>,
    pub(super) manifest: Option<ManifestBytes>,
}

impl OpenEntry {
    pub(super) fn cursor(&self) -> Cursor {
        Cursor(self.cursor.0.clone())
    }

    pub(super) fn new(entry: &SourceEntry, size: u64, version: Option<Version>, content_at: u64, tries: u32) -> Self {
        Self {
            name: entry.name.clone(),
            kind: entry.kind.clone(),
            mtime: entry.mtime,
            group: entry.group.clone(),
            metadata: entry.metadata.clone(),
            size,
            version,
            cursor: Blob(entry.cursor.0.clone()),
            content_at,
            offset: 0,
            hash: Sha256::new(),
            inconsistent: false,
            broken: false,
            tries,
        }
    }
}

/// Encodes a checkpoint. CPU work in proportion to its size, at most some milliseconds.
pub(super) fn encode(head: &Head, body: &Body, key: Option<&ArchiveKey>) -> Result<Checkpoint> {
    let head_json = serde_json::to_vec(head).map_err(encoding)?;
    let body_json = serde_json::to_vec(body).map_err(encoding)?;
    if body_json.len() as u64 > MAX_BODY {
        // It could not be read again.
        return Err(Error::unsupported(format!("the archive's manifest has become longer than {MAX_BODY} bytes")));
    }
    let packed =
        zstd::bulk::compress(&body_json, 3).map_err(|e| Error::io(e, "the checkpoint could not be compressed"))?;
    let packed = match key {
        Some(key) => seal_checkpoint(key, &head.archive, &packed)?,
        None => packed,
    };
    let length = u32::try_from(head_json.len()).map_err(|e| Error::invalid("the header is too long").because(e))?;
    let mut out = Vec::with_capacity(MAGIC.len() + 4 + head_json.len() + packed.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&head_json);
    out.extend_from_slice(&packed);
    Ok(Checkpoint(out.into()))
}

/// Reads the head of a checkpoint, and returns where the body is.
pub(super) fn decode_head(checkpoint: &Checkpoint) -> Result<(Head, Bytes)> {
    let bytes = &checkpoint.0;
    if bytes.len() < MAGIC.len() + 4 || &bytes[..MAGIC.len()] != MAGIC {
        return Err(damaged("it was written by another version, or is damaged"));
    }
    let mut length = [0; 4];
    length.copy_from_slice(&bytes[MAGIC.len()..MAGIC.len() + 4]);
    let start = MAGIC.len() + 4;
    let end = start.checked_add(u32::from_be_bytes(length) as usize).filter(|end| *end <= bytes.len());
    let end = end.ok_or_else(|| damaged("it is too short"))?;
    let head = serde_json::from_slice(&bytes[start..end]).map_err(|e| damaged("its head cannot be read").because(e))?;
    Ok((head, bytes.slice(end..)))
}

/// Reads the body of a checkpoint.
pub(super) fn decode_body(head: &Head, body: &[u8], key: Option<&ArchiveKey>) -> Result<Body> {
    let opened;
    let packed = match key {
        Some(key) => {
            opened = unseal_checkpoint(key, &head.archive, body)?;
            &opened[..]
        }
        None => body,
    };
    let mut json = Vec::new();
    let unpack = zstd::stream::read::Decoder::new(packed).and_then(|d| d.take(MAX_BODY).read_to_end(&mut json));
    unpack.map_err(|e| damaged("its body cannot be unpacked").because(e))?;
    serde_json::from_slice(&json).map_err(|e| damaged("its body cannot be read").because(e))
}

fn encoding(e: serde_json::Error) -> Error {
    Error::permanent("the checkpoint could not be encoded").because(e)
}

fn damaged(what: &'static str) -> Error {
    Error::corrupt(what).on("checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_unread_files_are_bounded_by_their_bytes_and_none_is_trusted_beyond() {
        let mut unread = Unread::default();
        for n in 0..100 {
            unread.add(EntryName::from(format!("{n:01000}").as_str()));
        }
        let kept: usize = unread.names.iter().map(|name| name.as_bytes().len()).sum();
        assert!((60_000..=Unread::LIMIT).contains(&kept), "{kept}");
        assert!(unread.may_contain(&"another".into()));
    }
}
