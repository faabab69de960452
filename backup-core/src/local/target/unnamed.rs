//! Small files that have no name until they are complete (`O_TMPFILE`): a crash leaves nothing of them, and one name less has to be
//! made and removed than with a staged file.

use super::Shared;
use crate::Result;
use crate::local::beneath::Place;
use crate::local::publish::rename_error;
use crate::model::Entry;
use bytes::Bytes;
use std::sync::atomic::AtomicU8;

/// How files without a name get one here; found out by trying.
#[derive(Debug, Default)]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code, reason = "only Linux has it"))]
pub(super) struct Unnamed(AtomicU8);

impl Shared {
    /// Writes a file into a directory and gives it its name. Answers `Some(false)`, and the file is gone again, when something of the
    /// name is there, and `None` when this cannot be done here: then nothing was done.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn write_unnamed(&self, place: &Place<'_>, entry: &Entry, content: &Bytes) -> Result<Option<bool>> {
        use rustix::fs::{OFlags, openat};
        if !self.unnamed.may_work() {
            return Ok(None);
        }
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let Ok(file) = openat(&place.dir, ".", flags, super::small::STAGE_MODE) else {
            // Not every file system can do it. A directory that was removed comes here too, and nothing is lost but time.
            self.unnamed.give_up();
            return Ok(None);
        };
        let troubles = self.fill(&place.dir, &file, entry, content)?;
        let linked = self.unnamed.link(&file, place).map_err(rename_error)?;
        if linked == Some(true) {
            self.notes.add(&entry.name, troubles);
        }
        Ok(linked)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn write_unnamed(&self, _: &Place<'_>, _: &Entry, _: &Bytes) -> Result<Option<bool>> {
        Ok(None)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use super::Unnamed;
    use crate::local::beneath::Place;
    use rustix::fd::{AsFd, AsRawFd, OwnedFd};
    use rustix::fs::{AtFlags, CWD, linkat};
    use rustix::io::Errno;
    use std::sync::atomic::Ordering;

    /// By its handle: needs Linux 6.10 or a privilege, and is the fastest.
    const BY_HANDLE: u8 = 0;
    /// By its entry in `/proc`.
    const BY_PROC: u8 = 1;
    const NEVER: u8 = 2;

    impl Unnamed {
        pub(super) fn may_work(&self) -> bool {
            self.0.load(Ordering::Relaxed) != NEVER
        }

        pub(super) fn give_up(&self) {
            self.0.store(NEVER, Ordering::Relaxed);
        }

        /// Gives a file its name, unless it is taken (`Some(false)`). `None` when it cannot be done.
        pub(super) fn link(&self, file: &OwnedFd, place: &Place<'_>) -> rustix::io::Result<Option<bool>> {
            if self.0.load(Ordering::Relaxed) == BY_HANDLE {
                match linkat(file, "", &place.dir, place.last, AtFlags::EMPTY_PATH) {
                    Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => self.0.store(BY_PROC, Ordering::Relaxed),
                    done => return linked(done),
                }
            }
            let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            match linkat(CWD, path, &place.dir, place.last, AtFlags::SYMLINK_FOLLOW) {
                // There is no `/proc`, or the directory is gone, or the file system has no hard links.
                Err(Errno::NOENT | Errno::PERM | Errno::INVAL | Errno::XDEV | Errno::NOTSUP | Errno::ACCESS) => {
                    self.give_up();
                    Ok(None)
                }
                done => linked(done),
            }
        }
    }

    fn linked(done: rustix::io::Result<()>) -> rustix::io::Result<Option<bool>> {
        match done {
            Ok(()) => Ok(Some(true)),
            Err(Errno::EXIST) => Ok(Some(false)),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
#[cfg(any(target_os = "linux", target_os = "android"))]
mod tests {
    use super::super::tests::{Fixture, fixture, item, plan};
    use crate::adapter::{RestoreTarget, SmallEntry, Written};
    use crate::model::EntryKind;
    use crate::{ErrorClass, Result};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::Ordering;

    async fn write(f: &Fixture, items: Vec<SmallEntry>) -> Vec<Result<Written, ErrorClass>> {
        let answers = f.target.write_small(&plan(&items), items).await.unwrap();
        answers.into_iter().map(|answer| answer.map_err(|e| e.class())).collect()
    }

    #[tokio::test]
    async fn whichever_way_files_get_their_names_the_result_is_the_same() {
        for way in 0..=2 {
            let f = fixture();
            f.target.prepare(&plan(&[])).await.unwrap();
            f.target.shared.unnamed.0.store(way, Ordering::Relaxed);
            let mut script = item("d/script", EntryKind::File, "echo");
            script.entry.metadata.mode = Some(0o4751);
            let taken = item("taken", EntryKind::File, "ours");
            std::fs::write(f.path("taken"), "theirs").unwrap();
            let empty = item("empty", EntryKind::File, "");
            let items = vec![script, taken, empty];
            let answers = [Ok(Written::Created), Err(ErrorClass::Conflict), Ok(Written::Created)];
            assert_eq!(write(&f, items.clone()).await, answers, "way {way}");
            let again = [Ok(Written::AlreadyThere), Err(ErrorClass::Conflict), Ok(Written::AlreadyThere)];
            assert_eq!(write(&f, items).await, again, "way {way}");
            assert_eq!(std::fs::read(f.path("d/script")).unwrap(), b"echo");
            assert_eq!(f.path("d/script").metadata().unwrap().permissions().mode() & 0o7777, 0o4751);
            assert_eq!(std::fs::read(f.path("taken")).unwrap(), b"theirs");
            assert_eq!(std::fs::read_dir(f.path("")).unwrap().count(), 3, "and nothing staged is left");
        }
    }

    #[tokio::test]
    async fn a_file_whose_directory_is_removed_meanwhile_is_written_all_the_same() {
        let f = fixture();
        f.target.prepare(&plan(&[])).await.unwrap();
        assert_eq!(write(&f, vec![item("d/a", EntryKind::File, "a")]).await, [Ok(Written::Created)]);
        // The handle of the directory is kept, and leads nowhere now.
        std::fs::remove_dir_all(f.path("d")).unwrap();
        assert_eq!(write(&f, vec![item("d/b", EntryKind::File, "b")]).await, [Ok(Written::Created)]);
        assert_eq!(std::fs::read(f.path("d/b")).unwrap(), b"b");
    }
}
