//! Sealed objects: encrypted in chunks, so that ranges open alone and nothing opens that was changed.
//!
//! An object is a head (8 bytes magic, 32 bytes random salt) and chunks of 64 KiB plaintext, each under AES-256-GCM with its
//! tag of 16 bytes behind it. The last chunk may be shorter; an empty object has one empty chunk. The construction is STREAM
//! (Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015): the nonce holds the chunk's number and whether it is the last, so that
//! chunks cannot be cut off, moved or doubled. The key is drawn for this one object by HKDF-SHA256 (RFC 5869) from the archive
//! key, the salt, and magic, archive id and object name: no other object has it, and no nonce is used twice under it.

use super::ArchiveKey;
use super::keys::random_bytes;
use crate::model::ArchiveId;
use crate::{Error, Result};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use bytes::Bytes;
use hkdf::Hkdf;
use std::fmt;
use std::ops::Range;
use zeroize::Zeroizing;

/// Length of a sealed object's head, the bytes that an [`Unsealer`] needs first.
pub const SEALED_HEAD: usize = MAGIC.len() + SALT;

const MAGIC: [u8; 8] = *b"BKSEALD1";
const SALT: usize = 32;
const TAG: usize = 16;
const CHUNK: usize = 64 << 10;
/// Chunks in a piece of a sealed object in memory: what was sealed is freed piece by piece while the rest is being sealed.
const PIECE: usize = 16;
const STORED_CHUNK: u64 = (CHUNK + TAG) as u64;
/// A sealed checkpoint is bound to this name; no object of an archive has it.
const CHECKPOINT: &str = "checkpoint";

/// The key of one object.
struct ObjectCipher(Aes256Gcm);

impl ObjectCipher {
    fn new(key: &ArchiveKey, salt: &[u8], archive: &ArchiveId, name: &str) -> Result<Self> {
        let mut derived = Zeroizing::new([0; 32]);
        // The parts have fixed lengths but for the last, so that no two lists of parts are one text.
        let info = [&MAGIC[..], archive.as_str().as_bytes(), b"/", name.as_bytes()];
        Hkdf::<sha2::Sha256>::new(Some(salt), key.expose())
            .expand_multi_info(&info, &mut *derived)
            .map_err(|_| Error::permanent("cannot derive the key of an object"))?;
        let cipher = Aes256Gcm::new_from_slice(&*derived).map_err(|_| Error::permanent("not a key for AES-256"))?;
        Ok(Self(cipher))
    }

    /// Seven zero bytes, the chunk's number (big-endian), 1 for the last chunk.
    fn nonce(chunk: u64, last: bool) -> Result<Nonce<aes_gcm::aead::consts::U12>> {
        let number = u32::try_from(chunk).map_err(|_| Error::invalid("an object of more than 256 TiB"))?;
        let mut nonce = [0; 12];
        nonce[7..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = last.into();
        Ok(nonce.into())
    }

    fn seal(&self, chunk: u64, last: bool, bytes: &mut [u8]) -> Result<[u8; TAG]> {
        let sealed = self.0.encrypt_inout_detached(&Self::nonce(chunk, last)?, b"", bytes.into());
        Ok(sealed.map_err(|_| Error::permanent("cannot encrypt"))?.into())
    }

    fn open(&self, chunk: u64, last: bool, bytes: &mut [u8], tag: [u8; TAG]) -> Result<()> {
        self.0
            .decrypt_inout_detached(&Self::nonce(chunk, last)?, b"", bytes.into(), &Tag::from(tag))
            .map_err(|_| Error::corrupt("a sealed object was changed, or belongs elsewhere"))
    }
}

/// Seals an object whose plaintext comes piece by piece.
pub struct Sealer {
    cipher: ObjectCipher,
    /// What is sealed, in pieces of [`PIECE`] chunks.
    done: Vec<Bytes>,
    /// What is sealed since, then the plaintext of the chunk that is being filled.
    out: Vec<u8>,
    /// Plaintext that is expected still.
    expected: usize,
    chunk: u64,
    chunk_start: usize,
}

impl Sealer {
    /// Starts an object. `name` is relative to the archive, with `.sealed`; for about `plain` bytes memory is reserved.
    ///
    /// # Errors
    /// `Permanent` when the system gives no random bytes.
    pub fn new(key: &ArchiveKey, archive: &ArchiveId, name: &str, plain: usize) -> Result<Self> {
        let salt = random_bytes::<SALT>()?;
        let cipher = ObjectCipher::new(key, &*salt, archive, name)?;
        let mut out = Vec::with_capacity(sealed_length(plain.min(PIECE * CHUNK) as u64) as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&*salt);
        Ok(Self { cipher, done: Vec::new(), out, expected: plain, chunk: 0, chunk_start: SEALED_HEAD })
    }

