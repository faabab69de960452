//! Cuts the contents of entries out of frames, and checks them.

use super::ledger::Ledger;
use super::plan::{Plan, Planned};
use super::splitter::LARGE;
use crate::adapter::{SmallEntry, Wanted};
use crate::engine::archive::panicked;
use crate::engine::backup::has_content;
use crate::engine::fetch::{Decoded, Fetcher, RawFrame};
use crate::model::Entry;
use crate::{Digest, Error, Result};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// The entry whose content is being collected.
#[derive(Debug, Default)]
pub(super) struct Front {
    taken: u64,
    /// Content that came in earlier frames.
    start: BytesMut,
}

impl Front {
    /// Where the next content of the entry at the front of the queue is in the raw stream.
    pub(super) fn next_of(&self, entry: &Entry) -> u64 {
        entry.offset + self.taken
    }

    /// Takes the content of the entry at the front of the queue from a frame; the whole when all of it is there.
    pub(super) fn take(&mut self, entry: &Entry, frame: &RawFrame) -> Result<Option<Bytes>> {
        let at = self.next_of(entry);
        let end = frame.start + frame.bytes.len() as u64;
        if at >= end {
            // A frame that was needed by earlier entries only.
            return Ok(None);
        }
        let Some(skip) = at.checked_sub(frame.start) else {
            return Err(Error::corrupt("the index places entries out of order").on(&entry.name));
        };
        let left = entry.size - self.taken;
        let length = left.min(end - at);
        let (skip, length) = (to_usize(skip)?, to_usize(length)?);
        let piece = frame.bytes.slice(skip..skip + length);
        if piece.len() as u64 == entry.size {
            return Ok(Some(piece));
        }
        // Copied, so that an entry over many frames does not keep their memory.
        self.start.extend_from_slice(&piece);
        self.taken += piece.len() as u64;
        if self.taken < entry.size {
            return Ok(None);
        }
        self.taken = 0;
        Ok(Some(std::mem::take(&mut self.start).freeze()))
    }
}

/// Compares each content with its digest, and parts what is right from what is damaged. CPU work.
pub(super) fn check(batch: Vec<SmallEntry>) -> (Vec<SmallEntry>, Vec<Entry>) {
    let mut damaged = Vec::new();
    let mut right = Vec::with_capacity(batch.len());
    for small in batch {
        let is_right = match small.entry.sha256 {
            Some(sha256) => Digest::of(&small.content) == sha256,
            None => !has_content(&small.entry.kind),
        };
        if is_right { right.push(small) } else { damaged.push(small.entry) }
    }
    (right, damaged)
}

fn to_usize(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|e| Error::corrupt("an impossible length").because(e))
}

/// The contents of the chosen entries that are wanted, in order, checked.
pub(in crate::engine) fn contents(
    plan: Plan,
    fetcher: Fetcher,
    wanted: Wanted,
) -> BoxStream<'static, Result<SmallEntry>> {
    let (entries_out, mut entries) = mpsc::channel(1);
    let picks = wanted.clone();
    let reads = move |entry: &Entry| has_content(&entry.kind) && entry.size <= LARGE && picks(entry);
    let mut decoded = fetcher.run(plan.chunks(0, reads, entries_out));
    let meant = move |batch: Vec<Planned>| {
        let is_meant = |planned: &Planned| !planned.apart && has_content(&planned.entry.kind) && wanted(&planned.entry);
        batch.into_iter().filter(is_meant).map(|planned| planned.entry).collect::<Vec<Entry>>()
    };
    let stream = async_stream::try_stream! {
        let mut front = Front::default();
        let mut queue: VecDeque<Entry> = VecDeque::new();
        let (mut more_entries, mut more_frames) = (true, true);
        while more_entries || more_frames {
            let mut came = None;
            tokio::select! {
                biased;
                batch = entries.recv(), if more_entries => match batch {
                    Some(batch) => queue.extend(meant(batch)),
                    None => more_entries = false,
                },
                frames = decoded.next(), if more_frames => match frames {
                    Some(frames) => came = Some(frames),
                    None => more_frames = false,
                },
            }
            let held: Option<Decoded> = came.transpose()?;
            // They have been sent before their frames came out, but perhaps only just now.
            while held.is_some() && let Ok(batch) = entries.try_recv() {
                queue.extend(meant(batch));
            }
            let mut batch = Vec::new();
            let mut frames = held.iter().flat_map(|decoded| &decoded.frames);
            let mut frame = frames.next();
            while let Some(entry) = queue.front() {
                if entry.size > LARGE {
                    Err(Error::unsupported("its content is too long to be held as a whole").on(&entry.name))?;
                }
                let content = match (entry.size, frame) {
                    (0, _) => Some(Bytes::new()),
                    (_, None) => break,
                    (_, Some(present)) => front.take(entry, present)?,
                };
                match content {
                    Some(content) => batch.extend(queue.pop_front().map(|entry| SmallEntry { entry, content })),
                    None => frame = frames.next(),
                }
            }
            if !batch.is_empty() {
                let (checked, damaged) = tokio::task::spawn_blocking(move || check(batch)).await.map_err(panicked)?;
                if let Some(entry) = damaged.first() {
                    Err(Ledger::damaged(entry))?;
                }
                for small in checked {
                    yield small;
                }
            }
            // Its memory counts until its entries were taken.
            drop(held);
        }
        if let Some(entry) = queue.front() {
            Err(Error::corrupt("the index names content that no frame holds").on(&entry.name))?;
        }
    };
    stream.boxed()
}
