//! Reading a batch: metadata of all items, content of the small ones.

use super::batch::{Batch, Plan, Task};
use super::metadata::{FileState, FileVersion, MetadataReader, OwnerNames, Xattrs};
use super::open::{REPLACED, open_file, reason};
use super::walk::{Item, skipped};
use crate::Result;
use crate::adapter::{Content, SourceWarning};
use crate::budget::Permit;
use crate::model::{EntryKind, EntryName, Metadata};
use crate::pool::BufferPool;
use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;

/// How often a file that changes while it is read is read again.
const RETRIES: u32 = 2;
/// Reading a batch stops when its extended attributes are this many bytes; the rest follows when they have been taken.
const XATTR_PAUSE: usize = 4 << 20;

/// What became of one task.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was read.
    Entry(Box<ReadEntry>),
    /// Something to be told.
    Warning(SourceWarning),
}

/// An entry, but for its cursor and what depends on other entries.
#[derive(Debug)]
pub(crate) struct ReadEntry {
    pub(crate) name: EntryName,
    pub(crate) kind: EntryKind,
    pub(crate) state: FileState,
    pub(crate) metadata: Metadata,
    pub(crate) content: Content,
    pub(crate) inconsistent: bool,
}

/// What reading a batch, or a part of one, gave.
#[derive(Debug)]
pub(crate) struct Portion {
    /// In the order of the tasks.
    pub(crate) outcomes: Vec<Outcome>,
    /// What is left to be read of the batch.
    pub(crate) rest: Option<Batch>,
}

/// Reads batches.
pub(crate) struct BatchReader {
    metadata: MetadataReader,
    /// For the contents of a batch.
    buffers: Arc<BufferPool>,
    /// See [`XATTR_PAUSE`].
    pub(crate) xattr_pause: usize,
    /// Called with the number of the attempt after content was read, so that tests can change a file just then.
    #[cfg(test)]
    pub(crate) after_content: Option<Box<dyn FnMut(u32)>>,
}

/// An item that is not delivered: the reason, or an error that is not about the item.
enum Failure {
    Skip(String),
    Stop(crate::Error),
}

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        match reason(e) {
            Ok(reason) => Self::Skip(reason),
            Err(error) => Self::Stop(error),
        }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self::Skip(reason.to_owned())
    }
}

impl BatchReader {
    /// A reader that shares the names of users and groups, and buffers, with others.
    pub(crate) fn new(names: Arc<OwnerNames>, buffers: Arc<BufferPool>) -> Self {
        Self {
            metadata: MetadataReader::new(names),
            buffers,
            xattr_pause: XATTR_PAUSE,
            #[cfg(test)]
            after_content: None,
        }
    }

    /// Reads a batch whose bytes `permit` stands for.
    ///
    /// # Errors
    /// Trouble that is not about one item.
    pub(crate) fn read(&mut self, batch: Batch, permit: Option<&Arc<Permit>>) -> Result<Portion> {
        let mut outcomes = Vec::with_capacity(batch.tasks.len());
        let mut bytes_left = batch.bytes;
        let mut content = self.buffers.take(batch.bytes as usize);
        // Which part of `content` belongs to which outcome.
        let mut parts: Vec<(usize, Range<usize>)> = Vec::with_capacity(batch.tasks.len());
        let mut xattr_bytes = 0;
        let mut tasks = batch.tasks.into_iter();
        for task in tasks.by_ref() {
            let (item, plan) = match task {
                Task::Warn(warning) => {
                    outcomes.push(Outcome::Warning(warning));
                    continue;
                }
                Task::Read(item, plan) => (item, plan),
            };
            if plan == Plan::Inline {
                bytes_left -= item.state.size();
            }
            let name = item.name.clone();
            match self.read_item(item, plan, &mut content) {
                Ok(ItemRead { entry, part, xattr_trouble }) => {
                    if let Some(part) = part {
                        parts.push((outcomes.len(), part));
                    }
                    xattr_bytes += entry.metadata.xattrs.iter().map(|x| x.value.len()).sum::<usize>();
                    outcomes.push(Outcome::Entry(Box::new(entry)));
                    if let Some(trouble) = xattr_trouble {
                        let message = format!("kept, but extended attributes are missing: {trouble}");
                        outcomes.push(Outcome::Warning(SourceWarning { name: Some(name), message }));
                    }
                }
                Err(Failure::Skip(reason)) => outcomes.push(Outcome::Warning(skipped(name, &reason))),
                Err(Failure::Stop(error)) => return Err(error),
            }
            if xattr_bytes >= self.xattr_pause {
                break;
            }
        }
        let content = self.buffers.lend(content);
        for (index, part) in parts {
            if let Outcome::Entry(entry) = &mut outcomes[index] {
                entry.content = Content::Inline { bytes: content.slice(part), permit: permit.cloned() };
            }
        }
        let rest: Vec<Task> = tasks.collect();
        let rest = (!rest.is_empty()).then_some(Batch { tasks: rest, bytes: bytes_left });
        Ok(Portion { outcomes, rest })
    }

