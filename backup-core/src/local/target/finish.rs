//! The end of a restore: hard links, metadata of directories, leftovers, durability.
//!
//! The order matters: whatever is made or removed in a directory changes its modification time, so directories come last.

use super::Shared;
use super::lend::{Lent, is_above_rights, open_own};
use super::links::{Digests, WithFirst, with_firsts};
use super::stage::is_stage_of;
use crate::Result;
use crate::adapter::{RestorePlan, Warning};
use crate::local::apply::look_error;
use crate::local::beneath::{DIRECTORY, Missing, Root, check_name};
use crate::local::blocking::blocking;
use crate::local::publish::{io_error, remove_file};
use crate::model::{Entry, EntryKind, EntryName};
use futures::TryStreamExt;
use rustix::fs::{Dir, Mode, fstat};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How many entries go to a blocking thread at once.
pub(super) const BATCH: usize = 1024;
/// So many directories are kept in memory between the two passes; with more, the plan is read a second time.
const KEPT: usize = 8192;
/// So many directories without the right to enter or list them are left to the very end.
const CLOSED: usize = 64 << 10;
/// So many directories are remembered as looked through.
const LOOKED_THROUGH: usize = 1024;

/// What the first pass over the plan leaves for later.
#[derive(Default)]
struct Later {
    directories: Vec<Entry>,
    /// Not all directories are in `directories`.
    overflow: bool,
    looked_through: VecDeque<Vec<u8>>,
    digests: Digests,
}

/// Remembers a directory; of too many it forgets the oldest, but none above the present one: entries come depth first, so it
/// comes back to those.
fn remember(looked_through: &mut VecDeque<Vec<u8>>, parent: &[u8]) {
    let is_above =
        |dir: &[u8]| dir.is_empty() || parent.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'));
    if looked_through.len() >= LOOKED_THROUGH
        && let Some(oldest) = looked_through.iter().position(|dir| !is_above(dir))
    {
        looked_through.remove(oldest);
    }
    looked_through.push_back(parent.to_vec());
}

impl Later {
    fn add(&mut self, directory: Entry) {
        if self.directories.len() < KEPT {
            self.directories.push(directory);
        } else {
            self.overflow = true;
        }
    }
}

/// Whether a directory's owner, if an ordinary user, will have these rights in it.
pub(super) fn is_open(directory: &Entry, rights: Mode) -> bool {
    is_above_rights() || directory.metadata.mode.is_none_or(|mode| mode & rights.bits() == rights.bits())
}

pub(super) async fn finish(shared: &Arc<Shared>, plan: &RestorePlan) -> Result<Vec<Warning>> {
    let clean = plan.resumed || shared.leftovers.load(Ordering::Relaxed);
    let mut later = Later::default();
    let mut batches = plan.entries.entries().try_chunks(BATCH).map_err(|e| e.1);
    while let Some(batch) = batches.try_next().await? {
        let batch = with_firsts(plan, batch).await?;
        let (shared, plan) = (shared.clone(), plan.clone());
        later = blocking(move || shared.first_pass(&plan, batch, clean, later)).await?;
    }
    let Later { directories, overflow, .. } = later;
    let mut closed = Vec::new();
    if overflow {
        let mut batches = plan.entries.entries().try_chunks(BATCH).map_err(|e| e.1);
        while let Some(batch) = batches.try_next().await? {
            let shared = shared.clone();
            closed = blocking(move || shared.directories(batch, closed)).await?;
        }
    } else {
        let shared = shared.clone();
        closed = blocking(move || shared.directories(directories, closed)).await?;
    }
    let ending = shared.clone();
    blocking(move || {
        ending.closed_directories(closed)?;
        ending.sync()
    })
    .await?;
    if clean {
        shared.leftovers.store(false, Ordering::Relaxed);
    }
    Ok(shared.notes.take())
}

