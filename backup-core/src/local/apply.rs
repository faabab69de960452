//! Putting metadata back on what was restored.

use super::publish::io_error;
use crate::model::{Entry, EntryKind, Metadata, Owner, Timestamp, Xattr};
use nix::unistd::{Group, User};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{
    AtFlags, Gid, Mode, RawMode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr,
    futimens, lsetxattr, utimensat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The bits that lend the owner's or group's rights to whoever runs a file.
pub(super) const SET_ID: u32 = 0o6000;
/// So many names of users and of groups are remembered.
const MAX_NAMES: usize = 64 << 10;

/// Which metadata is put back, and how.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) keep_owner: bool,
    pub(super) numeric_owner: bool,
    pub(super) xattrs: bool,
    umask: u32,
    users: Ids,
    groups: Ids,
}

/// Numbers of names on this host, looked up once each (a lookup may ask a server).
type Ids = Mutex<HashMap<Arc<str>, Option<u32>>>;

/// What did not work, for people.
pub(super) type Troubles = Vec<String>;

impl Rules {
    pub(super) fn new(keep_owner: bool, numeric_owner: bool, xattrs: bool) -> Self {
        let (users, groups) = (Ids::default(), Ids::default());
        Self { keep_owner, numeric_owner, xattrs, umask: umask(), users, groups }
    }

    /// Owner and group that an entry should have here.
    pub(super) fn owner(&self, metadata: &Metadata) -> (Option<u32>, Option<u32>) {
        let user = metadata.user.as_ref().map(|owner| self.id(owner, &self.users, user_id));
        let group = metadata.group.as_ref().map(|owner| self.id(owner, &self.groups, group_id));
        (user, group)
    }

    fn id(&self, owner: &Owner, known: &Ids, look_up: impl FnOnce(&str) -> Option<u32>) -> u32 {
        let Some(name) = owner.name.as_ref().filter(|_| !self.numeric_owner) else { return owner.id };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match known.get(name) {
            Some(id) => *id,
            None => {
                let id = look_up(name);
                if known.len() < MAX_NAMES {
                    known.insert(name.clone(), id);
                }
                id
            }
        };
        id.unwrap_or(owner.id)
    }

    /// The permissions for an entry: its own, else those that new files have by the umask.
    fn mode(&self, entry: &Entry) -> u32 {
        let default = if entry.kind == EntryKind::Directory { 0o777 } else { 0o666 };
        entry.metadata.mode.map_or(default & !self.umask, |mode| mode & 0o7777)
    }

    /// Puts metadata on an open file or directory, which belongs to `has` now. The order matters: a change of owner clears permission bits and capabilities,
    /// permissions may take away the right to set attributes, and whatever is changed after the times would have to leave them alone.
    pub(super) fn put_on(&self, file: BorrowedFd<'_>, entry: &Entry, has: (u32, u32)) -> Troubles {
        let mut troubles = Troubles::new();
        let (uid, gid) = self.owner(&entry.metadata);
        let (uid, gid) = (uid.filter(|id| *id != has.0), gid.filter(|id| *id != has.1));
        let mut is_owned = uid.is_none() && gid.is_none();
        if self.keep_owner && !is_owned {
            match fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw)) {
                Ok(()) => is_owned = true,
                Err(e) => troubles.push(format!("owner and group are not set: {e}")),
            }
        }
        if self.xattrs {
            troubles.extend(put_xattrs(file, &entry.metadata.xattrs));
        }
        let mut mode = self.mode(entry);
        if !is_owned && entry.kind != EntryKind::Directory {
            // It would lend the rights of somebody else than at the source.
            mode &= !SET_ID;
        }
        if let Err(e) = fchmod(file, Mode::from_raw_mode(mode as RawMode)) {
            troubles.push(format!("permissions are not set: {e}"));
        }
        if let Some(mtime) = entry.mtime
            && let Err(e) = futimens(file, &times(mtime))
        {
            troubles.push(format!("modification time is not set: {e}"));
        }
        troubles
    }

    /// Puts metadata on a symbolic link itself.
    pub(super) fn put_on_link(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry, has: (u32, u32)) -> Troubles {
        let mut troubles = Troubles::new();
        let (uid, gid) = self.owner(&entry.metadata);
        let (uid, gid) = (uid.filter(|id| *id != has.0), gid.filter(|id| *id != has.1));
        if self.keep_owner
            && (uid.is_some() || gid.is_some())
            && let Err(e) =
                chownat(dir, name, uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::SYMLINK_NOFOLLOW)
        {
            troubles.push(format!("owner and group are not set: {e}"));
        }
        if self.xattrs && !entry.metadata.xattrs.is_empty() {
            let path = path_through(dir, name);
            for xattr in &entry.metadata.xattrs {
                if let Err(e) = lsetxattr(&path[..], &xattr.name[..], &xattr.value, XattrFlags::empty()) {
                    troubles.push(format!("extended attribute {} is not set: {e}", xattr.name.escape_ascii()));
                }
            }
        }
        if let Some(mtime) = entry.mtime
            && let Err(e) = utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        {
            troubles.push(format!("modification time is not set: {e}"));
        }
        troubles
    }
}

/// Sets extended attributes, before the permissions: the owner's right to write decides about them, however the file was opened.
fn put_xattrs(file: BorrowedFd<'_>, xattrs: &[Xattr]) -> Troubles {
    let set = |xattr: &Xattr| fsetxattr(file, &xattr.name[..], &xattr.value, XattrFlags::empty());
    let mut troubles = Troubles::new();
    let mut lent = false;
    for xattr in xattrs {
        let mut done = set(xattr);
        if done == Err(Errno::ACCESS) && !lent {
            // It was there already, read-only. Its permissions are set next.
            lent = fchmod(file, Mode::RWXU).is_ok();
            done = set(xattr);
        }
        if let Err(e) = done {
            troubles.push(format!("extended attribute {} is not set: {e}", xattr.name.escape_ascii()));
        }
    }
    troubles
}

/// A path to something in an open directory, for the calls that take nothing else.
pub(super) fn path_through(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

fn user_id(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// The time of last access stays as it is.
fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

/// The process's umask. There is no call that reads it without changing it, so it comes from `/proc`; else the usual one is taken.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("Umask:")?.trim(), 8).ok());
    umask.unwrap_or(0o022)
}

/// Says why an item could not be inspected.
pub(super) fn look_error(cause: rustix::io::Errno) -> crate::Error {
    io_error(cause, "cannot look at what is there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: u32, name: Option<&str>) -> Metadata {
        let owner = Owner { id, name: name.map(Into::into) };
        Metadata { user: Some(owner.clone()), group: Some(owner), ..Metadata::default() }
    }

    #[test]
    fn owners_go_by_name_where_this_host_has_it_and_by_number_else() {
        let rules = Rules::new(true, false, true);
        for _ in 0..2 {
            assert_eq!(rules.owner(&owner(4242, Some("root"))), (Some(0), Some(0)));
            assert_eq!(rules.owner(&owner(4242, Some("no-such-name"))), (Some(4242), Some(4242)));
        }
        assert_eq!(rules.owner(&owner(4242, None)), (Some(4242), Some(4242)));
        assert_eq!(rules.owner(&Metadata::default()), (None, None));
        let numeric = Rules::new(true, true, true);
        assert_eq!(numeric.owner(&owner(4242, Some("root"))), (Some(4242), Some(4242)));
    }
}
