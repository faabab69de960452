//! Listings: a walk on a blocking thread that sends what it finds in batches, directory by directory.

use super::{Place, info, is_staged, open_dir};
use crate::adapter::ObjectInfo;
use crate::local::blocking::joined;
use crate::local::publish::{io_error, remove_file};
use crate::model::ObjectName;
use crate::{Error, Result};
use futures::stream::BoxStream;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, fsync, statat};
use rustix::io::Errno;
use tokio::sync::mpsc::{Sender, channel};

/// How many items go to the consumer at once; at most three batches exist.
const BATCH: usize = 256;

/// Collects items into batches and sends them off.
pub(super) struct Out<T> {
    batch: Vec<T>,
    to: Sender<Vec<T>>,
}

/// The consumer is gone; the walk ends.
struct Gone;

impl<T> Out<T> {
    fn push(&mut self, item: T) -> Result<(), Gone> {
        self.batch.push(item);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.to.blocking_send(batch).map_err(|_| Gone)
    }
}

/// A stream of what a walk pushes. The walk starts at the first poll, and ends early when the stream is dropped.
pub(super) fn in_batches<T: Send + 'static>(
    walk: impl FnOnce(&mut Out<T>) -> Result<()> + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    Box::pin(async_stream::try_stream! {
        let (to, mut from) = channel(1);
        let walking = tokio::task::spawn_blocking(move || {
            let mut out = Out { batch: Vec::with_capacity(BATCH), to };
            let walked = walk(&mut out);
            // What was found before an error is delivered before it.
            let _ = out.flush();
            walked
        });
        while let Some(batch) = from.recv().await {
            for item in batch {
                yield item;
            }
        }
        // Without this, a walk that broke down would look like a short listing.
        joined(walking.await)?;
    })
}

/// A directory that is being read, and the start of the names in it.
struct Level {
    items: Dir,
    prefix: String,
}

impl Level {
    fn new(dir: OwnedFd, prefix: String) -> Result<Self> {
        let items = Dir::new(dir).map_err(|e| list_error(e, &prefix))?;
        Ok(Self { items, prefix })
    }

    /// The next item whose name an object could have, or that is staged; its name in this directory.
    fn next(&mut self) -> Option<Result<String>> {
        loop {
            let item = match self.items.read()? {
                Ok(item) => item,
                // The directory was removed meanwhile.
                Err(Errno::NOENT) => return None,
                Err(e) => return Some(Err(list_error(e, &self.prefix))),
            };
            match item.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => return Some(Ok(name.to_owned())),
            }
        }
    }

    /// The whole name of an item; `None` if it cannot be an object's.
    fn object_name(&self, item: &str) -> Option<ObjectName> {
        ObjectName::new(format!("{}{item}", self.prefix)).ok()
    }

    fn dir(&self) -> Result<rustix::fd::BorrowedFd<'_>> {
        self.items.fd().map_err(|e| list_error(e, &self.prefix))
    }
}

fn list_error(cause: Errno, place: &str) -> Error {
    let error = io_error(cause, "cannot list the directory");
    if place.is_empty() { error } else { error.on(place) }
}

impl Place {
    /// Goes through everything below a prefix, depth first, with one open directory a level.
    pub(super) fn list(&self, prefix: Option<&ObjectName>, out: &mut Out<ObjectInfo>) -> Result<()> {
        let Some(top) = self.dir(prefix.map(ObjectName::as_str))? else { return Ok(()) };
        let mut levels = vec![Level::new(top, prefix.map(|name| format!("{name}/")).unwrap_or_default())?];
        while let Some(level) = levels.last_mut() {
            let Some(item) = level.next() else {
                levels.pop();
                continue;
            };
            let item = item?;
            let Some(name) = level.object_name(&item) else { continue };
            let stat = match statat(level.dir()?, &item, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(list_error(e, name.as_str())),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => match out.push(info(name, &stat)) {
                    Ok(()) => {}
                    Err(Gone) => return Ok(()),
                },
                FileType::Directory => {
                    if let Some(below) = open_dir(level.dir()?, &item)? {
                        levels.push(Level::new(below, format!("{name}/"))?);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn list_roots(&self, out: &mut Out<String>) -> Result<()> {
        let mut root = Level::new(self.root()?, String::new())?;
        while let Some(item) = root.next() {
            let item = item?;
            if root.object_name(&item).is_none() {
                continue;
            }
            match statat(root.dir()?, &item, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let kind = FileType::from_raw_mode(stat.st_mode);
                    if matches!(kind, FileType::RegularFile | FileType::Directory) && out.push(item).is_err() {
                        return Ok(());
                    }
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(list_error(e, &item)),
            }
        }
        Ok(())
    }

    /// Removes staged files below a prefix, and directories that are empty then.
    pub(super) fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        let Some(top) = self.dir(Some(prefix.as_str()))? else { return Ok(()) };
        let mut levels = vec![Level::new(top, format!("{prefix}/"))?];
        while let Some(level) = levels.last_mut() {
            let Some(item) = level.next() else {
                if let Some(level) = levels.pop() {
                    fsync(level.dir()?).map_err(|e| list_error(e, &level.prefix))?;
                    self.remove_empty(level.prefix.trim_end_matches('/'))?;
                }
                continue;
            };
            let item = item?;
            if is_staged(item.as_bytes()) {
                let removed = remove_file(level.dir()?, item.as_bytes());
                removed
                    .map_err(|e| io_error(e, "cannot remove the staged file").on(format!("{}{item}", level.prefix)))?;
            } else if let Some(name) = level.object_name(&item)
                && let Some(below) = open_dir(level.dir()?.as_fd(), &item)?
            {
                levels.push(Level::new(below, format!("{name}/"))?);
            }
        }
        Ok(())
    }
}