    /// Adds plaintext.
    ///
    /// # Errors
    /// `Invalid` above 256 TiB.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            // A full chunk waits until it is known whether it is the last.
            if self.out.len() - self.chunk_start == CHUNK {
                self.close_chunk(false)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - (self.out.len() - self.chunk_start)));
            self.out.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// The whole sealed object, in pieces.
    ///
    /// # Errors
    /// `Invalid` above 256 TiB.
    pub fn finish(mut self) -> Result<Vec<Bytes>> {
        self.close_chunk(true)?;
        self.close_piece();
        Ok(self.done)
    }

    fn close_chunk(&mut self, last: bool) -> Result<()> {
        let tag = self.cipher.seal(self.chunk, last, &mut self.out[self.chunk_start..])?;
        self.out.extend_from_slice(&tag);
        self.chunk += 1;
        if self.chunk.is_multiple_of(PIECE as u64) {
            self.close_piece();
        }
        self.chunk_start = self.out.len();
        Ok(())
    }

    fn close_piece(&mut self) {
        self.expected = self.expected.saturating_sub(PIECE * CHUNK);
        let next = Vec::with_capacity(self.expected.min(PIECE * CHUNK).div_ceil(CHUNK) * STORED_CHUNK as usize);
        let piece = std::mem::replace(&mut self.out, next);
        if !piece.is_empty() {
            self.done.push(piece.into());
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} chunks)", self.chunk)
    }
}

/// Seals an object of these pieces, one after the other. `name` is relative to the archive, with `.sealed`.
///
/// # Errors
/// As [`Sealer`].
pub fn seal(key: &ArchiveKey, archive: &ArchiveId, name: &str, pieces: &[Bytes]) -> Result<Vec<u8>> {
    let mut sealer = Sealer::new(key, archive, name, pieces.iter().map(Bytes::len).sum())?;
    for piece in pieces {
        sealer.push(piece)?;
    }
    Ok(joined(sealer.finish()?))
}

fn joined(mut pieces: Vec<Bytes>) -> Vec<u8> {
    match &mut pieces[..] {
        [whole] => std::mem::take(whole).into(),
        pieces => pieces.concat(),
    }
}

/// Opens a whole sealed object.
///
/// # Errors
/// As [`Unsealer`].
pub fn unseal(key: &ArchiveKey, archive: &ArchiveId, name: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    let head = &sealed[..sealed.len().min(SEALED_HEAD)];
    let unsealer = Unsealer::new(key, archive, name, sealed.len() as u64, head)?;
    unsealer.open(0..unsealer.plain_length(), &sealed[SEALED_HEAD..])
}

/// Seals the bytes of a checkpoint, which hold names and plaintext.
///
/// # Errors
/// As [`Sealer`].
pub fn seal_checkpoint(key: &ArchiveKey, archive: &ArchiveId, checkpoint: &[u8]) -> Result<Vec<u8>> {
    let mut sealer = Sealer::new(key, archive, CHECKPOINT, checkpoint.len())?;
    sealer.push(checkpoint)?;
    Ok(joined(sealer.finish()?))
}

