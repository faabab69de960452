//! What bars its own owner is opened with rights that are lent to it for that moment. Only an ordinary user needs this.

use crate::local::beneath::Place;
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fd::AsRawFd;
use rustix::fd::OwnedFd;
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::CWD;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, chmodat, fstat, openat};
use rustix::io::Errno;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Opens a file or directory of this user; if its permissions forbid that, with the owner's rights lent while it is opened.
pub(super) fn open_own(place: &Place<'_>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    with_rights(place, || openat(&place.dir, place.last, flags, Mode::empty()))
}

/// Does something with a file or directory of this user; if its permissions forbid that, again with the owner's rights lent.
pub(super) fn with_rights<T>(
    place: &Place<'_>,
    mut work: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match work() {
        Err(Errno::ACCESS) => {
            let _alone = settled();
            let lent = Lent::to_owner(place)?;
            let done = work();
            lent.take_back()?;
            done
        }
        done => done,
    }
}

/// Whoever lends holds this, so that nobody takes lent rights for the item's own.
static LENDING: Mutex<()> = Mutex::new(());

/// While the answer is held, no file has rights that are lent to open it.
pub(super) fn settled() -> MutexGuard<'static, ()> {
    LENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether rights never have to be lent.
pub(super) fn is_above_rights() -> bool {
    rustix::process::geteuid().is_root()
}

/// Permissions of something of this user's, with the owner's rights added.
#[derive(Debug)]
pub(super) struct Lent {
    item: Handle,
    /// The permissions as they were; nothing once they are so again.
    mode: Option<Mode>,
}

impl Lent {
    /// Adds the owner's rights.
    ///
    /// # Errors
    /// `ACCESS` for what is no file or directory; `PERM` for what belongs to somebody else.
    pub(super) fn to_owner(place: &Place<'_>) -> rustix::io::Result<Self> {
        let item = Handle::open(place)?;
        let stat = item.stat()?;
        let add = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Mode::RWXU,
            FileType::RegularFile => Mode::RUSR | Mode::WUSR,
            _ => return Err(Errno::ACCESS),
        };
        let mode = Mode::from_raw_mode((stat.st_mode & 0o7777) as RawMode);
        item.set(mode | add)?;
        Ok(Self { item, mode: Some(mode) })
    }

    /// Leaves the rights where they are; gives the permissions as they were.
    pub(super) fn keep(mut self) -> Mode {
        self.mode.take().unwrap_or(Mode::empty())
    }

    /// Sets the permissions as they were.
    pub(super) fn take_back(mut self) -> rustix::io::Result<()> {
        self.mode.take().map_or(Ok(()), |mode| self.item.set(mode))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(mode) = self.mode.take() {
            let _ = self.item.set(mode);
        }
    }
}

/// Sets the permissions of a directory.
pub(super) fn set_mode(place: &Place<'_>, mode: Mode) -> rustix::io::Result<()> {
    Handle::open(place)?.set(mode)
}

/// One item, whose permissions can be changed without opening it for anything and without ever following a link.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Debug)]
struct Handle(OwnedFd);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Handle {
    fn open(place: &Place<'_>) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&place.dir, place.last, flags, Mode::empty()).map(Self)
    }

    fn stat(&self) -> rustix::io::Result<rustix::fs::Stat> {
        fstat(&self.0)
    }

    fn set(&self, mode: Mode) -> rustix::io::Result<()> {
        chmodat(CWD, format!("/proc/self/fd/{}", self.0.as_raw_fd()), mode, AtFlags::empty())
    }
}

/// One item, by its name in an open directory.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[derive(Debug)]
struct Handle(std::sync::Arc<crate::local::beneath::Dir>, Vec<u8>);

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Handle {
    fn open(place: &Place<'_>) -> rustix::io::Result<Self> {
        Ok(Self(place.dir.clone(), place.last.to_vec()))
    }

    fn stat(&self) -> rustix::io::Result<rustix::fs::Stat> {
        rustix::fs::statat(&self.0, &self.1[..], AtFlags::SYMLINK_NOFOLLOW)
    }

    fn set(&self, mode: Mode) -> rustix::io::Result<()> {
        chmodat(&self.0, &self.1[..], mode, AtFlags::SYMLINK_NOFOLLOW)
    }
}
