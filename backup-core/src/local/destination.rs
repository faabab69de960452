//! A directory as destination: each object is a file below it.

mod list;
mod put;
mod read;

use super::blocking::blocking;
use super::identity::{identity_of_resolved, resolve};
use super::publish::{io_error, remove_file};
use crate::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use crate::model::{Identity, ObjectName, STAGE_PREFIX};
use crate::{Error, Result};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use put::Feed;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, fstatvfs, fsync, openat, statat, unlinkat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// A directory in which archives are kept.
///
/// Objects and directories that it makes can be read by their owner alone, whatever the umask. Symbolic links below the root are
/// not followed and count as foreign. The root is made by [`check`](Destination::check) and by nothing else, so that a disk
/// that is not mounted is an error (`NotFound`) and never an empty destination.
#[derive(Clone, Debug)]
pub struct LocalDestination {
    place: Arc<Place>,
}

impl LocalDestination {
    /// A destination in this directory, which need not exist yet. Resolves the path, so it does some I/O.
    ///
    /// # Errors
    /// When the existing part of the path cannot be resolved.
    pub fn new(root: impl AsRef<Path>) -> Result<Self> {
        let path = resolve(root.as_ref())?;
        let identity = identity_of_resolved(&path);
        Ok(Self { place: Arc::new(Place { path, identity, durable: Mutex::default() }) })
    }

    async fn on_place<T: Send + 'static>(&self, work: impl FnOnce(&Place) -> Result<T> + Send + 'static) -> Result<T> {
        let place = self.place.clone();
        blocking(move || work(&place)).await
    }
}

#[async_trait]
impl Destination for LocalDestination {
    fn identity(&self) -> Identity {
        self.place.identity.clone()
    }

    fn properties(&self) -> DestinationProperties {
        DestinationProperties { max_object_size: i64::MAX as u64, preferred_volume_size: 16 << 20, parallelism: 4 }
    }

    async fn check(&self) -> Result<()> {
        self.on_place(Place::check).await
    }

    async fn now(&self) -> Result<jiff::Timestamp> {
        self.on_place(Place::now).await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        let name = name.clone();
        if !body.is_limited() {
            let work = move |place: &Place| place.put(&name, &body, Feed::AtOnce).map_err(|e| e.on(&name));
            return self.on_place(work).await;
        }
        let (out, chunks) = mpsc::channel(1);
        let mut coming = body.chunks();
        let feeding = async move {
            while let Some(chunk) = coming.next().await {
                if out.send(chunk).await.is_err() {
                    break;
                }
            }
            drop(out);
        };
        let work = move |place: &Place| place.put(&name, &body, Feed::Paced(chunks)).map_err(|e| e.on(&name));
        let mut writing = std::pin::pin!(self.on_place(work));
        tokio::select! {
            biased;
            done = &mut writing => return done,
            () = feeding => {}
        }
        writing.await
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        let name = name.clone();
        let (file, range) = {
            let name = name.clone();
            self.on_place(move |place| place.open(&name, range).map_err(|e| e.on(&name))).await?
        };
        Ok(read::stream(name, file, range))
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let name = name.clone();
        self.on_place(move |place| {
            let (parent, last) = split(&name);
            let Some(dir) = place.dir(parent)? else { return Ok(None) };
            Ok(regular(dir.as_fd(), last).map_err(|e| e.on(&name))?.map(|stat| info(name, &stat)))
        })
        .await
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        let (place, prefix) = (self.place.clone(), prefix.cloned());
        list::in_batches(move |out| place.list(prefix.as_ref(), out))
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        let place = self.place.clone();
        list::in_batches(move |out| place.list_roots(out))
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        let name = name.clone();
        self.on_place(move |place| place.delete(&name).map_err(|e| e.on(&name))).await
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        let prefix = prefix.clone();
        self.on_place(move |place| place.remove_staged(&prefix).map_err(|e| e.on(&prefix))).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.on_place(|place| {
            let stat = fstatvfs(place.root()?).map_err(|e| place.error(e, "cannot ask for the free space"))?;
            Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
        })
        .await
    }
}

/// The directory, for blocking threads. It is opened anew by each call, so that it can be unmounted in between.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    identity: Identity,
    /// Directories whose own names are known to be durable.
    durable: Mutex<HashSet<String>>,
}

