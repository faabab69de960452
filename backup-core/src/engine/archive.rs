//! An archive that is opened for reading: header, key and manifest are checked, and objects can be fetched.

use super::OpenOptions;
use super::index_reader::VolumeCache;
use super::keys::open_key;
use super::lookup::NameCache;
use crate::adapter::Destination;
use crate::archive::{
    ArchiveKey, Decompressor, Header, MAX_FRAME, Manifest, ObjectNames, SEALED_HEAD, Unsealer, max_packed,
    sealed_length, unseal,
};
use crate::model::{ArchiveId, ObjectName};
use crate::pool::BufferPool;
use crate::retry::{RetryPolicy, Retrying};
use crate::{Digest, Error, ErrorClass, Result, Sha256};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A header is never longer.
const MAX_SMALL_OBJECT: u64 = 1 << 20;
/// The first bytes of so many sealed volumes are kept, so that they are not fetched for each part.
const MAX_HEADS: usize = 256;
/// A manifest is never longer: about two million index pieces.
const MAX_MANIFEST: u64 = 512 << 20;
/// Memory for longer pieces of objects is taken as they come: what names their lengths is not to be trusted.
const MAX_RESERVED: usize = 32 << 20;

/// A complete archive, opened with its key if it is sealed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) destination: Arc<dyn Destination>,
    pub(super) names: ObjectNames,
    pub(super) header: Header,
    pub(super) manifest: Manifest,
    manifest_sha256: Digest,
    pub(super) key: Option<ArchiveKey>,
    decompressors: Mutex<Vec<Decompressor>>,
    heads: Mutex<HashMap<String, Bytes>>,
    pub(super) volumes: VolumeCache,
    pub(super) names_of: NameCache,
}

impl Archive {
    /// Opens an archive: reads and checks header, keys and manifest.
    ///
    /// # Errors
    /// `NotFound` when there is no such archive or it was never completed; `Unauthorized` when it is sealed and the keys do not
    /// open it; `Invalid` when keys are given, it is not sealed, and that is not allowed; `Unsupported` when it needs a newer
    /// reader; `Corrupt` when an object is damaged or the archive was swept.
    pub async fn open(destination: Arc<dyn Destination>, id: &ArchiveId, options: &OpenOptions) -> Result<Self> {
        Self::open_with(destination, id, options, RetryPolicy::default()).await
    }

