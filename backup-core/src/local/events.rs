//! The stream of a file tree's entries.
//!
//! Three stages: a task walks the tree in steps and starts reading a batch as soon as budget and bandwidth allow; batches
//! are read on blocking threads, a few at once; the stream takes them in order, tells hard links apart and adds cursors.

use super::batch::{Batch, BatchBounds, Batches};
use super::blocking::{blocking, joined, stopped};
use super::cursor::{CursorWriter, Position};
use super::links::{Change, Links, Role};
use super::metadata::OwnerNames;
use super::open::Base;
use super::read::{BatchReader, Outcome, Portion, ReadEntry, stored};
use super::scope::Scope;
use super::walk::{Behind, Walk, WalkBounds};
use crate::Result;
use crate::adapter::{Content, Cursor, ReadContext, SourceEntry, SourceEvent, SourceWarning};
use crate::budget::Permit;
use crate::model::EntryKind;
use crate::pool::BufferPool;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use rustix::fs::FileType;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

/// How much a run may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of the walk.
    pub(crate) walk: WalkBounds,
    /// Of a batch.
    pub(crate) batch: BatchBounds,
    /// Memory of the table of hard links.
    pub(crate) links: usize,
    /// Bytes of links in a cursor.
    pub(crate) cursor_links: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            walk: WalkBounds::default(),
            // Opening a file by itself costs as much as reading some 100 KiB; a file of 1 MiB gains nothing from a batch any more.
            batch: BatchBounds { items: 512, bytes: 4 << 20, directories: 48, inline: 1 << 20 },
            links: 16 << 20,
            cursor_links: 48 << 10,
        }
    }
}

/// Idle buffers for batches that a run keeps: as many as its budget has batches.
const KEPT: usize = 8;
/// Batches that are waiting for the stream; two more are at work.
const WAITING: usize = 2;
/// The least that a batch is allowed to be in a small budget.
const MIN_BATCH: u64 = 64 << 10;

/// The events of a tree, from the start or behind a cursor.
pub(crate) fn events(
    base: impl FnOnce() -> Result<(Base, Scope)> + Send + 'static,
    bounds: Bounds,
    after: Option<Cursor>,
    ctx: ReadContext,
) -> BoxStream<'static, Result<SourceEvent>> {
    Box::pin(async_stream::try_stream! {
        let position = after.map(|cursor| Position::parse(&cursor, bounds.links)).transpose()?;
        let behind = position.as_ref().map(|p| (p.path.clone(), p.directory, p.root));
        let links = position.map_or_else(|| Links::new(bounds.links), |p| p.links);
        if links.lost {
            yield SourceEvent::Warning(links_lost());
        }
        let linked = links.inodes().collect();
        let (batches, root) = blocking(move || {
            let (base, scope) = base()?;
            let behind = behind.as_ref().map(|(path, directory, root)| Behind {
                path: path.as_bytes(),
                directory: *directory,
                root: *root,
            });
            let walk = Walk::new(base, Arc::new(scope), bounds.walk, behind)?;
            let root = walk.root();
            Ok((Batches::new(walk, linked), root))
        })
        .await?;
        let shared = Shared { names: Arc::default(), buffers: BufferPool::new(KEPT) };
        let (send, mut receive) = mpsc::channel(WAITING);
        let _driver = AbortOnDropHandle::new(tokio::spawn(drive(batches, bounds.batch, ctx, shared.clone(), send)));
        let mut sequence = Sequence { links, cursor_links: bounds.cursor_links, root };
        while let Some(reading) = receive.recv().await {
            let Reading { portion, permit } = reading?;
            let mut portion = joined(portion.await)?;
            loop {
                for event in sequence.finish(std::mem::take(&mut portion.outcomes)) {
                    yield event;
                }
                let Some(rest) = portion.rest.take() else { break };
                portion = joined(read(rest, shared.clone(), permit.clone()).await)?;
            }
        }
    })
    .boxed()
}

/// A batch that is being read.
struct Reading {
    portion: JoinHandle<Result<Portion>>,
    permit: Option<Arc<Permit>>,
}

