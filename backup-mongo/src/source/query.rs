//! The finds by which documents are read, and what their batches say.

use super::listing::Listed;
use super::node::Node;
use super::position::{Place, Raw};
use crate::client::Topology;
use crate::layout::OplogTime;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, RawDocument, RawDocumentBuf, Timestamp, doc, raw::cstr, rawdoc};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

/// What a batch should have in bytes.
pub(super) const BATCH: u64 = 4 << 20;
/// Documents in a batch when nobody tells how long they are.
const UNKNOWN: u32 = 1000;
/// The fewest documents in a batch; a batch of fewer costs more calls than it saves memory, as no batch has more than 16 MiB.
const FEWEST: u64 = 16;
const MOST: u64 = 100_000;

/// As of when documents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concern {
    /// As they are on this server.
    Local,
    /// As a majority of the replica set has them.
    Majority,
    /// As they were at a moment.
    Snapshot(OplogTime),
}

impl Concern {
    /// What a server of this kind can do at least.
    pub(super) fn weakest(topology: Topology) -> Self {
        match topology {
            Topology::Standalone => Self::Local,
            Topology::ReplicaSet | Topology::Sharded => Self::Majority,
        }
    }

    pub(super) fn document(self) -> RawDocumentBuf {
        match self {
            Self::Local => rawdoc! { "level": "local" },
            Self::Majority => rawdoc! { "level": "majority" },
            Self::Snapshot(time) => rawdoc! { "level": "snapshot", "atClusterTime": Timestamp::from(time) },
        }
    }
}

/// In which order documents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// As they lie, and the server tells tokens to go on by.
    Record,
    /// As they lie; going on is not possible.
    Nothing,
    /// By `_id`.
    Id,
}

fn find(listed: &Listed, concern: Concern) -> RawDocumentBuf {
    let mut command = rawdoc! { "find": listed.data() };
    if let Some(uuid) = listed.uuid {
        // Without it a collection that was dropped looks like an empty one, and one that was made anew like the old one.
        let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: uuid.to_vec() };
        command.append(cstr!("collectionUUID"), &uuid);
    }
    command.append(cstr!("readConcern"), concern.document());
    command
}

/// Reads on from a place.
pub(super) async fn open(
    node: &Node,
    listed: &Listed,
    concern: Concern,
    by: By,
    at: &Place,
    batch: u32,
) -> Result<RawBatchCursor, mongodb::error::Error> {
    let mut command = find(listed, concern);
    let mut first = batch;
    match by {
        By::Record | By::Nothing => command.append(cstr!("hint"), &rawdoc! { "$natural": 1 }),
        By::Id => command.append(cstr!("hint"), &rawdoc! { "_id": 1 }),
    }
    if by == By::Record {
        command.append(cstr!("$_requestResumeToken"), true);
    }
    match at {
        Place::Record { token: Some(Raw(token)), .. } => command.append(cstr!("$_resumeAfter"), token),
        Place::Id(Raw(id)) => {
            command.append(cstr!("min"), id);
            // The bound is inclusive: the first document has been delivered.
            first += 1;
        }
        Place::Record { token: None, .. } | Place::Start | Place::Unknown | Place::End => {}
    }
    command.append(cstr!("batchSize"), i64::from(first));
    node.cursor(&listed.database, command, batch).await
}

/// Reads the document with the greatest possible `_id`, if there is one: a lower bound without an upper one leaves it out.
pub(super) async fn open_greatest(
    node: &Node,
    listed: &Listed,
    concern: Concern,
) -> Result<RawBatchCursor, mongodb::error::Error> {
    let mut command = find(listed, concern);
    command.append(cstr!("filter"), &rawdoc! { "_id": mongodb::bson::RawBson::MaxKey });
    node.cursor(&listed.database, command, 2).await
}

/// What the server said besides documents.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// To go on behind the batch.
    pub(super) token: Option<Raw>,
    /// No batch follows.
    pub(super) last: bool,
}

impl Reply {
    pub(super) fn of(batch: &RawBatch) -> Self {
        let cursor = batch.as_raw_document().get_document("cursor").ok();
        let token = cursor.and_then(|c| c.get_document("postBatchResumeToken").ok()).map(|t| Raw(t.to_owned()));
        let last = cursor.and_then(|c| c.get_i64("id").ok()) == Some(0);
        Self { token, last }
    }
}

