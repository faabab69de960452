//! From the names of entries to paths below the root.

use crate::adapter::RestorePlan;
use crate::archive::TarPaths;
use crate::model::{EntryName, Naming};
use crate::{Error, Result};
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How names of entries become paths of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    /// As the archive says what its names are: [`Exact`](NameRule::Exact) for paths, [`Encoded`](NameRule::Encoded) for keys.
    #[default]
    ByArchive,
    /// As they are; a name that is no path below the root is `Invalid`. Right for archives of file trees.
    Exact,
    /// As in the archive's tar stream: what no file can be called is percent-encoded, and so is `%`; of two keys `a` and `a/b` the latter
    /// becomes `a%2Fb`. Right for archives of object stores. Reads the plan once more at the start.
    Encoded,
}

/// Bytes that paths may take which depend on other entries.
const MAX_BELOW: usize = 64 << 20;

/// Paths by a digest of the name.
type Below = HashMap<[u8; 16], Box<str>>;

/// The paths of a plan's entries.
#[derive(Debug)]
pub(super) struct Names {
    rule: NameRule,
    /// Whether the names of the present plan are encoded.
    encoded: AtomicBool,
    /// The paths of entries below an entry that is a file. Set once the plan was read.
    below: Mutex<Option<Arc<Below>>>,
}

impl Names {
    pub(super) fn new(rule: NameRule) -> Self {
        Self { rule, encoded: AtomicBool::new(rule == NameRule::Encoded), below: Mutex::default() }
    }

    /// Learns from the plan what it needs, `again` or if it has not yet.
    pub(super) async fn learn(&self, plan: &RestorePlan, again: bool) -> Result<()> {
        let encoded = match self.rule {
            NameRule::ByArchive => plan.naming == Naming::Keys,
            NameRule::Exact => false,
            NameRule::Encoded => true,
        };
        self.encoded.store(encoded, Ordering::Relaxed);
        if !encoded || (!again && self.below().is_some()) {
            return Ok(());
        }
        let (mut in_order, alone) = (TarPaths::new(), TarPaths::new());
        let mut below = Below::new();
        let mut bytes = 0;
        let mut entries = plan.entries.entries();
        while let Some(entry) = entries.try_next().await? {
            let path = in_order.next(&entry.name, &entry.kind);
            if path != alone.path(&entry.name) {
                bytes += path.len() + size_of::<([u8; 16], Box<str>)>();
                if bytes > MAX_BELOW {
                    return Err(Error::unsupported(
                        "too many names of this archive lie below names that are files themselves; restore it in parts",
                    ));
                }
                below.insert(key(&entry.name), path.into());
            }
        }
        *self.below.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(below));
        Ok(())
    }

    pub(super) fn path(&self, name: &EntryName) -> EntryName {
        if !self.encoded.load(Ordering::Relaxed) {
            return name.clone();
        }
        match self.below().as_ref().and_then(|below| below.get(&key(name))) {
            Some(path) => EntryName::from(&**path),
            None => EntryName::from(&*TarPaths::new().path(name)),
        }
    }

    fn below(&self) -> Option<Arc<Below>> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn key(name: &EntryName) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&Sha256::digest(name.as_bytes())[..16]);
    key
}
