//! Index records.

use crate::model::Entry;
use crate::{Digest, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Name relative to the archive.
    pub name: String,
    /// Stored length, sealed if it is.
    pub size: u64,
    /// SHA-256 of the stored bytes; `None` in sealed archives.
    pub sha256: Option<Digest>,
    /// Where it starts in the raw tar stream.
    pub raw: u64,
    /// Stored (before sealing) and raw length of each frame.
    pub frames: Vec<(u32, u32)>,
}

/// Frames that cover a raw range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSpan {
    /// Which frames.
    pub frames: Range<usize>,
    /// Where they are in the volume, before sealing.
    pub stored: Range<u64>,
    /// What they cover of the raw tar stream.
    pub raw: Range<u64>,
}

impl VolumeRecord {
    /// What it covers of the raw tar stream.
    pub fn raw_range(&self) -> Range<u64> {
        todo!()
    }
    /// Frames of this volume that cover the part of `raw` that lies in it; `None` when no part does.
    pub fn locate(&self, _raw: Range<u64>) -> Option<FrameSpan> {
        todo!()
    }
}

/// A line of the index.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexRecord {
    /// A volume.
    Volume(VolumeRecord),
    /// An entry.
    Entry(Box<Entry>),
}

/// Writes index lines. A new one at the start of each volume makes its lines readable alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEncoder {}

impl IndexEncoder {
    /// Knows nothing before.
    pub fn new() -> Self {
        Self::default()
    }
    /// Appends an entry's line. Its ordinal is not written: entries must come in order, without gaps.
    pub fn entry(&mut self, _entry: &Entry, _out: &mut Vec<u8>) -> Result<()> {
        todo!()
    }
    /// Appends a volume's line.
    pub fn volume(&mut self, _volume: &VolumeRecord, _out: &mut Vec<u8>) -> Result<()> {
        todo!()
    }
}

/// Reads index lines.
#[derive(Clone, Debug)]
pub struct IndexDecoder {}

impl IndexDecoder {
    /// At the start of a piece whose first entry has this ordinal.
    pub fn new(_first_ordinal: u64) -> Self {
        todo!()
    }
    /// Reads a line, without its line end.
    pub fn line(&mut self, _line: &[u8]) -> Result<IndexRecord> {
        todo!()
    }
    /// The records of a whole piece.
    pub fn records(self, _piece: &[u8]) -> impl Iterator<Item = Result<IndexRecord>> {
        std::iter::empty()
    }
}
