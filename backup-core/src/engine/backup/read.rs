//! Reads ahead: turns the source's events into steps in order, with the contents of stored entries on their way.

use super::gather::Gatherer;
use crate::adapter::{Content, MAX_CURSOR, MAX_INLINE, Opened, ReadContext, Source, SourceEntry, SourceEvent, Version};
use crate::budget::{ByteBudget, Permit};
use crate::engine::handle::AbortOnDrop;
use crate::model::{EntryKind, EntryName, Metadata, Timestamp};
use crate::pool::BufferPool;
use crate::{Error, Result};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, mpsc};

/// The serial of an entry that a resumed backup goes on with; those of other entries are higher.
pub(super) const GO_ON: u64 = 1;
/// Events that are passed on at once at most.
const BATCH: usize = 256;

/// Bytes of one range of an entry.
#[derive(Debug)]
pub(super) struct RangeRead {
    pub(super) pieces: Vec<Bytes>,
    /// How many bytes came; fewer than asked when the item has become shorter.
    pub(super) length: u64,
    pub(super) metadata: Option<Metadata>,
    pub(super) mtime: Option<Timestamp>,
    /// Length of the whole item when it was opened.
    pub(super) size: u64,
    pub(super) version: Option<Version>,
    pub(super) permit: Arc<Permit>,
}

/// A step of the stream to come.
#[derive(Debug)]
pub(super) enum Step {
    /// An event without stored content, or a hard link.
    Event(SourceEvent),
    /// A stored entry starts, or goes on at an offset; its ranges follow.
    Start { entry: Box<SourceEntry>, serial: u64 },
    /// The next range of the entry with this serial.
    Range { serial: u64, read: AbortOnDrop<Result<RangeRead>> },
}

/// An entry to go on with before anything else.
#[derive(Debug)]
pub(super) struct GoOn {
    pub(super) name: EntryName,
    pub(super) version: Option<Version>,
    pub(super) range: Range<u64>,
}

/// The serial of an entry that the assembler gave up; what is still to be read of it is left out.
pub(super) type Abandoned = Arc<AtomicU64>;

/// Reads ranges of entries.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) source: Arc<dyn Source>,
    pub(super) ctx: ReadContext,
    /// Content bytes that one read asks for at most.
    pub(super) range: u64,
    /// Length of the pieces that come out.
    pub(super) frame: usize,
    /// Their memory.
    pub(super) buffers: Arc<BufferPool>,
}

impl Reader {
    /// Opens a range of an entry and reads it whole.
    pub(super) async fn read(
        &self,
        name: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        permit: Arc<Permit>,
    ) -> Result<RangeRead> {
        let expected = range.end - range.start;
        let opened = self.source.read(name, version, range, &self.ctx).await?;
        let Opened { metadata, mtime, size, version, mut content } = opened;
        let mut gatherer = Gatherer::new(self.buffers.clone(), self.frame, expected);
        let mut length = 0;
        while let Some(piece) = content.next().await.transpose()? {
            length += piece.len() as u64;
            if length > expected {
                return Err(Error::permanent(format!(
                    "the source gave more than the {expected} bytes that were asked for"
                ))
                .on(name));
            }
            gatherer.push(piece);
        }
        Ok(RangeRead { pieces: gatherer.finish(), length, metadata, mtime, size, version, permit })
    }
}

/// Reads ahead until the source ends or a pause is asked for.
#[derive(Debug)]
pub(super) struct ReadAhead {
    pub(super) reader: Reader,
    /// Memory for the contents of stored entries.
    pub(super) budget: ByteBudget,
    pub(super) abandoned: Abandoned,
    pub(super) out: mpsc::Sender<Vec<Step>>,
}

/// The receiver is gone: the backup is being stopped, and whoever stopped it knows why.
struct Gone;

