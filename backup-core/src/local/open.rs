//! Opening files and directories below a root, never through a symbolic link, and without waiting for anybody.

use super::identity::os;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often, and how far apart, opening is tried while another process has a lease on the file.
const LEASE_TRIES: u32 = 5;
const LEASE_PAUSE: Duration = Duration::from_millis(20);

/// Where the names of a source start: a directory, or a single file in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// The directory that names are relative to.
    pub(crate) directory: PathBuf,
    /// The only name in it that belongs to the source.
    pub(crate) only: Option<Vec<u8>>,
}

impl Base {
    /// Looks what a resolved path is.
    pub(crate) fn find(root: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::io(e, "the source does not exist").on(root.display()),
            _ => Error::io(e, "cannot reach the source").on(root.display()),
        };
        let is_directory = root.symlink_metadata().map_err(failed)?.is_dir();
        match (is_directory, root.parent(), root.file_name()) {
            (false, Some(parent), Some(name)) => {
                Ok(Self { directory: parent.to_owned(), only: Some(name.as_encoded_bytes().to_vec()) })
            }
            _ => Ok(Self { directory: root.to_owned(), only: None }),
        }
    }

    /// Opens the directory.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        self.open_raw()
            .map_err(|e| Error::io(e.into(), "cannot open the source's directory").on(self.directory.display()))
    }

    /// Opens the directory.
    pub(crate) fn open_raw(&self) -> Result<OwnedFd, Errno> {
        open_directory(CWD, self.directory.as_os_str().as_encoded_bytes())
    }

    /// Opens a file by its path below the directory, one component after the other.
    pub(crate) fn open_below(&self, path: &[u8]) -> Result<OwnedFd> {
        let failed = |e: Errno| match e {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO => Error::not_found("the file is gone"),
            e => Error::io(e.into(), "cannot open the file"),
        };
        if self.only.as_ref().is_some_and(|only| only != path) {
            return Err(Error::not_found("the file is not part of the source"));
        }
        let mut at = self.open()?;
        let mut components = path.split(|b| *b == b'/').peekable();
        loop {
            match components.next() {
                None | Some(b"" | b"." | b"..") => return Err(Error::not_found("no name that a source gives")),
                Some(last) if components.peek().is_none() => return open_file(at.as_fd(), last).map_err(failed),
                Some(directory) => at = open_directory(at.as_fd(), directory).map_err(failed)?,
            }
        }
    }
}

/// Opens a directory; `NOTDIR` or `LOOP` when it is something else.
pub(crate) fn open_directory(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    open(at, name, OFlags::DIRECTORY)
}

/// Opens a file. It may turn out to be anything but a symbolic link; opening a FIFO does not wait for a writer.
pub(crate) fn open_file(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match open(at, name, OFlags::empty()) {
            // Somebody holds a lease, which breaks when we insist.
            Err(Errno::WOULDBLOCK) if tries < LEASE_TRIES => {
                tries += 1;
                std::thread::sleep(LEASE_PAUSE);
            }
            done => return done,
        }
    }
}

fn open(at: BorrowedFd<'_>, name: &[u8], extra: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY | extra;
    let with = |flags| loop {
        match rustix::fs::openat(at, os(name), flags, Mode::empty()) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    };
    // Reading should leave no trace; only the owner of a file may ask for that.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    match with(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => {}
        done => return done,
    }
    with(flags)
}

/// Why an item was skipped, in words that follow `skipped: `; an error when it is not about the item at all.
pub(crate) fn reason(e: Errno) -> Result<String> {
    Ok(match e {
        Errno::NOENT => "it vanished".to_owned(),
        Errno::ACCESS | Errno::PERM => "permission denied".to_owned(),
        Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::ISDIR | Errno::INVAL | Errno::SPIPE => REPLACED.to_owned(),
        Errno::WOULDBLOCK => "another process has it locked".to_owned(),
        Errno::MFILE | Errno::NFILE => {
            return Err(Error::transient("too many files are open; raise the limit (ulimit -n)").because(io(e)));
        }
        // A file server or device that does not answer: every item would be skipped.
        Errno::NOMEM
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::NETDOWN
        | Errno::NOTCONN => {
            return Err(Error::transient("the file system does not answer").because(io(e)));
        }
        e => io(e).to_string(),
    })
}

/// The reason for something that is not any more what it was when it was listed.
pub(crate) const REPLACED: &str = "it was replaced by something else while it was read";

fn io(e: Errno) -> std::io::Error {
    e.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_are_opened_below_the_root_and_never_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/c"), "x").unwrap();
        symlink("a", root.join("link")).unwrap();
        symlink("b/c", root.join("a/file-link")).unwrap();
        let base = Base::find(&root).unwrap();
        assert!(base.open_below(b"a/b/c").is_ok());
        for gone in
            [&b"link/b/c"[..], b"a/file-link", b"a/b/d", b"a/b/c/d", b"", b"/a/b/c", b"a//b/c", b"../x", b"a/.."]
        {
            let e = base.open_below(gone).unwrap_err();
            assert_eq!(e.class(), ErrorClass::NotFound, "{e:?}");
        }
    }

    #[test]
    fn a_single_file_is_a_base_with_one_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        let base = Base::find(&path).unwrap();
        let name = path.file_name().unwrap().as_encoded_bytes();
        assert_eq!(base.only.as_deref(), Some(name));
        assert!(base.open_below(name).is_ok());
        assert!(base.open_below(b"passwd").is_err());
        drop(file);
        assert_eq!(Base::find(&path).unwrap_err().class(), ErrorClass::NotFound);
    }

    #[test]
    fn trouble_that_is_not_about_the_item_is_an_error() {
        assert!(reason(Errno::MFILE).unwrap_err().is_retryable());
        assert_eq!(reason(Errno::ACCESS).unwrap(), "permission denied");
    }
}
