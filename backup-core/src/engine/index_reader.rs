//! Reads the index: pieces, their records, and which volumes hold a part of the raw stream.

use super::archive::{Archive, Inner, panicked};
use crate::archive::{IndexDecoder, IndexRecord, PieceRecord, VolumeRecord};
use crate::model::Entry;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Volume records of so many pieces are kept.
const CACHED_PIECES: usize = 8;

/// A piece of the index, read and checked.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) volumes: Arc<Vec<VolumeRecord>>,
    pub(super) entries: Vec<Entry>,
}

/// Volume records of the pieces that were read last.
#[derive(Debug, Default)]
pub(super) struct VolumeCache(Mutex<VecDeque<(usize, Arc<Vec<VolumeRecord>>)>>);

impl VolumeCache {
    fn get(&self, piece: usize) -> Option<Arc<Vec<VolumeRecord>>> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.iter().find(|(number, _)| *number == piece).map(|(_, volumes)| volumes.clone())
    }

    fn put(&self, piece: usize, volumes: Arc<Vec<VolumeRecord>>) {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.iter().any(|(number, _)| *number == piece) {
            return;
        }
        if cached.len() == CACHED_PIECES {
            cached.pop_front();
        }
        cached.push_back((piece, volumes));
    }
}

impl Archive {
    /// Reads a piece and checks it against the manifest's record of it.
    pub(super) async fn piece(&self, number: usize) -> Result<Piece> {
        let inner = &self.inner;
        let record =
            inner.manifest.pieces.get(number).ok_or_else(|| Error::corrupt("the manifest has no such index piece"))?;
        let packed = inner.read_object(&record.name, record.size, record.sha256).await?;
        let (archive, record) = (inner.clone(), record.clone());
        let decode = tokio::task::spawn_blocking(move || {
            let name = record.name.clone();
            decode(&archive, &packed, &record).map_err(|e| e.on(name))
        });
        let piece = decode.await.map_err(panicked)??;
        inner.volumes.put(number, piece.volumes.clone());
        Ok(piece)
    }

    /// The volumes that a piece lists.
    async fn volumes_of(&self, piece: usize) -> Result<Arc<Vec<VolumeRecord>>> {
        match self.inner.volumes.get(piece) {
            Some(volumes) => Ok(volumes),
            None => Ok(self.piece(piece).await?.volumes),
        }
    }

    /// The volumes that hold a part of the raw stream, in order.
    pub(super) async fn volumes_in(&self, raw: &Range<u64>) -> Result<Vec<VolumeRecord>> {
        let mut found = Vec::new();
        let mut covered = raw.start;
        for number in self.pieces_in(raw) {
            for volume in self.volumes_of(number).await?.iter().filter(|volume| lies_in(volume, raw)) {
                covered = covered.max(volume.raw_range().end);
                found.push(volume.clone());
            }
        }
        if covered < raw.end {
            return Err(Error::corrupt(format!("no volume holds bytes {covered} to {} of the stream", raw.end)));
        }
        Ok(found)
    }

    /// The same, without those whose records are damaged.
    pub(super) async fn intact_volumes_in(&self, raw: &Range<u64>) -> Result<Vec<VolumeRecord>> {
        let mut found = Vec::new();
        for number in self.pieces_in(raw) {
            match self.volumes_of(number).await {
                Ok(volumes) => found.extend(volumes.iter().filter(|volume| lies_in(volume, raw)).cloned()),
                Err(e) if self.is_damaged_by(&e).await => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// The pieces whose volumes hold a part of the raw stream.
    fn pieces_in(&self, raw: &Range<u64>) -> Range<usize> {
        let pieces = &self.inner.manifest.pieces;
        let first = pieces.partition_point(|piece| piece.raw.end <= raw.start);
        first..pieces.partition_point(|piece| piece.raw.start < raw.end).max(first)
    }
}

fn lies_in(volume: &VolumeRecord, raw: &Range<u64>) -> bool {
    let range = volume.raw_range();
    range.end > raw.start && range.start < raw.end
}

/// Unpacks a piece, and checks that it holds what the manifest says.
fn decode(archive: &Inner, packed: &[u8], record: &PieceRecord) -> Result<Piece> {
    let length = usize::try_from(record.raw_size).map_err(|e| Error::corrupt("an impossible length").because(e))?;
    if length > crate::archive::MAX_FRAME {
        return Err(Error::corrupt("an index piece is longer than any writer makes it"));
    }
    let text = archive.decompress(packed, length)?;
    let mut volumes: Vec<VolumeRecord> = Vec::new();
    let mut entries = Vec::new();
    let mut raw = record.raw.start;
    for item in IndexDecoder::new(record.first_entry).records(&text) {
        match item? {
            IndexRecord::Volume(volume) => {
                let range = volume.raw_range();
                let stored: u64 = volume.frames.iter().map(|(stored, _)| u64::from(*stored)).sum();
                if range.start != raw || archive.stored_length(stored) != volume.size {
                    return Err(Error::corrupt(format!(
                        "the record of volume {} does not fit the others",
                        volume.name
                    )));
                }
                if volume.sha256.is_none() && archive.key.is_none() {
                    return Err(Error::corrupt(format!("the record of volume {} has no digest", volume.name)));
                }
                raw = range.end;
                volumes.push(volume);
            }
            IndexRecord::Entry(entry) => entries.push(*entry),
        }
    }
    if raw != record.raw.end || volumes.len() as u64 != record.volumes || entries.len() as u64 != record.entries {
        return Err(Error::corrupt("the index piece does not hold what the manifest says of it"));
    }
    let fits = |entry: &Entry| entry.offset.checked_add(entry.size).is_some_and(|end| end <= record.raw.end);
    if let Some(entry) = entries.iter().find(|entry| !fits(entry)) {
        return Err(Error::corrupt("the index places an entry beyond the volumes").on(&entry.name));
    }
    Ok(Piece { volumes: Arc::new(volumes), entries })
}
