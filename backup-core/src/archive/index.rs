//! The index: JSON lines that say which volumes there are and what is in them.
//!
//! A line that starts with `{"volume":` is a volume, one that starts with `{"name":` an entry; other kinds of lines are refused.
//! Members of a line that are not known are passed over.

use super::{MAX_FRAME, MAX_NAME, max_packed, padding, sealed_length};
use crate::model::{Entry, EntryKind, EntryName, GroupName, Metadata, ObjectName, Timestamp};
use crate::{Digest, Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::Range;

/// A volume: an object that holds a part of the tar stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Name relative to the archive.
    #[serde(rename = "volume")]
    pub name: String,
    /// Stored length, after sealing.
    pub size: u64,
    /// SHA-256 of the stored bytes; `None` exactly in sealed archives, where each chunk proves itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Where it starts in the raw tar stream.
    pub raw: u64,
    /// Stored length (before sealing) and raw length of each frame.
    pub frames: Vec<(u32, u32)>,
}

/// The frames of a volume that cover a range of the raw tar stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSpan {
    /// Which of [`VolumeRecord::frames`].
    pub frames: Range<usize>,
    /// Where they are in the volume, before sealing.
    pub stored: Range<u64>,
    /// What they cover of the raw tar stream.
    pub raw: Range<u64>,
}

impl VolumeRecord {
    /// What it covers of the raw tar stream.
    pub fn raw_range(&self) -> Range<u64> {
        let length: u64 = self.frames.iter().map(|(_, raw)| u64::from(*raw)).sum();
        self.raw..self.raw.saturating_add(length)
    }

    /// The fewest frames that cover what lies in this volume of a range of the raw tar stream; `None` when nothing of it does.
    pub fn locate(&self, raw: Range<u64>) -> Option<FrameSpan> {
        let mut span: Option<FrameSpan> = None;
        let (mut stored_at, mut raw_at) = (0, self.raw);
        for (number, (stored, length)) in self.frames.iter().enumerate() {
            let (stored_end, raw_end) = (stored_at + u64::from(*stored), raw_at + u64::from(*length));
            if raw_at < raw.end && raw.start < raw_end {
                let span = span.get_or_insert(FrameSpan {
                    frames: number..number,
                    stored: stored_at..stored_at,
                    raw: raw_at..raw_at,
                });
                (span.frames.end, span.stored.end, span.raw.end) = (number + 1, stored_end, raw_end);
            }
            (stored_at, raw_at) = (stored_end, raw_end);
        }
        span
    }

    /// Whether its parts fit each other.
    fn check(&self) -> Result<()> {
        let stored: u64 = self.frames.iter().map(|(stored, _)| u64::from(*stored)).sum();
        let size = if self.sha256.is_none() { sealed_length(stored) } else { stored };
        let frame_ok = |(stored, raw): (u32, u32)| {
            (1..=MAX_FRAME).contains(&(raw as usize)) && (1..=max_packed(u64::from(raw))).contains(&u64::from(stored))
        };
        let right = self.name.starts_with("data/")
            && ObjectName::new(&self.name).is_ok()
            && self.size == size
            && !self.frames.is_empty()
            && self.frames.iter().all(|frame| frame_ok(*frame))
            && self.raw_range().end < u64::MAX;
        if right {
            Ok(())
        } else {
            Err(Error::corrupt("the record of a volume contradicts itself").on(self.name.escape_default()))
        }
    }
}

/// A line of the index.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexRecord {
    /// A volume.
    Volume(VolumeRecord),
    /// An entry.
    Entry(Box<Entry>),
}

/// How an entry stands in its line. The order puts what differs from line to line together, which compresses best.
#[derive(Serialize, Deserialize)]
struct EntryLine<'a> {
    name: EntryName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<EntryName>,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtime: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    metadata: Cow<'a, Metadata>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inconsistent: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    superseded: bool,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_default(metadata: &Metadata) -> bool {
    *metadata == Metadata::default()
}