    /// The same, with another policy for what is read now and later.
    pub(super) async fn open_with(
        destination: Arc<dyn Destination>,
        id: &ArchiveId,
        options: &OpenOptions,
        retry: RetryPolicy,
    ) -> Result<Self> {
        let destination: Arc<dyn Destination> = Retrying::new(destination, retry);
        let (header, header_bytes) = read_header(&*destination, id).await?;
        let names = ObjectNames::new(id.clone(), header.codec, header.sealed);
        let key = match (header.sealed, &options.keys) {
            (true, Some(provider)) => Some(open_key(&*destination, &names, &header_bytes, &**provider).await?),
            (true, None) => {
                return Err(Error::unauthorized("the archive is sealed; give its key file or passphrase").on(id));
            }
            (false, Some(_)) if !options.allow_unsealed => {
                let text = "the archive is not sealed although a key was given: it may have been put in place of a sealed one; \
                            allow unsealed archives explicitly if that is what you want";
                return Err(Error::invalid(text).on(id));
            }
            (false, _) => None,
        };
        if destination.stat(&names.swept()).await?.is_some() {
            return Err(Error::corrupt("the archive was swept: parts of it are gone").on(id));
        }
        let stored = read_small(&*destination, &names.manifest(), MAX_MANIFEST).await.map_err(|e| match e.class() {
            ErrorClass::NotFound => Error::not_found(
                "the archive is not complete: it has no manifest. The backup that writes it has not finished",
            )
            .on(id),
            _ => e,
        })?;
        let manifest_sha256 = Digest::of(&stored);
        let name = names.manifest();
        let (id, relative) = (id.clone(), relative(&names, &name)?.to_owned());
        // It may be long.
        let parse = tokio::task::spawn_blocking(move || {
            let manifest = match &key {
                Some(key) => Manifest::parse(&unseal(key, &id, &relative, &stored)?)?,
                None => Manifest::parse(&stored)?,
            };
            manifest.check_against(&header, &Digest::of(&header_bytes))?;
            Ok((manifest, header, key))
        });
        let (manifest, header, key) = parse.await.map_err(panicked)?.map_err(|e: Error| e.on(name))?;
        let inner = Inner {
            destination,
            names,
            header,
            manifest,
            manifest_sha256,
            key,
            decompressors: Mutex::default(),
            heads: Mutex::default(),
            volumes: VolumeCache::default(),
            names_of: NameCache::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The archive's id.
    pub fn id(&self) -> &ArchiveId {
        &self.inner.header.id
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.inner.header
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// Whether an error of reading one object is about that object alone, a bad sector too: the archive is still there.
    pub(super) async fn is_damaged_by(&self, error: &Error) -> bool {
        let inner = &self.inner;
        (is_damage(error) || error.class() == ErrorClass::Permanent)
            && inner.destination.stat(&inner.names.header()).await.is_ok_and(|header| header.is_some())
    }

    /// SHA-256 of the manifest object as it is stored, to be compared with what a store remembers.
    pub fn manifest_sha256(&self) -> Digest {
        self.inner.manifest_sha256
    }
}

impl Inner {
    /// Reads a range of an object's content, opened if it is sealed, into a buffer of the pool. `size` is the object's stored length.
    pub(super) async fn read_range(
        self: &Arc<Self>,
        relative: &str,
        size: u64,
        range: Range<u64>,
        buffers: &Arc<BufferPool>,
    ) -> Result<Bytes> {
        let name = self.names.object(relative)?;
        let collect = |range| collect(&*self.destination, &name, range, buffers);
        let Some(_) = &self.key else {
            return collect(range).await;
        };
        // The first bytes hold the salt.
        let known = self.heads.lock().unwrap_or_else(PoisonError::into_inner).get(relative).cloned();
        let head = match known {
            Some(head) => head,
            None => collect(0..SEALED_HEAD as u64).await?,
        };
        let unsealer = {
            let key = self.key.as_ref().ok_or_else(|| Error::permanent("the key is gone"))?;
            Unsealer::new(key, &self.header.id, relative, size, &head).map_err(|e| e.on(&name))?
        };
        let sealed_range = unsealer.sealed_range(range.clone()).map_err(|e| e.on(&name))?;
        let sealed = collect(sealed_range).await?;
        let opened = tokio::task::spawn_blocking(move || unsealer.open(range, &sealed).map(Bytes::from));
        let opened = opened.await.map_err(panicked)?;
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.is_err() {
            // It may be what is wrong.
            heads.remove(relative);
        } else if heads.len() < MAX_HEADS || heads.contains_key(relative) {
            heads.insert(relative.to_owned(), head);
        } else {
            *heads = HashMap::from([(relative.to_owned(), head)]);
        }
        opened.map_err(|e| e.on(&name))
    }

    /// Reads a whole small object and checks its digest.
    pub(super) async fn read_object(self: &Arc<Self>, relative: &str, size: u64, sha256: Digest) -> Result<Bytes> {
        let name = self.names.object(relative)?;
        if size == 0 || size > sealed_length(max_packed(MAX_FRAME as u64)) {
            return Err(
                Error::corrupt(format!("the archive names an object of {size} bytes, as no writer makes")).on(&name)
            );
        }
        // With its range, so that an object that is longer than it should be is not read, and one that is cut off is read again.
        let stored = collect(&*self.destination, &name, 0..size, &BufferPool::new(0)).await?;
        let (inner, relative) = (self.clone(), relative.to_owned());
        let check = tokio::task::spawn_blocking(move || {
            if Digest::of(&stored) != sha256 {
                return Err(Error::corrupt("the object's SHA-256 is not the recorded one"));
            }
            match &inner.key {
                Some(key) => unseal(key, &inner.header.id, &relative, &stored).map(Bytes::from),
                None => Ok(stored),
            }
        });
        check.await.map_err(panicked)?.map_err(|e| e.on(&name))
    }

    /// Decompresses on the present thread.
    pub(super) fn decompress(&self, frame: &[u8], length: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.decompress_into(frame, length, &mut out).map(|()| out)
    }

    /// The same, in the place of what is in a buffer.
    pub(super) fn decompress_into(&self, frame: &[u8], length: usize, out: &mut Vec<u8>) -> Result<()> {
        let idle = self.decompressors.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decompressor = match idle {
            Some(decompressor) => decompressor,
            None => Decompressor::new(self.header.codec)?,
        };
        let result = decompressor.decompress_into(frame, length, out);
        self.decompressors.lock().unwrap_or_else(PoisonError::into_inner).push(decompressor);
        result
    }

    /// Stored length of a volume with so much content.
    pub(super) fn stored_length(&self, plain: u64) -> u64 {
        if self.key.is_some() { sealed_length(plain) } else { plain }
    }
}

/// Damage of the archive, as opposed to a destination that cannot be reached.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.class(), ErrorClass::Corrupt | ErrorClass::NotFound | ErrorClass::Invalid | ErrorClass::Unsupported)
}

pub(super) fn panicked(e: tokio::task::JoinError) -> Error {
    Error::permanent("a task of the engine panicked").because(e)
}

/// Reads and parses an archive's header, and returns its exact bytes as well.
pub(super) async fn read_header(destination: &dyn Destination, id: &ArchiveId) -> Result<(Header, Bytes)> {
    // Where the header is does not depend on what it says.
    let name = ObjectNames::new(id.clone(), crate::archive::Codec::None, false).header();
    let bytes = read_small(destination, &name, MAX_SMALL_OBJECT).await.map_err(|e| match e.class() {
        ErrorClass::NotFound => Error::not_found("there is no such archive at this destination").on(id),
        _ => e,
    })?;
    let header = Header::parse(&bytes).map_err(|e| e.on(&name))?;
    if header.id != *id {
        return Err(Error::corrupt(format!("it is the header of another archive, {}", header.id)).on(&name));
    }
    Ok((header, bytes))
}

fn relative<'a>(names: &ObjectNames, name: &'a ObjectName) -> Result<&'a str> {
    names.relative(name).ok_or_else(|| Error::permanent("the object is not of this archive").on(name))
}

