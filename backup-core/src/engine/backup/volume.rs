//! Packs frames on blocking threads, collects them into volumes, and puts those at the destination.

use super::checkpoint::{NameRange, Position};
use super::frame::{PackedFrame, Packers, RawFrame};
use super::stream::ToPack;
use crate::adapter::{Destination, Payload};
use crate::archive::{ArchiveKey, Attempted, ObjectNames, Sealer};
use crate::budget::{ByteBudget, Permit};
use crate::engine::handle::AbortOnDrop;
use crate::engine::session::Session;
use crate::limit::RateLimit;
use crate::model::{LogRecord, ObjectName};
use crate::{Digest, Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Raw bytes at which a volume ends, however well they compress.
const MAX_RAW: u64 = 512 << 20;
/// Bytes of index lines at which a volume ends: very many very small entries.
const MAX_INDEX: usize = 4 << 20;

/// What the index will say of a volume.
#[derive(Debug)]
pub(super) struct VolumeMeta {
    pub(super) number: u64,
    pub(super) name: ObjectName,
    pub(super) raw_start: u64,
    pub(super) frames: Vec<(u32, u32)>,
    /// Index lines of the entries that end in it.
    pub(super) index: Vec<u8>,
    pub(super) names: NameRange,
    /// The stream's position behind it.
    pub(super) position: Position,
}

/// A volume at the destination.
#[derive(Debug)]
pub(super) struct StoredVolume {
    pub(super) size: u64,
    /// Unless sealed.
    pub(super) sha256: Option<Digest>,
}

/// A volume on its way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) meta: VolumeMeta,
    pub(super) put: AbortOnDrop<Result<StoredVolume>>,
}

/// What is needed to put objects of one archive.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub(super) session: Arc<Session>,
    pub(super) destination: Arc<dyn Destination>,
    pub(super) names: ObjectNames,
    pub(super) key: Option<Arc<ArchiveKey>>,
    pub(super) limit: RateLimit,
}

impl Outlet {
    /// Seals if the archive is sealed, and puts. Answers the stored length, and the digest of the stored bytes if it is wanted.
    pub(super) async fn put(
        &self,
        name: &ObjectName,
        pieces: Vec<Bytes>,
        digest: bool,
    ) -> Result<(u64, Option<Digest>)> {
        let sealing = match &self.key {
            Some(key) => Some((key.clone(), self.names.clone(), self.relative(name)?.to_owned())),
            None => None,
        };
        let prepare = tokio::task::spawn_blocking(move || -> Result<(Payload, Option<Digest>)> {
            let payload = match sealing {
                Some((key, names, relative)) => {
                    let length = pieces.iter().map(Bytes::len).sum();
                    let mut sealer = Sealer::new(&key, names.archive(), &relative, length)?;
                    // Each piece is freed as soon as it is sealed.
                    for piece in pieces {
                        sealer.push(&piece)?;
                    }
                    Payload::new(sealer.finish()?)
                }
                None => Payload::new(pieces),
            };
            if !digest {
                return Ok((payload, None));
            }
            let digest = payload.digest();
            Ok((payload.with_sha256(digest), Some(digest)))
        });
        let (payload, digest) = prepare.await.map_err(panicked)??;
        let size = payload.len();
        self.put_as_is(name, payload).await?;
        Ok((size, digest))
    }

    /// Puts ready bytes, as slowly as the limit says.
    pub(super) async fn put_as_is(&self, name: &ObjectName, payload: Payload) -> Result<()> {
        self.session.ensure_held()?;
        self.destination.put(name, payload.paced(self.limit.clone())).await.map_err(|e| e.on(name))
    }

    /// Removes what puts that broke off have left behind. It is not needed for anything but the space.
    pub(super) async fn remove_staged(&self) {
        if let Err(error) = self.destination.remove_staged(&self.names.root()).await {
            let text = format!("staged leftovers of earlier attempts remain: {}", error.chain());
            self.session.log(LogRecord::warning("clean", text));
        }
    }

    pub(super) fn relative<'a>(&self, name: &'a ObjectName) -> Result<&'a str> {
        self.names.relative(name).ok_or_else(|| Error::permanent("the object is not of this archive").on(name))
    }

    /// The name of a new object of this attempt.
    pub(super) fn attempted(&self, number: u64) -> Attempted {
        let fence = self.session.fence();
        Attempted { number, attempt: fence.attempt, nonce: fence.nonce }
    }
}

pub(super) fn panicked(e: tokio::task::JoinError) -> Error {
    Error::permanent("a task of the engine panicked").because(e)
}

