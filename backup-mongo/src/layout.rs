//! How a deployment lies in an archive: names and groups of entries, and what is said about consistency.

use crate::extjson::{write_array, write_document, write_text};
use backup_core::model::{EntryName, GroupName};
use backup_core::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mongodb::bson::{RawArrayBuf, RawDocumentBuf, Timestamp};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use std::fmt;

/// The first entry: which server the data comes from.
pub const PRELUDE: &str = "prelude.json";
/// The folder of the oplog's slices. No database can have this name, because of the dot.
pub const OPLOG_FOLDER: &str = "oplog.bson";
/// The group of the oplog's slices. No collection's group is named so, because of the missing dot.
pub const OPLOG_GROUP: &str = "oplog";
/// The name of the entry in a collection's folder that describes the collection.
pub const METADATA: &str = "metadata.json";
/// What a time-series collection's name is prefixed with to name the collection of its buckets.
pub const BUCKETS_PREFIX: &str = "system.buckets.";

/// The longest escaped name; a longer one is cut and ends in a hash.
const MAX_ESCAPED: usize = 238;
/// What of a longer one is kept.
const KEPT: usize = 208;

/// What an entry of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// [`PRELUDE`].
    Prelude,
    /// Options and indexes of a collection.
    Metadata {
        /// The database.
        database: &'a str,
        /// The escaped name of the collection, see [`escape`].
        folder: &'a str,
    },
    /// A piece of a collection: whole documents one after the other.
    Slice {
        /// The database.
        database: &'a str,
        /// The escaped name of the collection, see [`escape`].
        folder: &'a str,
        /// Its number, from 0.
        number: u64,
    },
    /// A piece of the oplog: whole entries one after the other.
    Oplog {
        /// Its number, from 0.
        number: u64,
    },
}

impl<'a> Item<'a> {
    /// What an entry's name says; `None` when no archive of a deployment has such a name.
    pub fn parse(name: &'a EntryName) -> Option<Self> {
        let name = name.as_str()?;
        if name == PRELUDE {
            return Some(Self::Prelude);
        }
        let (folders, last) = name.rsplit_once('/')?;
        let number = || last.strip_suffix(".bson").filter(|n| n.len() >= 6).and_then(|n| n.parse().ok());
        if folders == OPLOG_FOLDER {
            return Some(Self::Oplog { number: number()? });
        }
        let (database, folder) = folders.split_once('/')?;
        if database.is_empty() || database.contains('.') || folder.is_empty() || folder.contains('/') {
            return None;
        }
        Some(match last {
            METADATA => Self::Metadata { database, folder },
            _ => Self::Slice { database, folder, number: number()? },
        })
    }
}

/// A collection's name as `mongodump` writes it in file names: ASCII letters, digits and `-_.~` stay, a space becomes `+`, every
/// other byte `%XX`. Of a name that becomes longer than 238 bytes the first 208 stay, and `%24` and a hash follow.
pub fn escape(collection: &str) -> String {
    let mut escaped = String::with_capacity(collection.len());
    for byte in collection.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            b' ' => escaped.push('+'),
            byte => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                escaped.push('%');
                escaped.push(char::from(HEX[usize::from(byte >> 4)]));
                escaped.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    if escaped.len() > MAX_ESCAPED {
        let hash = Sha1::digest(collection.as_bytes());
        escaped.truncate(KEPT);
        escaped.push_str("%24");
        escaped.push_str(&URL_SAFE_NO_PAD.encode(hash));
    }
    escaped
}

/// The name of the entry that describes a collection.
pub fn metadata_name(database: &str, collection: &str) -> EntryName {
    EntryName::new(format!("{database}/{}/{METADATA}", escape(collection)))
}

/// The name of a piece of a collection. `collection` is the one whose documents are in it: for a time-series the one of its buckets.
pub fn slice_name(database: &str, collection: &str, number: u64) -> EntryName {
    EntryName::new(format!("{database}/{}/{number:06}.bson", escape(collection)))
}

