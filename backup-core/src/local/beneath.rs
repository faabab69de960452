//! Access to what lies below a directory, and never outside it.
//!
//! Every component of a name is opened by itself, relative to the directory before it and without following a link,
//! so neither a name nor a link that an archive brought along leads anywhere else. Handles of directories are kept, the
//! most recently used ones, so that many files in one directory cost one walk.

use super::publish::io_error;
use crate::model::STAGE_PREFIX;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How many handles of directories are kept open.
const HANDLES: usize = 256;
/// The longest component of a name, in bytes, as all common file systems have it.
const MAX_COMPONENT: usize = 255;
/// How often a directory is opened again that somebody else removes under our hands.
pub(super) const TRIES: usize = 10;

/// Opens a directory for use as a starting point only: needs no right to list it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const HANDLE: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory to list it or to change it.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// What to do about directories of a name that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing: `NotFound`.
    Fail,
    /// Make them.
    Make,
    /// Make them, also in place of a file.
    Replace,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    device: u64,
    /// It was made on the way to something below it, not yet as an entry of its own.
    on_the_way: AtomicBool,
    /// Owner and group that new files in it get, once that is known.
    pub(super) new_owner: OnceLock<(u32, u32)>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    #[allow(clippy::unnecessary_cast)] // The type differs between platforms.
    fn new(fd: OwnedFd, on_the_way: bool) -> rustix::io::Result<Self> {
        let device = fstat(&fd)?.st_dev as u64;
        Ok(Self { fd, device, on_the_way: AtomicBool::new(on_the_way), new_owner: OnceLock::new() })
    }

    /// Another handle of it, with which it can be listed and synced.
    pub(super) fn readable(&self) -> rustix::io::Result<OwnedFd> {
        openat(&self.fd, ".", DIRECTORY, Mode::empty())
    }
}

/// Where a name leads: a directory that is open, and a name in it.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) dir: Arc<Dir>,
    /// The directory's path below the root.
    pub(super) parent: &'a [u8],
    pub(super) last: &'a [u8],
}

impl Place<'_> {
    /// The path below the root.
    pub(super) fn path(&self) -> Vec<u8> {
        if self.parent.is_empty() { self.last.to_vec() } else { [self.parent, b"/", self.last].concat() }
    }
}

/// The most recently used directories.
#[derive(Debug, Default)]
struct Handles {
    map: HashMap<Box<[u8]>, (Arc<Dir>, u64)>,
    clock: u64,
}

impl Handles {
    fn get(&mut self, path: &[u8]) -> Option<Arc<Dir>> {
        self.clock += 1;
        let (dir, used) = self.map.get_mut(path)?;
        *used = self.clock;
        Some(dir.clone())
    }

    fn insert(&mut self, path: &[u8], dir: Arc<Dir>) {
        if self.map.len() >= HANDLES
            && let Some(oldest) = self.map.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone())
        {
            self.map.remove(&oldest);
        }
        self.clock += 1;
        self.map.insert(path.into(), (dir, self.clock));
    }

    fn forget(&mut self, path: &[u8]) {
        self.map.retain(|kept, _| !kept.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'));
    }
}

/// A directory, and what lies below it.
#[derive(Debug)]
pub(super) struct Root {
    top: Arc<Dir>,
    handles: Mutex<Handles>,
    /// One directory of each file system that was met below the root.
    systems: Mutex<Vec<Arc<Dir>>>,
}

impl Root {
    /// Opens a directory. It may be given as a link: who names the root may choose it.
    pub(super) fn open(path: &Path) -> rustix::io::Result<Self> {
        let top = Arc::new(Dir::new(openat(CWD, path, HANDLE, Mode::empty())?, false)?);
        Ok(Self { systems: Mutex::new(vec![top.clone()]), top, handles: Mutex::default() })
    }

