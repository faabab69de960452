//! One item of a source, as the archive's index records it.

use super::name::text_or_base64;
use super::{EntryName, GroupName};
use crate::Digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EntryKind {
    /// Content of its own: a regular file, an object.
    File,
    /// A directory; its metadata only.
    Directory,
    /// A symbolic link; the target is kept as it is and never followed.
    Symlink {
        /// Where the link points, as the source has it.
        #[serde(with = "text_or_base64")]
        target: Bytes,
    },
    /// Another name of an entry that comes earlier in the same archive.
    HardLink {
        /// The earlier entry.
        target: EntryName,
    },
    /// One piece of a group whose size is not known beforehand; the slices in order are the whole.
    Slice,
}

/// An instant with nanoseconds, as file systems keep it. In JSON a string: seconds since
/// 1970-01-01 UTC, with nine decimals when there are nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seconds)?;
        if self.nanos > 0 { write!(f, ".{:09}", self.nanos) } else { Ok(()) }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = crate::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (seconds, nanos) = s.split_once('.').unwrap_or((s, "000000000"));
        let ok = nanos.len() == 9 && nanos.bytes().all(|b| b.is_ascii_digit());
        match (seconds.parse(), nanos.parse()) {
            (Ok(seconds), Ok(nanos)) if ok => Ok(Self { seconds, nanos }),
            _ => {
                Err(crate::Error::invalid("not a timestamp in seconds with nine or no decimals").on(s.escape_default()))
            }
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A user or group: the number, and the name that it had at the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Numeric id.
    pub id: u32,
    /// Name, if the source could resolve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
}

/// What a source knows of an entry besides its content. All of it is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Permission bits of a file, `0o7777` at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owner of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Owner>,
    /// Group of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Owner>,
    /// Extended attributes of a file, ordered by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<Xattr>,
    /// Whether the file had holes; a restore then leaves long runs of zeros unwritten.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sparse: bool,
    /// Headers of an object, in lower case (`content-type`, `storage-class`, …).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// User metadata of an object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user_metadata: BTreeMap<String, String>,
    /// Tags of an object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name with its namespace, e.g. `user.comment`.
    #[serde(with = "text_or_base64")]
    pub name: Bytes,
    /// Value, any bytes.
    #[serde(with = "text_or_base64")]
    pub value: Bytes,
}

/// An entry of an archive: what the index says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name at the source.
    pub name: EntryName,
    /// What it is.
    pub kind: EntryKind,
    /// Length of its content in bytes; 0 for entries without content.
    pub size: u64,
    /// Last modification at the source.
    pub mtime: Option<Timestamp>,
    /// The rest of what the source knew.
    pub metadata: Metadata,
    /// SHA-256 of the content; `None` exactly for kinds without content.
    pub sha256: Option<Digest>,
    /// Where its content starts in the archive's raw tar stream.
    pub offset: u64,
    /// Position in the archive: the first entry is 0.
    pub ordinal: u64,
    /// The group that it belongs to.
    pub group: Option<GroupName>,
    /// The content changed while it was read; it is kept as it was read.
    pub inconsistent: bool,
    /// A later entry of the same name replaces it; its content is not the source's.
    pub superseded: bool,
}
