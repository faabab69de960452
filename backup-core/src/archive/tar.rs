//! Writing tar headers: POSIX.1-2001 `pax` interchange format, as any `tar` reads it.
//!
//! Most headers are one plain `ustar` block. A pax header goes before it only when the block cannot hold something: a long
//! path or link, 8 GiB of content, a large id, a date before 1970, or a true name that is not the path.

use crate::model::{EntryName, Metadata, Timestamp};
use base64::Engine as _;
use std::borrow::Cow;

/// Length of a block; headers and contents start at multiples of it.
pub const TAR_BLOCK: usize = 512;
/// Length of the end of the archive: two blocks of zeros.
pub const END_OF_ARCHIVE: usize = 2 * TAR_BLOCK;
/// In a pax `comment`: what follows is the true name in base64. Else the comment is the true name itself.
pub(super) const BASE64_NAME: &str = "b64:";

/// What a tar entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarKind<'a> {
    /// Content follows.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(&'a [u8]),
    /// Another name of the entry with this tar path.
    HardLink(&'a str),
}

/// What a tar header is made of.
#[derive(Clone, Copy, Debug)]
pub struct TarEntry<'a> {
    /// The path, as [`TarPaths`](super::TarPaths) makes it; no `/` at the end.
    pub path: &'a str,
    /// The entry's name, when it is not the path.
    pub true_name: Option<&'a EntryName>,
    /// What it is.
    pub kind: TarKind<'a>,
    /// Length of the content; 0 for kinds without.
    pub size: u64,
    /// Last modification, of which tar keeps the seconds.
    pub mtime: Option<Timestamp>,
    /// Of which tar keeps permission bits and owners.
    pub metadata: &'a Metadata,
}

/// Where the fields of a header block are.
pub(super) mod field {
    use std::ops::Range;
    pub(in super::super) const NAME: Range<usize> = 0..100;
    pub(in super::super) const MODE: Range<usize> = 100..108;
    pub(in super::super) const UID: Range<usize> = 108..116;
    pub(in super::super) const GID: Range<usize> = 116..124;
    pub(in super::super) const SIZE: Range<usize> = 124..136;
    pub(in super::super) const MTIME: Range<usize> = 136..148;
    pub(in super::super) const CHECKSUM: Range<usize> = 148..156;
    pub(in super::super) const TYPE: usize = 156;
    pub(in super::super) const LINK: Range<usize> = 157..257;
    pub(in super::super) const MAGIC: Range<usize> = 257..265;
    pub(in super::super) const USER: Range<usize> = 265..297;
    pub(in super::super) const GROUP: Range<usize> = 297..329;
    pub(in super::super) const PREFIX: Range<usize> = 345..500;
}

pub(super) const MAGIC: &[u8; 8] = b"ustar\x0000";
const MAX_ID: u32 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// Zero bytes that follow a content of this length.
pub fn padding(size: u64) -> usize {
    (size.wrapping_neg() % TAR_BLOCK as u64) as usize
}

/// Appends the end of the archive.
pub fn write_end(out: &mut Vec<u8>) {
    out.resize(out.len() + END_OF_ARCHIVE, 0);
}

/// Length of what [`write_header`] writes: 512 bytes for most entries.
pub fn header_length(entry: &TarEntry<'_>) -> u64 {
    match pax_records(entry).len() as u64 {
        0 => TAR_BLOCK as u64,
        records => 2 * TAR_BLOCK as u64 + records + padding(records) as u64,
    }
}

