//! Fetches and decompresses the frames that hold given parts of the raw stream: in order, several at once, inside a byte budget.

use super::archive::{Archive, panicked};
use crate::archive::VolumeRecord;
use crate::budget::{ByteBudget, Permit};
use crate::limit::RateLimit;
use crate::pool::BufferPool;
use crate::{Error, Result, Sha256};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, Stream};
use std::ops::Range;
use std::sync::Arc;

/// Stored bytes that are fetched at once at most, unless a single frame is longer.
const MAX_STORED: u64 = 8 << 20;
/// Raw bytes that are decompressed at once at most, unless a single frame is longer.
const MAX_RAW: u64 = 16 << 20;
/// Buffers of fetched bytes that are kept for the next ones, beyond those in use. So many are in use at once.
const KEPT_STORED: usize = 4;
/// The same of frames: the memory that they had is not given to anybody else meanwhile.
const KEPT_FRAMES: usize = 32;

/// Consecutive frames of one volume.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) volume: Arc<VolumeRecord>,
    pub(super) frames: Range<usize>,
    /// Where the frames are in the volume, before sealing.
    stored: Range<u64>,
    /// Where the first frame starts in the raw stream.
    raw: u64,
}

/// A frame as it was before compression.
#[derive(Clone, Debug)]
pub(super) struct RawFrame {
    /// Where it starts in the raw stream.
    pub(super) start: u64,
    pub(super) bytes: Bytes,
}

/// The frames of a chunk, and the memory that they occupy.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) chunk: Chunk,
    /// The stored bytes, before unsealing, of an archive that is not sealed.
    pub(super) stored: Option<Bytes>,
    /// All frames of the chunk, or the intact ones when it is [salvaged](Fetcher::salvage).
    pub(super) frames: Vec<RawFrame>,
    /// Why frames are missing.
    pub(super) lost: Option<String>,
    pub(super) permit: Arc<Permit>,
}

/// How chunks are fetched.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    pub(super) archive: Archive,
    pub(super) budget: ByteBudget,
    /// For fetched bytes.
    pub(super) stored: Arc<BufferPool>,
    /// For frames.
    pub(super) frames: Arc<BufferPool>,
    pub(super) limit: RateLimit,
    /// Chunks at once.
    pub(super) parallel: usize,
    /// Keep the stored bytes, for whoever hashes or copies them.
    pub(super) keep_stored: bool,
    /// Of a damaged chunk give the frames that are intact, instead of an error.
    pub(super) salvage: bool,
}

impl Fetcher {
    /// A fetcher that uses a share of `memory` bytes.
    pub(super) fn new(archive: Archive, memory: u64, limit: RateLimit, parallel: usize) -> Self {
        Self {
            archive,
            budget: ByteBudget::new(memory),
            stored: BufferPool::new(KEPT_STORED),
            frames: BufferPool::new(KEPT_FRAMES),
            limit,
            parallel: parallel.max(1),
            keep_stored: false,
            salvage: false,
        }
    }

    /// Fetches the chunks in order; the first error is what the reader gets.
    pub(super) fn run(
        self,
        chunks: impl Stream<Item = Result<Chunk>> + Send + 'static,
    ) -> BoxStream<'static, Result<Decoded>> {
        self.run_each(chunks).map(|fetched| fetched.and_then(|(_, decoded)| decoded)).boxed()
    }

    /// Fetches the chunks in order, and tells of each what became of it.
    pub(super) fn run_each(
        self,
        chunks: impl Stream<Item = Result<Chunk>> + Send + 'static,
    ) -> BoxStream<'static, Result<(Chunk, Result<Decoded>)>> {
        let parallel = self.parallel;
        // Memory is taken in order, before a chunk's work is started, so that a later chunk never keeps an earlier one waiting.
        let (budget, limit) = (self.budget.clone(), self.limit.clone());
        chunks
            .then(move |chunk| {
                let (budget, limit) = (budget.clone(), limit.clone());
                async move {
                    let chunk = chunk?;
                    let permit = budget.take(chunk.memory()).await;
                    limit.take(chunk.stored_length()).await;
                    Ok((chunk, Arc::new(permit)))
                }
            })
            .map(move |taken| {
                let fetcher = self.clone();
                async move {
                    let (chunk, permit) = taken?;
                    let of = chunk.clone();
                    let task = tokio::spawn(async move { fetcher.fetch(chunk, permit).await });
                    Ok((of, super::handle::AbortOnDrop(task).join().await))
                }
            })
            .buffered(parallel)
            .boxed()
    }

    /// A chunk, or what is intact of it if that is wanted.
    async fn fetch(&self, chunk: Chunk, permit: Arc<Permit>) -> Result<Decoded> {
        let mut error = match self.chunk(chunk.clone(), permit.clone()).await {
            Err(e) if self.salvage && self.archive.is_damaged_by(&e).await => e,
            result => return result,
        };
        let mut frames = Vec::new();
        // By themselves, since one bad frame spoils the whole chunk.
        for single in chunk.singles() {
            match self.chunk(single, permit.clone()).await {
                Ok(decoded) => frames.extend(decoded.frames),
                Err(e) if self.archive.is_damaged_by(&e).await => error = e,
                Err(e) => return Err(e),
            }
        }
        Ok(Decoded { chunk, stored: None, frames, lost: Some(error.chain()), permit })
    }

    async fn chunk(&self, chunk: Chunk, permit: Arc<Permit>) -> Result<Decoded> {
        let inner = self.archive.inner.clone();
        let volume = chunk.volume.clone();
        let bytes = inner.read_range(&volume.name, volume.size, chunk.stored.clone(), &self.stored).await?;
        let buffers = self.frames.clone();
        let stored = (self.keep_stored && inner.key.is_none()).then(|| bytes.clone());
        let decode = tokio::task::spawn_blocking(move || {
            let mut frames = Vec::with_capacity(chunk.frames.len());
            let (mut at, mut start) = (0, chunk.raw);
            for (stored, raw) in &chunk.volume.frames[chunk.frames.clone()] {
                let end = at + *stored as usize;
                let frame = bytes.get(at..end).ok_or_else(|| Error::corrupt("a frame lies beyond the volume"))?;
                let mut out = buffers.take(*raw as usize);
                inner.decompress_into(frame, *raw as usize, &mut out)?;
                frames.push(RawFrame { start, bytes: buffers.lend(out) });
                at = end;
                start += u64::from(*raw);
            }
            Ok(Decoded { chunk, stored, frames, lost: None, permit })
        });
        decode.await.map_err(panicked)?.map_err(|e: Error| e.on(&volume.name))
    }
}

