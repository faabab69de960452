//! Which entries were left out: known by digests of their names, so that a great many fit.

use crate::model::EntryName;
use crate::{Digest, Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// So many names are known.
const MAX_KNOWN: usize = 65_536;
/// So many of them go into a checkpoint.
const MAX_SAVED: usize = 20_000;
/// Bytes that are kept of a name's SHA-256.
const LENGTH: usize = 16;

/// A bounded set of names.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    known: BTreeSet<[u8; LENGTH]>,
    /// More were added than there was room for, so that a name that is not known may be one of them.
    overflow: bool,
}

/// How a checkpoint keeps names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedNames {
    /// The digests one after the other, in base64.
    known: String,
    overflow: bool,
}

impl Names {
    pub(super) fn insert(&mut self, name: &EntryName) {
        let key = key(name);
        if self.known.len() < MAX_KNOWN || self.known.contains(&key) {
            self.known.insert(key);
        } else {
            self.overflow = true;
        }
    }

    /// Takes a name out again.
    pub(super) fn remove(&mut self, name: &EntryName) {
        if !self.known.is_empty() {
            self.known.remove(&key(name));
        }
    }

    pub(super) fn contains(&self, name: &EntryName) -> bool {
        self.known.contains(&key(name))
    }

    /// Notes that there are some whose names nobody knows.
    pub(super) fn more(&mut self) {
        self.overflow = true;
    }

    /// Whether there are some that are not known by name.
    pub(super) fn has_more(&self) -> bool {
        self.overflow
    }

    pub(super) fn save(&self) -> SavedNames {
        let bytes: Vec<u8> = self.known.iter().take(MAX_SAVED).flatten().copied().collect();
        SavedNames { known: STANDARD_NO_PAD.encode(bytes), overflow: self.overflow || self.known.len() > MAX_SAVED }
    }

    pub(super) fn read(saved: &SavedNames) -> Result<Self> {
        let damaged = || Error::corrupt("its list of entries that were left out is damaged").on("checkpoint");
        let bytes = STANDARD_NO_PAD.decode(&saved.known).map_err(|e| damaged().because(e))?;
        let (digests, []) = bytes.as_chunks::<LENGTH>() else { return Err(damaged()) };
        Ok(Self { known: digests.iter().copied().collect(), overflow: saved.overflow })
    }
}

fn key(name: &EntryName) -> [u8; LENGTH] {
    let mut key = [0; LENGTH];
    key.copy_from_slice(&Digest::of(name.as_bytes()).0[..LENGTH]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> EntryName {
        format!("d/{n}").as_str().into()
    }

    #[test]
    fn names_come_back_from_a_checkpoint() {
        let mut names = Names::default();
        (0..5).for_each(|n| names.insert(&name(n)));
        names.remove(&name(3));
        let back = Names::read(&names.save()).unwrap();
        assert!(!back.has_more());
        let known: Vec<_> = (0..6).filter(|n| back.contains(&name(*n))).collect();
        assert_eq!(known, [0, 1, 2, 4]);
        let broken = SavedNames { known: "QUJD".into(), overflow: false };
        assert!(Names::read(&broken).is_err());
    }

    #[test]
    fn a_set_that_is_full_says_so() {
        let mut names = Names::default();
        (0..MAX_SAVED).for_each(|n| names.insert(&name(n)));
        assert!(!Names::read(&names.save()).unwrap().has_more());
        names.insert(&name(MAX_SAVED));
        assert!(!names.has_more());
        assert!(Names::read(&names.save()).unwrap().has_more());
        (0..MAX_KNOWN).for_each(|n| names.insert(&name(n)));
        assert!(!names.has_more());
        names.insert(&name(MAX_KNOWN));
        assert!(names.has_more());
        assert!(names.contains(&name(0)) && !names.contains(&name(MAX_KNOWN)));
    }
}