/// Appends the header of an entry.
pub fn write_header(entry: &TarEntry<'_>, out: &mut Vec<u8>) {
    let records = pax_records(entry);
    if !records.is_empty() {
        let mut block = [0; TAR_BLOCK];
        text(&mut block[field::NAME], b"PaxHeaders");
        octal(&mut block[field::MODE], 0o644);
        octal(&mut block[field::UID], 0);
        octal(&mut block[field::GID], 0);
        octal(&mut block[field::SIZE], records.len() as u64);
        octal(&mut block[field::MTIME], 0);
        block[field::TYPE] = b'x';
        finish_block(&mut block, out);
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(records.len() as u64), 0);
    }
    let mut block = [0; TAR_BLOCK];
    let path = full_path(entry);
    match split_path(&path) {
        Some((prefix, name)) => {
            text(&mut block[field::PREFIX], prefix.as_bytes());
            text(&mut block[field::NAME], name.as_bytes());
        }
        // The pax header has it; this is for readers that know no pax.
        None => text(&mut block[field::NAME], path[..path.floor_char_boundary(field::NAME.len())].as_bytes()),
    }
    let metadata = entry.metadata;
    let (typeflag, mode) = match entry.kind {
        TarKind::File => (b'0', 0o644),
        TarKind::HardLink(_) => (b'1', 0o644),
        TarKind::Symlink(_) => (b'2', 0o777),
        TarKind::Directory => (b'5', 0o755),
    };
    block[field::TYPE] = typeflag;
    let or_zero = |fits: bool, value: u64| if fits { value } else { 0 };
    octal(&mut block[field::MODE], u64::from(metadata.mode.unwrap_or(mode) & 0o7777));
    let (uid, gid) = ids(metadata);
    octal(&mut block[field::UID], or_zero(uid <= MAX_ID, uid.into()));
    octal(&mut block[field::GID], or_zero(gid <= MAX_ID, gid.into()));
    octal(&mut block[field::SIZE], or_zero(entry.size <= MAX_SIZE, entry.size));
    octal(&mut block[field::MTIME], plain_mtime(entry).unwrap_or(0));
    let link = link(entry);
    text(&mut block[field::LINK], if link.len() <= field::LINK.len() { &link } else { b"" });
    for (range, name) in [(field::USER, user_name(metadata)), (field::GROUP, group_name(metadata))] {
        // One byte less than the field, so that old readers find its end.
        text(&mut block[range.clone()], if name.len() < range.len() { name.as_bytes() } else { b"" });
    }
    finish_block(&mut block, out);
}

fn ids(metadata: &Metadata) -> (u32, u32) {
    let id = |owner: &Option<crate::model::Owner>| owner.as_ref().map_or(0, |o| o.id);
    (id(&metadata.user), id(&metadata.group))
}

fn user_name(metadata: &Metadata) -> &str {
    metadata.user.as_ref().and_then(|o| o.name.as_deref()).filter(|n| !n.contains('\0')).unwrap_or_default()
}

fn group_name(metadata: &Metadata) -> &str {
    metadata.group.as_ref().and_then(|o| o.name.as_deref()).filter(|n| !n.contains('\0')).unwrap_or_default()
}

fn full_path<'a>(entry: &TarEntry<'a>) -> Cow<'a, str> {
    match entry.kind {
        TarKind::Directory => Cow::Owned(format!("{}/", entry.path)),
        _ => Cow::Borrowed(entry.path),
    }
}

/// What stands in the link field. No file system has a link with a zero byte; a source that delivers one gets it encoded.
fn link<'a>(entry: &TarEntry<'a>) -> Cow<'a, [u8]> {
    match entry.kind {
        TarKind::File | TarKind::Directory => Cow::Borrowed(b""),
        TarKind::HardLink(path) => Cow::Borrowed(path.as_bytes()),
        TarKind::Symlink(target) if target.contains(&0) => {
            let parts: Vec<_> = target.split(|b| *b == 0).collect();
            Cow::Owned(parts.join(&b"%00"[..]))
        }
        TarKind::Symlink(target) => Cow::Borrowed(target),
    }
}

/// Seconds that fit the header block; none for an entry without a time is 0 as well.
fn plain_mtime(entry: &TarEntry<'_>) -> Option<u64> {
    let seconds = entry.mtime.map_or(0, |t| t.seconds);
    u64::try_from(seconds).ok().filter(|seconds| *seconds <= MAX_SIZE)
}

/// Prefix and name of the header block, if they can hold the path.
fn split_path(path: &str) -> Option<(&str, &str)> {
    if path.len() <= field::NAME.len() {
        return Some(("", path));
    }
    // The first `/` that leaves a name that is short enough, and something before it that is.
    let from = path.len() - field::NAME.len() - 1;
    let at = from + path.as_bytes().get(from..path.len() - 1)?.iter().position(|b| *b == b'/')?;
    (1..=field::PREFIX.len()).contains(&at).then(|| (&path[..at], &path[at + 1..]))
}