/// Whether an entry of this kind has content, and so a digest.
fn has_content(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::File | EntryKind::Slice)
}

/// Where the content of the next entry starts if it has a plain header: the offset that goes without saying.
fn offset_after(entry: &Entry) -> Option<u64> {
    entry.offset.checked_add(entry.size)?.checked_add(padding(entry.size) as u64)?.checked_add(super::TAR_BLOCK as u64)
}

/// Writes index lines.
///
/// A new one at the start of each volume makes the volume's lines readable by themselves, so that a piece can begin at any volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEncoder {
    expected: Option<u64>,
}

impl IndexEncoder {
    /// An encoder that knows nothing of what was written before.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry's line. Its ordinal is not in it: within a piece, entries come in the order of their ordinals, without gaps.
    ///
    /// # Errors
    /// `Invalid` when the name is empty or longer than [`MAX_NAME`], or the digest is there or not contrary to the kind; then nothing
    /// is appended.
    pub fn entry(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<()> {
        if !(1..=MAX_NAME).contains(&entry.name.as_bytes().len()) {
            return Err(Error::invalid("the name of an entry is empty or longer than 64 KiB"));
        }
        if entry.sha256.is_some() != has_content(&entry.kind) || (entry.size > 0 && entry.sha256.is_none()) {
            return Err(Error::invalid("an entry has a digest but no content, or the other way round").on(&entry.name));
        }
        let (kind, target) = match &entry.kind {
            EntryKind::File => (None, None),
            EntryKind::Slice => (Some("slice"), None),
            EntryKind::Directory => (Some("directory"), None),
            EntryKind::Symlink { target } => (Some("symlink"), Some(EntryName::new(target.clone()))),
            EntryKind::HardLink { target } => (Some("hard-link"), Some(target.clone())),
        };
        let line = EntryLine {
            name: entry.name.clone(),
            kind: kind.map(Cow::Borrowed),
            target,
            size: entry.size,
            mtime: entry.mtime,
            sha256: entry.sha256,
            offset: Some(entry.offset).filter(|offset| self.expected != Some(*offset)),
            metadata: Cow::Borrowed(&entry.metadata),
            group: entry.group.clone(),
            inconsistent: entry.inconsistent,
            superseded: entry.superseded,
        };
        write_line(&line, out)?;
        self.expected = offset_after(entry);
        Ok(())
    }

    /// Appends a volume's line.
    ///
    /// # Errors
    /// `Invalid` when its parts do not fit each other.
    pub fn volume(&mut self, volume: &VolumeRecord, out: &mut Vec<u8>) -> Result<()> {
        volume.check().map_err(|e| Error::invalid("cannot record a volume").because(e))?;
        write_line(volume, out)
    }
}

fn write_line(line: &impl Serialize, out: &mut Vec<u8>) -> Result<()> {
    let before = out.len();
    serde_json::to_writer(&mut *out, line).map_err(|e| {
        out.truncate(before);
        Error::invalid("a line of the index cannot be written as JSON").because(e)
    })?;
    out.push(b'\n');
    Ok(())
}

/// Reads the lines of an index piece in order.
#[derive(Clone, Debug)]
pub struct IndexDecoder {
    ordinal: u64,
    expected: Option<u64>,
    raw: Option<u64>,
}

impl IndexDecoder {
    /// At the start of a piece whose first entry has this ordinal.
    pub fn new(first_ordinal: u64) -> Self {
        Self { ordinal: first_ordinal, expected: None, raw: None }
    }

