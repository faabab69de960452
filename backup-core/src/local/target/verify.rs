//! Reading a restored tree back.

use super::Shared;
use super::finish::{BATCH, is_open};
use super::lend::{Lent, open_own, set_mode, settled, with_rights};
use super::links::{Digests, WithFirst, with_firsts};
use super::small::{READ, digest_of};
use crate::adapter::{MismatchKind, RestorePlan, VerifyReport};
use crate::local::apply::{SET_ID, look_error, path_through};
use crate::local::beneath::{DIRECTORY, Missing, Place, Root};
use crate::local::blocking::blocking;
use crate::local::publish::io_error;
use crate::model::{Entry, EntryKind, EntryName, Timestamp};
use crate::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, Stat, fgetxattr, lgetxattr, readlinkat, statat};
use rustix::io::Errno;
use std::sync::{Arc, Mutex, PoisonError};

/// How many batches are compared at once.
const PARALLEL: usize = 2;
/// The longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX` of Linux).
const MAX_XATTR: usize = 64 << 10;

pub(super) async fn verify(shared: &Arc<Shared>, plan: &RestorePlan) -> Result<VerifyReport> {
    let digests = Arc::new(Digests::default());
    let opened = Arc::new(Opened { shared: shared.clone(), directories: Mutex::default() });
    let reports = plan
        .entries
        .entries()
        .try_chunks(BATCH)
        .then(|batch| {
            let (plan, opened) = (plan.clone(), opened.clone());
            async move {
                let batch = with_firsts(&plan, batch.map_err(|e| e.1)?).await?;
                // Before anything below them is looked at, here or in a later batch.
                if batch.iter().all(|(entry, _)| is_passable(entry)) {
                    return Ok((VerifyReport::default(), batch));
                }
                blocking(move || opened.verify_closed(&plan, batch)).await
            }
        })
        .map(|batch: Result<(VerifyReport, Vec<WithFirst>)>| {
            let (shared, plan, digests) = (shared.clone(), plan.clone(), digests.clone());
            async move {
                let (report, batch) = batch?;
                blocking(move || shared.verify_batch(&plan, &batch, &digests, report)).await
            }
        })
        .buffered(PARALLEL);
    let mut reports = Box::pin(reports);
    let mut whole = VerifyReport::default();
    while let Some(report) = reports.try_next().await? {
        whole.add(report);
    }
    drop(reports);
    blocking(move || {
        drop(opened);
        Ok(whole)
    })
    .await
}

/// Whether it is no directory that bars its owner from what lies in it.
fn is_passable(entry: &Entry) -> bool {
    entry.kind != EntryKind::Directory || is_open(entry, Mode::RUSR | Mode::XUSR)
}

/// Directories that bar their owner, opened up while what lies in them is read; dropping it closes them again.
struct Opened {
    shared: Arc<Shared>,
    directories: Mutex<Vec<(EntryName, Mode)>>,
}

impl Opened {
    /// Verifies the directories of a batch that bar their owner, and opens them up; the others are left to be verified.
    fn verify_closed(&self, plan: &RestorePlan, batch: Vec<WithFirst>) -> Result<(VerifyReport, Vec<WithFirst>)> {
        let root = self.shared.root()?;
        let (others, closed): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(entry, _)| is_passable(entry));
        let mut report = VerifyReport::default();
        for (entry, _) in closed {
            self.shared.verify_one(&root, plan, (&entry, None), &Digests::default(), &mut report)?;
            let path = self.shared.names.path(&entry.name);
            let lent = root.place(path.as_bytes(), Missing::Fail).map(|place| Lent::to_owner(&place));
            if let Ok(Ok(lent)) = lent {
                let mode = lent.keep();
                self.directories.lock().unwrap_or_else(PoisonError::into_inner).push((path, mode));
            } // Else what lies in it will tell.
        }
        Ok((report, others))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let Ok(root) = self.shared.root() else { return };
        let directories = std::mem::take(self.directories.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (path, mode) in directories.iter().rev() {
            let Ok(place) = root.place(path.as_bytes(), Missing::Fail) else { continue };
            if let Err(e) = set_mode(&place, *mode) {
                tracing::warn!(directory = %path, error = %e, "permissions lent for reading back are not taken back");
            }
        }
    }
}

