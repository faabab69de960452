//! The content of one large file.

use super::blocking::{blocking, joined};
use super::holes::next_data;
use super::metadata::{FileState, FileVersion};
use super::open::Base;
use crate::adapter::{ByteStream, Opened};
use crate::limit::RateLimit;
use crate::pool::BufferPool;
use crate::{Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes that are read at once; one such step is read ahead. As much as a frame holds, so that it is one piece.
const STEP: u64 = 4 << 20;
/// The least that a slow bandwidth makes of it.
const MIN_STEP: u64 = 64 << 10;
/// Idle buffers that a source keeps.
const KEPT: usize = 4;

/// What holes read as.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The buffers for the steps of one source.
pub(crate) fn buffers() -> Arc<BufferPool> {
    BufferPool::new(KEPT)
}

/// Opens a range of a file by its path below a base.
pub(crate) async fn open(
    root: PathBuf,
    path: Bytes,
    range: Range<u64>,
    limit: RateLimit,
    buffers: Arc<BufferPool>,
) -> Result<Opened> {
    let by_rate = limit.get().map_or(STEP, |rate| rate.get() / 4);
    let step = by_rate.clamp(MIN_STEP, STEP);
    let (version, file) = blocking(move || {
        let file = Base::find(&root)?.open_below(&path)?;
        let state = state(&file)?;
        if state.kind() != FileType::RegularFile {
            return Err(Error::not_found("it is not a regular file any more"));
        }
        let data = if state.may_have_holes() { range.start..range.start } else { range.clone() };
        Ok((state.version, Pieces { file, range, data, step, buffers }))
    })
    .await?;
    let FileVersion { size, mtime, .. } = version;
    Ok(Opened { metadata: None, mtime: Some(mtime), size, version: Some(version.into()), content: stream(file, limit) })
}

fn state(file: &OwnedFd) -> Result<FileState> {
    let stat = rustix::fs::fstat(file).map_err(|e| Error::io(e.into(), "cannot look at the open file"))?;
    Ok(FileState::from(stat))
}

fn stream(pieces: Pieces, limit: RateLimit) -> ByteStream {
    async_stream::try_stream! {
        let mut next = step(pieces);
        while let Some((pieces, bytes, from_disk)) = next.await? {
            if from_disk {
                limit.take(bytes.len() as u64).await;
            }
            // While this piece is used, the next one is read.
            let more = pieces.range.start < pieces.range.end;
            next = if more { step(pieces) } else { Box::pin(std::future::ready(Ok(None))) };
            yield bytes;
        }
    }
    .boxed()
}

type Step = futures::future::BoxFuture<'static, Result<Option<(Pieces, Bytes, bool)>>>;

/// Starts to read the next piece; `None` at the end.
fn step(mut pieces: Pieces) -> Step {
    let running = tokio::task::spawn_blocking(move || {
        let piece = pieces.next()?;
        Ok(piece.map(|(bytes, from_disk)| (pieces, bytes, from_disk)))
    });
    Box::pin(async move { joined(running.await) })
}

/// A range of an open file, piece by piece.
struct Pieces {
    file: OwnedFd,
    /// What is still to be delivered.
    range: Range<u64>,
    /// The run of data that is known at or behind the start of `range`.
    data: Range<u64>,
    /// Bytes that are read at once.
    step: u64,
    buffers: Arc<BufferPool>,
}

impl Pieces {
    /// The next piece and whether it was read from the file; `None` at the end of the range, or of the file if it has become shorter.
    fn next(&mut self) -> Result<Option<(Bytes, bool)>> {
        let at = self.range.start;
        if at >= self.range.end {
            return Ok(None);
        }
        if at >= self.data.end {
            // Looked up again, so that a hole at the end never reaches behind the end.
            let end = self.range.end.min(state(&self.file)?.size());
            if at >= end {
                return Ok(None);
            }
            self.data = next_data(self.file.as_fd(), at, end).unwrap_or(end..end);
        }
        if at < self.data.start {
            let length = (self.data.start - at).min(ZEROS.len() as u64);
            self.range.start += length;
            return Ok(Some((Bytes::from_static(&ZEROS[..length as usize]), false)));
        }
        let wanted = (self.data.end - at).min(self.step) as usize;
        let mut buffer = self.buffers.take(wanted);
        while buffer.len() < wanted {
            let offset = at + buffer.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut buffer), offset) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io(e.into(), "cannot read the file")),
            }
        }
        buffer.truncate(wanted);
        self.range.start += buffer.len() as u64;
        Ok((!buffer.is_empty()).then(|| (self.buffers.lend(buffer), true)))
    }
}
