//! What a target in memory keeps.

use crate::doubles::lock;
use backup_core::adapter::{Warning, Written};
use backup_core::model::{EntryKind, EntryName, GroupName, Metadata, Timestamp};
use backup_core::{Error, Result};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What it is; a hard link stays one and has the content of its target.
    pub kind: EntryKind,
    /// Last modification.
    pub mtime: Option<Timestamp>,
    /// Metadata.
    pub metadata: Metadata,
    /// Content; of a group that is taken whole, all slices.
    pub content: Bytes,
}

#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) items: BTreeMap<EntryName, Restored>,
    /// What the items were that were written since the last sync.
    pub(super) unsynced: BTreeMap<EntryName, Option<Restored>>,
    pub(super) staged: BTreeMap<String, Staged>,
    pub(super) stages: u64,
    /// Tags of the plans between prepare and finish.
    pub(super) open: BTreeSet<String>,
    /// Ordinal of the last slice of each ordered group.
    pub(super) order: HashMap<GroupName, u64>,
    pub(super) busy: BTreeSet<GroupName>,
    pub(super) breaches: Vec<String>,
    /// What was not given out yet.
    pub(super) warnings: Vec<Warning>,
}

#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) bytes: Vec<u8>,
    pub(super) durable: usize,
}

impl Place {
    pub(super) fn breach(&mut self, text: String) -> Error {
        self.breaches.push(text.clone());
        Error::invalid(text)
    }

    /// Makes an item visible, or says why not.
    pub(super) fn publish(&mut self, name: &EntryName, new: Restored, overwrite: bool) -> Result<Written> {
        let written = match self.items.get_mut(name) {
            None => Written::Created,
            Some(there) if there.kind == new.kind && there.content == new.content => {
                // A directory that is there takes over what the entry says of it.
                if new.kind != EntryKind::Directory || *there == new {
                    return Ok(Written::AlreadyThere);
                }
                Written::AlreadyThere
            }
            Some(_) if overwrite => Written::Replaced,
            Some(_) => return Err(Error::conflict("another item is already there").on(name)),
        };
        let before = self.items.insert(name.clone(), new);
        self.unsynced.entry(name.clone()).or_insert(before);
        Ok(written)
    }

    /// Removes what is staged for a plan.
    pub(super) fn unstage(&mut self, tag: &str) {
        let ours = format!("{tag}-");
        self.staged.retain(|stage, _| !stage.starts_with(&ours));
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.staged.values_mut().for_each(|staged| staged.durable = staged.bytes.len());
    }

    pub(super) fn crash(&mut self) {
        for (name, before) in std::mem::take(&mut self.unsynced) {
            match before {
                Some(before) => self.items.insert(name, before),
                None => self.items.remove(&name),
            };
        }
        self.staged.retain(|_, staged| staged.durable > 0);
        self.staged.values_mut().for_each(|staged| staged.bytes.truncate(staged.durable));
        self.open.clear();
        self.order.clear();
    }

    /// Whether a name stays inside the target.
    pub(super) fn check_path(&self, name: &EntryName) -> Result<()> {
        let path = name.as_bytes();
        let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
        if path.split(|b| *b == b'/').any(bad) {
            return Err(Error::invalid("the name would leave the restore target").on(name));
        }
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            match self.items.get(&EntryName::new(path[..at].to_vec())).map(|parent| &parent.kind) {
                None | Some(EntryKind::Directory) => {}
                Some(EntryKind::Symlink { .. }) => {
                    return Err(Error::invalid("the name goes through a symbolic link").on(name));
                }
                Some(_) => return Err(Error::conflict("a parent is not a directory").on(name)),
            }
        }
        Ok(())
    }
}

/// The slices of an ordered group that one call is writing.
pub(super) struct Busy<'a>(pub(super) &'a Mutex<Place>, pub(super) Vec<GroupName>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut place = lock(self.0);
        self.1.iter().for_each(|group| {
            place.busy.remove(group);
        });
    }
}
