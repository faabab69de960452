//! Reads the oplog beside the collections.

use super::consistency::lost;
use super::lane::with_copy;
use super::node::Node;
use super::oplog_filter::{Kept, filter};
use super::position::OplogPosition;
use super::query::{Concern, Reply, documents};
use super::slices::MAX_SLICE;
use super::turns::Asked;
use crate::config::Selection;
use crate::error::driver_error;
use crate::layout::OplogTime;
use backup_core::budget::Permit;
use backup_core::limit::RateLimit;
use backup_core::{Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use mongodb::bson::{RawDocument, Timestamp, doc, raw::cstr, rawdoc};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const DATABASE: &str = "local";
const COLLECTION: &str = "oplog.rs";
/// Entries in a batch.
const BATCH: u32 = 4000;
/// Bytes that a batch has before one is known, and the least that is expected of later ones.
const EXPECTED: u64 = 4 << 20;
/// When there was nothing new, it is looked for again after this.
const PAUSE: Duration = Duration::from_millis(500);
/// The same, when nothing else is left to be read.
const SHORT_PAUSE: Duration = Duration::from_millis(20);

/// Entries of the oplog one after the other.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) bytes: Bytes,
    pub(super) count: u64,
    /// The last entry that was looked at for it.
    pub(super) through: Option<OplogTime>,
}

/// What was taken of a batch.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) slices: Vec<Entries>,
    /// The last entry that was looked at.
    pub(super) through: Option<OplogTime>,
    pub(super) permit: Arc<Permit>,
}

type Coming = AbortOnDropHandle<Result<Captured>>;

/// The oplog as it is being read.
#[derive(Debug)]
pub(super) struct OplogLane {
    pub(super) pieces: mpsc::Receiver<Coming>,
    pub(super) asked: Asked,
    hurry: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl OplogLane {
    pub(super) fn start(
        node: Node,
        selection: Selection,
        position: &OplogPosition,
        limit: RateLimit,
        closed: CancellationToken,
    ) -> Self {
        let (send, pieces) = mpsc::channel(2);
        let (asked, mut granted) = Asked::new(closed);
        let hurry = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            node,
            selection: Arc::new(selection),
            limit,
            expects: asked.clone(),
            hurry: hurry.clone(),
            from: position.last.unwrap_or(position.start),
            seen: position.last.is_some(),
            cursor: None,
            drained: None,
        };
        let task = async move {
            while let Some(permit) = granted.next().await {
                let piece = match reader.next(permit).await {
                    Ok(piece) => piece,
                    Err(error) => AbortOnDropHandle::new(tokio::spawn(async move { Err(error) })),
                };
                if send.send(piece).await.is_err() {
                    return;
                }
            }
        };
        Self { pieces, asked, hurry, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Nothing else is left to be read.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }
}

struct Reader {
    node: Node,
    selection: Arc<Selection>,
    limit: RateLimit,
    expects: Asked,
    hurry: Arc<AtomicBool>,
    /// The last entry that was looked at, or the first that is wanted.
    from: OplogTime,
    /// That entry has been looked at.
    seen: bool,
    cursor: Option<RawBatchCursor>,
    /// When there was nothing new.
    drained: Option<Instant>,
}

impl Reader {
    async fn next(&mut self, mut permit: Permit) -> Result<Coming> {
        if let Some(drained) = self.drained {
            if self.hurry.load(Ordering::Relaxed) {
                tokio::time::sleep(SHORT_PAUSE).await;
            } else if drained.elapsed() < PAUSE {
                return Ok(nothing(permit));
            }
        }
        self.drained = None;
        let doing = |e| driver_error(e, "reading the oplog");
        let fresh = self.cursor.is_none();
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            None => self.cursor.insert(open(&self.node, self.from).await.map_err(doing)?),
        };
        let batch = match cursor.next().await {
            Some(batch) => batch.map_err(doing)?,
            None => {
                self.cursor = None;
                return Err(Error::transient("the server closed the cursor").on("oplog"));
            }
        };
        if Reply::of(&batch).last {
            self.cursor = None;
            self.drained = Some(Instant::now());
        }
        let (mut first, mut last) = (None, None);
        for entry in documents(&batch) {
            last = Some(time_of(entry?)?);
            first = first.or(last);
        }
        if fresh && first != Some(self.from) {
            let oldest = oldest(&self.node).await.map_err(doing)?;
            return Err(missing(self.from, first, oldest));
        }
        let skip = usize::from(fresh && self.seen);
        self.seen = true;
        self.from = last.unwrap_or(self.from);
        let length = batch.as_raw_document().as_bytes().len() as u64;
        self.limit.take(length).await;
        self.expects.expect(with_copy(length.max(EXPECTED)));
        permit.shrink_to(with_copy(length));
        let selection = self.selection.clone();
        Ok(AbortOnDropHandle::new(tokio::task::spawn_blocking(move || capture(batch, skip, last, &selection, permit))))
    }
}

