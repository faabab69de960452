//! File trees with every kind of thing in them, and a comparison of two trees that leaves nothing out.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use rustix::fs::{
    AtFlags, CWD, SeekFrom, Timespec, Timestamps, XattrFlags, getxattr, listxattr, seek, setxattr, utimensat,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From 0 to below 1.
    pub(crate) fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Bytes without any pattern.
    pub(crate) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    /// Bytes that compress.
    pub(crate) fn text(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 80);
        while bytes.len() < length {
            let (line, value) = (bytes.len(), self.below(1000));
            writeln!(bytes, "{line:09} the value of this line is {value} and nothing else is said").unwrap();
        }
        bytes.truncate(length);
        bytes
    }
}

/// Which names a tree has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Only such that a tar path is the name itself.
    Plain,
    /// All that a file system can have.
    Any,
}

/// What large files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Bytes that do not compress.
    Heavy,
    /// Bytes that compress: little is stored, for what takes long on stored bytes.
    Light,
    /// A tenth of it: there are no large files.
    Small,
}

/// Fills a directory with files of all sizes, hard links, symbolic links, sparse files, empty directories, owners (as root),
/// permissions, extended attributes, and times with nanoseconds.
pub(crate) fn make(root: &Path, names: Names, weight: Weight) {
    let random = &mut Random::new(1);
    let bytes = |random: &mut Random, length| match weight {
        Weight::Heavy => random.noise(length),
        Weight::Light => random.text(length),
        Weight::Small => random.text(length / 10),
    };
    let write = |name: &str, content: Vec<u8>| write(&root.join(name), &content);
    for i in 0..320 {
        let length = random.below(if i % 20 == 0 { 200_000 } else { 6_000 }) as usize;
        let content = if i % 2 == 0 { random.text(length) } else { random.noise(length) };
        write(&format!("small/d{:02}/f{i:03}", i % 40), content);
    }
    write("zero", Vec::new());
    write("mid/above-1MiB.bin", random.noise(1_300_000));
    write("mid/above-4MiB.bin", bytes(random, 5_000_000));
    write("mid/text.log", random.text(3_000_000));
    write("large/above-16MiB.bin", bytes(random, 17_500_000));
    let length = if weight == Weight::Small { 4_000_000 } else { 19_000_000 };
    sparse(&root.join("sparse/large.img"), length, &[(0, 64 << 10), (length / 2, 300_000)], random);
    sparse(&root.join("sparse/small.img"), 900_000, &[(400_000, 100_000)], random);

    std::fs::create_dir_all(root.join("empty")).unwrap();
    std::fs::create_dir_all(root.join("nested/empty/inner")).unwrap();
    write(&format!("deep/{}/end", ["level"; 30].join("/")), random.text(100));

    std::fs::create_dir_all(root.join("links")).unwrap();
    symlink("../small/d01", root.join("links/directory")).unwrap();
    symlink("../zero", root.join("links/relative")).unwrap();
    symlink("/nowhere/that/exists", root.join("links/absolute")).unwrap();
    for (to, from) in [
        ("small/d00/f000", "links/hard-1"),
        ("small/d00/f000", "zz/hard-2"),
        ("mid/above-4MiB.bin", "zz/hard-3"),
        ("large/above-16MiB.bin", "zz/hard-4"),
    ] {
        std::fs::create_dir_all(root.join(from).parent().unwrap()).unwrap();
        std::fs::hard_link(root.join(to), root.join(from)).unwrap();
    }

    for (name, attribute, value) in [
        ("mid/text.log", "user.comment", &b"some words"[..]),
        ("mid/text.log", "user.bytes", b"\0\xff\n"),
        ("zero", "user.nothing", b""),
        ("large/above-16MiB.bin", "user.large", b"yes"),
        ("nested/empty", "user.directory", b"d"),
    ] {
        setxattr(root.join(name), attribute, value, XattrFlags::empty())
            .expect("this test needs extended attributes: set TMPDIR to a directory on a file system that has them");
    }

    if names == Names::Any {
        let odd: [&[u8]; 8] = [
            b"bytes-\xff\xfe-no-text",
            b"line\nbreak",
            b"100%41",
            b" blanks ",
            b"-rf",
            "Größe-名前".as_bytes(),
            b"BACKUP-WARNINGS.txt",
            &[b'n'; 255],
        ];
        for name in odd {
            self::write(&root.join(OsStr::from_bytes(name)), &random.text(50));
        }
        let directory = root.join(OsStr::from_bytes(b"dir-\xc3\x28"));
        self::write(&directory.join("inside"), b"inside");
        symlink(OsStr::from_bytes(b"to-\xff"), directory.join("link")).unwrap();
    }

    let modes = [0o644, 0o600, 0o400, 0o755, 0o4755, 0o666];
    for (i, path) in walk(root).into_iter().enumerate().rev() {
        let kind = path.symlink_metadata().unwrap().file_type();
        if rustix::process::geteuid().is_root() && i % 5 == 0 {
            std::os::unix::fs::lchown(&path, Some(12_345), Some(54_321)).unwrap();
        }
        let mode = if kind.is_dir() { [0o755, 0o700, 0o1777][i % 3] } else { modes[i % modes.len()] };
        if !kind.is_symlink() {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        // Deepest first, as what is made in a directory changes its time. One time lies before 1970, one far ahead.
        let seconds = match i % 50 {
            // Of these tar says that they are implausible.
            7 if names == Names::Any => -86_400 * 365,
            9 if names == Names::Any => 7_258_118_400,
            _ => 1_500_000_000 + random.below(200_000_000) as i64,
        };
        let time = Timespec { tv_sec: seconds, tv_nsec: random.below(1_000_000_000) as i64 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A file with holes around some data.
fn sparse(path: &Path, size: u64, data: &[(u64, usize)], random: &mut Random) {
    write(path, b"");
    let mut file = File::options().write(true).open(path).unwrap();
    for (at, length) in data {
        file.seek(std::io::SeekFrom::Start(*at)).unwrap();
        file.write_all(&random.noise(*length)).unwrap();
    }
    file.set_len(size).unwrap();
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < size / 2, "this file system has no sparse files");
}

/// Everything below a directory, a directory before what is in it.
pub(crate) fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut names: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let is_directory = path.symlink_metadata().unwrap().is_dir();
        found.push(path.clone());
        if is_directory {
            found.extend(walk(&path));
        }
    }
    found
}

/// What a restored tree is expected to have kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Everything.
    All,
    /// Everything but that holes are not written.
    AllButHoles,
    /// What a plain tar stream knows: no nanoseconds, no extended attributes, no holes.
    Tar,
}