/// What differs, in words.
#[derive(Default)]
struct Differences {
    content: Vec<String>,
    metadata: Vec<String>,
}

impl Shared {
    fn verify_batch(
        &self,
        plan: &RestorePlan,
        batch: &[WithFirst],
        digests: &Digests,
        mut report: VerifyReport,
    ) -> Result<VerifyReport> {
        let root = self.root()?;
        for (entry, first) in batch {
            self.verify_one(&root, plan, (entry, first.as_ref()), digests, &mut report)?;
        }
        Ok(report)
    }

    fn verify_one(
        &self,
        root: &Root,
        plan: &RestorePlan,
        (entry, first): (&Entry, Option<&Entry>),
        digests: &Digests,
        report: &mut VerifyReport,
    ) -> Result<()> {
        report.entries += 1;
        let Differences { content, metadata } = match self.verify_entry(root, entry, first, digests, &mut report.bytes)
        {
            Ok(differences) => differences,
            Err(e) if super::is_fatal(&e) => return Err(e.on(&entry.name)),
            Err(e) => Differences { content: vec![e.chain()], metadata: Vec::new() },
        };
        let kind = if content.is_empty() { MismatchKind::Metadata } else { MismatchKind::Content };
        let differences = [content, metadata].concat();
        if !differences.is_empty() {
            report.mismatch(plan, &entry.name, kind, differences.join("; "));
        }
        Ok(())
    }

