//! Records of index pieces, put away in objects of their own, so that checkpoints stay small however long a backup becomes.
//!
//! Each such chapter names the one before it, and the checkpoint names the last one. They are read back for the manifest, which has
//! all records; after that nobody needs them.

use super::checkpoint::{Body, Piece};
use super::frame::Packers;
use super::volume::{Outlet, panicked};
use crate::archive::{Codec, Decompressor, unseal};
use crate::engine::archive::read_small;
use crate::{Digest, Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Bytes of records, as JSON, that a checkpoint holds at most; one more record, and they are put away.
const IN_CHECKPOINT: usize = 128 << 10;

/// Where a chapter is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chapter {
    name: String,
    size: u64,
    sha256: Digest,
    /// Length of its JSON.
    raw_size: u64,
    /// Pieces in it and in those before it.
    pieces: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    previous: Option<Chapter>,
    pieces: Vec<Piece>,
}

impl Body {
    /// Pieces so far.
    pub(super) fn piece_count(&self) -> u64 {
        self.chapter.as_ref().map_or(0, |chapter| chapter.pieces) + self.pieces.len() as u64
    }
}

/// Puts the records away when they have become many.
pub(super) async fn put_away(outlet: &Outlet, packers: &Arc<Packers>, body: &mut Body) -> Result<()> {
    let failed = |e| Error::permanent("the records of index pieces could not be encoded").because(e);
    if serde_json::to_vec(&body.pieces).map_err(failed)?.len() <= IN_CHECKPOINT {
        return Ok(());
    }
    let content = Content { previous: body.chapter.clone(), pieces: body.pieces.clone() };
    let json = Bytes::from(serde_json::to_vec(&content).map_err(failed)?);
    let (raw_size, packers) = (json.len() as u64, packers.clone());
    let packed = tokio::task::spawn_blocking(move || packers.compress(&json)).await.map_err(panicked)??;
    let pieces = body.piece_count();
    let name = outlet.names.chapter(outlet.attempted(pieces));
    let (size, sha256) = outlet.put(&name, vec![packed], true).await?;
    let sha256 = sha256.ok_or_else(|| Error::permanent("the chapter was not hashed"))?;
    body.chapter = Some(Chapter { name: outlet.relative(&name)?.to_owned(), size, sha256, raw_size, pieces });
    body.pieces.clear();
    Ok(())
}

/// Reads all chapters back, so that the body has every record.
pub(super) async fn gather(outlet: &Outlet, codec: Codec, body: &mut Body) -> Result<()> {
    let mut next = body.chapter.clone();
    let mut parts = vec![body.pieces.clone()];
    while let Some(chapter) = next {
        let content = read(outlet, codec, &chapter).await?;
        next = content.previous;
        parts.push(content.pieces);
    }
    let pieces: Vec<Piece> = parts.into_iter().rev().flatten().collect();
    if pieces.len() as u64 != body.piece_count() {
        return Err(Error::corrupt("records of index pieces are missing").on(outlet.names.archive()));
    }
    (body.pieces, body.chapter) = (pieces, None);
    Ok(())
}