/// Opens a sealed checkpoint.
///
/// # Errors
/// As [`Unsealer`].
pub fn unseal_checkpoint(key: &ArchiveKey, archive: &ArchiveId, sealed: &[u8]) -> Result<Vec<u8>> {
    unseal(key, archive, CHECKPOINT, sealed)
}

/// Length of a sealed object that holds so much plaintext.
pub fn sealed_length(plain: u64) -> u64 {
    let tags = plain.div_ceil(CHUNK as u64).max(1).saturating_mul(TAG as u64);
    (SEALED_HEAD as u64).saturating_add(plain).saturating_add(tags)
}

/// Length of the plaintext in a sealed object of this length.
///
/// # Errors
/// `Corrupt` when no sealed object has this length.
pub fn plain_length(sealed: u64) -> Result<u64> {
    let impossible = || Error::corrupt(format!("no sealed object has a length of {sealed} bytes: it was cut off"));
    let body = sealed.checked_sub(SEALED_HEAD as u64).ok_or_else(impossible)?;
    let plain = body.checked_sub(body.div_ceil(STORED_CHUNK) * TAG as u64).ok_or_else(impossible)?;
    if sealed_length(plain) == sealed { Ok(plain) } else { Err(impossible()) }
}

/// Opens any ranges of one sealed object.
pub struct Unsealer {
    cipher: ObjectCipher,
    plain: u64,
}

impl Unsealer {
    /// Prepares to open an object of `sealed_length` stored bytes; `head` is its first [`SEALED_HEAD`] bytes.
    /// Whether key, name and bytes belong together shows on opening.
    ///
    /// # Errors
    /// `Corrupt` when the length is impossible or the object does not start as a sealed one.
    pub fn new(key: &ArchiveKey, archive: &ArchiveId, name: &str, sealed_length: u64, head: &[u8]) -> Result<Self> {
        let plain = plain_length(sealed_length).map_err(|e| e.on(name))?;
        match head.strip_prefix(&MAGIC) {
            Some(salt) if salt.len() == SALT => {
                Ok(Self { cipher: ObjectCipher::new(key, salt, archive, name)?, plain })
            }
            _ => Err(Error::corrupt("this is not a sealed object").on(name)),
        }
    }

    /// Length of the whole plaintext.
    pub fn plain_length(&self) -> u64 {
        self.plain
    }

    /// The stored bytes that hold a range of the plaintext: whole chunks. None for an empty range,
    /// but for an object that is empty itself, whose one chunk still proves that it is.
    ///
    /// # Errors
    /// `Corrupt` when the range goes beyond the plaintext.
    pub fn sealed_range(&self, plain: Range<u64>) -> Result<Range<u64>> {
        let chunks = self.chunks(&plain)?;
        let body_end = sealed_length(self.plain);
        let at = |chunk: u64| (SEALED_HEAD as u64 + chunk * STORED_CHUNK).min(body_end);
        Ok(at(chunks.start)..at(chunks.end))
    }

    /// A range of the plaintext, from the stored bytes of its [`sealed_range`](Unsealer::sealed_range).
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not exactly those that were sealed there, or the range goes beyond the plaintext.
    pub fn open(&self, plain: Range<u64>, sealed: &[u8]) -> Result<Vec<u8>> {
        let chunks = self.chunks(&plain)?;
        let needed = self.sealed_range(plain.clone())?;
        if needed.end - needed.start != sealed.len() as u64 {
            return Err(Error::corrupt("a part of a sealed object has the wrong length"));
        }
        let last = self.plain.div_ceil(CHUNK as u64).max(1) - 1;
        let mut out = Vec::with_capacity(sealed.len());
        for (chunk, stored) in (chunks.start..).zip(sealed.chunks(STORED_CHUNK as usize)) {
            let (body, tag) =
                stored.split_last_chunk::<TAG>().ok_or_else(|| Error::corrupt("a sealed object was cut off"))?;
            let start = out.len();
            out.extend_from_slice(body);
            self.cipher.open(chunk, chunk == last, &mut out[start..], *tag)?;
        }
        if plain.is_empty() {
            return Ok(Vec::new());
        }
        let skip = (plain.start - chunks.start * CHUNK as u64) as usize;
        out.truncate(skip + (plain.end - plain.start) as usize);
        out.drain(..skip);
        Ok(out)
    }

