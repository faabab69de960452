//! Puts: staged, synced, published and synced again, in one function.

use super::{DIRECTORY, Place, is_staged, open_dir, split};
use crate::adapter::Payload;
use crate::engine::{holder_is_dead, this_process};
use crate::local::publish::{io_error, remove_file, rename_error, rename_new};
use crate::local::rw::{holds, write_pieces};
use crate::model::{Holder, ObjectName, STAGE_PREFIX};
use crate::{Digest, Error, Result};
use bytes::Bytes;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fdatasync, fstat, fsync, mkdirat, openat, statat};
use rustix::io::Errno;
use std::sync::{LazyLock, PoisonError};
use tokio::sync::mpsc;

pub(super) const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// An archive may hold what only its owner may see.
pub(super) const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIR_MODE: Mode = Mode::RWXU;

/// How often a put makes a directory again that deletions remove under its hands.
const TRIES: usize = 100;
/// How many directories are remembered as durable.
const REMEMBERED: usize = 4096;
/// Age in seconds from which a staged file in the root is a leftover, also when it cannot be told whether its process has ended.
const OLD: i64 = 24 * 60 * 60;

const GONE: &str = "the directory was removed again and again while the object was put";

static THIS_PROCESS: LazyLock<Holder> = LazyLock::new(this_process);

/// A name that no other put uses: `.backup-tmp-<boot>-<process id>-<start of the process>-<random>`, so that whoever finds
/// it can tell whether its process still lives.
pub(super) fn stage_name() -> String {
    let Holder { boot, pid, started, .. } = &*THIS_PROCESS;
    format!("{STAGE_PREFIX}{}-{pid}-{started}-{:016x}", boot_tag(boot), rand::random::<u64>())
}

fn boot_tag(boot: &str) -> String {
    format!("{:.16}", Digest::of(boot.as_bytes()).to_string())
}

/// Whether the process that staged a file is known to have ended; `false` when it ran on another host, or that cannot be told.
fn is_of_dead_process(name: &[u8]) -> bool {
    let here = &*THIS_PROCESS;
    let Some(parts) = name.strip_prefix(STAGE_PREFIX.as_bytes()).and_then(|rest| str::from_utf8(rest).ok()) else {
        return false;
    };
    let mut parts = parts.split('-');
    let boot = parts.next();
    let (Some(Ok(pid)), Some(Ok(started))) = (parts.next().map(str::parse), parts.next().map(str::parse)) else {
        return false;
    };
    boot == Some(&*boot_tag(&here.boot)) && holder_is_dead(&Holder { pid, started, ..here.clone() })
}

/// When the bytes of a put may be written.
#[derive(Debug)]
pub(super) enum Feed {
    /// At once.
    AtOnce,
    /// Chunk by chunk as they come; the end is early when the call was dropped.
    Paced(mpsc::Receiver<Bytes>),
}

impl Feed {
    fn write(&mut self, file: BorrowedFd<'_>, pieces: &[Bytes]) -> Result<()> {
        let failed = |e| io_error(e, "cannot write");
        let Self::Paced(chunks) = self else { return write_pieces(file, pieces).map_err(failed) };
        let mut rest: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        while rest > 0 {
            let chunk = chunks.blocking_recv().ok_or_else(|| Error::cancelled("the put was given up"))?;
            rest = rest.saturating_sub(chunk.len() as u64);
            write_pieces(file, &[chunk]).map_err(failed)?;
        }
        Ok(())
    }
}

impl Place {
    pub(super) fn put(&self, name: &ObjectName, body: &Payload, mut feed: Feed) -> Result<()> {
        let (parent, last) = split(name);
        for _ in 0..TRIES {
            let Some(dir) = self.make_dirs(parent)? else { continue };
            if store(&dir, last, body.pieces(), &mut feed)? {
                return Ok(());
            }
        }
        Err(Error::transient(GONE))
    }

    /// Opens a directory below the root, made if it is missing, its name durable. `None` when one above it was removed meanwhile.
    fn make_dirs(&self, path: Option<&str>) -> Result<Option<OwnedFd>> {
        let mut dir = self.root()?;
        let Some(path) = path else { return Ok(Some(dir)) };
        let mut end = 0;
        for part in path.split('/') {
            end += part.len();
            let upto = &path[..end];
            end += 1;
            let known = self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(upto);
            let found = if known { open_dir(dir.as_fd(), part)? } else { None };
            let below = match found {
                Some(below) => below,
                None => {
                    match mkdirat(&dir, part, DIR_MODE) {
                        // Whoever made it may not have synced it yet.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(Errno::NOENT) => return Ok(None),
                        Err(e) => return Err(io_error(e, "cannot make the directory").on(upto)),
                    }
                    fsync(&dir).map_err(|e| io_error(e, "cannot make the directory durable").on(upto))?;
                    match openat(&dir, part, DIRECTORY, Mode::empty()) {
                        Ok(below) => below,
                        Err(Errno::NOENT) => return Ok(None),
                        Err(Errno::NOTDIR | Errno::LOOP) => {
                            return Err(Error::conflict("something that is no directory is in the way").on(upto));
                        }
                        Err(e) => return Err(io_error(e, "cannot open the directory").on(upto)),
                    }
                }
            };
            if !known {
                let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
                if durable.len() >= REMEMBERED {
                    durable.clear();
                }
                durable.insert(upto.to_owned());
            }
            dir = below;
        }
        Ok(Some(dir))
    }

