//! Cursors: the name of the entry just delivered, and the hard links that are open there.
//!
//! A cursor is one or more records and one base:
//!
//! ```text
//! record  0xC1 flags  path        flags: bit 0 directory, bits 1-3 kind of the change
//!         [change]                of the table of links that this entry made
//! base    0xC2 flags  [root] count  count x (version seen name)
//!                                     flags: bit 0 some links are missing, bit 1 the root's inode number follows
//! ```
//!
//! The first record names the entry. The table of links there is the base, with the changes of the records applied from the
//! last to the first. So consecutive entries share their bytes: the cursor of an entry is that of the entry before it with
//! one record put in front, and a table of 48 KiB costs each of a hundred entries nothing but a part of one buffer.
//! Numbers are LEB128; byte strings have their length in front.
//!
//! By the root's inode number a resume tells the tree from an empty directory whose disk is not mounted. The device's number is
//! not kept: the next boot may give the same disk another one.

use super::links::{Change, Link, Links};
use super::metadata::{FileVersion, Inode};
use crate::adapter::{Cursor, MAX_CURSOR};
use crate::model::{EntryName, Timestamp};
use crate::{Error, Result};
use bytes::Bytes;
use std::ops::Range;

const RECORD: u8 = 0xC1;
const BASE: u8 = 0xC2;
/// Bytes of a base without its links, at most: mark, flags, root, and the number of links.
const BASE_HEAD: usize = 16;

/// What a cursor says.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    /// Path of the entry delivered last.
    pub(crate) path: EntryName,
    /// Whether it was a directory.
    pub(crate) directory: bool,
    /// Open hard links.
    pub(crate) links: Links,
    /// Inode number of the directory that the names are relative to, if it is the source's root.
    pub(crate) root: Option<u64>,
}

/// Makes the cursors of consecutive entries.
#[derive(Debug)]
pub(crate) struct CursorWriter {
    /// Bytes of a base, at most.
    base_bound: usize,
    /// Inode number of the root.
    root: Option<u64>,
    out: Vec<u8>,
    /// Where the cursor of each entry is in `out`.
    cursors: Vec<Range<usize>>,
    base: Vec<u8>,
    /// The records of the current run, one after the other, and where each ends.
    records: Vec<u8>,
    ends: Vec<usize>,
}