impl Shared {
    fn first_pass(&self, plan: &RestorePlan, batch: Vec<WithFirst>, clean: bool, mut later: Later) -> Result<Later> {
        let root = self.root()?;
        for (entry, first) in batch {
            let path = self.names.path(&entry.name);
            if clean {
                let cleaned = self.clean_directory_of(&root, plan, &path, &mut later.looked_through);
                self.or_note(&entry, "staged files may be left beside it", cleaned)?;
            }
            match &entry.kind {
                EntryKind::HardLink { target } => {
                    let is_path = |name: &EntryName| check_name(self.names.path(name).as_bytes()).is_ok();
                    if is_path(&entry.name) && is_path(target) {
                        match self.link(&root, plan, (&entry, first.as_ref()), target, &later.digests) {
                            Err(e) if super::is_fatal(&e) => return Err(e.on(&entry.name)),
                            Err(e) => {
                                let text = format!("the hard link is not made: {}", e.chain());
                                self.notes.add_left_out(&entry.name, text);
                            }
                            Ok(()) => {}
                        }
                    } // Else that was the answer of `write_small`.
                }
                EntryKind::Directory if is_open(&entry, Mode::RWXU) => later.add(entry),
                EntryKind::Directory => {
                    // A finish before this one may have closed it, and it is needed until the second pass.
                    if let Ok(place) = root.place(path.as_bytes(), Missing::Fail) {
                        let _ = Lent::to_owner(&place).map(Lent::keep);
                    }
                    later.add(entry);
                }
                _ => {}
            }
        }
        Ok(later)
    }

    /// Makes a warning of an error of one entry.
    fn or_note(&self, entry: &Entry, what: &str, done: Result<()>) -> Result<()> {
        match done {
            Err(e) if super::is_fatal(&e) => Err(e.on(&entry.name)),
            Err(e) => {
                self.notes.add(&entry.name, [format!("{what}: {}", e.chain())]);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Removes leftovers of this plan from the directory of an entry: they can lie nowhere else.
    pub(super) fn clean_directory_of(
        &self,
        root: &Root,
        plan: &RestorePlan,
        path: &EntryName,
        looked_through: &mut VecDeque<Vec<u8>>,
    ) -> Result<()> {
        // Where no entry was written, there is nothing to clean.
        let Ok(place) = root.place(path.as_bytes(), Missing::Fail) else { return Ok(()) };
        if looked_through.iter().rev().any(|parent| parent == place.parent) {
            return Ok(());
        }
        remember(looked_through, place.parent);
        let failed = |e| io_error(e, "cannot look for staged files in the directory").on(path);
        for item in Dir::new(place.dir.readable().map_err(failed)?).map_err(failed)? {
            let item = item.map_err(failed)?;
            if is_stage_of(&plan.tag, item.file_name().to_bytes()) {
                remove_file(&place.dir, item.file_name().to_bytes()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Puts metadata on directories. Those that would bar their owner are put off, so that what lies in them can still be reached.
    fn directories(&self, batch: Vec<Entry>, mut closed: Vec<Entry>) -> Result<Vec<Entry>> {
        for entry in batch.into_iter().filter(|entry| entry.kind == EntryKind::Directory) {
            if is_open(&entry, Mode::RUSR | Mode::XUSR) || closed.len() >= CLOSED {
                self.directory(&entry)?;
            } else {
                closed.push(entry);
            }
        }
        Ok(closed)
    }

    /// Puts metadata on directories that bar their owner, the deepest first.
    fn closed_directories(&self, closed: Vec<Entry>) -> Result<()> {
        closed.iter().rev().try_for_each(|entry| self.directory(entry))
    }

    fn directory(&self, entry: &Entry) -> Result<()> {
        let path = self.names.path(&entry.name);
        if check_name(path.as_bytes()).is_err() {
            return Ok(()); // That was the answer of `write_small`.
        }
        let put = || {
            let root = self.root()?;
            let place = root.place(path.as_bytes(), Missing::Fail)?;
            // A finish before this one may have closed it to its owner.
            let dir = open_own(&place, DIRECTORY).map_err(|e| io_error(e, "cannot open the directory"))?;
            let stat = fstat(&dir).map_err(look_error)?;
            self.notes
                .add(&entry.name, self.rules.put_on(std::os::fd::AsFd::as_fd(&dir), entry, (stat.st_uid, stat.st_gid)));
            Ok(())
        };
        self.or_note(entry, "its metadata is not set", put())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_many_directories_is_not_looked_through_again_for_each_thousand_of_them() {
        let mut looked_through = VecDeque::new();
        for parent in ["", "a", "a/many"] {
            remember(&mut looked_through, parent.as_bytes());
        }
        for i in 0..5000 {
            remember(&mut looked_through, format!("a/many/{i}").as_bytes());
        }
        assert_eq!(looked_through.len(), LOOKED_THROUGH);
        for kept in ["", "a", "a/many", "a/many/4999"] {
            assert!(looked_through.iter().any(|dir| dir == kept.as_bytes()), "{kept}");
        }
        remember(&mut looked_through, b"a/many-more");
        remember(&mut looked_through, b"b");
        assert!(looked_through.iter().all(|dir| dir != b"a/many" && dir != b"a"));
    }
}
