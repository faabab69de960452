//! `manifest.json`.

use super::{Codec, Header};
use crate::model::{ArchiveId, Entry, EntryName, GroupName, Identity};
use crate::{Digest, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// An index piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRecord {
    /// Name relative to the archive.
    pub name: String,
    /// Stored length.
    pub size: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: Digest,
    /// Length of the lines, uncompressed.
    pub raw_size: u64,
    /// What its volumes cover of the raw tar stream.
    pub raw: Range<u64>,
    /// Ordinal of its first entry.
    pub first_entry: u64,
    /// Number of entries.
    pub entries: u64,
    /// Number of its first volume.
    pub first_volume: u64,
    /// Number of volumes.
    pub volumes: u64,
    /// Smallest entry name in it.
    pub first_name: Option<EntryName>,
    /// Greatest entry name in it.
    pub last_name: Option<EntryName>,
    /// Whether its entries come in ascending order of their names.
    pub sorted: bool,
}

/// Sums over an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Entries, superseded ones too.
    pub entries: u64,
    /// Content bytes of the entries.
    pub bytes: u64,
    /// Length of the tar stream.
    pub raw_bytes: u64,
    /// Stored bytes of all volumes and index pieces.
    pub stored_bytes: u64,
    /// Volumes.
    pub volumes: u64,
    /// Warnings.
    pub warnings: u64,
    /// Entries that changed while they were read.
    pub inconsistent: u64,
    /// Entries that a later one replaces, not counting those of superseded groups.
    pub superseded: u64,
}

/// Entries of a group that are void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededGroup {
    /// The group.
    pub group: GroupName,
    /// Ordinal of the first entry that may be void.
    pub first: u64,
    /// Ordinal of the last.
    pub last: u64,
}

/// The archive of the same source before this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The archive.
    pub archive: ArchiveId,
    /// SHA-256 of its manifest object.
    pub manifest_sha256: Digest,
}

/// The object that completes an archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// As in the header.
    pub format: u32,
    /// As in the header.
    pub min_reader: u32,
    /// As in the header.
    pub features: Vec<String>,
    /// SHA-256 of `header.json`.
    pub header_sha256: Digest,
    /// As in the header.
    pub id: ArchiveId,
    /// As in the header.
    pub source: Identity,
    /// As in the header.
    pub codec: Codec,
    /// As in the header.
    pub started_at: jiff::Timestamp,
    /// When everything but the manifest was durable.
    pub finished_at: jiff::Timestamp,
    /// Sums.
    pub totals: Totals,
    /// What the source says about the moment that it shows.
    pub consistency: serde_json::Value,
    /// Digests of groups.
    pub group_digests: BTreeMap<GroupName, String>,
    /// Void groups.
    pub superseded: Vec<SupersededGroup>,
    /// The archive before.
    pub previous: Option<Previous>,
    /// Archives whose volumes are used.
    pub references: Vec<ArchiveId>,
    /// Index pieces in order.
    pub pieces: Vec<PieceRecord>,
}

impl Manifest {
    /// Bytes of `manifest.json`.
    pub fn encode(&self) -> Result<Vec<u8>> {
        todo!()
    }
    /// Reads `manifest.json`.
    pub fn parse(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }
    /// Compares with the header.
    pub fn check_against(&self, _header: &Header, _header_sha256: &Digest) -> Result<()> {
        todo!()
    }
    /// Whether a superseded group makes this entry void.
    pub fn voids(&self, _entry: &Entry) -> bool {
        todo!()
    }
}