/// Reads a whole object that must not be longer than `limit`.
pub(super) async fn read_small(destination: &dyn Destination, name: &ObjectName, limit: u64) -> Result<Bytes> {
    let mut stream = destination.get(name, None).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.try_next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > limit {
            return Err(Error::corrupt(format!("the object is longer than {limit} bytes")).on(name));
        }
    }
    Ok(bytes.freeze())
}

/// SHA-256 of an object as it is stored, of any length.
pub(super) async fn digest_of(destination: &dyn Destination, name: &ObjectName) -> Result<Digest> {
    let mut stream = destination.get(name, None).await?;
    let mut hash = Sha256::new();
    while let Some(piece) = stream.try_next().await? {
        hash.update(&piece);
    }
    Ok(hash.finish())
}

/// Reads parts of a JSON object of any length, in the memory of those parts alone. `Corrupt` when it cannot be read as such.
pub(super) async fn stream_document<T: serde::de::DeserializeOwned + Send + 'static>(
    destination: &dyn Destination,
    name: &ObjectName,
) -> Result<T> {
    let mut stream = destination.get(name, None).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let parse = tokio::task::spawn_blocking(move || {
        serde_json::from_reader(std::io::BufReader::new(Pieces { receiver, present: Bytes::new() }))
    });
    while let Some(piece) = stream.try_next().await? {
        if sender.send(piece).await.is_err() {
            break; // The parser has found that it makes no sense.
        }
    }
    drop(sender);
    parse
        .await
        .map_err(panicked)?
        .map_err(|e: serde_json::Error| Error::corrupt("it cannot be read").on(name).because(e))
}

/// Pieces of an object, for a blocking reader.
struct Pieces {
    receiver: tokio::sync::mpsc::Receiver<Bytes>,
    present: Bytes,
}

impl std::io::Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.present.is_empty() {
            match self.receiver.blocking_recv() {
                Some(next) => self.present = next,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.present.len());
        out[..length].copy_from_slice(&self.present.split_to(length));
        Ok(length)
    }
}

/// Reads a range of an object that the archive names: exactly its length; takes no more than that, whatever comes.
async fn collect(
    destination: &dyn Destination,
    name: &ObjectName,
    range: Range<u64>,
    buffers: &Arc<BufferPool>,
) -> Result<Bytes> {
    let length = range.end - range.start;
    let wrong = |came: &dyn std::fmt::Display| {
        Error::corrupt(format!("{came} bytes came where the archive names {length}")).on(name)
    };
    let failed = |e: Error| match e.class() {
        ErrorClass::NotFound => Error::corrupt("the object is missing, the archive is damaged").on(name).because(e),
        _ => e.on(name),
    };
    let mut stream = destination.get(name, Some(range)).await.map_err(failed)?;
    // A single piece is taken as it is; several are joined.
    let (mut first, mut joined, mut came) = (Bytes::new(), Vec::new(), 0);
    while let Some(piece) = stream.try_next().await.map_err(failed)? {
        came += piece.len() as u64;
        if came > length {
            return Err(wrong(&"more"));
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        if joined.is_empty() {
            joined = buffers.take(usize::try_from(length).map_or(MAX_RESERVED, |length| length.min(MAX_RESERVED)));
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&piece);
    }
    if came < length {
        return Err(wrong(&came));
    }
    Ok(if joined.is_empty() { first } else { buffers.lend(joined) })
}
