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
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Ok(false),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(e) => return Err(e),
    }
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
