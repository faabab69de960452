//! Content, held or made when it is read.

use backup_core::{Digest, Sha256};
use bytes::Bytes;
use std::ops::Range;

/// Content of an entry of a [`MemorySource`](super::MemorySource).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blob {
    /// These bytes.
    Bytes(Bytes),
    /// Bytes that look random but are always the same for one seed; any part of them is made when it is read, so that a large
    /// one takes no memory.
    Pattern {
        /// What the bytes depend on.
        seed: u64,
        /// How many there are.
        size: u64,
    },
}

impl Blob {
    /// A pattern of `size` bytes.
    pub fn pattern(seed: u64, size: u64) -> Self {
        Self::Pattern { seed, size }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern { size, .. } => *size,
        }
    }

    /// The bytes of a range; what lies beyond the end is left out.
    pub fn slice(&self, range: Range<u64>) -> Bytes {
        let end = range.end.min(self.size());
        let start = range.start.min(end);
        match self {
            Self::Bytes(bytes) => bytes.slice(start as usize..end as usize),
            Self::Pattern { seed, .. } => {
                let mut out = Vec::with_capacity((end - start) as usize + 16);
                for word in start / 8..end.div_ceil(8) {
                    out.extend_from_slice(&mix(seed.wrapping_add(mix(word))).to_le_bytes());
                }
                let skip = (start % 8) as usize;
                Bytes::from(out).slice(skip..skip + (end - start) as usize)
            }
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> Bytes {
        self.slice(0..self.size())
    }

    /// SHA-256 of all bytes, without holding them.
    pub fn digest(&self) -> Digest {
        const STEP: u64 = 1 << 20;
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < self.size() {
            hash.update(&self.slice(at..at + STEP));
            at += STEP;
        }
        hash.finish()
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&str> for Blob {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014):
/// spreads neighbouring numbers over all 64 bits.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_pattern_is_the_part_of_the_whole() {
        let blob = Blob::pattern(7, 1001);
        let whole = blob.bytes();
        assert_eq!(whole.len(), 1001);
        for start in [0, 1, 7, 8, 9, 500, 1000, 1001] {
            for end in [start, start + 1, start + 8, start + 100, 2000] {
                assert_eq!(blob.slice(start..end), whole.slice(start as usize..end.min(1001) as usize));
            }
        }
        assert_eq!(blob.digest(), Digest::of(&whole));
        assert_ne!(Blob::pattern(8, 1001).bytes(), whole);
    }
}