    /// Where a name leads.
    ///
    /// # Errors
    /// `Invalid` for a name that cannot be one below the root, or that goes through a link; `Conflict` when something that is no
    /// directory is in the way; `NotFound` when a directory is missing and is not to be made.
    pub(super) fn place<'a>(&self, name: &'a [u8], missing: Missing) -> Result<Place<'a>> {
        check_name(name)?;
        let (parent, last) = match name.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&name[..slash], &name[slash + 1..]),
            None => (&name[..0], name),
        };
        Ok(Place { dir: self.dir(parent, missing)?, parent, last })
    }

    /// Opens a directory by its path below the root; the empty path is the root.
    fn dir(&self, path: &[u8], missing: Missing) -> Result<Arc<Dir>> {
        for _ in 0..TRIES {
            let (mut dir, mut known) = self.nearest(path);
            let mut gone = false;
            while known < path.len() {
                let start = if known == 0 { 0 } else { known + 1 };
                let end = path[start..].iter().position(|b| *b == b'/').map_or(path.len(), |i| start + i);
                match self.below(&dir, &path[start..end], missing)? {
                    Some(below) => dir = below,
                    None => {
                        // The handle was of a directory that somebody removed.
                        self.forget(&path[..known]);
                        gone = true;
                        break;
                    }
                }
                self.handles().insert(&path[..end], dir.clone());
                known = end;
            }
            if !gone {
                return Ok(dir);
            }
        }
        Err(Error::transient("a directory of it was removed again and again"))
    }

    /// The nearest directory above or at a path that is open, and how much of the path it is.
    fn nearest(&self, path: &[u8]) -> (Arc<Dir>, usize) {
        let mut handles = self.handles();
        let mut end = path.len();
        while end > 0 {
            if let Some(dir) = handles.get(&path[..end]) {
                return (dir, end);
            }
            end = path[..end].iter().rposition(|b| *b == b'/').unwrap_or(0);
        }
        (self.top.clone(), 0)
    }

    /// Opens a directory in a directory. `None` when the latter was removed.
    fn below(&self, dir: &Dir, name: &[u8], missing: Missing) -> Result<Option<Arc<Dir>>> {
        let mut made = false;
        for _ in 0..TRIES {
            match openat(dir, name, HANDLE | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(fd) => {
                    let below = Dir::new(fd, made).map_err(|e| io_error(e, "cannot look at a directory of it"))?;
                    let below = Arc::new(below);
                    self.note_system(&below);
                    return Ok(Some(below));
                }
                Err(Errno::NOENT) if missing == Missing::Fail => {
                    return Err(Error::not_found("a directory of it does not exist"));
                }
                Err(Errno::NOENT) => match mkdirat(dir, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
                    Ok(()) => made = true,
                    Err(Errno::EXIST) => {}
                    // Not the name is missing but the directory itself.
                    Err(Errno::NOENT) => return Ok(None),
                    Err(e) => return Err(io_error(e, "cannot make a directory of it")),
                },
                Err(e @ (Errno::NOTDIR | Errno::LOOP)) => match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                        FileType::Symlink => {
                            return Err(Error::invalid(format!(
                                "the name goes through a symbolic link, `{}`",
                                name.escape_ascii()
                            )));
                        }
                        FileType::Directory => {}
                        _ if missing == Missing::Replace => match unlinkat(dir, name, AtFlags::empty()) {
                            Ok(()) | Err(Errno::NOENT) => {}
                            Err(e) => return Err(io_error(e, "cannot remove what is in the way of a directory of it")),
                        },
                        _ => {
                            return Err(Error::conflict(format!(
                                "`{}` is in the way: it is no directory",
                                name.escape_ascii()
                            )));
                        }
                    },
                    Err(Errno::NOENT) => {}
                    Err(_) => return Err(io_error(e, "cannot open a directory of it")),
                },
                Err(e) => return Err(io_error(e, "cannot open a directory of it")),
            }
        }
        Err(Error::transient("a directory of it comes and goes"))
    }

    /// Closes the handle of a directory, and those of what was below it: it was removed or replaced.
    pub(super) fn forget(&self, path: &[u8]) {
        self.handles().forget(path);
    }

    /// Tells whether a directory was made on the way to something below it, and takes note that now it is an entry of its own.
    pub(super) fn becomes_entry(&self, path: &[u8]) -> bool {
        self.handles().get(path).is_some_and(|dir| dir.on_the_way.swap(false, Ordering::Relaxed))
    }

    /// Makes everything durable that was written to the file systems met below the root.
    pub(super) fn sync(&self) -> rustix::io::Result<()> {
        let systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner).clone();
        systems.iter().try_for_each(|dir| sync_system(&dir.readable()?))
    }

    fn note_system(&self, dir: &Arc<Dir>) {
        if dir.device != self.top.device {
            let mut systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
            if systems.iter().all(|known| known.device != dir.device) {
                systems.push(dir.clone());
            }
        }
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn sync_system(dir: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::syncfs(dir)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn sync_system(_: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Checks that a name is one of something below a directory.
///
/// # Errors
/// `Invalid`, with the reason.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    for part in name.split(|b| *b == b'/') {
        let fault = match part {
            b"" => "a part of the name is empty",
            b"." | b".." => "a part of the name is `.` or `..`",
            part if part.len() > MAX_COMPONENT => "a part of the name is longer than 255 bytes",
            part if part.contains(&0) => "the name has a NUL byte in it",
            part if part.starts_with(STAGE_PREFIX.as_bytes()) => "the name is reserved for staged files",
            _ => continue,
        };
        return Err(Error::new(crate::ErrorClass::Invalid, format!("cannot be restored under its name: {fault}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use std::os::unix::fs::symlink;

    fn class<T: std::fmt::Debug>(result: Result<T>) -> ErrorClass {
        result.unwrap_err().class()
    }

    #[test]
    fn names_that_are_no_paths_below_a_directory_are_refused() {
        let long = "x".repeat(256);
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/./b", "a\0b", ".backup-tmp-1/x", &long] {
            assert_eq!(class(check_name(bad.as_bytes())), ErrorClass::Invalid, "{bad:?}");
        }
        for good in [&b"a"[..], b"a/b", b"...", b"..a/ b", b"\xff\n", &[b'x'; 255]] {
            check_name(good).unwrap();
        }
    }

    #[test]
    fn links_are_never_followed_on_the_way() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("abs")).unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("rel")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for missing in [Missing::Fail, Missing::Make, Missing::Replace] {
            for name in ["abs/x", "rel/x", "abs/y/x"] {
                let error = root.place(name.as_bytes(), missing).unwrap_err();
                assert_eq!(error.class(), ErrorClass::Invalid);
                assert!(error.to_string().contains("goes through a symbolic link"), "{error}");
            }
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(dir.path().join("abs").is_symlink() && dir.path().join("rel").is_symlink());
    }

    #[test]
    fn files_in_the_way_are_replaced_only_when_told_so() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(class(root.place(b"f/x", Missing::Fail)), ErrorClass::Conflict);
        assert_eq!(class(root.place(b"f/x", Missing::Make)), ErrorClass::Conflict);
        assert!(dir.path().join("f").is_file());
        root.place(b"f/x", Missing::Replace).unwrap();
        assert!(dir.path().join("f").is_dir());
    }

    #[test]
    fn directories_are_made_when_told_so_and_again_when_they_vanish() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(class(root.place(b"a/b/c", Missing::Fail)), ErrorClass::NotFound);
        let place = root.place(b"a/b/c", Missing::Make).unwrap();
        assert_eq!((place.parent, place.last), (&b"a/b"[..], &b"c"[..]));
        assert!(root.becomes_entry(b"a/b") && !root.becomes_entry(b"a/b"));
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        root.place(b"a/b/d/e", Missing::Make).unwrap();
        assert!(dir.path().join("a/b/d").is_dir());
    }

    #[test]
    fn more_directories_than_handles_and_very_deep_ones_work() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for round in 0..2 {
            for i in 0..600 {
                root.place(format!("d{i}/x/f").as_bytes(), Missing::Make).unwrap();
            }
            assert!(root.handles().map.len() <= HANDLES, "{round}");
        }
        let deep = "d/".repeat(3000) + "f";
        root.place(deep.as_bytes(), Missing::Make).unwrap();
        assert!(root.handles().map.len() <= HANDLES);
    }
}
