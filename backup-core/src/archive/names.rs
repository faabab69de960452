//! Names of an archive's objects.

use super::Codec;
use crate::Result;
use crate::model::{ArchiveId, ObjectName};

/// What the name of a volume or index piece says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// Number of the volume or piece.
    pub number: u64,
    /// Attempt that wrote it.
    pub attempt: u64,
    /// Random bits of that attempt.
    pub nonce: u32,
}

/// Makes the names of an archive's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectNames {
    archive: ArchiveId,
    codec: Codec,
    sealed: bool,
}

impl ObjectNames {
    /// Names for an archive.
    pub fn new(archive: ArchiveId, codec: Codec, sealed: bool) -> Self {
        Self { archive, codec, sealed }
    }
    /// The archive's prefix.
    pub fn root(&self) -> ObjectName {
        todo!()
    }
    /// `header.json`.
    pub fn header(&self) -> ObjectName {
        todo!()
    }
    /// `keys/0.json`.
    pub fn keys(&self) -> ObjectName {
        todo!()
    }
    /// A volume.
    pub fn volume(&self, _: Attempted) -> ObjectName {
        todo!()
    }
    /// An index piece.
    pub fn index(&self, _: Attempted) -> ObjectName {
        todo!()
    }
    /// `volumes.txt`; only for archives that are not sealed.
    pub fn volumes_txt(&self) -> ObjectName {
        todo!()
    }
    /// `manifest.json[.sealed]`.
    pub fn manifest(&self) -> ObjectName {
        todo!()
    }
    /// `swept.json`.
    pub fn swept(&self) -> ObjectName {
        todo!()
    }
    /// The name behind the archive id, as manifest, index and sealing use it.
    pub fn relative<'a>(&self, _name: &'a ObjectName) -> Option<&'a str> {
        todo!()
    }
    /// The full name of a relative one.
    pub fn object(&self, _relative: &str) -> Result<ObjectName> {
        todo!()
    }
    /// What the name of a volume or index piece says; `None` for other objects.
    pub fn parse_attempt(_name: &ObjectName) -> Option<Attempted> {
        todo!()
    }
}