    /// Reads the next line, without its line end.
    ///
    /// # Errors
    /// `Corrupt` when it cannot be read or contradicts itself or the lines before it; `Unsupported` for a kind of line or entry
    /// that this build does not know.
    pub fn line(&mut self, line: &[u8]) -> Result<IndexRecord> {
        if line.starts_with(b"{\"name\":") {
            let line: EntryLine<'_> = read_line(line)?;
            self.entry(line).map(|entry| IndexRecord::Entry(Box::new(entry)))
        } else if line.starts_with(b"{\"volume\":") {
            let volume: VolumeRecord = read_line(line)?;
            volume.check()?;
            if self.raw.is_some_and(|raw| raw != volume.raw) {
                return Err(Error::corrupt("a volume does not start where the one before it ends").on(&volume.name));
            }
            self.raw = Some(volume.raw_range().end);
            Ok(IndexRecord::Volume(volume))
        } else if line.starts_with(b"{\"") && line.ends_with(b"}") {
            Err(Error::unsupported(
                "this archive needs a newer version of this program: a line of its index is of an unknown kind",
            ))
        } else {
            Err(Error::corrupt("a line of the index is damaged"))
        }
    }

    /// The records of a whole piece; ends after the first error.
    pub fn records(mut self, piece: &[u8]) -> impl Iterator<Item = Result<IndexRecord>> {
        let mut rest = piece;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let record = match rest.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    let line = &rest[..end];
                    rest = &rest[end + 1..];
                    self.line(line)
                }
                None => Err(Error::corrupt("the index ends in the middle of a line")),
            };
            if record.is_err() {
                rest = &[];
            }
            Some(record)
        })
    }

    fn entry(&mut self, line: EntryLine<'_>) -> Result<Entry> {
        let wrong = |what: &'static str, name: &EntryName| Error::corrupt(what).on(name);
        let EntryLine { name, kind, target, size, mtime, sha256, offset, metadata, group, inconsistent, superseded } =
            line;
        let kind = match (kind.as_deref(), target) {
            (None, None) => EntryKind::File,
            (Some("slice"), None) => EntryKind::Slice,
            (Some("directory"), None) => EntryKind::Directory,
            (Some("symlink"), Some(target)) => EntryKind::Symlink { target: target.to_bytes() },
            (Some("hard-link"), Some(target)) => EntryKind::HardLink { target },
            (None | Some("slice" | "directory" | "symlink" | "hard-link"), _) => {
                return Err(wrong("the index gives a link no target, or something else one", &name));
            }
            (Some(unknown), _) => {
                let message = format!(
                    "this archive needs a newer version of this program: unknown kind of entry \"{}\"",
                    unknown.escape_default()
                );
                return Err(Error::unsupported(message).on(&name));
            }
        };
        if !(1..=MAX_NAME).contains(&name.as_bytes().len()) {
            return Err(Error::corrupt("an entry of the index has no name, or one of more than 64 KiB"));
        }
        if sha256.is_some() != has_content(&kind) || (size > 0 && sha256.is_none()) {
            return Err(wrong("an entry of the index has a digest but no content, or the other way round", &name));
        }
        let offset = offset.or(self.expected);
        let Some(offset) = offset else {
            return Err(wrong("the index does not say where an entry is", &name));
        };
        let ordinal = self.ordinal;
        let entry = Entry {
            name,
            kind,
            size,
            mtime,
            metadata: metadata.into_owned(),
            sha256,
            offset,
            ordinal,
            group,
            inconsistent,
            superseded,
        };
        self.expected = offset_after(&entry);
        match (self.expected, ordinal.checked_add(1)) {
            (Some(_), Some(next)) => self.ordinal = next,
            _ => return Err(wrong("an entry of the index is larger than any archive", &entry.name)),
        }
        Ok(entry)
    }
}

