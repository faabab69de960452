//! Cuts batches into slices, and adds up their digests. Work for blocking threads.

use super::position::{Place, Raw};
use super::query::{By, Reply, documents, id_of};
use crate::digest::Tally;
use backup_core::budget::Permit;
use backup_core::{Result, Sha256};
use bytes::Bytes;
use mongodb::raw_batch_cursor::RawBatch;
use std::sync::Arc;

/// A slice ends before it has more, unless a single document has.
pub(super) const MAX_SLICE: usize = 8 << 20;

/// Whole documents one after the other.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) bytes: Bytes,
    pub(super) documents: u64,
    /// Of these documents; none when their order counts, as such digests cannot be joined.
    pub(super) tally: Option<Tally>,
    /// Where reading goes on behind it.
    pub(super) behind: Place,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) slices: Vec<Slice>,
    /// No batch follows.
    pub(super) last: bool,
    pub(super) permit: Arc<Permit>,
}

/// How a batch is to be cut.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) ordered: bool,
    pub(super) by: By,
    /// What the server gave to go on behind the batch before this one.
    pub(super) before: Option<Raw>,
    /// What an earlier run has delivered of this batch.
    pub(super) skip: Skip,
}

/// What an earlier run has delivered of a batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Skip {
    pub(super) documents: u32,
    pub(super) digest: Option<backup_core::Digest>,
    /// Or: a document with this `_id`, if it is still the first.
    pub(super) id: Option<Raw>,
}

/// The batch is not the one that an earlier run has seen the beginning of.
#[derive(Debug)]
pub(super) struct OtherBatch;

/// Cuts a batch. The inner error says that reading cannot go on here.
pub(super) fn cut(batch: &RawBatch, reply: &Reply, cut: &Cut) -> Result<Result<Vec<Slice>, OtherBatch>> {
    let Cut { ordered, by, before, skip } = cut;
    let mut all = documents(batch).peekable();
    let mut seen = Sha256::new();
    for _ in 0..skip.documents {
        match all.next().transpose()? {
            Some(document) => seen.update(document),
            None => return Ok(Err(OtherBatch)),
        }
    }
    if skip.digest.is_some_and(|digest| digest != seen.clone().finish()) {
        return Ok(Err(OtherBatch));
    }
    if let (Some(Raw(known)), Some(Ok(first))) = (&skip.id, all.peek())
        && Place::behind_id(id_of(first)) == Place::Id(Raw(known.clone()))
    {
        all.next();
    }
    let room = batch.as_raw_document().as_bytes().len().min(MAX_SLICE);
    let (mut slices, mut draft) = (Vec::new(), Draft::new(*ordered, room));
    for (count, document) in (skip.documents..).zip(all) {
        let document = document?;
        if !draft.bytes.is_empty() && draft.bytes.len() + document.len() > MAX_SLICE {
            let behind = match by {
                By::Record => {
                    seen.update(&draft.bytes);
                    Place::inside(before.as_ref(), count, seen.clone().finish())
                }
                By::Nothing => Place::Unknown,
                By::Id => Place::behind_id(id_of(&draft.bytes[draft.last..])),
            };
            slices.push(std::mem::replace(&mut draft, Draft::new(*ordered, room)).finish(behind));
        }
        draft.add(document);
    }
    if !draft.bytes.is_empty() {
        let behind = match by {
            _ if reply.last => Place::End,
            By::Record => Place::behind(reply.token.as_ref()),
            By::Nothing => Place::Unknown,
            By::Id => Place::behind_id(id_of(&draft.bytes[draft.last..])),
        };
        slices.push(draft.finish(behind));
    }
    Ok(Ok(slices))
}

#[derive(Debug)]
struct Draft {
    bytes: Vec<u8>,
    /// Where the last document starts.
    last: usize,
    documents: u64,
    tally: Option<Tally>,
}

impl Draft {
    fn new(ordered: bool, room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room), last: 0, documents: 0, tally: (!ordered).then(Tally::unordered) }
    }

    fn add(&mut self, document: &[u8]) {
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(document);
        self.documents += 1;
        if let Some(tally) = &mut self.tally {
            tally.add(document);
        }
    }

    fn finish(self, behind: Place) -> Slice {
        Slice { bytes: self.bytes.into(), documents: self.documents, tally: self.tally, behind }
    }
}