    /// Makes the root if it is missing; then writes, reads back and removes a probe.
    pub(super) fn check(&self) -> Result<()> {
        self.make_root()?;
        let root = self.root()?;
        let probe = stage_name();
        let text = Bytes::copy_from_slice(probe.as_bytes());
        let stored = store(&root, &probe, std::slice::from_ref(&text), &mut Feed::AtOnce);
        let compared = stored.and_then(|_| equal(&root, &probe, &[text]));
        let removed = remove_file(&root, probe.as_bytes());
        match compared.map_err(|e| e.on(self.path.display()))? {
            Some(true) => {}
            _ => return Err(Error::corrupt("the probe does not read back as it was written").on(self.path.display())),
        }
        removed.map_err(|e| self.error(e, "cannot remove the probe"))?;
        self.remove_leftovers(&root)
    }

    fn make_root(&self) -> Result<()> {
        let missing: Vec<_> = self.path.ancestors().take_while(|dir| !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            match mkdirat(CWD, dir, DIR_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(io_error(e, "cannot make the destination's directory").on(dir.display())),
            }
            if let Some(parent) = dir.parent() {
                let opened = openat(CWD, parent, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty());
                opened
                    .and_then(fsync)
                    .map_err(|e| io_error(e, "cannot make the destination's directory durable").on(dir.display()))?;
            }
        }
        Ok(())
    }

    /// Removes probes and other staged files in the root that were left by processes that were killed: no archive owns them.
    fn remove_leftovers(&self, root: &OwnedFd) -> Result<()> {
        let failed = |e| self.error(e, "cannot look through the destination's directory");
        let now = self.now()?.as_second();
        for item in Dir::read_from(root).map_err(failed)? {
            let item = item.map_err(failed)?;
            let name = item.file_name().to_bytes();
            if !is_staged(name) {
                continue;
            }
            match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_of_dead_process(name) || now.saturating_sub(stat.st_mtime) > OLD => {
                    remove_file(root, name).map_err(|e| self.error(e, "cannot remove a leftover"))?;
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(())
    }
}

/// Puts a file, whole, durable and never over another one. Answers `false`, with nothing done, when the directory was removed meanwhile.
///
/// All of it happens here: stage, write, sync, publish under a name that is free, sync the directory. If something of the name is
/// there, equal bytes are as good, and are synced too since their writer may not be through; different bytes are `Conflict`.
fn store(dir: &OwnedFd, name: &str, pieces: &[Bytes], feed: &mut Feed) -> Result<bool> {
    let stage = stage_name();
    let file = match openat(dir, &stage, NEW_FILE, FILE_MODE) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(false),
        Err(e) => return Err(io_error(e, "cannot make a file")),
    };
    // From here on the staged file keeps the directory from being removed.
    let published = (|| {
        feed.write(file.as_fd(), pieces)?;
        fdatasync(&file).map_err(|e| io_error(e, "cannot make the file durable"))?;
        for _ in 0..TRIES {
            if rename_new(dir.as_fd(), stage.as_bytes(), name.as_bytes()).map_err(rename_error)? {
                return Ok(true);
            }
            match equal(dir, name, pieces)? {
                Some(true) => return Ok(false),
                Some(false) => return Err(Error::conflict("an object with other bytes is already there")),
                // Removed in this moment: the name is free again.
                None => {}
            }
        }
        Err(Error::transient("another object of this name was put and removed again and again"))
    })();
    if !matches!(published, Ok(true)) {
        // The first error counts; a staged file that stays is removed by the sweep.
        if let Err(error) = remove_file(dir, stage.as_bytes()) {
            tracing::warn!(%error, stage, "a staged file could not be removed");
        }
    }
    published?;
    fsync(dir).map_err(|e| io_error(e, "cannot make the file's name durable"))?;
    Ok(true)
}

/// Compares the file of a name with some bytes and, if they are equal, makes it durable. `None` when there is none.
fn equal(dir: &OwnedFd, name: &str, pieces: &[Bytes]) -> Result<Option<bool>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Ok(Some(false)),
        Err(e) => return Err(io_error(e, "cannot open what is already there")),
    };
    let failed = |e| io_error(e, "cannot read what is already there");
    let stat = fstat(&file).map_err(failed)?;
    let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || u64::try_from(stat.st_size) != Ok(length) || !holds(file.as_fd(), pieces).map_err(failed)? {
        return Ok(Some(false));
    }
    fdatasync(&file).map_err(|e| io_error(e, "cannot make the file durable"))?;
    Ok(Some(true))
}