impl CursorWriter {
    /// A writer whose bases are at most so many bytes, for a tree whose root has this inode number.
    pub(crate) fn new(base_bound: usize, root: Option<u64>) -> Self {
        Self {
            base_bound,
            root,
            out: Vec::new(),
            cursors: Vec::new(),
            base: Vec::new(),
            records: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Adds an entry: `change` is what it changes, `before` the table before that.
    pub(crate) fn push(&mut self, path: &[u8], directory: bool, change: &Change, before: &Links) {
        let mut record = Vec::with_capacity(path.len() + 16);
        write_record(&mut record, path, directory, change);
        if *change == Change::None && before.is_blank() {
            // Nothing to share.
            self.end_run();
            let start = self.out.len();
            self.out.extend_from_slice(&record);
            write_base(&mut self.out, self.root, before, 0);
            self.cursors.push(start..self.out.len());
            return;
        }
        if self.ends.is_empty() || self.base.len() + self.records.len() + record.len() > MAX_CURSOR {
            self.end_run();
            self.base.clear();
            let bound = self.base_bound.min(MAX_CURSOR - record.len());
            write_base(&mut self.base, self.root, before, bound);
        }
        self.records.extend_from_slice(&record);
        self.ends.push(self.records.len());
    }

    fn end_run(&mut self) {
        let first = self.cursors.len();
        let mut end = self.records.len();
        for i in (0..self.ends.len()).rev() {
            let start = if i == 0 { 0 } else { self.ends[i - 1] };
            self.cursors.push(self.out.len()..0);
            self.out.extend_from_slice(&self.records[start..end]);
            end = start;
        }
        if !self.ends.is_empty() {
            self.out.extend_from_slice(&self.base);
        }
        for cursor in &mut self.cursors[first..] {
            cursor.end = self.out.len();
        }
        self.cursors[first..].reverse();
        self.records.clear();
        self.ends.clear();
    }

    /// The cursors of all entries added, in their order.
    pub(crate) fn finish(mut self) -> impl Iterator<Item = Cursor> {
        self.end_run();
        let out = Bytes::from(self.out);
        self.cursors.into_iter().map(move |range| Cursor(out.slice(range)))
    }
}

fn write_record(out: &mut Vec<u8>, path: &[u8], directory: bool, change: &Change) {
    let kind = match change {
        Change::None => 0,
        Change::Set(..) => 1,
        Change::Seen(_) => 2,
        Change::Closed(_) => 3,
        Change::Lost => 4,
    };
    out.extend_from_slice(&[RECORD, u8::from(directory) | kind << 1]);
    write_bytes(out, path);
    match change {
        Change::None | Change::Lost => {}
        Change::Set(version, seen) => {
            write_version(out, version);
            write_number(out, *seen);
        }
        Change::Seen(inode) | Change::Closed(inode) => {
            write_number(out, inode.dev);
            write_number(out, inode.ino);
        }
    }
}

/// Writes the newest links that fit `bound` bytes.
fn write_base(out: &mut Vec<u8>, root: Option<u64>, links: &Links, bound: usize) {
    let bound = bound.saturating_sub(BASE_HEAD);
    let mut list = Vec::new();
    let mut count = 0;
    let mut missing = links.lost;
    for link in links.newest_first() {
        let before = list.len();
        write_version(&mut list, &link.version);
        write_number(&mut list, link.seen);
        write_bytes(&mut list, link.name.as_bytes());
        if list.len() > bound {
            list.truncate(before);
            missing = true;
            break;
        }
        count += 1;
    }
    out.extend_from_slice(&[BASE, u8::from(missing) | u8::from(root.is_some()) << 1]);
    if let Some(root) = root {
        write_number(out, root);
    }
    write_number(out, count);
    out.extend_from_slice(&list);
}

fn write_version(out: &mut Vec<u8>, version: &FileVersion) {
    let FileVersion { inode: Inode { dev, ino }, size, mtime, ctime } = version;
    for number in [*dev, *ino, *size] {
        write_number(out, number);
    }
    for time in [mtime, ctime] {
        // Times before 1970 take ten bytes.
        write_number(out, time.seconds as u64);
        write_number(out, u64::from(time.nanos));
    }
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

impl Position {
    /// Reads a cursor. The table of links may occupy `bound` bytes.
    ///
    /// # Errors
    /// `Invalid` for one that [`CursorWriter`] did not make.
    pub(crate) fn parse(cursor: &Cursor, bound: usize) -> Result<Self> {
        Reader(&cursor.0)
            .position(bound)
            .filter(|position| {
                let good = |c: &[u8]| !matches!(c, b"" | b"." | b"..") && !c.contains(&0);
                position.path.as_bytes().split(|b| *b == b'/').all(good)
            })
            .ok_or_else(|| Error::invalid("the cursor was not made by a source of files"))
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn position(mut self, bound: usize) -> Option<Position> {
        let mut records = Vec::new();
        let mut links = Links::new(bound);
        loop {
            match self.byte()? {
                RECORD => records.push(self.record()?),
                BASE => break,
                _ => return None,
            }
        }
        let flags = self.byte()?;
        if flags > 3 {
            return None;
        }
        links.lost = flags & 1 == 1;
        // Earlier versions did not write it.
        let root = if flags & 2 == 2 { Some(self.number()?) } else { None };
        let mut list = Vec::new();
        for _ in 0..self.number()? {
            let (version, seen) = (self.version()?, self.number()?);
            list.push(Link { name: self.name()?, version, seen });
        }
        if !self.0.is_empty() {
            return None;
        }
        list.into_iter().rev().for_each(|link| links.insert(link));
        for (path, _, change) in records.iter().rev() {
            links.apply(path, change);
        }
        let (path, directory, _) = records.into_iter().next()?;
        Some(Position { path, directory, links, root })
    }

    fn record(&mut self) -> Option<(EntryName, bool, Change)> {
        let flags = self.byte()?;
        let path = self.name()?;
        let change = match flags >> 1 {
            0 => Change::None,
            1 => Change::Set(self.version()?, self.number()?),
            2 => Change::Seen(self.inode()?),
            3 => Change::Closed(self.inode()?),
            4 => Change::Lost,
            _ => return None,
        };
        Some((path, flags & 1 == 1, change))
    }

    fn version(&mut self) -> Option<FileVersion> {
        Some(FileVersion { inode: self.inode()?, size: self.number()?, mtime: self.time()?, ctime: self.time()? })
    }

    fn inode(&mut self) -> Option<Inode> {
        Some(Inode { dev: self.number()?, ino: self.number()? })
    }

    fn time(&mut self) -> Option<Timestamp> {
        let seconds = self.number()? as i64;
        let nanos = u32::try_from(self.number()?).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        Some(Timestamp { seconds, nanos })
    }

    fn name(&mut self) -> Option<EntryName> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(EntryName::new(bytes.to_vec()))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUND: usize = 1 << 20;

    fn version(ino: u64) -> FileVersion {
        let mtime = Timestamp { seconds: -5, nanos: 999_999_999 };
        let ctime = Timestamp { seconds: 1_700_000_000, nanos: 0 };
        FileVersion { inode: Inode { dev: u64::MAX, ino }, size: ino * 1000, mtime, ctime }
    }

    fn open(links: &Links) -> Vec<Link> {
        links.newest_first().cloned().collect()
    }

    proptest! {
        #[test]
        fn every_cursor_says_its_entry_and_the_links_there(
            // Inode (0: a single name), and length of the path.
            entries in prop::collection::vec((0_u64..20, prop_oneof![9 => 1_usize..60, 1 => 1_usize..30_000]), 1..200),
            base_bound in prop_oneof![Just(48_usize << 10), Just(200)],
            root in any::<Option<u64>>(),
        ) {
            let mut links = Links::new(BOUND);
            let mut writer = CursorWriter::new(base_bound, root);
            let mut expected = Vec::new();
            for (i, (inode, length)) in entries.iter().enumerate() {
                let path = format!("{}{i}", "p".repeat(*length));
                let name = path.as_str().into();
                let change = match inode {
                    0 => Change::None,
                    _ => links.meet(&name, &version(*inode), 2 + inode % 4, true).1,
                };
                writer.push(path.as_bytes(), i % 3 == 0, &change, &links);
                links.apply(&name, &change);
                expected.push((path, i % 3 == 0, open(&links)));
            }
            let cursors: Vec<Cursor> = writer.finish().collect();
            prop_assert_eq!(cursors.len(), expected.len());
            for (cursor, (path, directory, links)) in cursors.iter().zip(&expected) {
                prop_assert!(cursor.0.len() <= MAX_CURSOR);
                let position = Position::parse(cursor, BOUND).unwrap();
                prop_assert_eq!(position.path.as_str(), Some(path.as_str()));
                prop_assert_eq!(position.directory, *directory);
                prop_assert_eq!(position.root, root);
                let found = open(&position.links);
                if position.links.lost {
                    prop_assert!(found.iter().all(|link| links.contains(link)));
                } else {
                    prop_assert_eq!(&found, links);
                }
                let all_fit = base_bound > 200 && entries.iter().all(|(_, length)| *length < 60);
                prop_assert!(!(all_fit && position.links.lost));
            }
        }

        #[test]
        fn damaged_cursors_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0_usize..200) {
            let _ = Position::parse(&Cursor(bytes.into()), BOUND);
            let mut links = Links::new(BOUND);
            let mut writer = CursorWriter::new(MAX_CURSOR, Some(u64::MAX));
            let (_, change) = links.meet(&"a/b".into(), &version(3), 2, true);
            writer.push(b"a/b", false, &change, &links);
            links.apply(&"a/b".into(), &change);
            writer.push(b"a/c", false, &Change::None, &links);
            for Cursor(good) in writer.finish() {
                if cut < good.len() {
                    prop_assert!(Position::parse(&Cursor(good.slice(..cut)), BOUND).is_err());
                }
            }
        }
    }

    #[test]
    fn other_cursors_are_refused() {
        for other in [&b""[..], b"a/b", b"{\"key\":\"x\"}", b"\xc1\x00\x00\xc2\x00\x00", b"\xc1\x00\x02..\xc2\x00\x00"]
        {
            let e = Position::parse(&Cursor(Bytes::copy_from_slice(other)), BOUND).unwrap_err();
            assert_eq!(e.class(), crate::ErrorClass::Invalid);
        }
        // That of an earlier version, without a root.
        let earlier = Position::parse(&Cursor(Bytes::from_static(b"\xc1\x00\x01a\xc2\x00\x00")), BOUND).unwrap();
        assert_eq!(earlier.root, None);
    }

    #[test]
    fn consecutive_cursors_share_their_memory() {
        let mut links = Links::new(BOUND);
        for i in 0..2000 {
            links.insert(Link { name: format!("some/longer/path/{i}").as_str().into(), version: version(i), seen: 1 });
        }
        let mut writer = CursorWriter::new(48 << 10, Some(2));
        for i in 0..512 {
            writer.push(format!("some/path/to/file-{i}").as_bytes(), false, &Change::None, &links);
        }
        assert!(writer.out.len() + writer.records.len() < 512 * 400, "{}", writer.out.len());
        let last = writer.finish().last().unwrap();
        let position = Position::parse(&last, BOUND).unwrap();
        assert!(position.links.lost && position.links.newest_first().count() > 500);
        assert_eq!(position.links.newest_first().next(), links.newest_first().next());
    }
}