/// The name of a piece of the oplog.
pub fn oplog_name(number: u64) -> EntryName {
    EntryName::new(format!("{OPLOG_FOLDER}/{number:06}.bson"))
}

/// The group of a collection's entries: `database.collection` with their true names. A time-series has one group, with its own
/// name, for its description and its buckets.
pub fn group(database: &str, collection: &str) -> GroupName {
    GroupName(format!("{database}.{collection}").into())
}

/// Database and collection of a group; `None` for the oplog's.
pub fn split_group(group: &GroupName) -> Option<(&str, &str)> {
    group.0.split_once('.')
}

/// What a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectionKind {
    /// One with documents of its own; capped and clustered ones too.
    Collection,
    /// A view, which has none.
    View,
    /// A time-series, whose documents are in a collection of buckets.
    TimeSeries,
}

impl CollectionKind {
    /// The kind as servers and `mongodump` call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collection => "collection",
            Self::View => "view",
            Self::TimeSeries => "timeseries",
        }
    }
}

/// Description of a collection, as `mongodump` keeps it in `*.metadata.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionMetadata {
    /// Name of the collection.
    pub collection: String,
    /// What it is.
    pub kind: CollectionKind,
    /// Options, as `listCollections` tells them.
    pub options: RawDocumentBuf,
    /// Indexes, as `listIndexes` tells them.
    pub indexes: RawArrayBuf,
    /// The collection's UUID; views and time-series have none here.
    pub uuid: Option<[u8; 16]>,
}

impl CollectionMetadata {
    /// Canonical Extended JSON with the fields in the order in which `mongodump` writes them.
    ///
    /// # Errors
    /// `Corrupt` when options or indexes are damaged.
    pub fn to_json(&self) -> Result<String> {
        let Self { collection, kind, options, indexes, uuid } = self;
        let mut out = String::from("{");
        if !options.is_empty() {
            out.push_str(r#""options":"#);
            write_document(options, &mut out)?;
            out.push(',');
        }
        out.push_str(r#""indexes":"#);
        write_array(indexes, &mut out)?;
        if let Some(uuid) = uuid {
            out.push_str(r#","uuid":""#);
            out.push_str(&hex::encode(uuid));
            out.push('"');
        }
        out.push_str(r#","collectionName":"#);
        write_text(collection, &mut out);
        out.push_str(r#","type":""#);
        out.push_str(kind.as_str());
        out.push_str("\"}");
        Ok(out)
    }
}

/// A time in the oplog: seconds and a counter within the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OplogTime {
    /// Seconds since 1970-01-01 UTC.
    pub t: u32,
    /// Counter within the second.
    pub i: u32,
}

impl From<Timestamp> for OplogTime {
    fn from(time: Timestamp) -> Self {
        Self { t: time.time, i: time.increment }
    }
}

impl From<OplogTime> for Timestamp {
    fn from(time: OplogTime) -> Self {
        Self { time: time.t, increment: time.i }
    }
}

impl fmt::Display for OplogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.t, self.i)
    }
}

/// In what sense the documents of an archive belong to one moment; `consistency` in its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Consistency {
    /// All of it is as it was at one moment, but for what is named.
    Snapshot {
        /// The moment.
        cluster_time: OplogTime,
        /// Collections (`database.collection`) that were read as they were at a later moment: capped ones, which cannot be read as
        /// of a moment, and those that were made anew while the backup ran.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outside: Vec<String>,
    },
    /// All of it is as it was at `end`, once the oplog's slices have been applied; a restore does that.
    Oplog {
        /// Everything from here on is in the oplog's slices; no collection was read as of an earlier moment.
        start: OplogTime,
        /// The last moment that they cover.
        end: OplogTime,
    },
    /// Each document is as it was at some moment while the backup ran.
    BestEffort {
        /// Why it is no better.
        reason: String,
    },
}

