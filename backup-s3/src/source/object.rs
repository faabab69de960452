//! An object, or a version of one, as it was listed.

use super::cursor::{Position, VersionMark};
use super::state::State;
use crate::version_name::VersionName;
use aws_sdk_s3::primitives::DateTime;
use backup_core::Result;
use backup_core::adapter::{Content, SourceEntry};
use backup_core::model::{EntryKind, EntryName, GroupName, Metadata, Timestamp};

/// What a listing says of an object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Relative to the prefix of the bucket's configuration.
    pub(super) key: String,
    pub(super) size: u64,
    /// Without its quotation marks.
    pub(super) etag: Option<String>,
    pub(super) modified: Option<Timestamp>,
    /// Which version it is, in a listing of all versions.
    pub(super) version: Option<ObjectVersion>,
}

/// One of the versions of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectVersion {
    pub(super) id: String,
    pub(super) latest: bool,
    pub(super) delete_marker: bool,
    /// The key has no other version.
    pub(super) alone: bool,
    /// No version of the key comes behind it.
    pub(super) last: bool,
}

impl Object {
    pub(super) fn name(&self) -> EntryName {
        match &self.version {
            None => EntryName::from(&*self.key),
            Some(version) => {
                let ObjectVersion { id, latest, delete_marker, .. } = version;
                EntryName::new(VersionName::encode(&self.key, id, *latest, *delete_marker))
            }
        }
    }

    pub(super) fn version_id(&self) -> Option<&str> {
        self.version.as_ref().map(|version| &*version.id)
    }

    pub(super) fn is_delete_marker(&self) -> bool {
        self.version.as_ref().is_some_and(|version| version.delete_marker)
    }

    /// The headers that tell its version.
    pub(super) fn add_version(&self, metadata: &mut Metadata) {
        let Some(version) = &self.version else { return };
        let ObjectVersion { id, latest: _, delete_marker, alone: _, last: _ } = version;
        VersionName::tell(metadata, id, self.is_latest_by_header(), *delete_marker);
    }

    /// Whether only a header tells that it is the current version.
    fn is_latest_by_header(&self) -> bool {
        let current = self.version.as_ref().is_some_and(|version| version.latest && !version.delete_marker);
        current && VersionName::is_reserved(&self.key)
    }

    /// The entry, with this content.
    pub(super) fn entry(&self, metadata: Metadata, content: Content) -> Result<SourceEntry> {
        let mark = self.version.as_ref().filter(|version| !version.last).map(|version| VersionMark {
            id: version.id.clone(),
            modified: self.modified.map_or(i64::MIN, |modified| modified.seconds),
        });
        let in_group = self.version.as_ref().is_some_and(|version| !version.alone);
        Ok(SourceEntry {
            name: self.name(),
            kind: EntryKind::File,
            mtime: self.modified,
            group: in_group.then(|| GroupName(self.key.as_str().into())),
            metadata,
            content,
            inconsistent: false,
            cursor: Position::behind(self.key.clone(), mark).encode()?,
        })
    }

    /// Its content is to be fetched by `read`.
    pub(super) fn stored(&self) -> Content {
        let (version_id, etag) = (self.version_id().map(ToOwned::to_owned), self.etag.clone());
        let state = State { version_id, latest: self.is_latest_by_header(), etag };
        Content::Stored { size: self.size, version: state.encode() }
    }
}

/// An instant as this project has it.
pub(super) fn timestamp(time: &DateTime) -> Timestamp {
    Timestamp { seconds: time.secs(), nanos: time.subsec_nanos() }
}