async fn read(outlet: &Outlet, codec: Codec, chapter: &Chapter) -> Result<Content> {
    let name = outlet.names.object(&chapter.name)?;
    let stored = read_small(&*outlet.destination, &name, chapter.size).await.map_err(|e| e.on(&name))?;
    let (outlet, chapter) = (outlet.clone(), chapter.clone());
    let parse = tokio::task::spawn_blocking(move || {
        if Digest::of(&stored) != chapter.sha256 {
            return Err(Error::corrupt("the records of index pieces do not read back as they were stored"));
        }
        let packed = match &outlet.key {
            Some(key) => unseal(key, outlet.names.archive(), &chapter.name, &stored)?.into(),
            None => stored,
        };
        let length = usize::try_from(chapter.raw_size)
            .map_err(|e| Error::corrupt("a chapter is longer than memory").because(e))?;
        let json = Decompressor::new(codec)?.decompress(&packed, length)?;
        serde_json::from_slice(&json)
            .map_err(|e| Error::corrupt("the records of index pieces cannot be read").because(e))
    });
    parse.await.map_err(panicked)?.map_err(|e| e.on(name))
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::{self, Blob, Head, NameRange, Position, Tail};
    use super::super::track::Tracker;
    use super::super::volume::{StoredVolume, VolumeMeta};
    use super::*;
    use crate::adapter::{Destination, Store};
    use crate::archive::{ArchiveKey, Compression, ObjectNames, sealed_length};
    use crate::engine::session::Session;
    use crate::engine::{BackupOptions, Engine, EngineOptions, TakeOver};
    use crate::local::LocalDestination;
    use crate::memory::MemoryStore;
    use crate::model::{ArchiveId, Checkpoint, EntryName, Identity, NewOperation, OperationId, OperationKind};
    use futures::TryStreamExt;

    /// Text that does not compress below half of its length, as digests in lines do not.
    fn noise(length: usize) -> Vec<u8> {
        let bytes: Vec<u8> = std::iter::repeat_with(rand::random::<[u8; 32]>).flatten().take(length / 2).collect();
        bytes
            .iter()
            .flat_map(|byte| [b"0123456789abcdef"[usize::from(byte >> 4)], b"0123456789abcdef"[usize::from(byte & 15)]])
            .collect()
    }

    async fn tracker(destination: LocalDestination, codec: Codec, key: Option<ArchiveKey>) -> Tracker {
        let store = Arc::new(MemoryStore::new());
        let (id, archive) =
            (OperationId::generate(jiff::Timestamp::now()), ArchiveId::generate(jiff::Timestamp::now()));
        let new = NewOperation {
            id: id.clone(),
            kind: OperationKind::Backup,
            name: String::new(),
            source: Identity::new("x", "source"),
            destination: destination.identity(),
            archive: archive.clone(),
            spec: serde_json::Value::Null,
            connections: None,
            created_by: String::new(),
        };
        store.create(new, Some(&Checkpoint(Bytes::from_static(b"first")))).await.unwrap();
        // Nobody renews this claim.
        let options = EngineOptions { lease: std::time::Duration::from_secs(3600), ..EngineOptions::default() };
        let engine = Engine::with_options(store, options, Vec::new());
        let (session, _) = Session::claim(&engine, &id, TakeOver::Now).await.unwrap();
        destination.check().await.unwrap();
        let head = Head { archive: archive.clone(), header: Blob(Bytes::new()), keys: None };
        let body = Body {
            options: BackupOptions::default(),
            position: Position::default(),
            volumes: Vec::new(),
            volume_count: 0,
            stored_bytes: 0,
            pieces: Vec::new(),
            chapter: None,
            tail: Tail::default(),
            previous: None,
            manifest: None,
        };
        let names = ObjectNames::new(archive, codec, key.is_some());
        let outlet = Outlet {
            session,
            destination: Arc::new(destination),
            names,
            key: key.map(Arc::new),
            limit: Default::default(),
        };
        let packers = Arc::new(Packers::new(Compression::new(codec, None).unwrap()));
        Tracker { outlet, packers, head: Arc::new(head), body }
    }

    /// Volumes with index lines of 10,000 entries each, names of 4,000 bytes at their edges.
    /// Answers the length of the checkpoint behind each fifth.
    async fn track(tracker: &mut Tracker, volumes: u64) -> Vec<usize> {
        let mut lengths = Vec::new();
        for number in 0..volumes {
            let mut names = NameRange::default();
            let edge = String::from_utf8(noise(4000)).unwrap();
            names.add(&EntryName::from(format!("{number:08}a{edge}").as_str()));
            names.add(&EntryName::from(format!("{number:08}z{edge}").as_str()));
            names.count = 10_000;
            let position = Position { ordinal: (number + 1) * 10_000, ..Position::default() };
            let meta = VolumeMeta {
                number,
                name: tracker.outlet.names.volume(tracker.outlet.attempted(number)),
                raw_start: number * 1000,
                frames: vec![(10, 1000)],
                index: noise(300 << 10),
                names,
                position,
            };
            let sealed = tracker.outlet.key.is_some();
            let stored = match sealed {
                true => StoredVolume { size: sealed_length(10), sha256: None },
                false => StoredVolume { size: 10, sha256: Some(Digest::of(b"")) },
            };
            tracker.durable(meta, stored).await.unwrap();
            // Behind each second volume a piece is put.
            if number % 5 == 0 {
                lengths.push(tracker.checkpoint().await.unwrap().0.len());
            }
        }
        lengths
    }

    #[tokio::test]
    async fn a_checkpoint_of_a_million_entries_stays_below_half_a_mib_and_loses_no_piece() {
        for (codec, sealed, volumes) in [(Codec::Zstd, false, 120), (Codec::None, true, 60)] {
            let dir = tempfile::tempdir().unwrap();
            let destination = LocalDestination::new(dir.path()).unwrap();
            let key = sealed.then(|| ArchiveKey::generate().unwrap());
            let mut tracker = tracker(destination, codec, key).await;
            let lengths = track(&mut tracker, volumes).await;
            let (few, many) = (lengths[..8].iter().max().unwrap(), lengths.iter().max().unwrap());
            assert!(*many <= 512 << 10, "{codec:?}: {many}");
            assert!(*many < few + (16 << 10), "{codec:?}: {few} grew to {many}");
            assert_eq!(tracker.body.piece_count(), volumes / 2);
            let outlet = tracker.outlet.clone();
            gather(&outlet, codec, &mut tracker.body).await.unwrap();
            let first: Vec<u64> = tracker.body.pieces.iter().map(|piece| piece.record.first_entry).collect();
            assert_eq!(first, (0..volumes / 2).map(|n| n * 20_000).collect::<Vec<_>>());
            // It is saved like this once more, with the manifest.
            let saved = checkpoint::encode(&tracker.head, &tracker.body, outlet.key.as_deref()).unwrap();
            let (head, body) = checkpoint::decode_head(&saved).unwrap();
            assert_eq!(
                checkpoint::decode_body(&head, &body, outlet.key.as_deref()).unwrap().pieces.len() as u64,
                volumes / 2
            );
        }
    }

    #[tokio::test]
    async fn a_chapter_that_was_changed_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let destination = LocalDestination::new(dir.path()).unwrap();
        let mut tracker = tracker(destination.clone(), Codec::Zstd, None).await;
        track(&mut tracker, 60).await;
        let listed: Vec<_> = destination.list(None).try_collect().await.unwrap();
        let chapter = listed.iter().find(|object| object.name.as_str().contains(".pieces")).unwrap();
        let path = dir.path().join(chapter.name.as_str());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let outlet = tracker.outlet.clone();
        let error = gather(&outlet, Codec::Zstd, &mut tracker.body).await.unwrap_err();
        assert_eq!(error.class(), crate::ErrorClass::Corrupt);
        assert!(tracker.body.chapter.is_some(), "nothing is lost");
    }
}
