//! Reading what the file system knows of a file besides its content.

use crate::adapter::Version;
use crate::model::{Metadata, Owner, Timestamp, Xattr};
use bytes::Bytes;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::hash::Hash;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Extended attributes of one file up to this many bytes are kept; a file system that allows more is rare,
/// and the archive's index has to hold them.
pub(crate) const MAX_XATTRS: usize = 1 << 20;
/// The longest list of names, and the longest value, that Linux gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_BUFFER: usize = 64 << 10;
/// Mostly enough for both. The kernel makes room for as much as it is offered, so a small offer is much faster.
const SMALL_XATTR_BUFFER: usize = 1 << 10;
/// Names of so many users, and of so many groups, are remembered.
const MAX_OWNERS: usize = 64 << 10;

/// Which file an inode number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Inode {
    /// Device of the file system.
    pub(crate) dev: u64,
    /// Number within it.
    pub(crate) ino: u64,
}

/// What tells whether a file is still the same and has still the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileVersion {
    /// Which file.
    pub(crate) inode: Inode,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Last change of the content.
    pub(crate) mtime: Timestamp,
    /// Last change of content or metadata; cannot be set by programs.
    pub(crate) ctime: Timestamp,
}

impl From<FileVersion> for Version {
    fn from(v: FileVersion) -> Self {
        let FileVersion { inode: Inode { dev, ino }, size, mtime, ctime } = v;
        Version(format!("{dev}:{ino}:{size}:{mtime}:{ctime}").into())
    }
}

/// What `stat` says, in the same types everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    /// Which file, in which state.
    pub(crate) version: FileVersion,
    /// Type and permissions.
    pub(crate) raw_mode: u32,
    /// Number of names.
    pub(crate) links: u64,
    /// Owner's id.
    pub(crate) uid: u32,
    /// Group's id.
    pub(crate) gid: u32,
    /// Bytes that it occupies.
    pub(crate) occupied: u64,
}

impl FileState {
    /// The type.
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.raw_mode as rustix::fs::RawMode)
    }

    /// Length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.version.size
    }

    /// Which file.
    pub(crate) fn inode(&self) -> Inode {
        self.version.inode
    }

    /// Last change of the content.
    pub(crate) fn mtime(&self) -> Timestamp {
        self.version.mtime
    }

    /// Whether it occupies less than its length, so that looking for holes is worth it.
    pub(crate) fn may_have_holes(&self) -> bool {
        self.occupied < self.size() && self.size() > 4096
    }
}

// The types of the fields differ between platforms.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
impl From<Stat> for FileState {
    fn from(s: Stat) -> Self {
        let time = |seconds: i64, nanos: u32| Timestamp { seconds, nanos };
        Self {
            version: FileVersion {
                inode: Inode { dev: s.st_dev as u64, ino: s.st_ino as u64 },
                size: u64::try_from(s.st_size as i64).unwrap_or(0),
                mtime: time(s.st_mtime as i64, s.st_mtime_nsec as u32),
                ctime: time(s.st_ctime as i64, s.st_ctime_nsec as u32),
            },
            raw_mode: s.st_mode as u32,
            links: s.st_nlink as u64,
            uid: s.st_uid as u32,
            gid: s.st_gid as u32,
            occupied: (s.st_blocks as u64).saturating_mul(512),
        }
    }
}

/// Names of users and groups, looked up once each (a lookup may ask a server).
#[derive(Debug, Default)]
pub(crate) struct OwnerNames {
    users: Names<u32>,
    groups: Names<u32>,
}

type Names<K> = Mutex<HashMap<K, Option<Arc<str>>>>;

impl OwnerNames {
    /// A user with its name, if it has one here.
    pub(crate) fn user(&self, id: u32) -> Owner {
        let name = remembered(&self.users, id, || {
            nix::unistd::User::from_uid(id.into()).ok().flatten().map(|user| user.name.into())
        });
        Owner { id, name }
    }

    /// A group with its name, if it has one here.
    pub(crate) fn group(&self, id: u32) -> Owner {
        let name = remembered(&self.groups, id, || {
            nix::unistd::Group::from_gid(id.into()).ok().flatten().map(|group| group.name.into())
        });
        Owner { id, name }
    }
}