fn pax_records(entry: &TarEntry<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    // Longer by one for the `/` of a directory; only then is the whole path looked at.
    if entry.path.len() >= field::NAME.len() {
        let path = full_path(entry);
        if split_path(&path).is_none() {
            pax_record(&mut records, "path", path.as_bytes());
        }
    }
    let link = link(entry);
    if link.len() > field::LINK.len() {
        pax_record(&mut records, "linkpath", &link);
    }
    if entry.size > MAX_SIZE {
        pax_record(&mut records, "size", entry.size.to_string().as_bytes());
    }
    if let (None, Some(mtime)) = (plain_mtime(entry), entry.mtime) {
        pax_record(&mut records, "mtime", mtime.seconds.to_string().as_bytes());
    }
    let (uid, gid) = ids(entry.metadata);
    for (key, id) in [("uid", uid), ("gid", gid)] {
        if id > MAX_ID {
            pax_record(&mut records, key, id.to_string().as_bytes());
        }
    }
    for (key, name) in [("uname", user_name(entry.metadata)), ("gname", group_name(entry.metadata))] {
        if name.len() >= field::USER.len() {
            pax_record(&mut records, key, name.as_bytes());
        }
    }
    if let Some(name) = entry.true_name {
        match name.as_str() {
            Some(text) if !text.contains('\0') && !text.starts_with(BASE64_NAME) => {
                pax_record(&mut records, "comment", text.as_bytes());
            }
            _ => {
                let encoded = base64::engine::general_purpose::STANDARD.encode(name.as_bytes());
                pax_record(&mut records, "comment", format!("{BASE64_NAME}{encoded}").as_bytes());
            }
        }
    }
    records
}

/// `length key=value` and a line end; the length counts its own digits.
fn pax_record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn text(field: &mut [u8], value: &[u8]) {
    field[..value.len()].copy_from_slice(value);
}

/// Octal digits with zeros in front, and a zero byte at the end; the value fits.
fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// The sum of a block's bytes, its own field counted as spaces.
pub(super) fn checksum(block: &[u8]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    sum(block) - sum(&block[field::CHECKSUM]) + 8 * u32::from(b' ')
}

fn finish_block(block: &mut [u8; TAR_BLOCK], out: &mut Vec<u8>) {
    block[field::MAGIC].copy_from_slice(MAGIC);
    let sum = checksum(block);
    octal(&mut block[field::CHECKSUM.start..field::CHECKSUM.end - 1], sum.into());
    block[field::CHECKSUM.end - 1] = b' ';
    out.extend_from_slice(block);
}

#[cfg(test)]
mod tests {
    use super::super::{TarEvent, TarHeader, TarPaths, TarReader};
    use super::*;
    use crate::model::{EntryKind, Owner};
    use proptest::prelude::*;
    use std::path::Path;
    use std::process::{Command, Output};

    fn metadata(mode: u32, id: u32, name: &str) -> Metadata {
        let owner = |name: &str| Some(Owner { id, name: Some(name.into()) });
        Metadata { mode: Some(mode), user: owner(name), group: owner(name), ..Metadata::default() }
    }

    fn file<'a>(path: &'a str, size: u64, metadata: &'a Metadata) -> TarEntry<'a> {
        let mtime = Some(Timestamp { seconds: 1_700_000_000, nanos: 5 });
        TarEntry { path, true_name: None, kind: TarKind::File, size, mtime, metadata }
    }