/// Packs and sends.
#[derive(Debug)]
pub(super) struct VolumeWriter {
    pub(super) outlet: Outlet,
    pub(super) packers: Arc<Packers>,
    pub(super) threads: usize,
    pub(super) volume_size: u64,
    /// Memory for packed frames, in the volume that is being collected and in those on their way.
    pub(super) budget: ByteBudget,
    pub(super) out: mpsc::Sender<Sent>,
    pub(super) next_number: u64,
    pub(super) draft: Draft,
}

/// The volume that is being collected.
#[derive(Debug, Default)]
pub(super) struct Draft {
    raw_start: u64,
    raw: u64,
    stored: u64,
    frames: Vec<(u32, u32)>,
    pieces: Vec<Bytes>,
    permits: Vec<Permit>,
    index: Vec<u8>,
    names: NameRange,
    position: Position,
}

impl Draft {
    /// An empty volume that starts there in the raw stream.
    pub(super) fn at(raw_start: u64) -> Self {
        Self { raw_start, ..Self::default() }
    }
}

enum Packed {
    Frame(Box<PackedFrame>),
    Cut,
}

impl VolumeWriter {
    /// Works until the frames end.
    pub(super) async fn run(mut self, mut frames: mpsc::Receiver<ToPack>) -> Result<()> {
        let mut jobs = FuturesOrdered::new();
        let mut open = true;
        loop {
            tokio::select! {
                Some(done) = jobs.next(), if !jobs.is_empty() => match done? {
                    Packed::Frame(frame) => self.add(*frame).await?,
                    Packed::Cut => self.cut().await?,
                },
                frame = frames.recv(), if open && jobs.len() <= self.threads => match frame {
                    Some(frame) => jobs.push_back(pack(self.packers.clone(), frame)),
                    None => open = false,
                },
                else => break,
            }
        }
        self.cut().await
    }

    async fn add(&mut self, frame: PackedFrame) -> Result<()> {
        if frame.length == 0 {
            // No volume can have it: readers take an empty frame for damage.
            return Err(Error::permanent("a frame without content was packed"));
        }
        let stored = frame.stored.len() as u64;
        if !self.draft.frames.is_empty() && self.draft.stored + stored > self.volume_size {
            self.cut().await?;
        }
        let permit = self.budget.take(stored).await;
        let draft = &mut self.draft;
        draft.permits.push(permit);
        draft.frames.push((length_of_frame(stored)?, length_of_frame(frame.length)?));
        draft.pieces.push(frame.stored);
        draft.stored += stored;
        draft.raw += frame.length;
        draft.index.extend_from_slice(&frame.index);
        draft.names.join(&frame.names);
        draft.position = frame.position;
        if frame.cut || draft.stored >= self.volume_size || draft.raw >= MAX_RAW || draft.index.len() >= MAX_INDEX {
            self.cut().await?;
        }
        Ok(())
    }

    /// Ends the volume, if there is anything in it, and sends it on its way.
    async fn cut(&mut self) -> Result<()> {
        if self.draft.frames.is_empty() {
            return Ok(());
        }
        let next = Draft::at(self.draft.raw_start + self.draft.raw);
        let draft = std::mem::replace(&mut self.draft, next);
        let number = self.next_number;
        self.next_number += 1;
        let name = self.outlet.names.volume(self.outlet.attempted(number));
        let meta = VolumeMeta {
            number,
            name: name.clone(),
            raw_start: draft.raw_start,
            frames: draft.frames,
            index: draft.index,
            names: draft.names,
            position: draft.position,
        };
        let (outlet, pieces, permits) = (self.outlet.clone(), draft.pieces, draft.permits);
        let writers = outlet.session.writers.clone();
        let put = writers.spawn(async move {
            // What is sealed needs no digest: no other bytes can be opened in its place.
            let (size, sha256) = outlet.put(&name, pieces, outlet.key.is_none()).await?;
            drop(permits);
            outlet.session.meter.update(|p| p.stored_bytes += size);
            Ok(StoredVolume { size, sha256 })
        });
        let sent = Sent { meta, put: AbortOnDrop(put) };
        self.out.send(sent).await.map_err(|_| Error::cancelled("the backup was stopped"))
    }
}

async fn pack(packers: Arc<Packers>, item: ToPack) -> Result<Packed> {
    match item {
        ToPack::Cut => Ok(Packed::Cut),
        ToPack::Frame(frame) => {
            let frame: RawFrame = *frame;
            let packed = tokio::task::spawn_blocking(move || packers.pack(frame)).await.map_err(panicked)??;
            Ok(Packed::Frame(Box::new(packed)))
        }
    }
}

fn length_of_frame(length: u64) -> Result<u32> {
    u32::try_from(length).map_err(|e| Error::permanent("a frame has become longer than 4 GiB").because(e))
}
