//! The cursor: where a run stands, in one document that another process can go on from.

use super::node::NodeId;
use crate::digest::Tally;
use crate::layout::OplogTime;
use backup_core::adapter::{Cursor, MAX_CURSOR};
use backup_core::{Digest, Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use mongodb::bson::{RawBsonRef, RawDocumentBuf, raw::cstr};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// A longer place in a collection (an `_id` of many KiB) is not kept: going on there means to read the collection again.
const MAX_PLACE: usize = 6 << 10;

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    v: u32,
    /// The server that is read from.
    pub(super) node: NodeId,
    pub(super) mode: Mode,
    /// The first entry has been delivered.
    pub(super) prelude: bool,
    /// From where on the oplog would have to be known; none when the server has none or the user may not read it.
    pub(super) oplog_start: Option<OplogTime>,
    /// Somebody was told that the snapshot will not last.
    pub(super) warned: bool,
    /// The last collection in order that was begun.
    pub(super) frontier: Option<(String, String)>,
    /// How many come behind it, and the sum of their prints.
    pub(super) pending: (u64, u64),
    /// Collections that are being read.
    pub(super) open: Vec<Open>,
    /// Whose turn it is, by [`Open::lane`].
    pub(super) turns: Vec<u32>,
    pub(super) next_lane: u32,
    /// Collections that were read as of a later moment than the snapshot.
    pub(super) outside: Vec<String>,
    /// Collections that were found under another name than they were listed with.
    pub(super) moved: Vec<String>,
    pub(super) oplog: Option<OplogPosition>,
}

/// How the collections are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// As of one moment.
    Snapshot(OplogTime),
    /// As they are, with the oplog beside them.
    Oplog,
    /// As they are.
    BestEffort(String),
}

/// A collection that is being read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Open {
    pub(super) lane: u32,
    pub(super) database: String,
    pub(super) name: String,
    /// Of the collection that holds the documents, in hexadecimal.
    pub(super) uuid: Option<String>,
    /// Its metadata has been delivered.
    pub(super) metadata: bool,
    /// Documents in a batch; 0 before it is known.
    pub(super) batch: u32,
    /// Number of the next slice.
    pub(super) slice: u64,
    pub(super) tally: Tally,
    pub(super) at: Place,
    /// It is not read as of the snapshot.
    pub(super) outside: bool,
}

impl Open {
    /// It has to be read from its start.
    pub(super) fn reset(&mut self, capped: bool) {
        (self.metadata, self.slice, self.tally, self.at) = (false, 0, Tally::new(capped), Place::Start);
    }

    /// Where it stands in the order of reading.
    pub(super) fn key(&self) -> (&str, &str) {
        (&self.database, &self.name)
    }

    pub(super) fn is_begun(&self) -> bool {
        self.metadata || self.slice > 0
    }
}

/// A place in a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Place {
    /// Before the first document.
    Start,
    /// In natural order: behind a record, and then behind some more documents of the batch that follows it.
    Record {
        /// What the server gave to go on behind a batch; none before the first.
        token: Option<Raw>,
        /// So many documents of the following batch are delivered …
        skip: u32,
        /// … which had this digest.
        skipped: Option<Digest>,
    },
    /// In order of `_id`: behind the document with this one, in a document of its own.
    Id(Raw),
    /// Somewhere, where nobody can go on.
    Unknown,
    /// Behind the last document.
    End,
}

impl Place {
    /// Behind a batch in natural order.
    pub(super) fn behind(token: Option<&Raw>) -> Self {
        match token {
            Some(token) if token.0.as_bytes().len() <= MAX_PLACE => {
                Self::Record { token: Some(token.clone()), skip: 0, skipped: None }
            }
            _ => Self::Unknown,
        }
    }

    /// Behind some documents of the batch behind `token`.
    pub(super) fn inside(token: Option<&Raw>, skip: u32, skipped: Digest) -> Self {
        match token {
            Some(token) if token.0.as_bytes().len() > MAX_PLACE => Self::Unknown,
            token => Self::Record { token: token.cloned(), skip, skipped: Some(skipped) },
        }
    }

    /// Behind the document with this `_id`.
    pub(super) fn behind_id(id: Option<RawBsonRef<'_>>) -> Self {
        let Some(id) = id else { return Self::Unknown };
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), id);
        if document.as_bytes().len() > MAX_PLACE { Self::Unknown } else { Self::Id(Raw(document)) }
    }
}

