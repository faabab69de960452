//! Large entries, and groups that a target takes as a whole: each reads its own frames and can be started over.

use super::checkpoint::Tally;
use super::ledger::{Ledger, Work};
use super::plan::Plan;
use super::splitter::LARGE;
use crate::adapter::{ByteStream, ContentReader, EntryProgress, RestorePlan, RestoreTarget, Written};
use crate::engine::archive::Archive;
use crate::engine::fetch::{Fetcher, chunks_of};
use crate::limit::RateLimit;
use crate::model::{Entry, GroupName};
use crate::{ErrorClass, Result, Sha256};
use futures::StreamExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How often a target may ask to start an entry over.
const TRIES: u32 = 3;

/// Whether the archive's side of a content has failed, as opposed to the target.
type Unreadable = Arc<AtomicBool>;

/// Writes one large entry or whole group.
#[derive(Clone, Debug)]
pub(super) struct LargeWriter {
    pub(super) target: Arc<dyn RestoreTarget>,
    pub(super) plan: RestorePlan,
    pub(super) ledger: Arc<Ledger>,
    pub(super) fetcher: Fetcher,
    pub(super) limit: RateLimit,
    /// Leave out what is damaged.
    pub(super) keep_going: bool,
}

/// The content of an entry from an offset on.
pub(in crate::engine) fn content(fetcher: Fetcher, entry: &Entry, from: u64) -> ByteStream {
    let raw = entry.offset + from.min(entry.size)..entry.offset + entry.size;
    let archive: Archive = fetcher.archive.clone();
    let name = entry.name.clone();
    let chunks = async_stream::try_stream! {
        if !raw.is_empty() {
            for volume in archive.volumes_in(&raw).await? {
                for chunk in chunks_of(&Arc::new(volume), std::slice::from_ref(&raw)) {
                    yield chunk;
                }
            }
        }
    };
    let raw = entry.offset + from.min(entry.size)..entry.offset + entry.size;
    let mut decoded = fetcher.run(chunks);
    Box::pin(async_stream::try_stream! {
        while let Some(decoded) = decoded.next().await {
            let decoded = decoded.map_err(|e: crate::Error| e.context(format!("the content of {name} cannot be read")))?;
            for frame in &decoded.frames {
                let start = raw.start.max(frame.start);
                let end = raw.end.min(frame.start + frame.bytes.len() as u64);
                if start < end {
                    // Both are offsets into a frame, which lies in memory.
                    yield frame.bytes.slice((start - frame.start) as usize..(end - frame.start) as usize);
                }
            }
        }
    })
}

impl LargeWriter {
    fn reader(&self, entry: &Entry, progress: &EntryProgress, unreadable: &Unreadable) -> ContentReader {
        let hash = progress.saved().map(|saved| saved.hash).unwrap_or_default();
        let stream = self.limited(content(self.fetcher.clone(), entry, hash.length()), unreadable);
        ContentReader::new(stream, hash, Some(entry.size), entry.sha256)
    }

    fn limited(&self, stream: ByteStream, unreadable: &Unreadable) -> ByteStream {
        let (limit, unreadable) = (self.limit.clone(), unreadable.clone());
        stream
            .then(move |piece| {
                let (limit, unreadable) = (limit.clone(), unreadable.clone());
                async move {
                    match &piece {
                        Ok(bytes) => limit.take(bytes.len() as u64).await,
                        Err(_) => unreadable.store(true, Ordering::Relaxed),
                    }
                    piece
                }
            })
            .boxed()
    }

    /// Trouble with one entry at the target is a warning, but an archive that cannot be read, or a target that is in trouble
    /// as a whole, fails the restore. Answers whether the entry was written.
    async fn written(
        &self,
        entry: &Entry,
        result: Result<Result<Written>>,
        unreadable: &Unreadable,
        work: &mut Work,
    ) -> Result<bool> {
        let unreadable = unreadable.load(Ordering::Relaxed);
        match result {
            // The reader's error, or its word at the end that the content is not the recorded one.
            Err(e) | Ok(Err(e))
                if self.keep_going
                    && (unreadable || e.class() == ErrorClass::Corrupt)
                    && self.fetcher.archive.is_damaged_by(&e).await =>
            {
                work.left_out(entry, &e.chain());
                Ok(false)
            }
            // A target that takes a reader's error for one of the entry must not make intact entries be left out.
            Err(e) => Err(e.on(&entry.name)),
            Ok(Err(e)) if unreadable => Err(e),
            Ok(result) => {
                let done = result.is_ok();
                work.written(entry, result)?;
                Ok(done)
            }
        }
    }