/// How many documents of a collection make a batch, and how many bytes that will be, roughly.
pub(super) async fn batch_size(node: &Node, listed: &Listed) -> (u32, u64) {
    let stats = node.command(&listed.database, doc! { "collStats": listed.data() }).await;
    let stats = stats
        .inspect_err(|e| tracing::debug!(collection = listed.name, error = %e, "no statistics"))
        .unwrap_or_default();
    let number = |name| {
        stats
            .get(name)
            .and_then(|n| n.as_i64().or_else(|| n.as_i32().map(i64::from)).or_else(|| n.as_f64().map(|n| n as i64)))
    };
    match number("avgObjSize").and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0) {
        Some(size) => {
            let documents = (BATCH / size).clamp(FEWEST, MOST);
            let all = number("size").and_then(|size| u64::try_from(size).ok()).unwrap_or(u64::MAX);
            // Documents are of different lengths; a quarter more than the average is seldom passed.
            let expected = (documents * size).saturating_add(documents * size / 4).min(all.saturating_add(64 << 10));
            (u32::try_from(documents).unwrap_or(UNKNOWN), expected)
        }
        None if stats.is_empty() => (UNKNOWN, BATCH),
        // An empty collection.
        None => (UNKNOWN, 64 << 10),
    }
}

/// The documents of a batch one after the other, as they are in the server's answer. Nothing inside of them is looked at.
pub(super) fn documents(batch: &RawBatch) -> impl Iterator<Item = backup_core::Result<&[u8]>> {
    let array = batch.doc_slices().map(|array| array.as_bytes()).map_err(|_| damaged());
    let (mut rest, mut failed) = match array {
        // The length of the array stands before its elements.
        Ok(bytes) => (bytes.get(4..).unwrap_or_default(), None),
        Err(error) => (&[] as &[u8], Some(error)),
    };
    std::iter::from_fn(move || {
        if let Some(error) = failed.take() {
            return Some(Err(error));
        }
        if rest.first().is_none_or(|kind| *kind == 0) {
            return None;
        }
        match split_first(rest) {
            Some((document, behind)) => {
                rest = behind;
                Some(Ok(document))
            }
            None => {
                rest = &[];
                Some(Err(damaged()))
            }
        }
    })
}

/// An element is its kind, its name (a number in decimal, up to a zero byte) and the document, which starts with its length.
fn split_first(elements: &[u8]) -> Option<(&[u8], &[u8])> {
    const DOCUMENT: u8 = 3;
    let (kind, rest) = elements.split_first()?;
    let name = rest.iter().take(16).position(|byte| *byte == 0)?;
    let value = rest.get(name + 1..)?;
    let length = usize::try_from(i32::from_le_bytes(*value.first_chunk()?)).ok().filter(|length| *length >= 5)?;
    (*kind == DOCUMENT && length <= value.len()).then(|| value.split_at(length))
}

fn damaged() -> backup_core::Error {
    backup_core::Error::corrupt("the server's answer is damaged")
}

/// The `_id` of a document, if it has one that can be read.
pub(super) fn id_of(document: &[u8]) -> Option<mongodb::bson::RawBsonRef<'_>> {
    RawDocument::from_bytes(document).ok()?.get("_id").ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_in_an_array_of_them() {
        let (one, two) = (rawdoc! { "_id": 1, "x": "\u{1}" }, rawdoc! {});
        let array = rawdoc! { "0": one.clone(), "1": two.clone() };
        let elements = &array.as_bytes()[4..];
        let (first, rest) = split_first(elements).unwrap();
        assert_eq!(first, one.as_bytes());
        let (second, rest) = split_first(rest).unwrap();
        assert_eq!((second, rest), (two.as_bytes(), &[0][..]));
        for cut in 0..elements.len() - 1 {
            let mut at = &elements[..cut];
            while let Some((_, behind)) = split_first(at) {
                at = behind;
            }
        }
        assert!(split_first(rawdoc! { "0": 5 }.as_bytes().get(4..).unwrap()).is_none());
    }

    #[test]
    fn the_id_is_taken_from_a_document_that_is_broken_behind_it() {
        let mut bytes = rawdoc! { "_id": "x", "text": "abc" }.into_bytes();
        let at = bytes.len() - 3;
        bytes[at] = 0xff;
        assert_eq!(id_of(&bytes).unwrap().as_str(), Some("x"));
    }
}
