//! Steps that make a staged file appear under its name, whole and never over another one.

use crate::Error;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

/// An error of a system call, with its class.
pub(super) fn io_error(cause: Errno, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::io(cause.into(), message)
}

/// Gives the staged file `from` the name `to` in the same directory, unless `to` is taken. Answers whether it did; if not, `from` is still there.
///
/// Renames without replacing where the file system can (most), else makes a second link and removes the first (NFS).
pub(super) fn rename_new(dir: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> rustix::io::Result<bool> {
    match renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(dir, from, to),
        Err(e) => Err(e),
    }
}

/// [`rename_new`] in two steps. A crash between them leaves the staged file beside the finished one.
fn link_new(dir: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> rustix::io::Result<bool> {
    match linkat(dir, from, dir, to, AtFlags::empty()) {
        Ok(()) => unlinkat(dir, from, AtFlags::empty()).map(|()| true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Says of a failure of [`rename_new`] what it means.
pub(super) fn rename_error(cause: Errno) -> Error {
    match cause {
        Errno::PERM | Errno::NOTSUP | Errno::NOSYS => Error::unsupported(
            "this file system can neither rename without replacing nor make hard links, so files cannot be published safely on it",
        )
        .because(std::io::Error::from(cause)),
        other => io_error(other, "cannot give the finished file its name"),
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove_file(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_stays_by_either_way_of_publishing() {
        for publish in [rename_new, link_new] {
            let dir = tempfile::tempdir().unwrap();
            let write = |name: &str| std::fs::write(dir.path().join(name), name).unwrap();
            let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
            let handle = std::fs::File::open(dir.path()).unwrap();
            write("first");
            write("second");
            std::fs::create_dir(dir.path().join("dir")).unwrap();
            assert!(publish(handle.as_fd(), b"first", b"x").unwrap());
            assert!(!publish(handle.as_fd(), b"second", b"x").unwrap());
            assert!(!publish(handle.as_fd(), b"second", b"dir").unwrap());
            assert_eq!(
                (read("x").as_deref(), read("first"), read("second").as_deref()),
                (Some("first"), None, Some("second"))
            );
            assert_eq!(publish(handle.as_fd(), b"none", b"y"), Err(Errno::NOENT));
        }
    }
}