/// Walks, and starts to read what it finds.
async fn drive(
    mut batches: Batches,
    bounds: BatchBounds,
    ctx: ReadContext,
    shared: Shared,
    send: mpsc::Sender<Result<Reading>>,
) {
    while !ctx.stop.is_cancelled() {
        let bounds = fitting(bounds, &ctx);
        let stepped = spawn_blocking(move || {
            let step = batches.next(&bounds);
            (batches, step)
        });
        let batch = match stepped.await {
            Ok((rest, Ok(Some(batch)))) => {
                batches = rest;
                batch
            }
            Ok((_, Ok(None))) => return,
            Ok((_, Err(error))) => {
                let _ = send.send(Err(error)).await;
                return;
            }
            Err(failed) => {
                let _ = send.send(Err(stopped(failed))).await;
                return;
            }
        };
        let mut permit = None;
        if batch.bytes > 0 {
            let allowed = async {
                ctx.limit.take(batch.bytes).await;
                ctx.budget.take(batch.bytes).await
            };
            tokio::select! {
                biased;
                // Nothing of this batch has been read.
                () = ctx.stop.cancelled() => return,
                taken = allowed => permit = Some(Arc::new(taken)),
            }
        }
        let portion = read(batch, shared.clone(), permit.clone());
        if send.send(Ok(Reading { portion, permit })).await.is_err() {
            return;
        }
    }
}

/// Batches that leave room for several of them in the budget, and do not wait long for the bandwidth limit.
fn fitting(mut bounds: BatchBounds, ctx: &ReadContext) -> BatchBounds {
    let by_budget = ctx.budget.total() / 8;
    let by_rate = ctx.limit.get().map_or(u64::MAX, |rate| rate.get() / 4);
    bounds.bytes = bounds.bytes.min(by_budget.min(by_rate).max(MIN_BATCH));
    bounds.inline = bounds.inline.min(bounds.bytes);
    bounds
}

/// What the readers of a run share.
#[derive(Clone)]
struct Shared {
    names: Arc<OwnerNames>,
    buffers: Arc<BufferPool>,
}

fn read(batch: Batch, shared: Shared, permit: Option<Arc<Permit>>) -> JoinHandle<Result<Portion>> {
    let Shared { names, buffers } = shared;
    spawn_blocking(move || BatchReader::new(names, buffers).read(batch, permit.as_ref()))
}

/// What depends on the entries before.
struct Sequence {
    links: Links,
    cursor_links: usize,
    /// Inode number of the root.
    root: Option<u64>,
}

impl Sequence {
    fn finish(&mut self, outcomes: Vec<Outcome>) -> Vec<SourceEvent> {
        let mut events = Vec::with_capacity(outcomes.len());
        let mut cursors = CursorWriter::new(self.cursor_links, self.root);
        for outcome in outcomes {
            match outcome {
                Outcome::Warning(warning) => events.push(SourceEvent::Warning(warning)),
                Outcome::Entry(mut entry) => {
                    let (change, warning) = self.tell_links(&mut entry);
                    let directory = entry.kind == EntryKind::Directory;
                    cursors.push(entry.name.as_bytes(), directory, &change, &self.links);
                    let lost_before = self.links.lost;
                    self.links.apply(&entry.name, &change);
                    let ReadEntry { name, kind, state, metadata, content, inconsistent } = *entry;
                    events.push(SourceEvent::Entry(Box::new(SourceEntry {
                        name,
                        kind,
                        mtime: Some(state.mtime()),
                        group: None,
                        metadata,
                        content,
                        inconsistent,
                        cursor: Cursor(Bytes::new()),
                    })));
                    events.extend(warning.map(SourceEvent::Warning));
                    if self.links.lost && !lost_before {
                        events.push(SourceEvent::Warning(links_lost()));
                    }
                }
            }
        }
        let entries = events.iter_mut().filter_map(|event| match event {
            SourceEvent::Entry(entry) => Some(entry),
            _ => None,
        });
        for (entry, cursor) in entries.zip(cursors.finish()) {
            entry.cursor = cursor;
        }
        events
    }

    /// Makes a hard link of a further name of a file that was delivered.
    fn tell_links(&self, entry: &mut ReadEntry) -> (Change, Option<SourceWarning>) {
        if entry.state.links < 2 || entry.state.kind() != FileType::RegularFile {
            return (Change::None, None);
        }
        let (role, change) = self.links.meet(&entry.name, &entry.state.version, entry.state.links, !entry.inconsistent);
        let warning = match role {
            Role::First => None,
            Role::Another(target) => {
                entry.kind = EntryKind::HardLink { target };
                if matches!(entry.content, Content::Inline { .. }) {
                    entry.content = stored(&entry.state.version);
                }
                None
            }
            Role::Changed => Some(SourceWarning {
                name: Some(entry.name.clone()),
                message: "stored as a file of its own: a hard link to an earlier file that has changed since".into(),
            }),
        };
        (change, warning)
    }
}

fn links_lost() -> SourceWarning {
    let message = "stored as files of their own: further names of some files with hard links, because more of them were \
                   open at once than can be remembered";
    SourceWarning { name: None, message: message.into() }
}