fn read_line<'de, T: Deserialize<'de>>(line: &'de [u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(|e| Error::corrupt("a line of the index is damaged").because(e))
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, Compression, Compressor};
    use super::*;
    use crate::ErrorClass;
    use crate::model::{Owner, Xattr};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn entry(name: &str, size: u64, offset: u64, ordinal: u64) -> Entry {
        Entry {
            name: name.into(),
            kind: EntryKind::File,
            size,
            mtime: Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 }),
            metadata: Metadata::default(),
            sha256: Some(Digest([7; 32])),
            offset,
            ordinal,
            group: None,
            inconsistent: false,
            superseded: false,
        }
    }

    fn volume() -> VolumeRecord {
        VolumeRecord {
            name: "data/00000000-1x7f3a9c00.tar.zst".into(),
            size: 60,
            sha256: Some(Digest([1; 32])),
            raw: 1000,
            frames: vec![(10, 100), (20, 200), (30, 300)],
        }
    }

    fn encode(records: &[IndexRecord]) -> Vec<u8> {
        let mut encoder = IndexEncoder::new();
        let mut out = Vec::new();
        for record in records {
            match record {
                IndexRecord::Volume(volume) => encoder.volume(volume, &mut out).unwrap(),
                IndexRecord::Entry(entry) => encoder.entry(entry, &mut out).unwrap(),
            }
        }
        out
    }

    fn decode(first: u64, piece: &[u8]) -> Result<Vec<IndexRecord>> {
        IndexDecoder::new(first).records(piece).collect()
    }

    #[test]
    fn lines_have_the_form_of_the_specification() {
        let directory = Entry { kind: EntryKind::Directory, sha256: None, mtime: None, ..entry("d", 0, 512, 0) };
        let file = entry("d/a", 5, 1024, 1);
        let next = entry("d/aa", 0, 2048, 2);
        let mut late = entry("d/b", 5, 4096, 3);
        late.metadata.mode = Some(0o644);
        late.metadata.user = Some(Owner { id: 1000, name: Some("ann".into()) });
        late.group = Some(GroupName("g".into()));
        late.inconsistent = true;
        let records = [directory, file, next, late].map(|e| IndexRecord::Entry(Box::new(e)));
        let lines = String::from_utf8(encode(&records)).unwrap();
        let seven = "07".repeat(32);
        assert_eq!(
            lines,
            format!(
                r#"{{"name":"d","kind":"directory","offset":512}}
{{"name":"d/a","size":5,"mtime":"1700000000.123456789","sha256":"{seven}"}}
{{"name":"d/aa","mtime":"1700000000.123456789","sha256":"{seven}"}}
{{"name":"d/b","size":5,"mtime":"1700000000.123456789","sha256":"{seven}","offset":4096,"metadata":{{"mode":420,"user":{{"id":1000,"name":"ann"}}}},"group":"g","inconsistent":true}}
"#
            )
        );
        assert_eq!(decode(0, lines.as_bytes()).unwrap(), records);
        let line = String::from_utf8(encode(&[IndexRecord::Volume(volume())])).unwrap();
        assert_eq!(
            line,
            format!(
                "{{\"volume\":\"data/00000000-1x7f3a9c00.tar.zst\",\"size\":60,\"sha256\":\"{}\",\"raw\":1000,\"frames\":[[10,100],[20,200],[30,300]]}}\n",
                "01".repeat(32)
            )
        );
    }

    #[test]
    fn a_frame_whose_stored_length_no_codec_makes_is_refused() {
        for (stored, right) in [(1, true), (65_000, true), (0, false), (70_000, false), (u32::MAX, false)] {
            let frames = vec![(stored, 100)];
            let volume = VolumeRecord { size: u64::from(stored), frames, ..volume() };
            assert_eq!(volume.check().is_ok(), right, "{stored}");
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over_or_refused_as_newer() {
        let with_more = br#"{"name":"a","offset":512,"kind":"directory","colour":{"red":1}}"#;
        assert!(IndexDecoder::new(0).line(with_more).is_ok());
        for newer in [&br#"{"chunk":"a"}"#[..], br#"{"name":"a","offset":512,"kind":"fifo"}"#] {
            assert_eq!(IndexDecoder::new(0).line(newer).unwrap_err().class(), ErrorClass::Unsupported);
        }
    }

    #[test]
    fn lines_that_contradict_themselves_are_corrupt() {
        for line in [
            &br#"{"name":"a","kind":"directory"}"#[..],
            br#"{"name":"","kind":"directory","offset":0}"#,
            br#"{"name":"a","offset":0}"#,
            br#"{"name":"a","kind":"directory","offset":0,"size":1}"#,
            br#"{"name":"a","kind":"symlink","offset":0}"#,
            br#"{"name":"a","kind":"directory","target":"x","offset":0}"#,
            br#"{"name":"a","kind":"directory","offset":18446744073709551615}"#,
            br#"{"name":"a","kind":"directory","offset":0"#,
            br#"{"volume":"data/0","size":3,"raw":0,"frames":[[1,1]]}"#,
            br#"{"volume":"../x","size":57,"raw":0,"frames":[[1,1]]}"#,
            br#"{"volume":"data/0","size":57,"raw":18446744073709551615,"frames":[[1,1]]}"#,
            br#"{"volume":"data/0","size":57,"raw":0,"frames":[[1,4294967295]]}"#,
            b"",
            b"\xff",
        ] {
            let error = IndexDecoder::new(0).line(line).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Corrupt, "{}", String::from_utf8_lossy(line));
        }
        let sealed = br#"{"volume":"data/0","size":57,"raw":0,"frames":[[1,1]]}"#;
        assert!(IndexDecoder::new(0).line(sealed).is_ok());
        let piece = encode(&[IndexRecord::Volume(volume())]);
        assert!(decode(0, &piece.repeat(2)).is_err(), "two volumes at one place");
        assert!(decode(0, &piece[..piece.len() - 1]).is_err(), "no line end");
    }

    #[test]
    fn frames_are_found_by_their_place_in_the_stream() {
        let volume = volume();
        assert_eq!(volume.raw_range(), 1000..1600);
        let span = |frames, stored, raw| Some(FrameSpan { frames, stored, raw });
        assert_eq!(volume.locate(1000..1001), span(0..1, 0..10, 1000..1100));
        assert_eq!(volume.locate(1099..1101), span(0..2, 0..30, 1000..1300));
        assert_eq!(volume.locate(1300..9999), span(2..3, 30..60, 1300..1600));
        assert_eq!(volume.locate(0..u64::MAX), span(0..3, 0..60, 1000..1600));
        assert_eq!(volume.locate(0..1000), None);
        assert_eq!(volume.locate(1600..1700), None);
        assert_eq!(volume.locate(1100..1100), None);
    }

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![proptest::collection::vec(any::<u8>(), 1..max), "\\PC{1,20}".prop_map(String::into_bytes)]
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let owner = (any::<u32>(), proptest::option::of(".{0,8}"))
            .prop_map(|(id, name)| Owner { id, name: name.map(|n| n.as_str().into()) });
        let xattr = (bytes(9), bytes(9)).prop_map(|(name, value)| Xattr { name: name.into(), value: value.into() });
        let map = proptest::collection::btree_map(".{0,5}", ".{0,5}", 0..3);
        let metadata = (
            proptest::option::of(0..0o10000u32),
            proptest::option::of(owner),
            proptest::collection::vec(xattr, 0..3),
            any::<bool>(),
            map,
        )
            .prop_map(|(mode, user, xattrs, sparse, headers)| Metadata {
                mode,
                user,
                xattrs,
                sparse,
                headers,
                ..Metadata::default()
            });
        let kind = prop_oneof![
            Just(EntryKind::File),
            Just(EntryKind::Slice),
            Just(EntryKind::Directory),
            bytes(20).prop_map(|target| EntryKind::Symlink { target: target.into() }),
            bytes(20).prop_map(|target| EntryKind::HardLink { target: EntryName::new(target) }),
        ];
        let times = proptest::option::of((any::<i64>(), 0..1_000_000_000u32));
        (
            bytes(40),
            kind,
            0..1u64 << 62,
            times,
            metadata,
            any::<[u8; 32]>(),
            0..1u64 << 62,
            proptest::option::of(".{0,9}"),
            any::<[bool; 3]>(),
        )
            .prop_map(
                |(name, kind, size, mtime, metadata, sha256, offset, group, [inconsistent, superseded, _])| Entry {
                    name: EntryName::new(name),
                    size: if has_content(&kind) { size } else { 0 },
                    sha256: has_content(&kind).then_some(Digest(sha256)),
                    kind,
                    mtime: mtime.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
                    metadata,
                    offset,
                    ordinal: 0,
                    group: group.map(|g| GroupName(g.as_str().into())),
                    inconsistent,
                    superseded,
                },
            )
    }

    proptest! {
        #[test]
        fn any_entries_are_read_back(entries in proptest::collection::vec((any_entry(), any::<bool>()), 0..12), first in 0..1u64 << 40) {
            let mut records: Vec<IndexRecord> = Vec::new();
            let mut before: Option<Entry> = None;
            for (n, (mut entry, follows)) in entries.into_iter().enumerate() {
                entry.ordinal = first + n as u64;
                // Some follow right behind the one before, as most entries do, unless they would end behind all that can be counted.
                if let Some(offset) = before.as_ref().filter(|_| follows).and_then(offset_after) {
                    let behind = Entry { offset, ..entry.clone() };
                    if offset_after(&behind).is_some() {
                        entry = behind;
                    }
                }
                before = Some(entry.clone());
                records.push(IndexRecord::Entry(Box::new(entry)));
            }
            prop_assert_eq!(decode(first, &encode(&records)).unwrap(), records);
        }

        #[test]
        fn arbitrary_lines_never_panic(line in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            for line in [
                line.clone(),
                [&b"{\"name\":"[..], &line].concat(),
                [&b"{\"volume\":"[..], &line].concat(),
                format!("{{\"name\":\"a\",\"offset\":0,{text}}}").into_bytes(),
            ] {
                let _ = IndexDecoder::new(u64::MAX).line(&line);
                let _ = decode(0, &line);
            }
        }
    }

    #[test]
    fn a_small_file_takes_at_most_64_stored_bytes() {
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let words = [
            "report", "image", "index", "main", "test", "config", "data", "helper", "model", "view", "notes", "invoice",
        ];
        let endings = ["txt", "rs", "jpg", "json", "md", "pdf"];
        let owner = || Some(Owner { id: 1000, name: Some("alice".into()) });
        let (mut encoder, mut out, mut offset) = (IndexEncoder::new(), Vec::new(), 512);
        const COUNT: u64 = 20_000;
        for ordinal in 0..COUNT {
            let (word, more) = (words[random(12) as usize], words[random(12) as usize]);
            let name = format!(
                "projects/{}-{}/src/{word}_{more}_{:05}.{}",
                words[(ordinal / 2000) as usize],
                ordinal / 200,
                ordinal % 200 * 37 + random(37),
                endings[random(6) as usize]
            );
            let mut entry = entry(&name, 1024 + random(3072), offset, ordinal);
            entry.mtime = Some(Timestamp {
                seconds: 1_690_000_000 + random(20_000_000) as i64,
                nanos: random(1_000_000_000) as u32,
            });
            entry.sha256 = Some(Digest::of(name.as_bytes()));
            entry.metadata = Metadata { mode: Some(0o644), user: owner(), group: owner(), ..Metadata::default() };
            offset = offset_after(&entry).unwrap();
            encoder.entry(&entry, &mut out).unwrap();
        }
        let raw = out.len();
        let stored = Compressor::new(Compression::new(Codec::Zstd, None).unwrap())
            .unwrap()
            .compress(&[Bytes::from(out)])
            .unwrap();
        let each = stored.len() as f64 / COUNT as f64;
        eprintln!("{each:.1} stored bytes an entry, {} raw", raw as u64 / COUNT);
        assert!(each <= 64.0, "{each}");
    }
}
