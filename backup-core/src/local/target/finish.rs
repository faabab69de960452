//! The end of a restore: hard links, metadata of directories, leftovers, durability.
//!
//! The order matters: whatever is made or removed in a directory changes its modification time, so directories come last.

use super::Shared;
use super::stage::{Existing, Staged, is_stage_of};
use crate::adapter::{RestorePlan, Warning, Written};
use crate::local::apply::look_error;
use crate::local::beneath::{DIRECTORY, Missing, Root, check_name};
use crate::local::blocking::blocking;
use crate::local::publish::{io_error, remove_file};
use crate::model::{Entry, EntryKind, EntryName};
use crate::{Error, ErrorClass, Result};
use futures::TryStreamExt;
use rustix::fs::{AtFlags, Dir, FileType, Mode, chmodat, fstat, linkat, openat, statat};
use rustix::io::Errno;
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
}

pub(super) async fn finish(shared: &Arc<Shared>, plan: &RestorePlan) -> Result<Vec<Warning>> {
    let clean = plan.resumed || shared.leftovers.load(Ordering::Relaxed);
    let mut later = Later::default();
    let mut batches = plan.entries.entries().try_chunks(BATCH).map_err(|e| e.1);
    while let Some(batch) = batches.try_next().await? {
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
    fn first_pass(&self, plan: &RestorePlan, batch: Vec<Entry>, clean: bool, mut later: Later) -> Result<Later> {
        let root = self.root()?;
        for entry in batch {
            let path = self.names.path(&entry.name);
            if clean {
                self.clean_directory_of(&root, plan, &path, &mut later.looked_through)?;
            }
            match &entry.kind {
                EntryKind::HardLink { target } => {
                    let target = self.names.path(target);
                    if check_name(path.as_bytes()).is_ok() && check_name(target.as_bytes()).is_ok() {
                        match self.link(&root, plan, &path, &target) {
                            Err(e) if super::is_fatal(&e) => return Err(e.on(&entry.name)),
                            Err(e) => {
                                let text = format!("the hard link is not made: {}", e.chain());
                                self.notes.add_left_out(&entry.name, text);
                            }
                            Ok(()) => {}
                        }
                    } // Else that was the answer of `write_small`.
                }
                EntryKind::Directory if later.directories.len() < KEPT => later.directories.push(entry),
                EntryKind::Directory => later.overflow = true,
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

    fn link(&self, root: &Root, plan: &RestorePlan, path: &EntryName, target: &EntryName) -> Result<()> {
        let place = self.place(root, plan, path)?;
        let missing = |e: Error| match e.class() {
            ErrorClass::NotFound => Error::not_found(format!("`{target}`, which it is a name of, is not there")),
            _ => e,
        };
        let first = root.place(target.as_bytes(), Missing::Fail).map_err(missing)?;
        let wanted = match statat(&first.dir, first.last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(e) => return Err(missing(look_error(e))),
        };
        if FileType::from_raw_mode(wanted.st_mode) == FileType::Directory {
            return Err(Error::invalid(format!("`{target}`, which it is a name of, is a directory")));
        }
        let link = |name: &[u8]| linkat(&first.dir, first.last, &place.dir, name, AtFlags::empty());
        let failed = |e| io_error(e, "cannot link");
        match link(place.last) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e)),
        }
        let there = statat(&place.dir, place.last, AtFlags::SYMLINK_NOFOLLOW).map_err(look_error)?;
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino) {
            return Ok(());
        }
        if !plan.overwrite {
            return Err(Error::conflict("something else is already there"));
        }
        let stage = self.stages.fresh(&plan.tag);
        link(stage.as_bytes()).map_err(failed)?;
        match Staged::new(self, &place, stage.as_bytes()).publish(root, Some(Existing::Something))? {
            Some(Written::Replaced) => Ok(()),
            other => Err(Error::permanent(format!("unexpected answer {other:?}"))),
        }
    }

    /// Removes leftovers of this plan from the directory of an entry: they can lie nowhere else.
    fn clean_directory_of(
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
        if looked_through.len() >= LOOKED_THROUGH {
            looked_through.pop_front();
        }
        looked_through.push_back(place.parent.to_vec());
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
            let is_open = entry.metadata.mode.is_none_or(|mode| mode & 0o500 == 0o500);
            if is_open || closed.len() >= CLOSED {
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
            let open = || openat(&place.dir, place.last, DIRECTORY, Mode::empty());
            let dir = match open() {
                // Closed to its owner by a finish before this one.
                Err(Errno::ACCESS) => {
                    let stat = statat(&place.dir, place.last, AtFlags::SYMLINK_NOFOLLOW).map_err(look_error)?;
                    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                        return Err(Error::conflict("it is no directory"));
                    }
                    chmodat(&place.dir, place.last, Mode::RWXU, AtFlags::empty()).map_err(look_error)?;
                    open()
                }
                opened => opened,
            };
            let dir = dir.map_err(|e| io_error(e, "cannot open the directory"))?;
            let stat = fstat(&dir).map_err(look_error)?;
            self.notes
                .add(&entry.name, self.rules.put_on(std::os::fd::AsFd::as_fd(&dir), entry, (stat.st_uid, stat.st_gid)));
            Ok(())
        };
        self.or_note(entry, "its metadata is not set", put())
    }
}
