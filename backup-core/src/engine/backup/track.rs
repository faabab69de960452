//! Follows the volumes in order: what is durable goes into the index and into checkpoints.

use super::chapters::put_away;
use super::checkpoint::{Body, Head, Piece, Tail, encode, extend};
use super::frame::Packers;
use super::volume::{Outlet, Sent, StoredVolume, VolumeMeta, panicked};
use crate::archive::{IndexEncoder, PieceRecord, VolumeRecord};
use crate::engine::journal::CHECKPOINT;
use crate::model::{Checkpoint, LogRecord};
use crate::{Error, Result};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Index lines that are not worth looking at how well they compress.
const SMALL_TAIL: usize = 384 << 10;
/// Index lines at which a piece is put in any case.
const FULL_TAIL: usize = 4 << 20;
/// Compressed index lines in the checkpoint at most; the rest of the checkpoint is much smaller.
const TAIL_IN_CHECKPOINT: usize = 256 << 10;

/// Knows what is durable.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) outlet: Outlet,
    pub(super) packers: Arc<Packers>,
    pub(super) head: Arc<Head>,
    pub(super) body: Body,
}

impl Tracker {
    /// Follows the volumes until they end; afterwards everything durable is in the last checkpoint.
    pub(super) async fn run(&mut self, mut volumes: mpsc::Receiver<Sent>) -> Result<()> {
        while let Some(mut sent) = volumes.recv().await {
            let mut unsaved = false;
            loop {
                let taken = match sent.put.join().await {
                    Ok(stored) => {
                        // Once it is in the body, it counts also when its index lines cannot be put yet.
                        unsaved = true;
                        self.durable(sent.meta, stored).await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = taken {
                    // What is durable need not be read again.
                    if unsaved && let Err(second) = self.save().await {
                        tracing::warn!(error = %second.chain(), "the last checkpoint could not be saved");
                    }
                    return Err(error);
                }
                // One checkpoint for all that is durable already.
                match volumes.try_recv() {
                    Ok(next) if next.put.0.is_finished() => sent = next,
                    Ok(next) => {
                        self.save().await?;
                        unsaved = false;
                        sent = next;
                    }
                    Err(_) => break,
                }
            }
            self.save().await?;
        }
        Ok(())
    }

    /// Takes note of a volume that is at the destination.
    pub(super) async fn durable(&mut self, meta: VolumeMeta, stored: StoredVolume) -> Result<()> {
        let record = VolumeRecord {
            name: self.outlet.relative(&meta.name)?.to_owned(),
            size: stored.size,
            sha256: stored.sha256,
            raw: meta.raw_start,
            frames: meta.frames,
        };
        let told = format!("stored {}", record.name);
        let figures = serde_json::json!({ "stored_bytes": record.size, "frames": record.frames.len() });
        self.outlet.session.log(LogRecord::debug("transfer", told).with(figures));
        let mut line = Vec::new();
        IndexEncoder::new().volume(&record, &mut line)?;
        // Nothing fails between here and the position, which belong together.
        let (line, index) = (text(line)?, text(meta.index)?);
        let tail = &mut self.body.tail;
        if tail.volumes == 0 {
            let first_entry = meta.position.ordinal - meta.names.count;
            *tail = Tail { raw_start: meta.raw_start, first_entry, first_volume: meta.number, ..Tail::default() };
        }
        tail.text.push_str(&line);
        tail.text.push_str(&index);
        tail.names.join(&meta.names);
        tail.raw_end = record.raw_range().end;
        tail.volumes += 1;
        tail.volume_bytes += stored.size;
        let fence = self.outlet.session.fence();
        extend(&mut self.body.volumes, fence.attempt, fence.nonce);
        self.body.volume_count += 1;
        self.body.stored_bytes += stored.size;
        self.body.position = meta.position;
        if self.body.tail.text.len() >= SMALL_TAIL {
            let (full, packed) = self.pack_tail().await?;
            if full || packed.len() > TAIL_IN_CHECKPOINT {
                self.put_piece(packed).await?;
            }
        }
        Ok(())
    }

    async fn pack_tail(&self) -> Result<(bool, Bytes)> {
        let text = Bytes::copy_from_slice(self.body.tail.text.as_bytes());
        let full = text.len() >= FULL_TAIL;
        let packers = self.packers.clone();
        let packed = tokio::task::spawn_blocking(move || packers.compress(&text)).await.map_err(panicked)??;
        Ok((full, packed))
    }

    /// Puts the index lines so far as a piece, if there are any.
    pub(super) async fn flush_tail(&mut self) -> Result<()> {
        if self.body.tail.volumes == 0 {
            return Ok(());
        }
        let (_, packed) = self.pack_tail().await?;
        self.put_piece(packed).await
    }

    async fn put_piece(&mut self, packed: Bytes) -> Result<()> {
        let name = self.outlet.names.index(self.outlet.attempted(self.body.piece_count()));
        let (size, sha256) = self.outlet.put(&name, vec![packed], true).await?;
        let sha256 = sha256.ok_or_else(|| Error::permanent("the piece was not hashed"))?;
        let tail = std::mem::take(&mut self.body.tail);
        let record = PieceRecord {
            name: self.outlet.relative(&name)?.to_owned(),
            size,
            sha256,
            raw_size: tail.text.len() as u64,
            raw: tail.raw_start..tail.raw_end,
            first_entry: tail.first_entry,
            entries: tail.names.count,
            first_volume: tail.first_volume,
            volumes: tail.volumes,
            first_name: tail.names.smallest,
            last_name: tail.names.greatest,
            sorted: !tail.names.unsorted,
        };
        self.outlet.session.meter.update(|p| p.stored_bytes += size);
        self.body.stored_bytes += size;
        self.body.pieces.push(Piece { record, volume_bytes: tail.volume_bytes });
        put_away(&self.outlet, &self.packers, &mut self.body).await
    }

    /// The checkpoint of what is durable.
    pub(super) async fn checkpoint(&mut self) -> Result<Checkpoint> {
        let (head, body, key) = (self.head.clone(), self.body.clone(), self.outlet.key.clone());
        tokio::task::spawn_blocking(move || encode(&head, &body, key.as_deref())).await.map_err(panicked)?
    }

    async fn save(&mut self) -> Result<()> {
        let checkpoint = self.checkpoint().await?;
        self.outlet.session.save(&checkpoint).await?;
        let position = &self.body.position;
        let log = LogRecord::info(CHECKPOINT, format!("{} volumes are stored", self.body.volume_count));
        self.outlet.session.log(log.with(serde_json::json!({
            "volumes": self.body.volume_count,
            "entries": position.ordinal,
            "bytes": position.content,
            "stored_bytes": self.body.stored_bytes,
        })));
        Ok(())
    }
}

fn text(lines: Vec<u8>) -> Result<String> {
    String::from_utf8(lines).map_err(|e| Error::permanent("an index line is not UTF-8").because(e))
}
