//! One frame of the stream: collected by the assembler, packed on a blocking thread.
//!
//! Packing writes the tar headers, compresses, hashes the contents and writes the index lines, all while the bytes are hot.

use super::checkpoint::{NameRange, Position};
use crate::archive::{
    Compression, Compressor, IndexEncoder, TarEntry, TarKind, header_length, padding, write_end, write_header,
};
use crate::budget::Permit;
use crate::model::{Entry, EntryKind};
use crate::pool::BufferPool;
use crate::{Digest, Error, Result, Sha256};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// An entry with its tar path.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) entry: Entry,
    /// The tar path, when it is not the name itself.
    pub(super) path: Option<String>,
    /// The tar path of a hard link's target.
    pub(super) link_path: Option<String>,
}

impl Staged {
    fn path(&self) -> &str {
        // A name that is not UTF-8 always has a path of its own.
        self.path.as_deref().or(self.entry.name.as_str()).unwrap_or_default()
    }

    fn tar(&self) -> TarEntry<'_> {
        let entry = &self.entry;
        let kind = match &entry.kind {
            EntryKind::Directory => TarKind::Directory,
            EntryKind::Symlink { target } => TarKind::Symlink(target),
            EntryKind::HardLink { .. } => TarKind::HardLink(self.link_path.as_deref().unwrap_or_default()),
            EntryKind::File | EntryKind::Slice => TarKind::File,
        };
        TarEntry {
            path: self.path(),
            true_name: self.path.is_some().then_some(&entry.name),
            kind,
            size: entry.size,
            mtime: entry.mtime,
            metadata: &entry.metadata,
        }
    }

    /// Length of its tar header.
    pub(super) fn header_length(&self) -> u64 {
        header_length(&self.tar())
    }
}

/// A piece of a frame.
#[derive(Debug)]
pub(super) enum Part {
    /// A whole entry: header, content, padding, index line.
    Whole { staged: Box<Staged>, content: Bytes },
    /// The header of an entry whose content follows in pieces.
    Open { staged: Box<Staged> },
    /// Content of the open entry.
    Content(Bytes),
    /// So many zero bytes in place of content of the open entry that could not be read.
    Filler(u64),
    /// The padding and the index line of the open entry.
    Close { entry: Box<Entry> },
    /// Ready bytes that no index line speaks of.
    Raw(Bytes),
    /// The end of the tar stream.
    End,
}

/// The hash over the content of the entry that a frame begins inside of.
#[derive(Debug)]
pub(super) enum HashIn {
    /// The frame begins between entries, or the state is known.
    Known(Sha256),
    /// The frame before it is still being packed.
    FromBefore(oneshot::Receiver<Sha256>),
}

/// A frame before packing.
#[derive(Debug)]
pub(super) struct RawFrame {
    pub(super) parts: Vec<Part>,
    /// Raw length.
    pub(super) length: u64,
    pub(super) hash_in: HashIn,
    /// Where the frame ends inside of an entry: for the frame after it.
    pub(super) hash_out: Option<oneshot::Sender<Sha256>>,
    /// The position behind it; the hash of an open entry is filled in by packing.
    pub(super) position: Position,
    /// Keeps the memory of the contents accounted for.
    pub(super) permits: Vec<Arc<Permit>>,
    /// The volume ends with this frame, whatever its size.
    pub(super) cut: bool,
}

/// A packed frame.
#[derive(Debug)]
pub(super) struct PackedFrame {
    pub(super) stored: Bytes,
    pub(super) length: u64,
    pub(super) index: Vec<u8>,
    pub(super) names: NameRange,
    pub(super) position: Position,
    pub(super) cut: bool,
}

/// Contexts and buffers that are used again, one for each thread that packs.
#[derive(Debug)]
pub(super) struct Packers {
    compression: Compression,
    idle: Mutex<Vec<Packer>>,
    /// Buffers of packed frames that came out about as long as they went in.
    buffers: Arc<BufferPool>,
}

#[derive(Debug)]
struct Packer {
    compressor: Compressor,
    raw: Vec<u8>,
    out: Vec<u8>,
    buffers: Arc<BufferPool>,
}

/// Buffers of packed frames that are kept for the next ones: those of one volume.
const KEPT: usize = 16;

impl Packers {
    pub(super) fn new(compression: Compression) -> Self {
        Self { compression, idle: Mutex::default(), buffers: BufferPool::new(KEPT) }
    }

    /// Compresses some bytes as one frame.
    pub(super) fn compress(&self, bytes: &Bytes) -> Result<Bytes> {
        self.with(|packer| packer.compress_one(bytes))
    }