    /// Reads one item; inline content goes to the end of `content`, and the range says where it is.
    fn read_item(&mut self, item: Item, plan: Plan, content: &mut Vec<u8>) -> Result<ItemRead, Failure> {
        let mut part = None;
        let mut inconsistent = false;
        let (kind, state, xattrs, sparse) = match item.state.kind() {
            FileType::Directory => {
                let xattrs = self.metadata.xattrs(item.directory.as_fd());
                (EntryKind::Directory, item.state, xattrs, false)
            }
            FileType::Symlink => {
                let leaf = super::identity::os(item.leaf());
                let target = rustix::fs::readlinkat(&item.directory, leaf, Vec::with_capacity(256))?;
                let xattrs = self.metadata.link_xattrs(item.directory.as_fd(), item.leaf());
                (EntryKind::Symlink { target: target.into_bytes().into() }, item.state, xattrs, false)
            }
            _ => {
                let file = open_file(item.directory.as_fd(), item.leaf())?;
                let read = match plan {
                    Plan::Inline => self.read_content(&file, &item.state, content)?,
                    Plan::Stored | Plan::NoContent => {
                        let xattrs = self.metadata.xattrs(file.as_fd());
                        FileRead { state: state_of(&file)?, xattrs, part: None, inconsistent: false }
                    }
                };
                part = read.part;
                inconsistent = read.inconsistent;
                let sparse = read.state.may_have_holes() && super::holes::has_hole(file.as_fd(), read.state.size());
                (EntryKind::File, read.state, read.xattrs, sparse)
            }
        };
        let Xattrs { list, trouble } = xattrs;
        let content = match kind {
            EntryKind::File => stored(&state.version),
            _ => Content::None,
        };
        let metadata = self.metadata.metadata(&state, list, sparse);
        let entry = ReadEntry { name: item.name, kind, state, metadata, content, inconsistent };
        Ok(ItemRead { entry, part, xattr_trouble: trouble })
    }

    /// Reads a file whole, again when it changed meanwhile.
    fn read_content(&mut self, file: &OwnedFd, listed: &FileState, content: &mut Vec<u8>) -> Result<FileRead, Failure> {
        let start = content.len();
        let mut before = *listed;
        let mut attempt = 0;
        loop {
            let read = read_to(file, content, before.size());
            #[cfg(test)]
            if let Some(after_content) = &mut self.after_content {
                after_content(attempt);
            }
            let xattrs = self.metadata.xattrs(file.as_fd());
            // Checked before the error of reading: that of a FIFO would say less than that it is one.
            let state = state_of(file)?;
            if let Err(e) = read {
                content.truncate(start);
                return Err(match Failure::from(e) {
                    Failure::Skip(reason) => Failure::Skip(format!("reading failed: {reason}")),
                    stop => stop,
                });
            }
            if state.size() > listed.size() {
                // There is no room for it; it can be read by itself.
                content.truncate(start);
                return Ok(FileRead { state, xattrs, part: None, inconsistent: false });
            }
            let complete = state.version == before.version && (content.len() - start) as u64 == state.size();
            if complete || attempt == RETRIES {
                content.truncate(start + listed.size() as usize);
                let part = Some(start..content.len());
                return Ok(FileRead { state, xattrs, part, inconsistent: !complete });
            }
            content.truncate(start);
            before = state;
            attempt += 1;
        }
    }
}

/// An item that was read.
struct ItemRead {
    entry: ReadEntry,
    part: Option<Range<usize>>,
    xattr_trouble: Option<String>,
}

/// A file that was read.
struct FileRead {
    state: FileState,
    xattrs: Xattrs,
    part: Option<Range<usize>>,
    inconsistent: bool,
}

/// Content to be read later.
pub(crate) fn stored(version: &FileVersion) -> Content {
    Content::Stored { size: version.size, version: Some((*version).into()) }
}

/// The state of a file, if it is a regular one.
fn state_of(file: &OwnedFd) -> Result<FileState, Failure> {
    let state = FileState::from(rustix::fs::fstat(file)?);
    if state.kind() == FileType::RegularFile { Ok(state) } else { Err(REPLACED.into()) }
}

/// Appends what the file has, as far as there is room. `pread`, because it takes nothing out of a FIFO that was put in the file's place.
fn read_to(file: &OwnedFd, content: &mut Vec<u8>, expected: u64) -> Result<(), Errno> {
    let start = content.len();
    while ((content.len() - start) as u64) < expected && content.len() < content.capacity() {
        let offset = (content.len() - start) as u64;
        match rustix::io::pread(file, spare_capacity(content), offset) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
