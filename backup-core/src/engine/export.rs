//! Export: the whole archive as one standard tar stream, and single contents.

use super::Selection;
use super::archive::{Archive, panicked};
use super::fetch::{Decoded, Fetcher, VolumeDigest, chunks_of};
use super::restore::{Plan, content, contents};
use super::selection::Chosen;
use crate::adapter::{ByteStream, SmallEntry};
use crate::archive::{Codec, Compression, Compressor};
use crate::limit::RateLimit;
use crate::model::Entry;
use crate::{Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;

/// Memory for what is read and not yet given out.
const MEMORY: u64 = 96 << 20;
const PARALLEL: usize = 3;

impl Archive {
    fn fetcher(&self, limit: RateLimit) -> Fetcher {
        Fetcher::new(self.clone(), MEMORY, limit, PARALLEL)
    }

    /// The chosen entries in the archive's order; superseded ones are left out.
    ///
    /// # Errors
    /// `Invalid` when a pattern cannot be read.
    pub fn entries(&self, selection: &Selection) -> Result<BoxStream<'static, Result<Entry>>> {
        let chosen = Arc::new(Chosen::new(selection)?);
        let plan = Plan { archive: self.clone(), chosen, limit: RateLimit::default(), losses: None };
        Ok(plan.from(0))
    }

    /// The chosen entries that have content, in the archive's order, each whole and compared with its digest; of more than 16 MiB is an error.
    ///
    /// # Errors
    /// `Invalid` when a pattern cannot be read.
    pub fn contents(&self, selection: &Selection, limit: RateLimit) -> Result<BoxStream<'static, Result<SmallEntry>>> {
        let chosen = Arc::new(Chosen::new(selection)?);
        let plan = Plan { archive: self.clone(), chosen, limit: limit.clone(), losses: None };
        Ok(contents(plan, self.fetcher(limit), Arc::new(|_| true)))
    }

    /// The content of an entry. Its digest is the caller's to compare, with [`ContentReader`](crate::adapter::ContentReader).
    pub fn content(&self, entry: &Entry) -> ByteStream {
        content(self.fetcher(RateLimit::default()), entry, 0)
    }

    /// The whole archive as one tar stream, compressed with a codec: what `tar` and its companions read. Of entries that were
    /// superseded the later one stands behind the earlier one, as `tar` expects it. Volumes are compared with their digests as
    /// they pass by; damage ends the stream with an error.
    pub fn export(&self, codec: Codec, limit: RateLimit) -> ByteStream {
        let archive = self.clone();
        let chunks = async_stream::try_stream! {
            for number in 0..archive.manifest().pieces.len() {
                for volume in archive.piece(number).await?.volumes.iter() {
                    let volume = Arc::new(volume.clone());
                    for chunk in chunks_of(&volume, std::slice::from_ref(&volume.raw_range())) {
                        yield chunk;
                    }
                }
            }
        };
        let as_stored = codec == self.header().codec && self.inner.key.is_none();
        let mut fetcher = self.fetcher(limit);
        fetcher.keep_stored = true;
        let recode = Arc::new(Recoder { codec, idle: Default::default() });
        let mut pieces = fetcher
            .run(chunks)
            .map(move |decoded| {
                let recode = recode.clone();
                async move {
                    let decoded = decoded?;
                    let out = match &decoded.stored {
                        Some(stored) if as_stored => vec![stored.clone()],
                        _ => {
                            let frames = decoded.frames.iter().map(|frame| frame.bytes.clone()).collect();
                            let job = tokio::task::spawn_blocking(move || recode.frames(frames));
                            job.await.map_err(panicked)??
                        }
                    };
                    Ok::<_, Error>((decoded, out))
                }
            })
            .buffered(PARALLEL);
        Box::pin(async_stream::try_stream! {
            let mut digest = VolumeDigest::default();
            while let Some(piece) = pieces.next().await {
                let (decoded, out): (Decoded, Vec<Bytes>) = piece?;
                if digest.add(&decoded) == Some(false) {
                    Err(Error::corrupt("its SHA-256 is not the recorded one").on(&decoded.chunk.volume.name))?;
                }
                for bytes in out {
                    yield bytes;
                }
            }
        })
    }
}

/// Compresses frames again.
#[derive(Debug)]
struct Recoder {
    codec: Codec,
    idle: std::sync::Mutex<Vec<Compressor>>,
}

impl Recoder {
    fn frames(&self, frames: Vec<Bytes>) -> Result<Vec<Bytes>> {
        if self.codec == Codec::None {
            return Ok(frames);
        }
        let idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let mut compressor = match idle {
            Some(compressor) => compressor,
            None => Compressor::new(Compression::new(self.codec, None)?)?,
        };
        let out =
            frames.iter().map(|frame| compressor.compress(std::slice::from_ref(frame)).map(Bytes::from)).collect();
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(compressor);
        out
    }
}