impl Consistency {
    /// As a manifest holds it.
    ///
    /// # Errors
    /// None that can happen; serialisation is fallible by type.
    pub fn to_value(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|e| Error::permanent("the consistency cannot be written").because(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{doc, rawdoc};

    #[test]
    fn names_are_escaped_as_mongodump_does() {
        for (name, escaped) in [
            ("orders", "orders"),
            ("per%cent", "per%25cent"),
            ("sl/ash", "sl%2Fash"),
            ("sp ace", "sp+ace"),
            ("ünï", "%C3%BCn%C3%AF"),
            ("trailing.", "trailing."),
            ("a\nb", "a%0Ab"),
            ("%2F", "%252F"),
            ("q\"'*", "q%22%27%2A"),
        ] {
            assert_eq!(escape(name), escaped);
        }
        let long = escape(&"ü".repeat(100));
        assert_eq!(long.len(), 208 + 3 + 27);
        assert!(long.ends_with(&format!("%24{}", URL_SAFE_NO_PAD.encode(Sha1::digest("ü".repeat(100))))));
        assert_eq!(escape(&"x".repeat(238)), "x".repeat(238));
    }

    #[test]
    fn names_are_read_back() {
        let odd = "a/b %ü";
        let slice = slice_name("shop", odd, 3);
        assert_eq!(slice.to_string(), "shop/a%2Fb+%25%C3%BC/000003.bson");
        let folder = escape(odd);
        assert_eq!(Item::parse(&slice), Some(Item::Slice { database: "shop", folder: &folder, number: 3 }));
        let metadata = metadata_name("shop", odd);
        assert_eq!(Item::parse(&metadata), Some(Item::Metadata { database: "shop", folder: &folder }));
        assert_eq!(Item::parse(&oplog_name(1_000_000)), Some(Item::Oplog { number: 1_000_000 }));
        assert_eq!(Item::parse(&PRELUDE.into()), Some(Item::Prelude));
        for other in ["", "x", "a/b", "a/b/c.bson", "a.b/c/000000.bson", "a/b/c/000000.bson", "a/b/00.bson"] {
            assert_eq!(Item::parse(&other.into()), None, "{other}");
        }
        assert_eq!(split_group(&group("shop", "a.b")), Some(("shop", "a.b")));
        assert_eq!(split_group(&GroupName(OPLOG_GROUP.into())), None);
    }

    #[test]
    fn metadata_is_as_mongodump_writes_it() {
        let mut indexes = RawArrayBuf::new();
        indexes.push(rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" });
        let mut metadata = CollectionMetadata {
            collection: "a\"b".into(),
            kind: CollectionKind::Collection,
            options: rawdoc! {},
            indexes,
            uuid: Some([0xab; 16]),
        };
        assert_eq!(
            metadata.to_json().unwrap(),
            concat!(
                r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"#,
                r#""uuid":"abababababababababababababababab","collectionName":"a\"b","type":"collection"}"#
            )
        );
        metadata.options = RawDocumentBuf::try_from(&doc! { "viewOn": "x", "pipeline": [] }).unwrap();
        (metadata.indexes, metadata.uuid, metadata.kind) = (RawArrayBuf::new(), None, CollectionKind::View);
        assert_eq!(
            metadata.to_json().unwrap(),
            r#"{"options":{"viewOn":"x","pipeline":[]},"indexes":[],"collectionName":"a\"b","type":"view"}"#
        );
    }

    #[test]
    fn consistency_is_read_back() {
        let time = OplogTime { t: 5, i: 6 };
        let snapshot = Consistency::Snapshot { cluster_time: time, outside: vec![] };
        assert_eq!(snapshot.to_value().unwrap().to_string(), r#"{"cluster_time":{"i":6,"t":5},"kind":"snapshot"}"#);
        for c in
            [snapshot, Consistency::Oplog { start: time, end: time }, Consistency::BestEffort { reason: "x".into() }]
        {
            assert_eq!(serde_json::from_value::<Consistency>(c.to_value().unwrap()).unwrap(), c);
        }
    }
}
