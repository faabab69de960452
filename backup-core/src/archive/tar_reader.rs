//! Reading tar headers, strictly.

use crate::Result;
use crate::model::EntryName;

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarHeader {
    /// The path, without a `/` at the end.
    pub path: Vec<u8>,
    /// The true name, when the path is another.
    pub true_name: Option<EntryName>,
    /// `0`, `1`, `2` or `5`.
    pub typeflag: u8,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Length of the content.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds.
    pub mtime: i64,
    /// Where the content starts in the stream.
    pub offset: u64,
}

/// What a [`TarReader`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum TarEvent<'a> {
    /// A header.
    Entry(Box<TarHeader>),
    /// Content of the last entry.
    Content(&'a [u8]),
    /// The end of the archive.
    End,
}

/// Reads a tar stream that comes in pieces.
#[derive(Debug, Default)]
pub struct TarReader {}

impl TarReader {
    /// At the start.
    pub fn new() -> Self {
        Self::default()
    }
    /// The next event; takes what it used off the front of `input`. `None`: all of `input` was used.
    pub fn next<'a>(&mut self, _input: &mut &'a [u8]) -> Result<Option<TarEvent<'a>>> {
        todo!()
    }
    /// Confirms that the end was reached.
    pub fn finish(self) -> Result<()> {
        todo!()
    }
}
