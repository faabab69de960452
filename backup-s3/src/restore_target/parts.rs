//! How a large object is cut into parts, and what a restore keeps of an upload.

use super::S3TargetOptions;
use super::upload::Part;
use backup_core::{Digest, Error, Result, Sha256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
/// The largest part, in bytes.
const LARGEST_PART: u64 = 5 << 30;

/// The length of all parts of an object but the last.
///
/// # Errors
/// `Unsupported` when the object is larger than so many parts can be.
pub(super) fn part_size(size: u64, options: &S3TargetOptions) -> Result<u64> {
    let least = size.div_ceil(u64::from(options.max_parts)).div_ceil(MIB) * MIB;
    let part = least.max(options.part_size);
    if part > LARGEST_PART {
        let text = format!("{size} bytes are more than an object of {} parts can have", options.max_parts);
        return Err(Error::unsupported(text));
    }
    Ok(part)
}

/// What a resumed restore needs to know of an upload. Its size does not depend on the number of parts: their ETags are those that the
/// service lists, and must have this digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Version of this encoding.
    v: u32,
    pub(super) key: String,
    pub(super) upload: String,
    /// Length of all parts but the last.
    pub(super) part_size: u64,
    /// So many parts, from the first, are uploaded.
    pub(super) parts: usize,
    /// The SHA-256 of their ETags.
    etags: Digest,
}

impl State {
    pub(super) fn new(key: &str, upload: &str, part_size: u64, etags: &[String]) -> Self {
        let (key, upload, parts) = (key.to_owned(), upload.to_owned(), etags.len());
        Self { v: 1, key, upload, part_size, parts, etags: digest(etags) }
    }

    pub(super) fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|e| Error::permanent("cannot record an upload").because(e))
    }

    /// What was recorded; `None` when it is not of this kind.
    pub(super) fn parse(saved: &serde_json::Value) -> Option<Self> {
        serde_json::from_value(saved.clone()).ok().filter(|state: &Self| state.v == 1)
    }

    /// Whether it can be gone on with at this offset of this entry.
    pub(super) fn fits(&self, key: &str, offset: u64, size: u64) -> bool {
        let end = self.part_size.checked_mul(self.parts as u64).map(|end| end.min(size));
        self.key == key && self.part_size >= MIB && end == Some(offset)
    }

    /// The ETags of the parts that are recorded, if the service has just those.
    pub(super) fn confirm(&self, listed: &BTreeMap<i32, Part>, size: u64) -> Option<Vec<String>> {
        let mut etags = Vec::new();
        for (number, index) in (1..).zip(0..self.parts as u64) {
            let part = listed.get(&number)?;
            let length = self.part_size.min(size.checked_sub(index * self.part_size)?);
            if part.size != length {
                return None;
            }
            etags.push(part.etag.clone());
        }
        (digest(&etags) == self.etags).then_some(etags)
    }
}

fn digest(etags: &[String]) -> Digest {
    let mut hash = Sha256::new();
    for etag in etags {
        hash.update(etag.as_bytes());
        hash.update(b"\n");
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_no_more_than_allowed_and_no_larger_than_needed() {
        let options = S3TargetOptions::default();
        let size_of = |size| part_size(size, &options).unwrap();
        assert_eq!(size_of(1), 8 * MIB);
        assert_eq!(size_of(80_000 * MIB), 8 * MIB);
        assert_eq!(size_of(80_000 * MIB + 1), 9 * MIB);
        let most = 10_000 * LARGEST_PART;
        assert_eq!(size_of(most), LARGEST_PART);
        assert!(part_size(most + 1, &options).is_err());
        let few = S3TargetOptions { max_parts: 1000, ..options };
        assert_eq!(part_size(100_000 * MIB, &few).unwrap(), 100 * MIB);
        for size in [100u64 << 30, 999_999_999_999, 5 << 40] {
            assert!(size.div_ceil(size_of(size)) <= 10_000);
        }
    }

    #[test]
    fn only_the_very_parts_that_were_recorded_are_confirmed() {
        let etags: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let state = State::new("k", "u", 5 * MIB, &etags);
        assert_eq!(State::parse(&state.to_json().unwrap()), Some(state.clone()));
        let size = 12 * MIB;
        let parts: BTreeMap<i32, Part> = [("a", 5), ("b", 5), ("c", 2), ("d", 1)]
            .into_iter()
            .zip(1..)
            .map(|((etag, mib), number)| (number, Part { etag: etag.into(), size: mib * MIB }))
            .collect();
        assert_eq!(state.confirm(&parts, size), Some(etags));
        for (number, other) in [(1, ("x", 5)), (2, ("b", 4)), (3, ("c", 5))] {
            let mut changed = parts.clone();
            changed.insert(number, Part { etag: other.0.into(), size: other.1 * MIB });
            assert_eq!(state.confirm(&changed, size), None);
        }
        let mut missing = parts;
        missing.remove(&2);
        assert_eq!(state.confirm(&missing, size), None);
        assert!(state.fits("k", size, size) && !state.fits("k", 10 * MIB, size) && !state.fits("other", size, size));
        assert!(State::new("k", "u", 5 * MIB, &[]).fits("k", 0, size));
        assert!(!State::new("k", "u", u64::MAX, &["a".into(), "b".into()]).fits("k", size, size));
        assert_eq!(State::parse(&serde_json::json!("../x")), None);
        assert_eq!(State::parse(&serde_json::json!({ "nonsense": [1, 2, 3] })), None);
    }
}
