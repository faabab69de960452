//! SHA-256 whose state can be saved and continued in another process.
//!
//! The state encoding is our own and versioned (FIPS 180-4: eight working words, the message
//! length, and the bytes of the last incomplete block), so that a checkpoint does not depend on
//! the internals of a hashing crate.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A SHA-256 digest; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = crate::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(s, &mut bytes)
            .map_err(|e| crate::Error::invalid("not a SHA-256 in hexadecimal").on(s).because(e))?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(serde::ser::Error::custom)?;
        s.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

const BLOCK: usize = 64;
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A running SHA-256 that can be saved with serde and continued elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Sha256 {
    words: [u32; 8],
    length: u64,
    tail: [u8; BLOCK],
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { words: INITIAL, length: 0, tail: [0; BLOCK] }
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({} bytes)", self.length)
    }
}

impl Sha256 {
    /// The hash of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes were hashed so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = self.held();
        self.length += bytes.len() as u64;
        if held > 0 {
            let take = bytes.len().min(BLOCK - held);
            self.tail[held..held + take].copy_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if held + take < BLOCK {
                return;
            }
            let tail = self.tail;
            self.compress(&tail);
        }
        let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
        self.compress(blocks);
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    /// The digest of all bytes so far.
    pub fn finish(mut self) -> Digest {
        let bits = self.length.wrapping_mul(8);
        let held = self.held();
        let mut last = [0; 2 * BLOCK];
        last[..held].copy_from_slice(&self.tail[..held]);
        last[held] = 0x80;
        let end = if held < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        last[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        self.compress(&last[..end]);
        let mut out = [0; 32];
        for (to, word) in out.chunks_exact_mut(4).zip(self.words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        Digest(out)
    }

    fn held(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// `blocks` is a multiple of the block length.
    fn compress(&mut self, blocks: &[u8]) {
        use sha2::digest::block_buffer::EagerBuffer;
        use sha2::digest::consts::U64;
        // The buffer stays empty: it only lends the blocks in the type that sha2 takes, without a copy.
        EagerBuffer::<U64>::default().digest_blocks(blocks, |blocks| sha2::compress256(&mut self.words, blocks));
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    v: u8,
    words: [u32; 8],
    length: u64,
    tail: String,
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        State { v: 1, words: self.words, length: self.length, tail: hex::encode(&self.tail[..self.held()]) }
            .serialize(s)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let state = State::deserialize(d)?;
        if state.v != 1 {
            return Err(D::Error::custom(format!("hash state of unknown version {}", state.v)));
        }
        let mut hash = Self { words: state.words, length: state.length, tail: [0; BLOCK] };
        let held = hash.held();
        let tail = hex::decode(&state.tail).map_err(D::Error::custom)?;
        if tail.len() != held {
            return Err(D::Error::custom("hash state with a tail of the wrong length"));
        }
        hash.tail[..held].copy_from_slice(&tail);
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn saved_at_any_point_it_gives_the_digest_of_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..20_000),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(data.len() + 1)).collect();
            cuts.sort_unstable();
            let mut hash = Sha256::new();
            let mut at = 0;
            for cut in cuts {
                hash.update(&data[at..cut]);
                at = cut;
                let saved = serde_json::to_string(&hash).unwrap();
                hash = serde_json::from_str(&saved).unwrap();
            }
            hash.update(&data[at..]);
            prop_assert_eq!(hash.finish(), Digest::of(&data));
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused() {
        let text = r#"{"v":2,"words":[0,0,0,0,0,0,0,0],"length":0,"tail":""}"#;
        assert!(serde_json::from_str::<Sha256>(text).is_err());
        let text = r#"{"v":1,"words":[0,0,0,0,0,0,0,0],"length":5,"tail":"00"}"#;
        assert!(serde_json::from_str::<Sha256>(text).is_err());
    }
}
