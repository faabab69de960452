//! Hard links: made only to what the archive has under the first name, and copied where they cannot be made.

use super::Shared;
use super::lend::open_own;
use super::small::{READ, digest_of};
use super::stage::{Existing, Staged};
use crate::adapter::{RestorePlan, Written};
use crate::local::apply::look_error;
use crate::local::beneath::{Missing, Place, Root};
use crate::local::publish::io_error;
use crate::local::rw::{STEP, read_full, write_at, write_sparse};
use crate::model::{Entry, EntryKind, EntryName};
use crate::{Digest, Error, ErrorClass, Result, Sha256};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Stat, fstat, ftruncate, linkat, readlinkat, statat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Digests of so many files are remembered.
const REMEMBERED: usize = 128 << 10;

/// An entry and, if it is a hard link, the entry of which it is another name.
pub(super) type WithFirst = (Entry, Option<Entry>);

/// Looks up what the hard links among entries are names of.
pub(super) async fn with_firsts(plan: &RestorePlan, batch: Vec<Entry>) -> Result<Vec<WithFirst>> {
    let mut found = Vec::with_capacity(batch.len());
    for entry in batch {
        let first = match &entry.kind {
            EntryKind::HardLink { target } => plan.entries.find(target).await?,
            _ => None,
        };
        found.push((entry, first));
    }
    Ok(found)
}

/// Digests of files that have several names, so that each file is read once and not for each of its names.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<HashMap<Version, Digest>>);

/// Device, inode, size, modification time: a file as it was when it was read.
type Version = [i128; 5];

#[allow(clippy::useless_conversion)] // The types differ between platforms.
fn version(stat: &Stat) -> Version {
    [stat.st_dev.into(), stat.st_ino.into(), stat.st_size.into(), stat.st_mtime.into(), stat.st_mtime_nsec.into()]
}

impl Digests {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Version, Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a digest, if the file has more than one name.
    pub(super) fn learn(&self, stat: &Stat, digest: Digest) {
        if u64::from(stat.st_nlink) > 1 {
            let mut known = self.lock();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(version(stat), digest);
        }
    }

    /// The digest of an open file.
    pub(super) fn of(&self, file: &OwnedFd) -> rustix::io::Result<Digest> {
        let stat = fstat(file)?;
        let known = self.lock().get(&version(&stat)).copied();
        match known {
            Some(digest) => Ok(digest),
            None => {
                let digest = digest_of(file)?;
                self.learn(&stat, digest);
                Ok(digest)
            }
        }
    }
}

/// What lies under the first name of a file with several.
struct First<'a> {
    place: Place<'a>,
    stat: Stat,
    /// The open file; nothing for a symbolic link.
    file: Option<OwnedFd>,
}

/// Whether an error says that hard links cannot be made here, or no more of them.
fn is_no_link(cause: Errno) -> bool {
    matches!(cause, Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK | Errno::XDEV)
}