/// What it means that the entry to go on from is not there: `found` comes next, and `oldest` is the first of all.
fn missing(from: OplogTime, found: Option<OplogTime>, oldest: Option<OplogTime>) -> Error {
    match (found, oldest) {
        // A member that has become the one to read from, and that lags behind.
        (None, Some(oldest)) if oldest <= from => {
            Error::transient(format!("the server does not have the oplog up to {from} yet")).on("oplog")
        }
        _ => lost(format!("the oplog does not reach back to {from} any more")),
    }
}

async fn open(node: &Node, from: OplogTime) -> Result<RawBatchCursor, mongodb::error::Error> {
    let mut find = rawdoc! {
        "find": COLLECTION,
        "filter": { "ts": { "$gte": Timestamp::from(from) } },
        "batchSize": i64::from(BATCH),
    };
    find.append(cstr!("readConcern"), Concern::Majority.document());
    node.cursor(DATABASE, find, BATCH).await
}

fn time_of(entry: &[u8]) -> Result<OplogTime> {
    let time = RawDocument::from_bytes(entry).map(|entry| entry.get_timestamp("ts").ok());
    match time {
        Ok(Some(time)) => Ok(time.into()),
        _ => Err(Error::corrupt("an entry has no time").on("oplog")),
    }
}

fn nothing(permit: Permit) -> Coming {
    let captured = Captured { slices: Vec::new(), through: None, permit: Arc::new(permit) };
    AbortOnDropHandle::new(tokio::spawn(async move { Ok(captured) }))
}

/// Keeps what is wanted of a batch, cut into slices.
fn capture(
    batch: RawBatch,
    skip: usize,
    through: Option<OplogTime>,
    selection: &Selection,
    mut permit: Permit,
) -> Result<Captured> {
    let mut slices: Vec<Entries> = Vec::new();
    let (mut bytes, mut count, mut up_to) = (Vec::new(), 0, None);
    for entry in documents(&batch).skip(skip) {
        let entry = entry?;
        let kept = match filter(entry, selection)? {
            Kept::Whole => std::borrow::Cow::Borrowed(entry),
            Kept::Part(part) => std::borrow::Cow::Owned(part),
            Kept::Not => continue,
        };
        if !bytes.is_empty() && bytes.len() + kept.len() > MAX_SLICE {
            slices.push(Entries { bytes: std::mem::take(&mut bytes).into(), count, through: up_to });
            count = 0;
        }
        bytes.extend_from_slice(&kept);
        count += 1;
        up_to = Some(time_of(entry)?);
    }
    if !bytes.is_empty() {
        slices.push(Entries { bytes: bytes.into(), count, through });
    }
    drop(batch);
    permit.shrink_to(slices.iter().map(|slice| slice.bytes.len() as u64).sum());
    Ok(Captured { slices, through, permit: Arc::new(permit) })
}

/// The time of the first entry that is still there.
pub(super) async fn oldest(node: &Node) -> Result<Option<OplogTime>, mongodb::error::Error> {
    let find = doc! { "find": COLLECTION, "sort": { "$natural": 1 }, "projection": { "ts": 1 }, "limit": 1, "singleBatch": true };
    let first = super::consistency::first(node, DATABASE, find).await?;
    Ok(first.and_then(|first| first.get_timestamp("ts").ok()).map(OplogTime::from))
}

/// A renamed collection: its entries in the oplog do not fit what was read under another name.
pub(super) fn renamed(collection: &str) -> Error {
    lost(format!("the collection {collection} was renamed while the oplog was being kept"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ErrorClass;

    #[test]
    fn a_member_that_lags_has_lost_nothing() {
        let at = |t| OplogTime { t, i: 1 };
        for (found, oldest, class) in [
            (None, Some(at(3)), ErrorClass::Transient),
            (None, Some(at(5)), ErrorClass::Transient),
            (None, Some(at(6)), ErrorClass::ConsistencyLost),
            (None, None, ErrorClass::ConsistencyLost),
            (Some(at(6)), Some(at(6)), ErrorClass::ConsistencyLost),
            // The entry was taken back.
            (Some(at(6)), Some(at(3)), ErrorClass::ConsistencyLost),
        ] {
            assert_eq!(missing(at(5), found, oldest).class(), class, "{found:?} {oldest:?}");
        }
    }
}
