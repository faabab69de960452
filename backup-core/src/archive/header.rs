//! `header.json`.

use super::Codec;
use crate::Result;
use crate::model::{ArchiveId, Identity};
use serde::{Deserialize, Serialize};

/// The newest format that this build reads.
pub const READER_VERSION: u32 = 1;

/// The first object of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Format version.
    pub format: u32,
    /// The oldest reader version that can read it.
    pub min_reader: u32,
    /// Features that a reader must know.
    pub features: Vec<String>,
    /// The archive.
    pub id: ArchiveId,
    /// For people.
    pub name: String,
    /// What it is of.
    pub source: Identity,
    /// When.
    pub started_at: jiff::Timestamp,
    /// Codec.
    pub codec: Codec,
    /// Level; absent without compression.
    pub level: Option<i32>,
    /// Whether it is sealed.
    pub sealed: bool,
    /// `backup x.y.z`.
    pub tool: String,
}

impl Header {
    /// A header of this build.
    pub fn new(
        _id: ArchiveId,
        _name: impl Into<String>,
        _source: Identity,
        _started_at: jiff::Timestamp,
        _compression: super::Compression,
        _sealed: bool,
    ) -> Self {
        todo!()
    }
    /// The bytes of `header.json`.
    pub fn encode(&self) -> Result<Vec<u8>> {
        todo!()
    }
    /// Reads `header.json`.
    pub fn parse(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }
}