    /// Packs a frame. CPU work of some milliseconds a MiB; waits for the frame before it only when both hold content of one entry.
    pub(super) fn pack(&self, frame: RawFrame) -> Result<PackedFrame> {
        self.with(|packer| packer.pack(frame))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Packer) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut packer = match idle {
            Some(packer) => packer,
            None => Packer {
                compressor: Compressor::new(self.compression)?,
                raw: Vec::new(),
                out: Vec::new(),
                buffers: self.buffers.clone(),
            },
        };
        let result = work(&mut packer);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(packer);
        result
    }
}

impl Packer {
    fn pack(&mut self, mut frame: RawFrame) -> Result<PackedFrame> {
        let stored = self.compress(&frame)?;
        let mut index = Vec::new();
        let mut lines = IndexEncoder::new();
        let mut names = NameRange::default();
        let mut hash = match frame.hash_in {
            HashIn::Known(hash) => hash,
            HashIn::FromBefore(receiver) => receiver
                .blocking_recv()
                .map_err(|e| Error::cancelled("the frame before this one was not packed").because(e))?,
        };
        let mut line = |entry: &Entry, index: &mut Vec<u8>| {
            names.add(&entry.name);
            lines.entry(entry, index)
        };
        for part in &mut frame.parts {
            match part {
                Part::Whole { staged, content } => {
                    let entry = &mut staged.entry;
                    entry.sha256 = has_content(&entry.kind).then(|| Digest::of(content));
                    line(entry, &mut index)?;
                }
                Part::Open { .. } => hash = Sha256::new(),
                Part::Content(bytes) => hash.update(bytes),
                Part::Filler(length) => hash_zeros(&mut hash, *length),
                Part::Close { entry } => {
                    entry.sha256 = Some(hash.clone().finish());
                    line(entry, &mut index)?;
                }
                Part::Raw(_) | Part::End => {}
            }
        }
        if let Some(open) = &mut frame.position.open {
            open.hash = hash.clone();
        }
        if let Some(next) = frame.hash_out {
            // Nobody waits when the backup is being stopped.
            let _ = next.send(hash);
        }
        Ok(PackedFrame { stored, length: frame.length, index, names, position: frame.position, cut: frame.cut })
    }

    fn compress(&mut self, frame: &RawFrame) -> Result<Bytes> {
        // A frame that is one piece of a large content needs no copy.
        if let [Part::Content(bytes)] = &frame.parts[..] {
            return self.compress_one(bytes);
        }
        self.raw.clear();
        for part in &frame.parts {
            match part {
                Part::Whole { staged, content } => {
                    write_header(&staged.tar(), &mut self.raw);
                    self.raw.extend_from_slice(content);
                    pad(&mut self.raw, content.len() as u64);
                }
                Part::Open { staged } => write_header(&staged.tar(), &mut self.raw),
                Part::Content(bytes) => self.raw.extend_from_slice(bytes),
                Part::Filler(length) => {
                    self.raw.resize(self.raw.len() + usize::try_from(*length).unwrap_or(usize::MAX), 0)
                }
                Part::Close { entry } => pad(&mut self.raw, entry.size),
                Part::Raw(bytes) => self.raw.extend_from_slice(bytes),
                Part::End => write_end(&mut self.raw),
            }
        }
        if self.raw.len() as u64 != frame.length {
            return Err(Error::permanent(format!(
                "a frame came out with {} bytes where {} were planned",
                self.raw.len(),
                frame.length
            )));
        }
        let raw = Bytes::from(std::mem::take(&mut self.raw));
        let packed = self.compress_one(&raw);
        self.raw = Vec::from(raw);
        packed
    }

    fn compress_one(&mut self, bytes: &Bytes) -> Result<Bytes> {
        // One that had to grow would be of a size of its own, and of no use to others.
        let room = bytes.len() + bytes.len() / 64 + (4 << 10);
        if self.out.capacity() < room {
            self.out = self.buffers.take(room);
        }
        self.compressor.compress_into(std::slice::from_ref(bytes), &mut self.out)?;
        // A frame that fills its buffer goes on in it; another must not keep more memory than it is accounted with.
        if self.out.len() >= self.out.capacity() / 8 * 7 {
            return Ok(self.buffers.lend(std::mem::take(&mut self.out)));
        }
        Ok(Bytes::copy_from_slice(&self.out))
    }
}

/// Whether entries of a kind have content, and so a digest.
pub(in crate::engine) fn has_content(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::File | EntryKind::Slice)
}

fn pad(raw: &mut Vec<u8>, size: u64) {
    raw.resize(raw.len() + padding(size), 0);
}

fn hash_zeros(hash: &mut Sha256, mut length: u64) {
    const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    while length > 0 {
        let step = length.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..step as usize]);
        length -= step;
    }
}