/// What is needed to look at and below a directory, without following a link.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

impl Place {
    fn error(&self, cause: Errno, message: &'static str) -> Error {
        io_error(cause, message).on(self.path.display())
    }

    /// Opens the root.
    fn root(&self) -> Result<OwnedFd> {
        // The root itself may be a link to a directory: the user chose it.
        openat(CWD, &self.path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(|e| match e {
            Errno::NOENT => self.error(e, "the destination's directory does not exist (is its disk mounted?)"),
            Errno::NOTDIR => self.error(e, "the destination is not a directory"),
            e => self.error(e, "cannot open the destination's directory"),
        })
    }

    /// Opens a directory below the root; `None` if there is none.
    fn dir(&self, path: Option<&str>) -> Result<Option<OwnedFd>> {
        let mut dir = self.root()?;
        for part in path.into_iter().flat_map(|path| path.split('/')) {
            match open_dir(dir.as_fd(), part)? {
                Some(below) => dir = below,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// The time on the file system's clock, which on a network is the server's.
    fn now(&self) -> Result<jiff::Timestamp> {
        let root = self.root()?;
        let name = put::stage_name();
        let failed = |e| self.error(e, "cannot make a file to read the file system's clock");
        let file = openat(&root, &name, put::NEW_FILE, put::FILE_MODE).map_err(failed)?;
        let stat = fstat(&file).map_err(failed);
        remove_file(&root, name.as_bytes()).map_err(failed)?;
        Ok(modified(&stat?))
    }

    /// Removes an object, and the directories above it that it leaves empty.
    fn delete(&self, name: &ObjectName) -> Result<()> {
        let (parent, last) = split(name);
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        if regular(dir.as_fd(), last)?.is_some() {
            remove_file(&dir, last.as_bytes()).map_err(|e| io_error(e, "cannot remove the file"))?;
        }
        // Also when it was gone: the removal before may have been cut short of this.
        fsync(&dir).map_err(|e| io_error(e, "cannot make the removal durable"))?;
        match parent {
            Some(parent) => self.remove_empty(parent),
            None => Ok(()),
        }
    }

    /// Removes a directory below the root and those above it, as long as they are empty. A put that is about to use one makes it again.
    fn remove_empty(&self, path: &str) -> Result<()> {
        let mut path = path;
        loop {
            let (parent, last) = path.rsplit_once('/').map_or((None, path), |(parent, last)| (Some(parent), last));
            let Some(dir) = self.dir(parent)? else { return Ok(()) };
            self.durable.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
            match unlinkat(&dir, last, AtFlags::REMOVEDIR) {
                Ok(()) => fsync(&dir).map_err(|e| io_error(e, "cannot make the removal durable"))?,
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY | Errno::NOTDIR) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(io_error(e, "cannot remove the empty directory").on(path)),
            }
            match parent {
                Some(parent) => path = parent,
                None => return Ok(()),
            }
        }
    }
}

/// The directory and the last part of a name.
fn split(name: &ObjectName) -> (Option<&str>, &str) {
    name.as_str().rsplit_once('/').map_or((None, name.as_str()), |(parent, last)| (Some(parent), last))
}

/// What is known of a regular file; `None` if there is none. Links and whatever else are foreign.
fn regular(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Stat>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(io_error(e, "cannot look at the file")),
    }
}

/// Opens a directory in a directory; `None` if there is none of this name.
fn open_dir(dir: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>> {
    match openat(dir, name, DIRECTORY, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(io_error(e, "cannot open the directory").on(name)),
    }
}

fn info(name: ObjectName, stat: &Stat) -> ObjectInfo {
    ObjectInfo { name, size: u64::try_from(stat.st_size).unwrap_or(0), modified: modified(stat) }
}

/// When a file was written. A time that no calendar holds becomes the nearest that one does.
fn modified(stat: &Stat) -> jiff::Timestamp {
    let nanos = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    jiff::Timestamp::new(stat.st_mtime, nanos).unwrap_or(if stat.st_mtime < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    })
}

fn is_staged(name: &[u8]) -> bool {
    name.starts_with(STAGE_PREFIX.as_bytes())
}

#[cfg(test)]
mod tests;
