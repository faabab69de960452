//! Portions of a walk: small enough to be read in one go, large enough that handing them around costs nothing.

use super::metadata::Inode;
use super::walk::{Found, Item, Walk};
use crate::Result;
use crate::adapter::SourceWarning;
use rustix::fs::FileType;
use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Inodes remembered so that the content of further names of a file is not read for nothing.
const MAX_LINKED: usize = 256 << 10;
/// A step of the walk ends after this time also when it found little, so that a pause need not wait for it.
const STEP_TIME: Duration = Duration::from_millis(100);

/// How large a batch may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchBounds {
    /// Items and warnings.
    pub(crate) items: usize,
    /// Bytes of inline content; the last file may go beyond.
    pub(crate) bytes: u64,
    /// Directories whose handles are kept open for it.
    pub(crate) directories: usize,
    /// Files up to this size are read inline.
    pub(crate) inline: u64,
}

/// What is to be done with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Read the content.
    Inline,
    /// Read the metadata; the content is read when it is wanted.
    Stored,
    /// There is no content.
    NoContent,
}

/// One thing to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// Read this.
    Read(Item, Plan),
    /// Pass this on.
    Warn(SourceWarning),
}

/// Things to be done one after the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The things.
    pub(crate) tasks: Vec<Task>,
    /// Bytes of content to be read inline, as listed.
    pub(crate) bytes: u64,
}

/// Cuts a walk into batches.
#[derive(Debug)]
pub(crate) struct Batches {
    walk: Walk,
    /// Files with several names that have been listed.
    linked: HashSet<Inode>,
}

impl Batches {
    /// Of a walk; the content of `linked` files is not read inline.
    pub(crate) fn new(walk: Walk, linked: HashSet<Inode>) -> Self {
        Self { walk, linked }
    }

    /// The next batch, which may be empty; `None` at the end.
    ///
    /// # Errors
    /// As [`Walk::next`].
    pub(crate) fn next(&mut self, bounds: &BatchBounds) -> Result<Option<Batch>> {
        let mut batch = Batch::default();
        let mut directories = 0;
        let mut last_directory = None;
        let start = Instant::now();
        while batch.tasks.len() < bounds.items && batch.bytes < bounds.bytes && directories < bounds.directories {
            match self.walk.next()? {
                None if batch.tasks.is_empty() => return Ok(None),
                None => break,
                Some(Found::Warning(warning)) => batch.tasks.push(Task::Warn(warning)),
                Some(Found::Item(item)) => {
                    let directory = item.directory.as_raw_fd();
                    if last_directory.replace(directory) != Some(directory) {
                        directories += 1;
                    }
                    let plan = self.plan(&item, bounds);
                    if plan == Plan::Inline {
                        batch.bytes += item.state.size();
                    }
                    batch.tasks.push(Task::Read(item, plan));
                }
            }
            if batch.tasks.len() % 64 == 0 && start.elapsed() > STEP_TIME {
                break;
            }
        }
        Ok(Some(batch))
    }

    fn plan(&mut self, item: &Item, bounds: &BatchBounds) -> Plan {
        let state = &item.state;
        if state.kind() != FileType::RegularFile {
            return Plan::NoContent;
        }
        let mut known = false;
        if state.links > 1 {
            // Forgetting some costs reading them once more, nothing else.
            if self.linked.len() >= MAX_LINKED {
                self.linked.clear();
            }
            known = !self.linked.insert(state.inode());
        }
        if known || state.size() > bounds.inline { Plan::Stored } else { Plan::Inline }
    }
}
