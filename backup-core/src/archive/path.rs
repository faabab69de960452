//! Tar paths: what a plain `tar` sees of entry names.
//!
//! A name may be any bytes; a tar path must be relative, must not climb, and should be readable. So a path is the name with some
//! bytes percent-encoded:
//!
//! - `%`, control characters, and bytes that are not UTF-8;
//! - a `/` that would start the path, end it or follow another `/`, because components must not be empty;
//! - the dots of a component that is `.` or `..`;
//! - the `/` behind a name that is a file already: keys `a` and `a/b` may both exist in a bucket, so `a/b` is written `a%2Fb`;
//! - the first byte of a first component that is `BACKUP-WARNINGS.txt`, the entry that an archive adds of its own.
//!
//! A component that would be longer than 240 bytes is cut, and `~` and 32 hexadecimal digits of its SHA-256 follow; a component that
//! looks like that by itself gets its `~` encoded. So different names have different paths, and but for cut components a path
//! decodes to its name.

use crate::Digest;
use crate::model::{EntryKind, EntryName};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The longest entry name that an archive can hold, in bytes.
pub const MAX_NAME: usize = 64 << 10;

/// The path of the entry that an archive adds of its own at its end; no path of a source's entry starts with it.
pub const WARNINGS_FILE: &str = "BACKUP-WARNINGS.txt";

const MAX_COMPONENT: usize = 240;
const HASH_DIGITS: usize = 32;

/// Makes tar paths in the order of the entries, and remembers what it needs to tell files from directories.
///
/// What it remembers is small: the files whose names are the beginning of the present name, as one name and lengths. That is enough
/// for sources that deliver in byte order (all that starts with `a` comes together) and for walks of directories (a file
/// has no children). It is saved with serde, in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct TarPaths {
    last: Vec<u8>,
    /// Lengths, ascending, of those beginnings of `last` that are names of earlier entries other than directories.
    files: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    last: EntryName,
    files: Vec<usize>,
}

impl From<TarPaths> for Saved {
    fn from(paths: TarPaths) -> Self {
        Self { last: EntryName::new(paths.last), files: paths.files }
    }
}

impl From<Saved> for TarPaths {
    fn from(saved: Saved) -> Self {
        let last = saved.last.as_bytes().to_vec();
        let mut files = saved.files;
        files.retain(|length| *length <= last.len());
        files.sort_unstable();
        Self { last, files }
    }
}

impl TarPaths {
    /// At the start of an archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// The path of the next entry; borrowed when it equals the name. An entry that is added again must follow at once.
    pub fn next<'a>(&mut self, name: &'a EntryName, kind: &EntryKind) -> Cow<'a, str> {
        let bytes = name.as_bytes();
        let common = self.last.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        while self.files.last().is_some_and(|length| *length > common) {
            self.files.pop();
        }
        let path = self.path(name);
        if *kind != EntryKind::Directory && self.files.last() != Some(&bytes.len()) {
            self.last.clear();
            self.last.extend_from_slice(bytes);
            self.files.push(bytes.len());
        }
        path
    }

    /// The path that an entry would have here, e.g. of the earlier entry that a hard link names; changes nothing.
    pub fn path<'a>(&self, name: &'a EntryName) -> Cow<'a, str> {
        let bytes = name.as_bytes();
        let below_file = |slash: usize| {
            let shared = || self.last.get(..slash).is_some_and(|file| bytes.starts_with(file));
            self.files.binary_search(&slash).is_ok() && shared()
        };
        match plain(bytes, &below_file) {
            Some(path) => Cow::Borrowed(path),
            None => {
                let path = encode(bytes, &below_file);
                match std::str::from_utf8(bytes) {
                    Ok(same) if same == path => Cow::Borrowed(same),
                    _ => Cow::Owned(path),
                }
            }
        }
    }
}

/// The name itself, when it is plain ASCII that needs no encoding: by far the most common case.
fn plain<'a>(name: &'a [u8], below_file: &impl Fn(usize) -> bool) -> Option<&'a str> {
    let mut start = 0;
    for (at, byte) in name.iter().enumerate() {
        match byte {
            b'/' => {
                if !plain_component(name.get(start..at)?) || below_file(at) {
                    return None;
                }
                start = at + 1;
            }
            b'%' => return None,
            b' '..=b'~' => {}
            _ => return None,
        }
    }
    if !plain_component(name.get(start..)?) || name.starts_with(WARNINGS_FILE.as_bytes()) {
        return None;
    }
    std::str::from_utf8(name).ok()
}

fn plain_component(part: &[u8]) -> bool {
    (1..=MAX_COMPONENT).contains(&part.len()) && part != b"." && part != b".." && cut_mark(part).is_none()
}