fn remembered<K: Hash + Eq>(names: &Names<K>, id: K, look_up: impl FnOnce() -> Option<Arc<str>>) -> Option<Arc<str>> {
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(&id) {
        return known.clone();
    }
    let name = look_up();
    if names.len() < MAX_OWNERS {
        names.insert(id, name.clone());
    }
    name
}

/// Reads metadata; keeps the buffers for it.
pub(crate) struct MetadataReader {
    names: Arc<OwnerNames>,
    /// The last owner and group: mostly those of the next file, too.
    last: Option<(Owner, Owner)>,
    list: Vec<u8>,
    value: Vec<u8>,
}

/// Extended attributes, and why some are missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Xattrs {
    /// Ordered by name.
    pub(crate) list: Vec<Xattr>,
    /// Why not all of them are there, in words that follow "extended attributes are missing: ".
    pub(crate) trouble: Option<String>,
}

impl MetadataReader {
    /// A reader that shares looked-up names with others.
    pub(crate) fn new(names: Arc<OwnerNames>) -> Self {
        Self { names, last: None, list: vec![0; SMALL_XATTR_BUFFER], value: vec![0; SMALL_XATTR_BUFFER] }
    }

    /// Puts together what was read.
    pub(crate) fn metadata(&mut self, state: &FileState, xattrs: Vec<Xattr>, sparse: bool) -> Metadata {
        let (user, group) = match &self.last {
            Some((user, group)) if user.id == state.uid && group.id == state.gid => (user.clone(), group.clone()),
            _ => {
                let owners = (self.names.user(state.uid), self.names.group(state.gid));
                self.last = Some(owners.clone());
                owners
            }
        };
        Metadata {
            // The permissions of a symbolic link mean nothing and cannot be set.
            mode: (state.kind() != FileType::Symlink).then_some(state.raw_mode & 0o7777),
            user: Some(user),
            group: Some(group),
            xattrs,
            sparse,
            ..Metadata::default()
        }
    }

    /// The extended attributes of an open file or directory.
    pub(crate) fn xattrs(&mut self, file: BorrowedFd<'_>) -> Xattrs {
        self.collect(|list| sys::flistxattr(file, list), |name, value| sys::fgetxattr(file, name, value))
    }

    /// The extended attributes of a symbolic link. It cannot be opened, so it is reached through the open directory's
    /// entry in `/proc`; where there is none, it has no extended attributes for us.
    pub(crate) fn link_xattrs(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Xattrs {
        let Some(path) = sys::path_through(directory, name) else { return Xattrs::default() };
        self.collect(|list| sys::llistxattr(&path, list), |name, value| sys::lgetxattr(&path, name, value))
    }

    fn collect(
        &mut self,
        list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
        get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
    ) -> Xattrs {
        let mut found = Xattrs::default();
        let length = match into(&mut self.list, list) {
            Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOENT) => return found,
            Ok(length) => length,
            Err(e) => {
                found.trouble = Some(e.to_string());
                return found;
            }
        };
        let mut names: Vec<&[u8]> = self.list[..length].split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        let mut bytes = 0;
        for name in names {
            match into(&mut self.value, |value| get(name, value)) {
                Ok(length) => {
                    bytes += name.len() + length;
                    if bytes > MAX_XATTRS {
                        found.trouble = Some(format!("together they are more than {MAX_XATTRS} bytes"));
                        break;
                    }
                    let name = Bytes::copy_from_slice(name);
                    found.list.push(Xattr { name, value: Bytes::copy_from_slice(&self.value[..length]) });
                }
                // Removed since it was listed.
                Err(sys::NO_SUCH_ATTRIBUTE) => {}
                Err(e) => found.trouble = Some(format!("{}: {e}", name.escape_ascii())),
            }
        }
        found
    }
}

/// Calls with a small buffer, and with the largest that can be needed when that is too small.
fn into(buffer: &mut Vec<u8>, call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
    match call(&mut buffer[..SMALL_XATTR_BUFFER]) {
        Err(Errno::RANGE) => {
            buffer.resize(XATTR_BUFFER, 0);
            call(buffer)
        }
        done => done,
    }
}

/// Extended attributes where the platform has them.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
mod sys {
    use rustix::fd::BorrowedFd;
    use rustix::io::Errno;
    use std::os::fd::AsRawFd;
    use std::sync::LazyLock;