/// A raw document; in JSON as base64.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raw(pub(super) RawDocumentBuf);

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let bytes = STANDARD_NO_PAD.decode(String::deserialize(d)?).map_err(D::Error::custom)?;
        RawDocumentBuf::from_bytes(bytes).map(Self).map_err(D::Error::custom)
    }
}

/// How far the oplog has been delivered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OplogPosition {
    /// Where it began.
    pub(super) start: OplogTime,
    /// The last entry that was looked at, if any was.
    pub(super) last: Option<OplogTime>,
    /// Number of the next slice.
    pub(super) slice: u64,
    pub(super) tally: Tally,
    /// All collections had been read by then, so that everything up to there is wanted.
    pub(super) end: Option<OplogTime>,
}

impl OplogPosition {
    pub(super) fn new(start: OplogTime) -> Self {
        Self { start, last: None, slice: 0, tally: Tally::ordered(), end: None }
    }
}

impl Position {
    pub(super) fn new(node: NodeId, mode: Mode, oplog_start: Option<OplogTime>) -> Self {
        let oplog = oplog_start.filter(|_| mode == Mode::Oplog).map(OplogPosition::new);
        Self {
            v: VERSION,
            node,
            mode,
            prelude: false,
            oplog_start,
            warned: false,
            frontier: None,
            pending: (0, 0),
            open: Vec::new(),
            turns: Vec::new(),
            next_lane: 1,
            outside: Vec::new(),
            moved: Vec::new(),
            oplog,
        }
    }

    pub(super) fn encode(&self) -> Result<Cursor> {
        let bytes =
            serde_json::to_vec(self).map_err(|e| Error::permanent("the position cannot be written").because(e))?;
        if bytes.len() > MAX_CURSOR {
            return Err(Error::permanent(
                "too much has changed in the deployment while it was read; start the backup again",
            ));
        }
        Ok(Cursor(bytes.into()))
    }

    /// # Errors
    /// `Invalid` when it is not a cursor of this source.
    pub(super) fn decode(cursor: &Cursor) -> Result<Self> {
        let wrong = || Error::invalid("not a position of this kind of source, or one of another version").on("cursor");
        let position: Self = serde_json::from_slice(&cursor.0).map_err(|e| wrong().because(e))?;
        let known = |lane: &u32| position.open.iter().any(|open| open.lane == *lane) || *lane == super::run::OPLOG_LANE;
        if position.v != VERSION || !position.turns.iter().all(known) {
            return Err(wrong());
        }
        Ok(position)
    }

    pub(super) fn lane(&mut self, lane: u32) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.lane == lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::rawdoc;

    fn position() -> Position {
        let node = serde_json::from_str(r#"{"host":"h:1","process":null,"term":5}"#).unwrap();
        let mut position = Position::new(node, Mode::Oplog, Some(OplogTime { t: 1, i: 2 }));
        let mut tally = Tally::unordered();
        tally.add(b"some document");
        for (lane, at) in [
            Place::behind(Some(&Raw(rawdoc! { "$recordId": 5i64 }))),
            Place::inside(None, 3, Digest::of(b"x")),
            Place::behind_id(Some(RawBsonRef::MinKey)),
            Place::Start,
            Place::End,
        ]
        .into_iter()
        .enumerate()
        {
            position.open.push(Open {
                lane: lane as u32 + 1,
                database: "shop".into(),
                name: "n".repeat(255),
                uuid: Some("00".repeat(16)),
                metadata: true,
                batch: 7,
                slice: u64::MAX,
                tally: if lane % 2 == 0 { tally.clone() } else { Tally::ordered() },
                at,
                outside: false,
            });
        }
        position.turns = vec![1, 2, 0, 1];
        position
    }

    #[test]
    fn a_position_comes_back_from_its_cursor() {
        let position = position();
        let back = Position::decode(&position.encode().unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{position:?}"));
    }

    #[test]
    fn what_is_no_position_is_refused() {
        let mut other = position();
        other.v = 2;
        let mut unknown_lane = position();
        unknown_lane.turns.push(77);
        for wrong in [other.encode().unwrap(), unknown_lane.encode().unwrap(), Cursor(bytes::Bytes::from_static(b"{}"))]
        {
            assert_eq!(Position::decode(&wrong).unwrap_err().class(), backup_core::ErrorClass::Invalid);
        }
    }

    #[test]
    fn a_place_that_is_too_long_is_not_kept() {
        let long = "x".repeat(MAX_PLACE);
        assert_eq!(Place::behind_id(Some(RawBsonRef::String(&long))), Place::Unknown);
        assert_eq!(Place::behind(Some(&Raw(rawdoc! { "$recordId": long.as_str() }))), Place::Unknown);
    }
}