    /// Writes an entry, from where an earlier attempt left off if the target still can.
    pub(super) async fn entry(self, entry: Entry, mut work: Work) -> Result<()> {
        let mut progress = self.ledger.progress(entry.ordinal);
        let mut tries = 0;
        let unreadable = Unreadable::default();
        let result = loop {
            tries += 1;
            self.ledger.ensure_held()?;
            unreadable.store(false, Ordering::Relaxed);
            let content = self.reader(&entry, &progress, &unreadable);
            match self.target.write_large(&self.plan, &entry, content, &progress).await {
                Err(e) | Ok(Err(e)) if tries < TRIES && (e.class() == ErrorClass::Changed || e.is_retryable()) => {
                    if e.class() == ErrorClass::Changed {
                        progress = self.ledger.forget_progress(entry.ordinal);
                    }
                    tracing::warn!(entry = %entry.name, error = %e.chain(), "writing a large entry is started over");
                }
                result => break result,
            }
        };
        self.written(&entry, result, &unreadable, &mut work).await?;
        work.done(Some(entry.ordinal));
        Ok(())
    }

    /// Writes all slices of a group as one content. Never from the middle: a resumed restore starts it over.
    pub(super) async fn group(self, plan: Plan, first: Entry, group: GroupName, mut work: Work) -> Result<()> {
        let mut tries = 0;
        let unreadable = Unreadable::default();
        let mut others;
        let result = loop {
            tries += 1;
            self.ledger.ensure_held()?;
            let progress = EntryProgress::default();
            unreadable.store(false, Ordering::Relaxed);
            let (stream, counted) = slices(plan.clone(), self.fetcher.clone(), first.ordinal, group.clone());
            others = counted;
            let stream = self.limited(stream, &unreadable);
            let content = ContentReader::new(stream, Sha256::new(), None, None);
            match self.target.write_large(&self.plan, &first, content, &progress).await {
                Err(e) | Ok(Err(e)) if tries < TRIES && (e.class() == ErrorClass::Changed || e.is_retryable()) => {
                    tracing::warn!(%group, error = %e.chain(), "writing a group is started over");
                }
                result => break result,
            }
        };
        if self.written(&first, result, &unreadable, &mut work).await? {
            work.slices(*others.lock().unwrap_or_else(PoisonError::into_inner));
        } else {
            let mut slices = plan.from(first.ordinal);
            while let Some(slice) = slices.next().await.transpose()? {
                if slice.group.as_ref() == Some(&group) {
                    self.ledger.left_out_too(&slice.name);
                }
            }
        }
        self.ledger.group_done(group);
        work.done(None);
        Ok(())
    }
}

/// Counts slices as they are given out.
type Counted = Arc<Mutex<Tally>>;

/// The contents of a group's slices one after the other, each checked before any of it is given out, and the figures of all but
/// the first.
fn slices(plan: Plan, fetcher: Fetcher, from: u64, group: GroupName) -> (ByteStream, Counted) {
    let counted = Counted::default();
    let count = counted.clone();
    // A part of the index that is missing may name slices of the group.
    let plan = Plan { losses: None, ..plan };
    let stream = Box::pin(async_stream::try_stream! {
        let mut entries = plan.from(from);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.group.as_ref() != Some(&group) {
                continue;
            }
            // A slice is short enough to be held; what claims to be one and is not is read twice.
            let held = entry.size <= LARGE;
            let mut hash = Sha256::new();
            let mut pieces = Vec::new();
            let mut stream = content(fetcher.clone(), &entry, 0);
            while let Some(piece) = stream.next().await {
                let piece = piece?;
                hash.update(&piece);
                if held {
                    pieces.push(piece);
                }
            }
            if Some(hash.finish()) != entry.sha256 {
                Err(Ledger::damaged(&entry))?;
            }
            for piece in pieces {
                yield piece;
            }
            if !held {
                let mut again = Sha256::new();
                let mut stream = content(fetcher.clone(), &entry, 0);
                while let Some(piece) = stream.next().await {
                    let piece = piece?;
                    again.update(&piece);
                    yield piece;
                }
                if Some(again.finish()) != entry.sha256 {
                    Err(Ledger::damaged(&entry))?;
                }
            }
            if entry.ordinal > from {
                let more = Tally { entries: 1, bytes: entry.size, warnings: 0 };
                *count.lock().unwrap_or_else(PoisonError::into_inner) += more;
            }
        }
    });
    (stream, counted)
}