    #[cfg(not(target_vendor = "apple"))]
    pub(super) const NO_SUCH_ATTRIBUTE: Errno = Errno::NODATA;
    #[cfg(target_vendor = "apple")]
    pub(super) const NO_SUCH_ATTRIBUTE: Errno = Errno::NOATTR;

    static PROC: LazyLock<bool> = LazyLock::new(|| std::path::Path::new("/proc/self/fd").is_dir());

    pub(super) fn flistxattr(file: BorrowedFd<'_>, list: &mut [u8]) -> Result<usize, Errno> {
        rustix::fs::flistxattr(file, list)
    }

    pub(super) fn fgetxattr(file: BorrowedFd<'_>, name: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
        rustix::fs::fgetxattr(file, name, value)
    }

    pub(super) fn llistxattr(path: &[u8], list: &mut [u8]) -> Result<usize, Errno> {
        rustix::fs::llistxattr(path, list)
    }

    pub(super) fn lgetxattr(path: &[u8], name: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
        rustix::fs::lgetxattr(path, name, value)
    }

    /// A path to `name` in an open directory, whatever the directory's own path is; only Linux has one.
    pub(super) fn path_through(directory: BorrowedFd<'_>, name: &[u8]) -> Option<Vec<u8>> {
        if cfg!(target_vendor = "apple") || !*PROC {
            return None;
        }
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        Some(path)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod sys {
    use rustix::fd::BorrowedFd;
    use rustix::io::Errno;

    pub(super) const NO_SUCH_ATTRIBUTE: Errno = Errno::INVAL;

    pub(super) fn flistxattr(_: BorrowedFd<'_>, _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn fgetxattr(_: BorrowedFd<'_>, _: &[u8], _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn llistxattr(_: &[u8], _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn lgetxattr(_: &[u8], _: &[u8], _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn path_through(_: BorrowedFd<'_>, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn reader() -> MetadataReader {
        MetadataReader::new(Arc::default())
    }

    #[test]
    fn users_and_groups_have_names_where_there_are_some() {
        let names = OwnerNames::default();
        assert_eq!(names.user(0).name.as_deref(), Some("root"));
        assert_eq!(names.group(0).id, 0);
        assert_eq!(names.user(3_999_999_999).name, None);
        assert_eq!(names.user(3_999_999_999).name, None, "also from memory");
    }

    #[test]
    fn extended_attributes_come_in_the_order_of_their_names_with_any_bytes_as_values() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(reader().xattrs(file.as_file().as_fd()), Xattrs::default());
        for (name, value) in [("user.b", &b"\xff\0"[..]), ("user.a", b""), ("user.c", &[7; 3000])] {
            rustix::fs::fsetxattr(file.as_file(), name, value, rustix::fs::XattrFlags::empty()).unwrap();
        }
        let xattrs = reader().xattrs(file.as_file().as_fd());
        assert_eq!(xattrs.trouble, None);
        let found: Vec<_> = xattrs.list.iter().map(|x| (&x.name[..], x.value.len())).collect();
        assert_eq!(found, [(&b"user.a"[..], 0), (b"user.b", 2), (b"user.c", 3000)]);
        assert_eq!(&xattrs.list[1].value[..], b"\xff\0");
    }

    #[test]
    fn attributes_beyond_the_bound_are_left_out_with_a_reason() {
        let found = reader().collect(
            |list| {
                if list.len() < XATTR_BUFFER {
                    return Err(Errno::RANGE);
                }
                let names: Vec<u8> = (0..100).flat_map(|i| format!("user.{i:02}\0").into_bytes()).collect();
                list[..names.len()].copy_from_slice(&names);
                Ok(names.len())
            },
            |_, value| if value.len() < XATTR_BUFFER { Err(Errno::RANGE) } else { Ok(value.len()) },
        );
        assert_eq!(found.list.len(), MAX_XATTRS / XATTR_BUFFER - 1, "the names count too");
        assert!(found.trouble.unwrap().contains("more than"));
    }

    #[test]
    fn a_version_tells_states_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let state = || FileState::from(rustix::fs::stat(&path).unwrap());
        std::fs::write(&path, "one").unwrap();
        let first = state();
        assert_eq!(first, state());
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "two").unwrap();
        assert_ne!(Version::from(first.version), Version::from(state().version));
    }
}
