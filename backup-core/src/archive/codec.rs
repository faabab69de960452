//! Compression of frames.

use crate::Result;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The most bytes that a frame, or an index piece, may decompress to.
pub const MAX_FRAME: usize = 64 << 20;

/// How frames are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Codec {
    /// A zstd frame with checksum and content size.
    #[default]
    Zstd,
    /// A gzip member.
    Gzip,
    /// As it is.
    None,
}

impl Codec {
    /// `zst`, `gz` or nothing.
    pub fn extension(self) -> &'static str {
        todo!()
    }
}

/// A codec and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Compression {
    codec: Codec,
    level: i32,
}

impl Compression {
    /// Checks the level; `None` is the codec's default.
    pub fn new(codec: Codec, level: Option<i32>) -> Result<Self> {
        let _ = (codec, level);
        todo!()
    }
    /// The codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }
    /// The level; 0 without compression.
    pub fn level(&self) -> i32 {
        self.level
    }
}

/// Compresses frames; keeps its context.
#[derive(Debug)]
pub struct Compressor {}

impl Compressor {
    /// A compressor.
    pub fn new(_compression: Compression) -> Result<Self> {
        todo!()
    }
    /// One frame of the pieces in order.
    pub fn compress(&mut self, _pieces: &[Bytes]) -> Result<Vec<u8>> {
        todo!()
    }
}

/// Decompresses frames; keeps its context.
#[derive(Debug)]
pub struct Decompressor {}

impl Decompressor {
    /// A decompressor.
    pub fn new(_codec: Codec) -> Result<Self> {
        todo!()
    }
    /// Exactly `raw_length` bytes from exactly one frame.
    pub fn decompress(&mut self, _frame: &[u8], _raw_length: usize) -> Result<Vec<u8>> {
        todo!()
    }
}