    /// What differs; an error says why the entry could not be compared.
    fn verify_entry(
        &self,
        root: &Root,
        entry: &Entry,
        first: Option<&Entry>,
        digests: &Digests,
        bytes: &mut u64,
    ) -> Result<Differences> {
        let path = self.names.path(&entry.name);
        let place = root.place(path.as_bytes(), Missing::Fail).map_err(missing)?;
        let mut stat = look(&place)?;
        if entry.metadata.mode.is_some_and(|mode| (mode ^ stat.st_mode) & 0o7777 != 0) {
            // Another name of it may be being opened.
            let _settled = settled();
            stat = look(&place)?;
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut differences = Differences::default();
        match &entry.kind {
            EntryKind::File | EntryKind::Slice if kind == FileType::RegularFile => {
                let file = open_own(&place, READ).map_err(|e| io_error(e, "cannot open the file"))?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                if size != entry.size {
                    differences.content.push(format!("it has {size} bytes instead of {}", entry.size));
                } else {
                    let digest = digest_of(&file).map_err(|e| io_error(e, "cannot read the file"))?;
                    *bytes += size;
                    digests.learn(&stat, digest);
                    if entry.sha256 != Some(digest) {
                        differences.content.push("its content is different".to_owned());
                    }
                }
                self.compare_metadata(&place, Some(file), entry, &stat, &mut differences.metadata);
            }
            EntryKind::Directory if kind == FileType::Directory => {
                let dir = open_own(&place, DIRECTORY).ok();
                self.compare_metadata(&place, dir, entry, &stat, &mut differences.metadata);
            }
            EntryKind::Symlink { target } if kind == FileType::Symlink => {
                let found = readlinkat(&place.dir, place.last, Vec::with_capacity(target.len() + 1));
                if found.map_err(look_error)?.as_bytes() != &target[..] {
                    differences.content.push("the symbolic link leads elsewhere".to_owned());
                }
                self.compare_metadata(&place, None, entry, &stat, &mut differences.metadata);
            }
            EntryKind::HardLink { target } => {
                if let Some(first) = first {
                    differences.content.extend(self.content_differs(&place, &stat, first, digests)?);
                    // A file of its own with the right content is what a restore makes where links cannot be made.
                    self.compare_link(root, &stat, target, &mut differences.metadata);
                } else {
                    self.compare_link(root, &stat, target, &mut differences.content);
                }
            }
            _ => differences.content.push(format!("it is a {}", name_of(kind))),
        }
        Ok(differences)
    }

    fn compare_link(&self, root: &Root, stat: &Stat, target: &EntryName, differences: &mut Vec<String>) {
        let path = self.names.path(target);
        let first = root.place(path.as_bytes(), Missing::Fail).and_then(|place| look(&place));
        match first {
            Ok(first) if (first.st_dev, first.st_ino) == (stat.st_dev, stat.st_ino) => {}
            _ => differences.push(format!("it is not the same file as `{target}`")),
        }
    }

    /// Compares what a restore puts back by the target's rules.
    fn compare_metadata(
        &self,
        place: &Place<'_>,
        file: Option<OwnedFd>,
        entry: &Entry,
        stat: &Stat,
        differences: &mut Vec<String>,
    ) {
        let is_link = matches!(entry.kind, EntryKind::Symlink { .. });
        let (uid, gid) = self.rules.owner(&entry.metadata);
        if self.rules.keep_owner {
            if let Some(uid) = uid.filter(|uid| *uid != stat.st_uid) {
                differences.push(format!("its owner is {} instead of {uid}", stat.st_uid));
            }
            if let Some(gid) = gid.filter(|gid| *gid != stat.st_gid) {
                differences.push(format!("its group is {} instead of {gid}", stat.st_gid));
            }
        }
        if let Some(mode) = entry.metadata.mode.filter(|_| !is_link) {
            // Rights are not lent for an owner that was not put back.
            let is_owned = uid.is_none_or(|uid| uid == stat.st_uid) && gid.is_none_or(|gid| gid == stat.st_gid);
            let lent = if is_owned || entry.kind == EntryKind::Directory { 0 } else { SET_ID };
            let (wanted, found) = (mode & 0o7777 & !lent, stat.st_mode & 0o7777);
            if wanted != found {
                differences.push(format!("its permissions are {found:04o} instead of {wanted:04o}"));
            }
        }
        if let Some(wanted) = entry.mtime {
            let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
            let found = Timestamp { seconds: stat.st_mtime, nanos };
            if found != wanted && !is_rounded(found, wanted) {
                differences.push(format!("its modification time is {found} instead of {wanted}"));
            }
        }
        if self.rules.xattrs {
            let link = is_link.then(|| path_through(place.dir.as_fd(), place.last));
            for xattr in &entry.metadata.xattrs {
                let mut value = vec![0; MAX_XATTR];
                let found = match (&file, &link) {
                    // The right to read decides about it, also once the file is open.
                    (Some(file), _) => with_rights(place, || fgetxattr(file, &xattr.name[..], &mut value[..])),
                    (None, Some(path)) => lgetxattr(&path[..], &xattr.name[..], &mut value[..]),
                    (None, None) => Err(Errno::ACCESS),
                };
                let name = xattr.name.escape_ascii();
                match found {
                    Ok(length) if value[..length] == xattr.value => {}
                    Ok(_) => differences.push(format!("extended attribute {name} has another value")),
                    Err(e) => differences.push(format!("extended attribute {name} cannot be read: {e}")),
                }
            }
        }
    }
}

fn look(place: &Place<'_>) -> Result<Stat> {
    statat(&place.dir, place.last, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| missing(look_error(e)))
}

fn missing(error: Error) -> Error {
    match error.class() {
        crate::ErrorClass::NotFound => Error::not_found("it is not there"),
        _ => error,
    }
}

/// Whether a time is another one as a file system keeps it that counts in full or even seconds, or in micro- or tenths of microseconds.
fn is_rounded(found: Timestamp, wanted: Timestamp) -> bool {
    let in_second = |unit: u32| found.nanos == wanted.nanos - wanted.nanos % unit && found.seconds == wanted.seconds;
    in_second(100)
        || in_second(1000)
        || in_second(1_000_000_000)
        || (found.nanos == 0
            && found.seconds % 2 == 0
            && found.seconds == wanted.seconds - wanted.seconds.rem_euclid(2))
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "thing of an unknown kind",
    }
}
