//! Reads one collection, a piece each time it is given memory for one.

use super::listing::Listed;
use super::node::Node;
use super::position::{Open, Place, Raw};
use super::query::{self, BATCH, By, Concern, Reply};
use super::slices::{Batch, Cut, Skip, cut};
use super::turns::Asked;
use crate::client::Topology;
use crate::error::{code, command_code, driver_error};
use crate::layout::{CollectionKind, CollectionMetadata};
use backup_core::Error;
use backup_core::budget::Permit;
use backup_core::limit::RateLimit;
use bytes::Bytes;
use futures::StreamExt;
use mongodb::bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, raw::cstr};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Pieces that wait for their turn.
const READY: usize = 2;
/// No answer of a server is longer: one document of 16 MiB and what is around it.
const LONGEST: u64 = 17 << 20;

/// A piece of a collection.
#[derive(Debug)]
pub(super) enum Piece {
    /// What describes the collection.
    Metadata {
        json: Bytes,
        /// Documents in a batch.
        batch: u32,
        /// There are no documents.
        last: bool,
        permit: Arc<Permit>,
    },
    /// Documents.
    Batch(Batch),
}

/// Why a collection cannot be read on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server does not know any more how things were at the snapshot.
    TooOld,
    /// The collection was not there at the snapshot, or not as it is now.
    NotInSnapshot,
    /// It is not there any more, or another one with its name is.
    Gone,
    /// The place where an earlier run stopped cannot be found.
    PlaceLost,
    /// This collection may not be read.
    Denied(Error),
    /// Reading as a whole is in trouble.
    Failed(Error),
}