impl ReadAhead {
    /// Goes on with a broken-off entry, then follows the events behind `after`.
    ///
    /// The events are begun first, and the entry is read on only when they do not fail: where the source as a whole is not
    /// there (its disk is not mounted), the entry is not gone for ever.
    pub(super) async fn run(self, go_on: Option<GoOn>, after: Option<crate::adapter::Cursor>) -> Result<()> {
        let parallel = Arc::new(Semaphore::new(self.reader.source.properties().parallel_reads.max(1)));
        let mut serial = GO_ON;
        let mut events = std::pin::pin!(self.reader.source.clone().events(after, self.reader.ctx.clone()).peekable());
        if let Some(go_on) = go_on {
            if let Some(Err(_)) = events.as_mut().peek().await {
                return events.next().await.transpose().map(|_| ());
            }
            let ended = self.ranges(serial, go_on.name, go_on.version, go_on.range, &parallel).await;
            if !matches!(ended, Ok(true)) {
                return Ok(());
            }
        }
        let mut steps = Vec::new();
        loop {
            // Events that are there already are passed on together; none is taken from the source that is not passed on.
            let ready = if steps.len() < BATCH { events.next().now_or_never() } else { None };
            let event = match ready {
                Some(event) => event,
                None => {
                    if self.send(&mut steps).await.is_err() {
                        return Ok(());
                    }
                    events.next().await
                }
            };
            match event.transpose() {
                Ok(Some(SourceEvent::Entry(entry))) if is_read_here(&entry) => {
                    // On a pause no content is begun any more; this entry comes again.
                    if self.reader.ctx.stop.is_cancelled() {
                        let _ = self.send(&mut steps).await;
                        return Ok(());
                    }
                    serial += 1;
                    cursor_within_limit(&entry)?;
                    let Content::Stored { size, ref version } = entry.content else { continue };
                    let (name, version) = (entry.name.clone(), version.clone());
                    steps.push(Step::Start { entry, serial });
                    if self.send(&mut steps).await.is_err() {
                        return Ok(());
                    }
                    if !matches!(self.ranges(serial, name, version, 0..size, &parallel).await, Ok(true)) {
                        return Ok(());
                    }
                }
                Ok(Some(event)) => {
                    within_limits(&event)?;
                    steps.push(Step::Event(event));
                }
                ended => {
                    let _ = self.send(&mut steps).await;
                    return ended.map(|_| ());
                }
            }
        }
    }

    /// Starts reading the ranges of an entry, one after the other as memory allows. `Ok(false)` when a pause cut it short.
    async fn ranges(
        &self,
        serial: u64,
        name: EntryName,
        version: Option<Version>,
        whole: Range<u64>,
        parallel: &Arc<Semaphore>,
    ) -> Result<bool, Gone> {
        let mut start = whole.start;
        loop {
            if start > whole.start && self.reader.ctx.stop.is_cancelled() {
                return Ok(false);
            }
            if self.abandoned.load(Ordering::Acquire) == serial {
                return Ok(true);
            }
            let range = start..whole.end.min(start + self.reader.range);
            start = range.end;
            // In order, so that what comes first never waits for what comes later.
            let permit = Arc::new(self.budget.take(range.end - range.start).await);
            let Ok(slot) = parallel.clone().acquire_owned().await else { return Err(Gone) };
            let (reader, name, version) = (self.reader.clone(), name.clone(), version.clone());
            let read = tokio::spawn(async move {
                let _slot = slot;
                reader.read(&name, version.as_ref(), range, permit).await
            });
            let step = Step::Range { serial, read: AbortOnDrop(read) };
            self.out.send(vec![step]).await.map_err(|_| Gone)?;
            if start >= whole.end {
                return Ok(true);
            }
        }
    }

    async fn send(&self, steps: &mut Vec<Step>) -> Result<(), Gone> {
        if steps.is_empty() {
            return Ok(());
        }
        self.out.send(std::mem::take(steps)).await.map_err(|_| Gone)
    }
}

/// A source that breaks its contract would otherwise break the archive's limits, late and without a name.
fn within_limits(event: &SourceEvent) -> Result<()> {
    let SourceEvent::Entry(entry) = event else { return Ok(()) };
    match &entry.content {
        Content::Inline { bytes, .. } if bytes.len() > MAX_INLINE => {
            let text = format!("the source gave {} bytes inline, where {MAX_INLINE} are allowed", bytes.len());
            Err(Error::permanent(text).on(&entry.name))
        }
        _ => cursor_within_limit(entry),
    }
}

fn cursor_within_limit(entry: &SourceEntry) -> Result<()> {
    if entry.cursor.0.len() <= MAX_CURSOR {
        return Ok(());
    }
    let text = format!("the source gave a cursor of {} bytes, where {MAX_CURSOR} are allowed", entry.cursor.0.len());
    Err(Error::permanent(text).on(&entry.name))
}

/// Hard links carry content only for the case that their target could not be read; the assembler decides.
fn is_read_here(entry: &SourceEntry) -> bool {
    matches!(entry.content, Content::Stored { .. }) && !matches!(entry.kind, EntryKind::HardLink { .. })
}
