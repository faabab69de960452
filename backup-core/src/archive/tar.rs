//! Writing POSIX pax tar headers.

use crate::model::{EntryName, Metadata, Timestamp};

/// Two zero blocks.
pub const END_OF_ARCHIVE: usize = 1024;

/// What a tar entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarKind<'a> {
    /// Content follows.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A hard link to this tar path.
    HardLink(&'a str),
}

/// What a tar header is made of.
#[derive(Clone, Copy, Debug)]
pub struct TarEntry<'a> {
    /// The path, as [`TarPaths`](super::TarPaths) makes it, without a `/` at the end.
    pub path: &'a str,
    /// The true name, when the path is another.
    pub true_name: Option<&'a EntryName>,
    /// What it is.
    pub kind: TarKind<'a>,
    /// Length of the content; 0 for kinds without.
    pub size: u64,
    /// Only whole seconds are kept.
    pub mtime: Option<Timestamp>,
    /// Mode and owners are kept.
    pub metadata: &'a Metadata,
}

/// Length of what [`write_header`] writes.
pub fn header_length(_entry: &TarEntry<'_>) -> u64 {
    todo!()
}
/// Appends the header.
pub fn write_header(_entry: &TarEntry<'_>, _out: &mut Vec<u8>) {
    todo!()
}
/// Zero bytes behind a content of this length.
pub fn padding(size: u64) -> usize {
    (size.wrapping_neg() % 512) as usize
}
/// Appends the end of the archive.
pub fn write_end(out: &mut Vec<u8>) {
    out.resize(out.len() + END_OF_ARCHIVE, 0);
}