    /// An archive of each kind, short and long.
    fn sample() -> Vec<u8> {
        let plain = metadata(0o640, 1000, "");
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
        let very_long = format!("{0}/{0}/{0}", "e".repeat(200));
        let target = "t/".repeat(80);
        let name = EntryName::new(b"caf\xe9/\n".to_vec());
        let true_name = EntryName::from("/etc/%");
        let content = b"hello";
        let mut out = Vec::new();
        let mut add = |entry: TarEntry<'_>| {
            let before = out.len() as u64;
            assert_eq!(header_length(&entry), {
                write_header(&entry, &mut out);
                out.len() as u64 - before
            });
            if entry.kind == TarKind::File {
                out.extend_from_slice(content);
                out.resize(out.len() + padding(content.len() as u64), 0);
            }
        };
        add(TarEntry { kind: TarKind::Directory, size: 0, ..file("dir", 0, &metadata(0o750, 0, "")) });
        add(file("dir/plain", 5, &plain));
        add(file("größe", 5, &plain));
        add(file(&long, 5, &plain));
        add(file(&very_long, 5, &plain));
        add(TarEntry { true_name: Some(&name), ..file("caf%E9/%0A", 5, &plain) });
        add(TarEntry { true_name: Some(&true_name), ..file("%2Fetc/%25", 5, &plain) });
        add(TarEntry { kind: TarKind::Symlink(b"/absolute/\xff"), size: 0, ..file("link", 0, &plain) });
        add(TarEntry { kind: TarKind::Symlink(target.as_bytes()), size: 0, ..file("longlink", 0, &plain) });
        add(TarEntry { kind: TarKind::HardLink("dir/plain"), size: 0, ..file("hard", 0, &plain) });
        add(TarEntry { kind: TarKind::HardLink(&very_long), size: 0, ..file("longhard", 0, &plain) });
        add(TarEntry { mtime: Some(Timestamp { seconds: -1, nanos: 0 }), ..file("old", 5, &plain) });
        add(file("ids", 5, &metadata(0o7777, u32::MAX - 2, &"n".repeat(40))));
        add(TarEntry { kind: TarKind::Directory, size: 0, ..file(&"l".repeat(100), 0, &plain) });
        write_end(&mut out);
        out
    }

    fn run(command: &mut Command) -> Output {
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{command:?}: {errors}");
        output
    }

    #[test]
    fn gnu_tar_extracts_every_kind_without_a_word() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar");
        std::fs::write(&archive, sample()).unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        run(Command::new("tar")
            .args(["--no-same-owner", "--warning=no-timestamp", "-pxf"])
            .arg(&archive)
            .arg("-C")
            .arg(&out));
        let read = |path: &str| std::fs::read(out.join(path)).unwrap();
        let (d, e) = ("d".repeat(90), "e".repeat(200));
        for path in ["dir/plain", "größe", "caf%E9/%0A", "%2Fetc/%25", "hard", "old", "ids", "longhard"] {
            assert_eq!(read(path), b"hello", "{path}");
        }
        assert_eq!(read(&format!("{d}/{}", "f".repeat(120))), b"hello");
        assert_eq!(read(&format!("{e}/{e}/{e}")), b"hello");
        let of = |path: &str| std::fs::symlink_metadata(out.join(path)).unwrap();
        assert_eq!(of("dir").permissions().mode() & 0o7777, 0o750);
        assert_eq!(of("dir/plain").permissions().mode() & 0o7777, 0o640);
        assert_eq!(of("dir/plain").mtime(), 1_700_000_000);
        assert_eq!(of("dir/plain").ino(), of("hard").ino());
        assert_eq!(of("old").mtime(), -1);
        assert!(of(&"l".repeat(100)).is_dir());
        let target = std::fs::read_link(out.join("link")).unwrap();
        assert_eq!(target.as_os_str().as_encoded_bytes(), b"/absolute/\xff");
        assert_eq!(std::fs::read_link(out.join("longlink")).unwrap(), Path::new(&"t/".repeat(80)));
    }

    #[test]
    fn pythons_tarfile_reads_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar");
        std::fs::write(&archive, sample()).unwrap();
        let script = "
