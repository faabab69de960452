//! Small entries: cut out of the frames, checked, and written in batches, several at once.

use super::cut::{Front, check};
use super::ledger::{Ledger, Work};
use crate::adapter::{Granularity, RestorePlan, RestoreTarget, SmallEntry};
use crate::budget::Permit;
use crate::engine::archive::panicked;
use crate::engine::fetch::Decoded;
use crate::engine::handle::AbortOnDrop;
use crate::limit::RateLimit;
use crate::model::{Entry, EntryKind, EntryName, GroupName};
use crate::{Error, Result};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A batch is written when it holds so many entries …
const BATCH_ENTRIES: usize = 256;
/// … or so many bytes.
const BATCH_BYTES: usize = 2 << 20;
/// A batch of so many entries may end where the directory ends.
const BATCH_WORTH: usize = 64;

/// Cuts entries out of frames and writes them.
#[derive(Debug)]
pub(super) struct SmallWriter {
    pub(super) target: Arc<dyn RestoreTarget>,
    pub(super) plan: RestorePlan,
    pub(super) ledger: Arc<Ledger>,
    pub(super) limit: RateLimit,
    /// Batches at once.
    pub(super) parallel: usize,
    /// Leave out what is damaged.
    keep_going: bool,
    pub(super) front: Front,
    batch: Vec<SmallEntry>,
    batch_bytes: usize,
    batch_work: Option<Work>,
    permits: Vec<Arc<Permit>>,
    running: VecDeque<AbortOnDrop<Result<()>>>,
    /// Where slices have to be written one after the other: the end of the batch before, by group.
    before: HashMap<GroupName, oneshot::Receiver<()>>,
}

impl SmallWriter {
    pub(super) fn new(
        target: Arc<dyn RestoreTarget>,
        plan: RestorePlan,
        ledger: Arc<Ledger>,
        limit: RateLimit,
        parallel: usize,
        keep_going: bool,
    ) -> Self {
        Self {
            target,
            plan,
            ledger,
            limit,
            parallel: parallel.max(1),
            keep_going,
            front: Front::default(),
            batch: Vec::new(),
            batch_bytes: 0,
            batch_work: None,
            permits: Vec::new(),
            running: VecDeque::new(),
            before: HashMap::new(),
        }
    }

    /// Leaves out the entry at the front of the queue, whose content is damaged.
    pub(super) async fn lost(&mut self, entry: &Entry, why: &str) -> Result<()> {
        self.front = Front::default();
        let mut work = self.ledger.begin(entry.ordinal);
        self.ledger.handed_out(entry.ordinal + 1);
        work.left_out(entry, why);
        work.done(None);
        // There may be a great many.
        self.ledger.log_pressure().await
    }

    /// Adds a complete entry.
    pub(super) async fn add(&mut self, entry: Entry, content: Bytes, of: Option<&Decoded>) -> Result<()> {
        let ordered = self.target.granularity(&entry.kind) == Granularity::OrderedSlices && entry.group.is_some();
        if ordered && self.batch.last().is_some_and(|last| last.entry.group != entry.group) {
            self.flush().await?;
        }
        // Files of one directory come together: two batches that fill the same one would wait for each other.
        if self.batch.len() >= BATCH_WORTH
            && self.batch.last().is_some_and(|last| directory(&last.entry.name) != directory(&entry.name))
        {
            self.flush().await?;
        }
        if self.batch_work.is_none() {
            self.batch_work = Some(self.ledger.begin(entry.ordinal));
        }
        self.ledger.handed_out(entry.ordinal + 1);
        if let Some(decoded) = of
            && !self.permits.last().is_some_and(|last| Arc::ptr_eq(last, &decoded.permit))
        {
            self.permits.push(decoded.permit.clone());
        }
        self.batch_bytes += content.len();
        self.batch.push(SmallEntry { entry, content });
        if self.batch.len() >= BATCH_ENTRIES || self.batch_bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends the batch off.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let Some(mut work) = self.batch_work.take() else { return Ok(()) };
        let batch = std::mem::take(&mut self.batch);
        let permits = std::mem::take(&mut self.permits);
        let bytes = std::mem::take(&mut self.batch_bytes);
        while self.running.len() >= self.parallel {
            self.first_done().await?;
        }
        self.limit.take(bytes as u64).await;
        let batch = if self.plan.overwrite { self.directories_first(batch, &mut work).await? } else { batch };
        let group = batch.first().and_then(|small| {
            let ordered = self.target.granularity(&small.entry.kind) == Granularity::OrderedSlices;
            small.entry.group.clone().filter(|_| ordered)
        });
        let mut turn = None;
        let mut next = None;
        if let Some(group) = group {
            let (sender, receiver) = oneshot::channel();
            turn = self.before.insert(group, receiver);
            next = Some(sender);
        }
        let (target, plan, ledger) = (self.target.clone(), self.plan.clone(), self.ledger.clone());
        let keep_going = self.keep_going;
        let task = self.ledger.spawn(async move {
            let (batch, damaged) = tokio::task::spawn_blocking(move || check(batch)).await.map_err(panicked)?;
            for entry in damaged {
                let error = Ledger::damaged(&entry);
                if !keep_going {
                    return Err(error);
                }
                work.left_out(&entry, &error.chain());
            }
            if let Some(turn) = turn {
                // Without an answer the batch before has failed, and so does the restore.
                turn.await.map_err(|e| Error::cancelled("the batch before failed").because(e))?;
            }
            let entries: Vec<Entry> = batch.iter().map(|small| small.entry.clone()).collect();
            ledger.ensure_held()?;
            if !batch.is_empty() {
                work.all_written(&entries, target.write_small(&plan, batch).await?)?;
            }
            drop(permits);
            work.done(None);
            if let Some(next) = next {
                let _ = next.send(());
            }
            Ok(())
        });
        self.running.push_back(task);
        Ok(())
    }

    /// Writes the directories of a batch, and gives the rest. What is in the way of a directory is replaced then before anything
    /// is put below it: a symbolic link there would have entries of other batches refused.
    async fn directories_first(&self, batch: Vec<SmallEntry>, work: &mut Work) -> Result<Vec<SmallEntry>> {
        let (directories, rest): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|small| small.entry.kind == EntryKind::Directory);
        if directories.is_empty() {
            return Ok(rest);
        }
        self.ledger.ensure_held()?;
        let entries: Vec<Entry> = directories.iter().map(|small| small.entry.clone()).collect();
        let (target, plan) = (self.target.clone(), self.plan.clone());
        // As a task, so that whoever ends the attempt waits for it.
        let mut writing = self.ledger.spawn(async move { target.write_small(&plan, directories).await });
        work.all_written(&entries, writing.join().await?)?;
        Ok(rest)
    }

    async fn first_done(&mut self) -> Result<()> {
        let Some(task) = self.running.front_mut() else { return Ok(()) };
        // It stays in the queue while it runs, so that whoever stops the queue waits for it too.
        let done = task.join().await;
        self.running.pop_front();
        done
    }

    /// Stops all writing.
    pub(super) async fn stop(&mut self) {
        for task in self.running.drain(..) {
            task.stop().await;
        }
    }

    /// Writes what there is and waits for all of it.
    pub(super) async fn drain(&mut self) -> Result<()> {
        self.flush().await?;
        while !self.running.is_empty() {
            self.first_done().await?;
        }
        Ok(())
    }
}

/// What a name starts with, up to its last `/`.
fn directory(name: &EntryName) -> &[u8] {
    let name = name.as_bytes();
    &name[..name.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}