/// Where the `~` of a component is that looks as if it had been cut.
fn cut_mark(part: &[u8]) -> Option<usize> {
    let at = part.len().checked_sub(HASH_DIGITS + 1)?;
    let (mark, digits) = part.get(at..)?.split_first()?;
    let cut = *mark == b'~' && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    cut.then_some(at)
}

fn encode(name: &[u8], below_file: &impl Fn(usize) -> bool) -> String {
    if name.is_empty() {
        // No other path has a lone percent sign.
        return "%".into();
    }
    let mut path = String::with_capacity(name.len() + 16);
    let mut part = String::new();
    let mut at = 0;
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '/' if part.is_empty() || at + 1 == name.len() || below_file(at) => part.push_str("%2F"),
                '/' => {
                    close_component(&mut path, &mut part);
                    path.push('/');
                }
                '%' => part.push_str("%25"),
                c if c.is_control() => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| percent(&mut part, b)),
                c => part.push(c),
            }
            at += c.len_utf8();
        }
        chunk.invalid().iter().for_each(|b| percent(&mut part, *b));
        at += chunk.invalid().len();
    }
    close_component(&mut path, &mut part);
    path
}

fn percent(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Appends a component that is never empty, and empties it.
fn close_component(path: &mut String, part: &mut String) {
    match part.as_str() {
        "." => path.push_str("%2E"),
        ".." => path.push_str("%2E%2E"),
        WARNINGS_FILE if path.is_empty() => {
            percent(path, WARNINGS_FILE.as_bytes()[0]);
            path.push_str(&WARNINGS_FILE[1..]);
        }
        _ => {
            if let Some(mark) = cut_mark(part.as_bytes()) {
                part.replace_range(mark..=mark, "%7E");
            }
            if part.len() > MAX_COMPONENT {
                let digest = Digest::of(part.as_bytes()).to_string();
                let mut end = part.floor_char_boundary(MAX_COMPONENT - HASH_DIGITS - 1);
                // Not in the middle of an encoded byte.
                end -= part.as_bytes()[..end].iter().rev().take(2).position(|b| *b == b'%').map_or(0, |i| i + 1);
                part.truncate(end);
                part.push('~');
                part.push_str(&digest[..HASH_DIGITS]);
            }
            path.push_str(part);
        }
    }
    part.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn path(name: impl AsRef<[u8]>) -> String {
        TarPaths::new().path(&EntryName::new(name.as_ref().to_vec())).into_owned()
    }

    fn is_safe(path: &str) -> bool {
        !path.is_empty()
            && path.bytes().all(|b| b >= b' ' && b != 0x7f)
            && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
    }

    #[test]
    fn plain_names_are_their_own_paths_without_a_copy() {
        for name in ["a", "photos/2026/IMG 0001.jpg", "a.b/..c/...", "~/x", "BACKUP-WARNINGS", "größe/日本"] {
            let name = EntryName::from(name);
            let mut paths = TarPaths::new();
            assert!(
                matches!(paths.next(&name, &EntryKind::File), Cow::Borrowed(p) if Some(p) == name.as_str()),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_not_safe_is_encoded() {
        for (name, expected) in [
            (&b"/etc/passwd"[..], "%2Fetc/passwd"),
            (b"../../x", "%2E%2E/%2E%2E/x"),
            (b"a/./b", "a/%2E/b"),
            (b"a//b", "a/%2Fb"),
            (b"a/", "a%2F"),
            (b"//", "%2F%2F"),
            (b"///a", "%2F/%2Fa"),
            (b"100%", "100%25"),
            (b"a\nb\0c\x7f", "a%0Ab%00c%7F"),
            (b"\xc2\x9b", "%C2%9B"),
            (b"caf\xe9/\xff", "caf%E9/%FF"),
            (b"BACKUP-WARNINGS.txt", "%42ACKUP-WARNINGS.txt"),
            (b"BACKUP-WARNINGS.txt/x", "%42ACKUP-WARNINGS.txt/x"),
            (b"x/BACKUP-WARNINGS.txt", "x/BACKUP-WARNINGS.txt"),
            (b"BACKUP-WARNINGS.txt.old", "BACKUP-WARNINGS.txt.old"),
            (b"", "%"),
        ] {
            assert_eq!(path(name), expected);
        }
    }

    #[test]
    fn long_components_are_cut_and_keep_apart() {
        let (a, b) = (format!("dir/{}a", "ä".repeat(150)), format!("dir/{}b", "ä".repeat(150)));
        let (a, b) = (path(&a), path(&b));
        assert_ne!(a, b);
        assert!(a.starts_with("dir/ääää") && a.len() <= 4 + 240, "{a}");
        let cut = a.strip_prefix("dir/").unwrap();
        assert!(cut_mark(cut.as_bytes()).is_some());
        // A name that looks like a cut one is not taken for it.
        assert_ne!(path(cut), cut);
        let (_, hash) = cut.split_once('~').unwrap();
        assert_eq!(path(format!("x~{hash}")), format!("x%7E{hash}"));
        assert_eq!(path("x".repeat(240)), "x".repeat(240));
        assert!(is_safe(&path(vec![0xff; 1000])));
        assert!(path(vec![0xff; 1000]).split('~').next().unwrap().ends_with("%FF"));
    }

    #[test]
    fn the_child_of_a_file_stays_beside_it() {
        let mut paths = TarPaths::new();
        let mut next = |name: &str, kind| paths.next(&EntryName::from(name), &kind).into_owned();
        let target = bytes::Bytes::from_static(b"/etc");
        assert_eq!(next("a", EntryKind::File), "a");
        assert_eq!(next("a-b", EntryKind::File), "a-b");
        assert_eq!(next("a-b/c", EntryKind::File), "a-b%2Fc");
        assert_eq!(next("a/b", EntryKind::File), "a%2Fb");
        assert_eq!(next("a/b", EntryKind::File), "a%2Fb");
        assert_eq!(next("a/b/c", EntryKind::File), "a%2Fb%2Fc");
        assert_eq!(next("a/c/d", EntryKind::File), "a%2Fc/d");
        assert_eq!(next("dir", EntryKind::Directory), "dir");
        assert_eq!(next("dir/x", EntryKind::File), "dir/x");
        assert_eq!(next("link", EntryKind::Symlink { target }), "link");
        assert_eq!(next("link/x", EntryKind::File), "link%2Fx");
        assert_eq!(paths.path(&EntryName::from("dir/x")), "dir/x");
    }

    /// Names of few different parts, so that they meet.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        let few = |parts: &[&'static [u8]]| proptest::sample::select(parts.to_vec());
        let long: &'static [u8] = &[b'x'; 230];
        let part = prop_oneof![
            8 => few(&[b"a", b"b", b"/", b"/", b".", b"-"]),
            2 => few(&[b"%", b"%2F", b"~", b"\xff", b"\n", b"\xc3\xa4"]),
            1 => few(&[b"~00112233445566778899aabbccddeeff", WARNINGS_FILE.as_bytes(), long]),
        ];
        prop_oneof![
            6 => proptest::collection::vec(part, 1..7).prop_map(|parts| parts.concat()),
            1 => proptest::collection::vec(any::<u8>(), 1..600),
        ]
    }

    proptest! {
        #[test]
        fn paths_are_safe_whatever_the_name(name in name()) {
            let path = path(&name);
            prop_assert!(is_safe(&path), "{}", path);
            prop_assert!(path != WARNINGS_FILE && !path.starts_with("BACKUP-WARNINGS.txt/"));
        }

        #[test]
        fn different_names_have_different_paths_and_no_file_becomes_a_directory(
            names in proptest::collection::btree_map(name(), prop_oneof![3 => Just(EntryKind::File), 1 => Just(EntryKind::Directory)], 1..60),
        ) {
            let mut paths = TarPaths::new();
            let mut files = BTreeSet::new();
            let mut seen = BTreeMap::new();
            for (name, kind) in &names {
                let name = EntryName::new(name.clone());
                let path = paths.next(&name, kind).into_owned();
                prop_assert!(is_safe(&path));
                for (slash, _) in path.match_indices('/') {
                    prop_assert!(!files.contains(&path[..slash]), "{} lies below a file", path);
                }
                if *kind == EntryKind::File {
                    files.insert(path.clone());
                }
                let before = seen.insert(path.clone(), name.clone());
                prop_assert!(before.is_none(), "{:?} and {:?} are both {}", before, name, path);
                if !path.split('/').any(|part| cut_mark(part.as_bytes()).is_some()) {
                    prop_assert_eq!(percent_decode(&path), name.as_bytes());
                }
                let saved = serde_json::to_string(&paths).unwrap();
                prop_assert_eq!(&serde_json::from_str::<TarPaths>(&saved).unwrap(), &paths);
            }
        }

        #[test]
        fn a_saved_state_from_anywhere_does_no_harm(last in name(), files in proptest::collection::vec(0..700usize, 0..9), then in name()) {
            let saved = serde_json::to_string(&Saved { last: EntryName::new(last), files }).unwrap();
            let mut paths: TarPaths = serde_json::from_str(&saved).unwrap();
            prop_assert!(is_safe(&paths.next(&EntryName::new(then), &EntryKind::File)));
        }
    }

    fn percent_decode(path: &str) -> Vec<u8> {
        let mut bytes = path.bytes();
        let mut out = Vec::new();
        while let Some(b) = bytes.next() {
            out.push(if b != b'%' {
                b
            } else {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            });
        }
        out
    }
}
