//! Holes of sparse files.

use rustix::fd::BorrowedFd;
use std::ops::Range;

/// Whether a file of this size has a hole.
pub(crate) fn has_hole(file: BorrowedFd<'_>, size: u64) -> bool {
    next_data(file, 0, size) != Some(0..size)
}

/// The first run of data at or behind `from`, as far as it lies before `end`; `None` when there is only a hole.
/// Where holes cannot be told, everything is data.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple"))]
pub(crate) fn next_data(file: BorrowedFd<'_>, from: u64, end: u64) -> Option<Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    let start = match seek(file, SeekFrom::Data(from)) {
        Ok(start) if start >= end => return None,
        Ok(start) => start,
        Err(Errno::NXIO) => return None,
        Err(_) => return Some(from..end),
    };
    match seek(file, SeekFrom::Hole(start)) {
        Ok(hole) if hole > start => Some(start..hole.min(end)),
        _ => Some(start..end),
    }
}

/// Where holes cannot be told, everything is data.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple")))]
pub(crate) fn next_data(_: BorrowedFd<'_>, from: u64, end: u64) -> Option<Range<u64>> {
    Some(from..end)
}