    fn chunks(&self, plain: &Range<u64>) -> Result<Range<u64>> {
        if plain.start > plain.end || plain.end > self.plain {
            return Err(Error::corrupt(format!(
                "bytes {} to {} were asked of a sealed object of {}",
                plain.start, plain.end, self.plain
            )));
        }
        let first = plain.start / CHUNK as u64;
        Ok(match plain.end.div_ceil(CHUNK as u64) {
            _ if self.plain == 0 => 0..1,
            _ if plain.is_empty() => first..first,
            end => first..end,
        })
    }
}

impl fmt::Debug for Unsealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsealer({} bytes)", self.plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use proptest::prelude::*;

    const NAME: &str = "data/00000000-1x7f3a9c00.tar.zst.sealed";

    fn key() -> ArchiveKey {
        ArchiveKey::from_bytes([7; 32])
    }

    fn id() -> ArchiveId {
        "20261120T061500Z-1a2b3c4d".parse().unwrap()
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        seal(&key(), &id(), NAME, &[Bytes::copy_from_slice(plain)]).unwrap()
    }

    fn is_corrupt<T: fmt::Debug>(result: Result<T>) -> bool {
        result.is_err_and(|e| e.class() == ErrorClass::Corrupt)
    }

    /// Lengths around the limits of chunks.
    fn plain() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![0..50usize, CHUNK - 2..CHUNK + 3, 2 * CHUNK - 2..2 * CHUNK + 3, 0..3 * CHUNK];
        (length, any::<u64>())
            .prop_map(|(length, seed)| (0..length as u64).map(|i| (i.wrapping_mul(seed | 1) >> 13) as u8).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_range_opens_to_the_plain_bytes_from_the_stored_range_alone(
            plain in plain(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(),
        ) {
            let sealed = sealed(&plain);
            prop_assert_eq!(sealed.len() as u64, sealed_length(plain.len() as u64));
            prop_assert_eq!(plain_length(sealed.len() as u64).unwrap(), plain.len() as u64);
            let unsealer = Unsealer::new(&key(), &id(), NAME, sealed.len() as u64, &sealed[..SEALED_HEAD]).unwrap();
            let (a, b) = (a.index(plain.len() + 1), b.index(plain.len() + 1));
            let range = a.min(b)..a.max(b);
            let wanted = range.start as u64..range.end as u64;
            let stored = unsealer.sealed_range(wanted.clone()).unwrap();
            prop_assert!(stored.end - stored.start <= (range.len() + 2 * (CHUNK + TAG)) as u64);
            let opened = unsealer.open(wanted, &sealed[stored.start as usize..stored.end as usize]).unwrap();
            prop_assert!(opened == plain[range]);
            prop_assert!(unseal(&key(), &id(), NAME, &sealed).unwrap() == plain);
        }

        #[test]
        fn pieces_of_any_size_give_an_object_that_opens_to_all_of_them(
            plain in plain(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|c| c.index(plain.len() + 1)).collect();
            cuts.extend([0, plain.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|w| Bytes::copy_from_slice(&plain[w[0]..w[1]])).collect();
            let sealed = seal(&key(), &id(), NAME, &pieces).unwrap();
            prop_assert!(unseal(&key(), &id(), NAME, &sealed).unwrap() == plain);
        }

        #[test]
        fn every_flipped_bit_and_every_truncation_is_detected(
            plain in plain(), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let sealed = sealed(&plain);
            let at = at.index(sealed.len());
            prop_assert!(is_corrupt(unseal(&key(), &id(), NAME, &sealed[..at])));
            let mut changed = sealed;
            changed[at] ^= 1 << bit;
            prop_assert!(is_corrupt(unseal(&key(), &id(), NAME, &changed)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in any::<u64>()) {
            let _ = unseal(&key(), &id(), NAME, &bytes);
            let _ = unseal(&key(), &id(), NAME, &[&MAGIC[..], &bytes].concat());
            let _ = plain_length(length).map(|plain| assert_eq!(sealed_length(plain), length));
            let head = [&MAGIC[..], &[0; SALT]].concat();
            if let Ok(unsealer) = Unsealer::new(&key(), &id(), NAME, length, &head) {
                let _ = unsealer.open(0..length / 2, &bytes);
                let _ = unsealer.sealed_range(0..unsealer.plain_length()).unwrap();
            }
        }
    }

    #[test]
    fn every_single_byte_of_a_small_object_counts() {
        let sealed = sealed(b"hello");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x80;
            assert!(is_corrupt(unseal(&key(), &id(), NAME, &changed)), "byte {at}");
        }
        assert!(is_corrupt(unseal(&key(), &id(), NAME, &[&sealed[..], b"x"].concat())));
    }

    #[test]
    fn chunks_cannot_be_dropped_doubled_moved_or_end_early() {
        let plain = [vec![1; CHUNK], vec![2; CHUNK], vec![3; CHUNK]].concat();
        let whole = sealed(&plain);
        let (head, body) = whole.split_at(SEALED_HEAD);
        let chunks: Vec<_> = body.chunks(STORED_CHUNK as usize).collect();
        for order in [&[0, 1][..], &[0, 2], &[1, 0, 2], &[0, 0, 1, 2], &[0, 1, 2, 2], &[2], &[]] {
            let forged: Vec<u8> = order.iter().fold(head.to_vec(), |out, i| [&out, chunks[*i]].concat());
            assert!(is_corrupt(unseal(&key(), &id(), NAME, &forged)), "{order:?}");
        }
        // The empty last chunk of an empty object does not serve as an end for another.
        let forged = [head, chunks[0], &sealed(b"")[SEALED_HEAD..]].concat();
        assert!(is_corrupt(unseal(&key(), &id(), NAME, &forged)));
    }

    #[test]
    fn another_name_archive_or_key_does_not_open_it() {
        let sealed = sealed(b"hello");
        let other = "20261120T061500Z-1a2b3c4e".parse().unwrap();
        assert!(is_corrupt(unseal(&key(), &id(), "manifest.json.sealed", &sealed)));
        assert!(is_corrupt(unseal(&key(), &other, NAME, &sealed)));
        assert!(is_corrupt(unseal(&ArchiveKey::from_bytes([8; 32]), &id(), NAME, &sealed)));
    }

    #[test]
    fn equal_plaintext_never_gives_equal_bytes() {
        assert_ne!(sealed(b"hello")[SEALED_HEAD..], sealed(b"hello")[SEALED_HEAD..]);
        let checkpoint = seal_checkpoint(&key(), &id(), b"state").unwrap();
        assert_eq!(unseal_checkpoint(&key(), &id(), &checkpoint).unwrap(), b"state");
        assert!(is_corrupt(unseal(&key(), &id(), NAME, &checkpoint)));
    }

    #[test]
    fn an_object_sealed_in_1_opens_for_ever() {
        // Made by the second reader's cryptography, so that both readers agree on every detail.
        let stored = hex::decode(concat!(
            "424b5345414c4431",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "4c919d32d1e68473862ef98632f6ca1d07c590bc38"
        ));
        assert_eq!(unseal(&key(), &id(), NAME, &stored.unwrap()).unwrap(), b"hello");
    }
}