#[derive(Debug, PartialEq)]
struct Item {
    kind: &'static str,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    target: Option<OsString>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of all names of this file.
    same_as: PathBuf,
}

fn items(root: &Path, keeps: Keeps) -> BTreeMap<PathBuf, Item> {
    let mut first_names: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut items = BTreeMap::new();
    for path in walk(root) {
        let name = path.strip_prefix(root).unwrap().to_path_buf();
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let (mut mtime, mut xattrs) = ((metadata.mtime(), metadata.mtime_nsec()), BTreeMap::new());
        match keeps {
            Keeps::All | Keeps::AllButHoles if !kind.is_symlink() => xattrs = attributes(&path),
            Keeps::All | Keeps::AllButHoles => {}
            Keeps::Tar => mtime.1 = 0,
        }
        let same_as = first_names.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.clone()).clone();
        let item = Item {
            kind: match () {
                () if kind.is_dir() => "directory",
                () if kind.is_symlink() => "symlink",
                () if kind.is_file() => "file",
                () => "something else",
            },
            size: if kind.is_file() { metadata.len() } else { 0 },
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            mtime,
            target: kind.is_symlink().then(|| std::fs::read_link(&path).unwrap().into_os_string()),
            xattrs,
            same_as,
        };
        items.insert(name, item);
    }
    items
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = listxattr(path, &mut names[..]).unwrap();
    names.truncate(length);
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = getxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(length);
        value
    };
    names.split(|b| *b == 0).filter(|name| !name.is_empty()).map(|name| (name.to_vec(), value(name))).collect()
}

/// Everything in which a tree differs from what it should be; the roots themselves are not compared.
pub(crate) fn differences(expected: &Path, found: &Path, keeps: Keeps) -> Vec<String> {
    let (wanted, mut there) = (items(expected, keeps), items(found, keeps));
    let mut differences = Vec::new();
    for (name, item) in wanted {
        match there.remove(&name) {
            None => differences.push(format!("{name:?} is missing")),
            Some(other) if other != item => differences.push(format!("{name:?} is {other:?} instead of {item:?}")),
            Some(_) if item.kind == "file" => {
                let (a, b) = (expected.join(&name), found.join(&name));
                differences.extend(content_differs(&a, &b).map(|at| format!("{name:?} differs from byte {at} on")));
                if keeps == Keeps::All {
                    let (holes, kept) = (holes(&a), holes(&b));
                    // A file system allocates whole blocks, at each end of a hole.
                    if holes > kept + (64 << 10) {
                        differences.push(format!("{name:?} has {kept} bytes of holes instead of {holes}"));
                    }
                }
            }
            Some(_) => {}
        }
    }
    differences.extend(there.into_keys().map(|name| format!("{name:?} is too many")));
    differences
}

#[track_caller]
pub(crate) fn assert_same(expected: &Path, found: &Path, keeps: Keeps) {
    let differences = differences(expected, found, keeps);
    assert!(
        differences.is_empty(),
        "{} differences: {:#?}",
        differences.len(),
        &differences[..differences.len().min(20)]
    );
}

fn content_differs(a: &Path, b: &Path) -> Option<u64> {
    let (mut a, mut b) = (File::open(a).unwrap(), File::open(b).unwrap());
    let (mut left, mut right) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut at = 0;
    loop {
        let (n, m) = (full(&mut a, &mut left), full(&mut b, &mut right));
        if left[..n] != right[..m] {
            return Some(at);
        }
        if n == 0 {
            return None;
        }
        at += n as u64;
    }
}

fn full(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            n => filled += n,
        }
    }
    filled
}

/// How many bytes of a file lie in holes.
fn holes(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let (mut at, mut holes) = (0, 0);
    while at < length {
        // Without more data the rest is one hole.
        let data = seek(&file, SeekFrom::Data(at)).unwrap_or(length);
        holes += data - at;
        if data >= length {
            break;
        }
        at = seek(&file, SeekFrom::Hole(data)).unwrap();
    }
    holes
}

/// What changes when an item is written, were it only a permission.
pub(crate) type Mark = (PathBuf, u64, (i64, i64), u64);

/// The marks of everything below a directory, to show that nobody wrote there.
pub(crate) fn marks(root: &Path) -> Vec<Mark> {
    let mark = |path: PathBuf| {
        let metadata = path.symlink_metadata().unwrap();
        (path, metadata.ino(), (metadata.ctime(), metadata.ctime_nsec()), metadata.len())
    };
    walk(root).into_iter().map(mark).collect()
}

/// Names that stand for unfinished work.
pub(crate) fn staged(root: &Path) -> Vec<PathBuf> {
    let is_staged = |path: &PathBuf| path.file_name().is_some_and(|n| n.as_bytes().starts_with(b".backup-tmp-"));
    walk(root).into_iter().filter(is_staged).collect()
}

/// A name of any bytes.
pub(crate) fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}