impl Shared {
    /// Makes a hard link. What is there already is touched only after what lies under the first name was found to be right.
    pub(super) fn link(
        &self,
        root: &Root,
        plan: &RestorePlan,
        (entry, first): (&Entry, Option<&Entry>),
        target: &EntryName,
        digests: &Digests,
    ) -> Result<()> {
        let (path, target_path) = (self.names.path(&entry.name), self.names.path(target));
        let wanted = first.ok_or_else(|| {
            Error::not_found(format!("`{target}`, which it is a name of, is not there, and not in the archive either"))
        })?;
        let first = self.first(root, &target_path, wanted, digests)?;
        let place = self.place(root, plan, &path)?;
        let link = |name: &[u8]| linkat(&first.place.dir, first.place.last, &place.dir, name, AtFlags::empty());
        let failed = |e| io_error(e, "cannot link");
        match link(place.last) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) if is_no_link(e) => return self.copy(root, plan, (entry, wanted), &path, first, None, e),
            Err(e) => return Err(failed(e)),
        }
        let there = statat(&place.dir, place.last, AtFlags::SYMLINK_NOFOLLOW).map_err(look_error)?;
        if (there.st_dev, there.st_ino) == (first.stat.st_dev, first.stat.st_ino) {
            return Ok(());
        }
        let is_same = self.content_differs(&place, &there, wanted, digests).is_ok_and(|found| found.is_none());
        let stays = || {
            let text = format!("it has the right content but is a file of its own, not another name of `{target}`");
            self.notes.add(&entry.name, [text]);
            Ok(())
        };
        if !plan.overwrite {
            return if is_same { stays() } else { Err(Error::conflict("something else is already there")) };
        }
        let stage = self.stages.fresh(&plan.tag);
        match link(stage.as_bytes()) {
            Ok(()) => {}
            Err(e) if is_no_link(e) && is_same => return stays(),
            Err(e) if is_no_link(e) => {
                return self.copy(root, plan, (entry, wanted), &path, first, Some(Existing::Something), e);
            }
            Err(e) => return Err(failed(e)),
        }
        match Staged::new(self, &place, stage.as_bytes()).publish(root, Some(Existing::Something))? {
            Some(Written::Replaced) => Ok(()),
            other => Err(Error::permanent(format!("unexpected answer {other:?}"))),
        }
    }

    /// Looks whether what the archive says lies under the first name.
    fn first<'a>(&self, root: &Root, path: &'a EntryName, wanted: &Entry, digests: &Digests) -> Result<First<'a>> {
        let name = &wanted.name;
        let missing = |e: Error| match e.class() {
            ErrorClass::NotFound => Error::not_found(format!("`{name}`, which it is a name of, is not there")),
            _ => e,
        };
        let place = root.place(path.as_bytes(), Missing::Fail).map_err(missing)?;
        let stat = statat(&place.dir, place.last, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| missing(look_error(e)))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Error::invalid(format!("`{name}`, which it is a name of, is a directory")));
        }
        if let Some(difference) = self.content_differs(&place, &stat, wanted, digests)? {
            return Err(Error::conflict(format!(
                "`{name}`, which it is a name of, is not as the archive has it: {difference}"
            )));
        }
        let file = match wanted.kind {
            EntryKind::Symlink { .. } => None,
            _ => Some(open(&place)?),
        };
        Ok(First { place, stat, file })
    }

    /// How what lies at a place differs from an entry in kind or content.
    pub(super) fn content_differs(
        &self,
        place: &Place<'_>,
        stat: &Stat,
        wanted: &Entry,
        digests: &Digests,
    ) -> Result<Option<String>> {
        let differs = |text: &str| Ok(Some(text.to_owned()));
        match (&wanted.kind, FileType::from_raw_mode(stat.st_mode)) {
            (EntryKind::File | EntryKind::Slice, FileType::RegularFile) => {
                if u64::try_from(stat.st_size) != Ok(wanted.size) {
                    return Ok(Some(format!("it has {} bytes instead of {}", stat.st_size, wanted.size)));
                }
                let digest = digests.of(&open(place)?).map_err(|e| io_error(e, "cannot read the file"))?;
                if wanted.sha256 == Some(digest) { Ok(None) } else { differs("its content is different") }
            }
            (EntryKind::Symlink { target }, FileType::Symlink) => {
                let found = readlinkat(&place.dir, place.last, Vec::with_capacity(target.len() + 1));
                let is_same = found.map_err(look_error)?.as_bytes() == &target[..];
                if is_same { Ok(None) } else { differs("the symbolic link leads elsewhere") }
            }
            _ => differs("it is of another kind"),
        }
    }

    /// Puts a copy under a name that cannot be a link, because of `why`.
    #[allow(clippy::too_many_arguments)]
    fn copy(
        &self,
        root: &Root,
        plan: &RestorePlan,
        (entry, wanted): (&Entry, &Entry),
        path: &EntryName,
        first: First<'_>,
        overwrite: Option<Existing>,
        why: Errno,
    ) -> Result<()> {
        match (&wanted.kind, first.file) {
            (EntryKind::Symlink { target }, _) => {
                let copy = Entry { name: entry.name.clone(), ..wanted.clone() };
                self.write_link(root, plan, &copy, path, target)?;
            }
            (_, Some(from)) => self.copy_file(root, plan, (entry, wanted), path, &from, overwrite)?,
            (_, None) => return Err(Error::invalid("it is a name of something that is no file")),
        }
        let text = format!("its content is copied, because a hard link to `{}` cannot be made: {why}", wanted.name);
        self.notes.add(&entry.name, [text]);
        Ok(())
    }

    fn copy_file(
        &self,
        root: &Root,
        plan: &RestorePlan,
        (entry, wanted): (&Entry, &Entry),
        path: &EntryName,
        from: &OwnedFd,
        overwrite: Option<Existing>,
    ) -> Result<()> {
        let stage = self.stages.fresh(&plan.tag);
        let place = self.place(root, plan, path)?;
        let (place, file) = self.create(root, plan, path, place, &stage)?;
        let staged = Staged::new(self, &place, stage.as_bytes());
        let write = if wanted.metadata.sparse { write_sparse } else { write_at };
        let failed = |e| io_error(e, "cannot copy");
        let mut hash = Sha256::new();
        let mut buffer = vec![0; STEP / 4];
        loop {
            let at = hash.length();
            let read = read_full(from.as_fd(), at, &mut buffer).map_err(failed)?;
            write(file.as_fd(), &buffer[..read], at).map_err(failed)?;
            hash.update(&buffer[..read]);
            if read < buffer.len() {
                break;
            }
        }
        ftruncate(&file, hash.length()).map_err(failed)?;
        if wanted.sha256 != Some(hash.finish()) {
            return Err(Error::changed(format!(
                "`{}`, which it is a name of, changes while it is copied",
                wanted.name
            )));
        }
        let owner = self.new_owner(&place.dir, || fstat(&file))?;
        self.notes.add(&entry.name, self.rules.put_on(file.as_fd(), wanted, owner));
        match staged.publish(root, overwrite)? {
            Some(_) => Ok(()),
            None => Err(Error::conflict("something else is already there")),
        }
    }
}

fn open(place: &Place<'_>) -> Result<OwnedFd> {
    open_own(place, READ).map_err(|e| io_error(e, "cannot open the file"))
}
