//! Digests of whole collections, by which a restore is compared with what was read.

use backup_core::{Digest, Error, Result, Sha256};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is added up over the documents of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    documents: u64,
    bytes: u64,
    hash: Hash,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Hash {
    /// Sum of the documents' SHA-256, each a number of 256 bits with the lowest byte first, modulo 2^256.
    Sum([u64; 4]),
    /// SHA-256 of the documents one after the other.
    Sequence(Sha256),
}

impl Tally {
    /// Nothing yet, of documents whose order does not matter.
    pub fn unordered() -> Self {
        Self { documents: 0, bytes: 0, hash: Hash::Sum([0; 4]) }
    }

    /// Nothing yet, of documents whose order matters.
    pub fn ordered() -> Self {
        Self { documents: 0, bytes: 0, hash: Hash::Sequence(Sha256::new()) }
    }

    /// The tally for a collection, by whether it is capped: only a capped one keeps an order.
    pub fn new(capped: bool) -> Self {
        if capped { Self::ordered() } else { Self::unordered() }
    }

    /// Adds a document's bytes.
    pub fn add(&mut self, document: &[u8]) {
        self.documents += 1;
        self.bytes += document.len() as u64;
        match &mut self.hash {
            Hash::Sum(sum) => add_to(sum, &numbers(&Digest::of(document).0)),
            Hash::Sequence(hash) => hash.update(document),
        }
    }

    /// Adds documents that stand one behind the other, when their order counts.
    ///
    /// # Errors
    /// `Invalid` when it does not, since the documents would have to be told apart.
    pub fn append(&mut self, documents: u64, bytes: &[u8]) -> Result<()> {
        let Hash::Sequence(hash) = &mut self.hash else {
            return Err(Error::invalid("documents whose order does not matter have to be added one by one"));
        };
        hash.update(bytes);
        self.documents += documents;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Adds what was tallied elsewhere.
    ///
    /// # Errors
    /// `Invalid` when the order counts in one of the two, since such digests cannot be joined.
    pub fn join(&mut self, other: &Self) -> Result<()> {
        let (Hash::Sum(sum), Hash::Sum(more)) = (&mut self.hash, &other.hash) else {
            return Err(Error::invalid("digests of ordered documents cannot be joined"));
        };
        add_to(sum, more);
        self.documents += other.documents;
        self.bytes += other.bytes;
        Ok(())
    }

    /// Documents so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes of the documents so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of what was added.
    pub fn digest(&self) -> GroupDigest {
        let (ordered, digest) = match &self.hash {
            Hash::Sum(sum) => {
                let mut bytes = [0; 32];
                for (to, word) in bytes.chunks_exact_mut(8).zip(sum) {
                    to.copy_from_slice(&word.to_le_bytes());
                }
                (false, Digest(bytes))
            }
            Hash::Sequence(hash) => (true, hash.clone().finish()),
        };
        GroupDigest { documents: self.documents, bytes: self.bytes, ordered, digest }
    }
}

fn numbers(digest: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
        let mut le = [0; 8];
        le.copy_from_slice(bytes);
        *word = u64::from_le_bytes(le);
    }
    words
}

fn add_to(sum: &mut [u64; 4], more: &[u64; 4]) {
    let mut carry = false;
    for (to, from) in sum.iter_mut().zip(more) {
        let (partial, first) = to.overflowing_add(*from);
        let (whole, second) = partial.overflowing_add(u64::from(carry));
        *to = whole;
        carry = first || second;
    }
}

/// The digest of a collection's documents. As text:
/// `documents=900000 bytes=945300000 sum-sha256=…`, or `sha256=…` for a capped collection, whose order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDigest {
    /// Number of documents.
    pub documents: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Whether their order counts.
    pub ordered: bool,
    /// Sum of the documents' SHA-256 modulo 2^256 (lowest byte first), or, when ordered, the SHA-256 of all of them in order.
    pub digest: Digest,
}

impl fmt::Display for GroupDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { documents, bytes, ordered, digest } = self;
        let kind = if *ordered { "sha256" } else { "sum-sha256" };
        write!(f, "documents={documents} bytes={bytes} {kind}={digest}")
    }
}

impl FromStr for GroupDigest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::corrupt("not a digest of a collection").on(text.escape_default());
        let mut parts = text.split(' ');
        let mut number = |name: &str| {
            parts.next().and_then(|part| part.strip_prefix(name)).and_then(|n| n.parse::<u64>().ok()).ok_or_else(wrong)
        };
        let (documents, bytes) = (number("documents=")?, number("bytes=")?);
        let (kind, hash) = parts.next().and_then(|part| part.split_once('=')).ok_or_else(wrong)?;
        let ordered = match kind {
            "sha256" => true,
            "sum-sha256" => false,
            _ => return Err(wrong()),
        };
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { documents, bytes, ordered, digest: hash.parse().map_err(|_| wrong())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_counts_only_where_it_is_kept() {
        let of = |mut tally: Tally, documents: &[&[u8]]| {
            documents.iter().for_each(|d| tally.add(d));
            tally.digest()
        };
        let (one, other) = (&[b"a" as &[u8], b"b", b"b"], &[b"b" as &[u8], b"a", b"b"]);
        assert_eq!(of(Tally::unordered(), one), of(Tally::unordered(), other));
        assert_ne!(of(Tally::unordered(), one), of(Tally::unordered(), &one[..2]));
        assert_ne!(of(Tally::ordered(), one).digest, of(Tally::ordered(), other).digest);
        assert_eq!(of(Tally::ordered(), one).digest, Digest::of(b"abb"));
        assert_eq!(of(Tally::unordered(), &one[..1]).digest, Digest::of(b"a"));
    }

    #[test]
    fn sums_carry_and_wrap() {
        let mut sum = [u64::MAX; 4];
        add_to(&mut sum, &[1, 0, 0, 0]);
        assert_eq!(sum, [0; 4]);
        let mut sum = [u64::MAX, 5, 0, 0];
        add_to(&mut sum, &[u64::MAX, 0, 0, 1]);
        assert_eq!(sum, [u64::MAX - 1, 6, 0, 1]);
    }

    #[test]
    fn the_text_is_read_back() {
        for mut tally in [Tally::ordered(), Tally::unordered()] {
            tally.add(b"document");
            let digest = tally.digest();
            assert_eq!(digest.to_string().parse::<GroupDigest>().unwrap(), digest);
        }
        for wrong in ["", "documents=1", "documents=1 bytes=2 md5=00", "documents=1 bytes=2 sha256=00"] {
            assert!(wrong.parse::<GroupDigest>().is_err(), "{wrong}");
        }
    }
}
