//! Sealed objects.

use super::ArchiveKey;
use crate::Result;
use crate::model::ArchiveId;
use bytes::Bytes;
use std::ops::Range;

/// Bytes of a sealed object that an [`Unsealer`] needs first.
pub const SEALED_HEAD: usize = 40;

/// Seals an object piece by piece.
#[derive(Debug)]
pub struct Sealer {}

impl Sealer {
    /// `name` is relative to the archive, with `.sealed`; `plain` is the expected plaintext length, to reserve memory.
    pub fn new(_key: &ArchiveKey, _archive: &ArchiveId, _name: &str, _plain: usize) -> Result<Self> {
        todo!()
    }
    /// Adds plaintext.
    pub fn push(&mut self, _bytes: &[u8]) -> Result<()> {
        todo!()
    }
    /// The sealed object.
    pub fn finish(self) -> Result<Vec<u8>> {
        todo!()
    }
}

/// Seals an object in one go.
pub fn seal(_key: &ArchiveKey, _archive: &ArchiveId, _name: &str, _pieces: &[Bytes]) -> Result<Vec<u8>> {
    todo!()
}
/// Stored length of so much plaintext.
pub fn sealed_length(_plain: u64) -> u64 {
    todo!()
}
/// Plaintext length of a sealed object of this length; `Corrupt` if there is none.
pub fn plain_length(_sealed: u64) -> Result<u64> {
    todo!()
}
/// Opens a whole sealed object.
pub fn unseal(_key: &ArchiveKey, _archive: &ArchiveId, _name: &str, _sealed: &[u8]) -> Result<Vec<u8>> {
    todo!()
}
/// Seals a checkpoint.
pub fn seal_checkpoint(_key: &ArchiveKey, _archive: &ArchiveId, _checkpoint: &[u8]) -> Result<Vec<u8>> {
    todo!()
}
/// Opens a sealed checkpoint.
pub fn unseal_checkpoint(_key: &ArchiveKey, _archive: &ArchiveId, _sealed: &[u8]) -> Result<Vec<u8>> {
    todo!()
}

/// Opens ranges of a sealed object.
#[derive(Debug)]
pub struct Unsealer {}

impl Unsealer {
    /// `head` is the first [`SEALED_HEAD`] bytes.
    pub fn new(
        _key: &ArchiveKey,
        _archive: &ArchiveId,
        _name: &str,
        _sealed_length: u64,
        _head: &[u8],
    ) -> Result<Self> {
        todo!()
    }
    /// Plaintext length.
    pub fn plain_length(&self) -> u64 {
        todo!()
    }
    /// Stored bytes that are needed for a plaintext range.
    pub fn sealed_range(&self, _plain: Range<u64>) -> Result<Range<u64>> {
        todo!()
    }
    /// The plaintext range from the stored bytes of [`sealed_range`](Unsealer::sealed_range).
    pub fn open(&self, _plain: Range<u64>, _sealed: &[u8]) -> Result<Vec<u8>> {
        todo!()
    }
}
