//! What a destination in memory keeps.

use crate::doubles::lock;
use backup_core::adapter::ObjectInfo;
use backup_core::model::{ObjectName, STAGE_PREFIX};
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// By raw name: objects, staged and foreign ones.
    pub(super) objects: BTreeMap<String, Stored>,
    pub(super) capacity: Option<u64>,
    pub(super) puts: BTreeSet<String>,
    pub(super) stages: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) bytes: Bytes,
    pub(super) modified: Timestamp,
}

impl Stored {
    pub(super) fn info(&self, name: ObjectName) -> ObjectInfo {
        ObjectInfo { name, size: self.bytes.len() as u64, modified: self.modified }
    }
}

impl Place {
    pub(super) fn free(&self) -> Option<u64> {
        let used = self.objects.values().map(|o| o.bytes.len() as u64).sum();
        self.capacity.map(|capacity| capacity.saturating_sub(used))
    }
}

/// What can happen to an object's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The bits of `mask` are flipped in one byte.
    Flip {
        /// Which byte; counted from the end when negative.
        at: i64,
        /// Which bits.
        mask: u8,
    },
    /// Only the first bytes remain.
    Truncate {
        /// How many.
        to: u64,
    },
    /// Zero bytes are added at the end.
    Extend {
        /// How many.
        by: u64,
    },
}

impl Damage {
    /// The bytes after the damage.
    pub(super) fn to(self, whole: &Bytes) -> Bytes {
        let mut bytes = whole.to_vec();
        match self {
            Damage::Flip { at, mask } => {
                let at = if at < 0 { at + bytes.len() as i64 } else { at };
                if let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
                    *byte ^= mask;
                }
            }
            Damage::Truncate { to } => bytes.truncate(usize::try_from(to).unwrap_or(usize::MAX)),
            Damage::Extend { by } => bytes.extend(std::iter::repeat_n(0, usize::try_from(by).unwrap_or(0))),
        }
        bytes.into()
    }
}

pub(super) fn is_staged(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with(STAGE_PREFIX))
}

pub(super) fn below(name: &str, prefix: &ObjectName) -> bool {
    name.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
}

/// Tells [`Destination::remove_staged`] that a put is under way, also when the put is dropped.
pub(super) struct Putting<'a>(pub(super) &'a Mutex<Place>, pub(super) String);

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        lock(self.0).puts.remove(&self.1);
    }
}