impl Chunk {
    pub(super) fn stored_length(&self) -> u64 {
        self.stored.end - self.stored.start
    }

    /// Where its last frame ends in the raw stream.
    pub(super) fn raw_end(&self) -> u64 {
        self.raw + self.raw_length()
    }

    fn raw_length(&self) -> u64 {
        self.volume.frames[self.frames.clone()].iter().map(|(_, raw)| u64::from(*raw)).sum()
    }

    /// Its frames one by one, when there are several.
    fn singles(&self) -> Vec<Self> {
        let (mut stored, mut raw) = (self.stored.start, self.raw);
        let mut singles = Vec::new();
        for number in self.frames.clone().filter(|_| self.frames.len() > 1) {
            let (stored_length, raw_length) = self.volume.frames[number];
            let end = stored + u64::from(stored_length);
            singles.push(Self { volume: self.volume.clone(), frames: number..number + 1, stored: stored..end, raw });
            (stored, raw) = (end, raw + u64::from(raw_length));
        }
        singles
    }

    fn memory(&self) -> u64 {
        self.raw_length() + self.stored_length()
    }
}

/// The chunks that cover some parts of a volume's raw range. `wanted` is in order and may overlap.
pub(super) fn chunks_of(volume: &Arc<VolumeRecord>, wanted: &[Range<u64>]) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let (mut stored_at, mut raw_at) = (0, volume.raw);
    let mut wanted = wanted.iter().peekable();
    for (number, (stored, raw)) in volume.frames.iter().enumerate() {
        let (stored, raw) = (u64::from(*stored), u64::from(*raw));
        while wanted.peek().is_some_and(|range| range.end <= raw_at) {
            wanted.next();
        }
        if wanted.peek().is_some_and(|range| range.start < raw_at + raw) {
            let joined = chunks.last_mut().filter(|chunk| {
                chunk.frames.end == number
                    && chunk.stored_length() + stored <= MAX_STORED
                    && raw_at + raw - chunk.raw <= MAX_RAW
            });
            match joined {
                Some(chunk) => {
                    chunk.frames.end = number + 1;
                    chunk.stored.end += stored;
                }
                None => chunks.push(Chunk {
                    volume: volume.clone(),
                    frames: number..number + 1,
                    stored: stored_at..stored_at + stored,
                    raw: raw_at,
                }),
            }
        }
        stored_at += stored;
        raw_at += raw;
    }
    chunks
}

/// Hashes the stored bytes of each volume as its chunks come by, when all of them do.
#[derive(Debug, Default)]
pub(super) struct VolumeDigest {
    hash: Sha256,
}

impl VolumeDigest {
    /// Takes the next chunk; at the end of a volume answers whether its digest is the recorded one.
    pub(super) fn add(&mut self, decoded: &Decoded) -> Option<bool> {
        let stored = decoded.stored.as_ref()?;
        self.hash.update(stored);
        if decoded.chunk.frames.end < decoded.chunk.volume.frames.len() {
            return None;
        }
        let digest = std::mem::take(&mut self.hash).finish();
        Some(decoded.chunk.volume.sha256 == Some(digest))
    }
}