impl Trouble {
    fn of(error: mongodb::error::Error, listed: &Listed) -> Self {
        match command_code(&error) {
            Some(code::SNAPSHOT_TOO_OLD) => Self::TooOld,
            Some(code::SNAPSHOT_UNAVAILABLE) => Self::NotInSnapshot,
            Some(code::UUID_MISMATCH | code::NAMESPACE_NOT_FOUND | code::QUERY_PLAN_KILLED) => Self::Gone,
            Some(code::KEY_NOT_FOUND) => Self::PlaceLost,
            number => {
                let error = driver_error(error, "reading").on(listed.group());
                match number {
                    Some(code::UNAUTHORIZED) => Self::Denied(error),
                    _ => Self::Failed(error),
                }
            }
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What comes out of a lane. Pieces may still be being cut; they come in order.
pub(super) type Coming = AbortOnDropHandle<Result<Piece, Trouble>>;

/// A collection that is being read.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) pieces: mpsc::Receiver<Coming>,
    pub(super) asked: Asked,
    _task: AbortOnDropHandle<()>,
}

/// What is read, and how.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) node: Node,
    pub(super) listed: Listed,
    pub(super) concern: Concern,
    pub(super) by: By,
    pub(super) limit: RateLimit,
}

impl Lane {
    /// Goes on where `open` stands.
    pub(super) fn start(work: Work, open: &Open, closed: tokio_util::sync::CancellationToken) -> Self {
        let (send, pieces) = mpsc::channel(READY);
        let (asked, mut granted) = Asked::new(closed);
        let expects = asked.clone();
        let reader =
            Reader { expects, batch: open.batch, at: open.at.clone(), work, cursor: None, follows: Follows::Documents };
        let metadata = !open.metadata;
        let task = async move {
            let mut reader = reader;
            let mut metadata = metadata;
            while let Some(permit) = granted.next().await {
                let piece = if std::mem::take(&mut metadata) {
                    ready(reader.metadata(permit).await)
                } else {
                    reader.next(permit).await.unwrap_or_else(|trouble| ready(Err(trouble)))
                };
                if send.send(piece).await.is_err() {
                    return;
                }
            }
        };
        Self { pieces, asked, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }
}

fn ready(piece: Result<Piece, Trouble>) -> Coming {
    AbortOnDropHandle::new(tokio::spawn(async move { piece }))
}

/// What the open cursor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// All documents, or those behind the place; then comes what it leaves out.
    Documents,
    /// Nothing more, but the document with the greatest `_id` was left out.
    GreatestToOpen,
    /// The document with the greatest `_id`, and then nothing.
    Greatest,
}

#[derive(Debug)]
struct Reader {
    work: Work,
    expects: Asked,
    batch: u32,
    at: Place,
    cursor: Option<Reading>,
    follows: Follows,
}

struct Reading {
    cursor: RawBatchCursor,
    /// To go on behind the last batch.
    token: Option<Raw>,
    /// Of the first batch.
    skip: Skip,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Reader {
    async fn metadata(&mut self, permit: Permit) -> Result<Piece, Trouble> {
        let Work { node, listed, .. } = &self.work;
        let view = listed.kind == CollectionKind::View;
        let indexes = if view { RawArrayBuf::new() } else { indexes(node, listed).await? };
        let expected = if view {
            0
        } else {
            let (batch, expected) = query::batch_size(node, listed).await;
            self.batch = batch;
            expected
        };
        self.expects.expect(with_copy(expected));
        let metadata = CollectionMetadata {
            collection: listed.name.clone(),
            kind: listed.kind,
            options: listed.options.clone(),
            indexes,
            uuid: listed.uuid.filter(|_| listed.kind == CollectionKind::Collection),
        };
        let json = Bytes::from(metadata.to_json().map_err(|e| e.on(listed.group()))?);
        let permit = shrunk(permit, json.len() as u64);
        Ok(Piece::Metadata { json, batch: self.batch, last: view, permit })
    }

    /// Reads a batch, and has it cut.
    async fn next(&mut self, mut permit: Permit) -> Result<Coming, Trouble> {
        let Some((batch, reply)) = self.read().await? else {
            return Ok(ready(Ok(Piece::Batch(Batch { slices: Vec::new(), last: true, permit: shrunk(permit, 0) }))));
        };
        let length = batch.as_raw_document().as_bytes().len() as u64;
        self.work.limit.take(length).await;
        permit.shrink_to(with_copy(length));
        // Later batches may be as long.
        self.expects.expect(with_copy(length).max(self.expects.most()));
        let ordered = self.work.listed.capped;
        let Some(reading) = &mut self.cursor else { return Err(Error::permanent("nothing is being read").into()) };
        let cuts =
            Cut { ordered, by: self.work.by, before: reading.token.clone(), skip: std::mem::take(&mut reading.skip) };
        reading.token.clone_from(&reply.token);
        let job = move || {
            let Ok(slices) = cut(&batch, &reply, &cuts)? else { return Err(Trouble::PlaceLost) };
            drop(batch);
            let permit = shrunk(permit, slices.iter().map(|slice| slice.bytes.len() as u64).sum());
            Ok(Piece::Batch(Batch { slices, last: reply.last, permit }))
        };
        Ok(AbortOnDropHandle::new(tokio::task::spawn_blocking(job)))
    }

    /// The next batch, with how it ends; none when there can be none.
    async fn read(&mut self) -> Result<Option<(RawBatch, Reply)>, Trouble> {
        if self.follows == Follows::GreatestToOpen {
            self.cursor = Some(Reading { cursor: self.greatest().await?, token: None, skip: Skip::default() });
            self.follows = Follows::Greatest;
        }
        let reading = match &mut self.cursor {
            Some(reading) => reading,
            None => match self.open().await? {
                Some(reading) => self.cursor.insert(reading),
                None => return Ok(None),
            },
        };
        match reading.cursor.next().await {
            Some(Ok(batch)) => {
                let mut reply = Reply::of(&batch);
                if reply.last && self.leaves_out_the_greatest() {
                    reply.last = false;
                    self.follows = Follows::GreatestToOpen;
                }
                Ok(Some((batch, reply)))
            }
            Some(Err(error)) => Err(Trouble::of(error, &self.work.listed)),
            // The cursor has told its end before; that it comes again means that it was closed.
            None => Err(Error::transient("the server closed the cursor").on(self.work.listed.group()).into()),
        }
    }

    /// A lower bound was given, and behind it the document with the greatest `_id` is not found.
    fn leaves_out_the_greatest(&self) -> bool {
        self.follows == Follows::Documents && matches!(self.at, Place::Id(_))
    }

    async fn greatest(&mut self) -> Result<RawBatchCursor, Trouble> {
        let Work { node, listed, concern, .. } = &self.work;
        query::open_greatest(node, listed, *concern).await.map_err(|e| Trouble::of(e, listed))
    }

    async fn open(&mut self) -> Result<Option<Reading>, Trouble> {
        let Work { node, listed, concern, by, .. } = &self.work;
        let (token, skip) = match &self.at {
            Place::End => return Ok(None),
            Place::Unknown => return Err(Trouble::PlaceLost),
            Place::Start => (None, Skip::default()),
            Place::Record { token, skip, skipped } => {
                (token.clone(), Skip { documents: *skip, digest: *skipped, id: None })
            }
            // Behind the greatest possible one.
            Place::Id(Raw(id)) if matches!(id.get("_id"), Ok(Some(RawBsonRef::MaxKey))) => return Ok(None),
            Place::Id(id) => (None, Skip { id: Some(id.clone()), ..Skip::default() }),
        };
        let mut instead = None;
        if self.batch == 0 {
            self.batch = query::batch_size(node, listed).await.0;
        }
        let mut cursor = query::open(node, listed, *concern, *by, &self.at, self.batch).await;
        if cursor.as_ref().is_err_and(|e| command_code(e) == Some(code::BAD_VALUE))
            && (*by, &self.at) == (By::Id, &Place::Start)
        {
            // Not every collection has an index of `_id`: some capped and some internal ones do not.
            instead = Some(if node.topology == Topology::Sharded { By::Nothing } else { By::Record });
            cursor = query::open(node, listed, *concern, instead.unwrap_or(*by), &self.at, self.batch).await;
        }
        let cursor = cursor.map_err(|e| Trouble::of(e, listed))?;
        if token.is_some() {
            node.ensure_same().await?;
        }
        if let Some(by) = instead {
            self.work.by = by;
        }
        Ok(Some(Reading { cursor, token, skip }))
    }
}

/// The indexes of a collection, as the server lists them.
async fn indexes(node: &Node, listed: &Listed) -> Result<RawArrayBuf, Trouble> {
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("listIndexes"), listed.name.as_str());
    let mut all = RawArrayBuf::new();
    let mut batches = node.cursor(&listed.database, command, 100).await.map_err(|e| Trouble::of(e, listed))?;
    while let Some(batch) = batches.next().await.transpose().map_err(|e| Trouble::of(e, listed))? {
        for document in query::documents(&batch) {
            let document = RawDocumentBuf::from_bytes(document?.to_vec());
            all.push(document.map_err(|e| Error::corrupt("an index cannot be read").on(listed.group()).because(e))?);
        }
    }
    Ok(all)
}

fn shrunk(mut permit: Permit, bytes: u64) -> Arc<Permit> {
    permit.shrink_to(bytes);
    Arc::new(permit)
}

/// What a lane expects of its first pieces, before it knows its documents.
pub(super) const FIRST: u64 = 2 * (BATCH + BATCH / 4);

/// Memory for a batch of this length and for what is cut out of it.
pub(super) fn with_copy(length: u64) -> u64 {
    2 * length.min(LONGEST)
}