import sys, tarfile
t = tarfile.open(sys.argv[1])
m = {i.name: i for i in t}
assert len(m) == 14, list(m)
p = m['caf%E9/%0A']
assert p.pax_headers == {'comment': 'b64:Y2Fm6S8K'}, p.pax_headers
assert m['%2Fetc/%25'].pax_headers == {'comment': '/etc/%'}
i = m['ids']
assert (i.uid, i.gid, i.uname, i.mode) == (2**32-3, 2**32-3, 'n'*40, 0o7777), i.get_info()
assert m['old'].mtime == -1 and m['dir'].isdir() and m['l'*100].isdir()
assert m['hard'].linkname == 'dir/plain' and m['longlink'].linkname == 't/'*80
assert t.extractfile('größe').read() == b'hello'
";
        run(Command::new("python3").args(["-X", "utf8", "-c", script]).arg(&archive));
    }

    #[test]
    fn a_header_of_more_than_8_gib_is_read_back_and_known_to_tar() {
        let nothing = Metadata::default();
        for size in [MAX_SIZE, MAX_SIZE + 1, 20 << 40] {
            let mut out = Vec::new();
            write_header(&file("big", size, &nothing), &mut out);
            assert_eq!(out.len() > TAR_BLOCK, size > MAX_SIZE);
            let Some(TarEvent::Entry(header)) = TarReader::new().next(&mut &out[..]).unwrap() else { panic!() };
            assert_eq!((header.size, header.offset), (size, out.len() as u64));
        }
    }

    /// Reads a whole stream in portions.
    pub(super) fn read_all(mut stream: &[u8], portion: usize) -> crate::Result<Vec<(TarHeader, Vec<u8>)>> {
        let mut reader = TarReader::new();
        let mut entries: Vec<(TarHeader, Vec<u8>)> = Vec::new();
        while !stream.is_empty() {
            let (mut now, later) = stream.split_at(portion.min(stream.len()));
            stream = later;
            while let Some(event) = reader.next(&mut now)? {
                match event {
                    TarEvent::Entry(header) => entries.push((*header, Vec::new())),
                    TarEvent::Content(bytes) => entries.last_mut().unwrap().1.extend_from_slice(bytes),
                    TarEvent::End => {}
                }
            }
        }
        reader.finish()?;
        Ok(entries)
    }

    #[test]
    fn our_reader_reads_it_in_portions_of_any_size() {
        let sample = sample();
        let whole = read_all(&sample, sample.len()).unwrap();
        assert_eq!(whole.len(), 14);
        for portion in [1, 7, 512, 1000] {
            assert!(read_all(&sample, portion).unwrap() == whole);
        }
        let (header, content) = &whole[5];
        assert_eq!(header.path, b"caf%E9/%0A");
        assert_eq!(header.true_name, Some(EntryName::new(b"caf\xe9/\n".to_vec())));
        assert_eq!((content.as_slice(), header.size), (&b"hello"[..], 5));
        assert_eq!(&sample[header.offset as usize..][..5], b"hello");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_entry_is_read_back(
            name in prop_oneof![proptest::collection::vec(any::<u8>(), 1..400), "[a-c/]{90,260}".prop_map(String::into_bytes)],
            kind in 0..4u8,
            link in proptest::collection::vec(1..=255u8, 1..300),
            size in prop_oneof![0..2000u64, any::<u64>()],
            seconds in prop_oneof![0..2_000_000_000i64, any::<i64>()],
            id in any::<u32>(), mode in 0..=0o7777u32, owner in ".{0,40}",
        ) {
            let name = EntryName::new(name);
            let metadata = metadata(mode, id, &owner);
            let path = TarPaths::new().next(&name, &EntryKind::File).into_owned();
            let link_path = TarPaths::new().path(&EntryName::new(link.clone())).into_owned();
            let (kind, typeflag, expected_link) = match kind {
                0 => (TarKind::File, b'0', &b""[..]),
                1 => (TarKind::Directory, b'5', &b""[..]),
                2 => (TarKind::Symlink(&link), b'2', &link[..]),
                _ => (TarKind::HardLink(&link_path), b'1', link_path.as_bytes()),
            };
            let size = if kind == TarKind::File { size } else { 0 };
            let true_name = (path.as_bytes() != name.as_bytes()).then_some(&name);
            let mtime = Some(Timestamp { seconds, nanos: 0 });
            let entry = TarEntry { path: &path, true_name, kind, size, mtime, metadata: &metadata };
            let mut out = Vec::new();
            write_header(&entry, &mut out);
            prop_assert_eq!(out.len() as u64, header_length(&entry));
            prop_assert_eq!(out.len() % TAR_BLOCK, 0);
            let read = TarReader::new().next(&mut &out[..]).unwrap();
            let Some(TarEvent::Entry(header)) = read else { panic!("{read:?}") };
            prop_assert_eq!(*header, TarHeader {
                path: path.clone().into_bytes(),
                true_name: true_name.cloned(),
                typeflag,
                link: expected_link.to_vec(),
                size, mode,
                uid: id.into(),
                gid: id.into(),
                mtime: seconds,
                offset: out.len() as u64,
            });
        }
    }
}
