//! What becomes of an entry in a bucket.

use super::Shared;
use crate::attributes::Attributes;
use crate::version_name::VersionName;
use backup_core::model::{Entry, EntryKind, Naming};
use backup_core::{Error, Result};

/// The longest key, in bytes.
const MAX_KEY: usize = 1024;
/// User metadata with the time of last modification of a file, in seconds; rclone and others read it.
const MTIME: &str = "mtime";
/// The kind of content of an object that stands for a directory.
const DIRECTORY: &str = "application/x-directory";

/// An object that stands for an entry.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) key: String,
    pub(super) attributes: Attributes,
    /// It is made at the end, as a copy of another.
    pub(super) copy: bool,
}

impl Shared {
    /// The object of an entry.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported`, saying why a bucket cannot hold it.
    pub(super) fn item(&self, naming: Naming, entry: &Entry) -> Result<Item> {
        self.make_item(naming, entry).map_err(|e| e.on(&entry.name))
    }

    fn make_item(&self, naming: Naming, entry: &Entry) -> Result<Item> {
        let Some(version) = VersionName::of(entry) else {
            return Err(Error::unsupported("its name is not UTF-8, which keys of objects are"));
        };
        if version.delete_marker {
            return Err(Error::unsupported("it is a delete marker; only the current versions are restored"));
        }
        if version.id.is_some() {
            return Err(Error::unsupported("it is an earlier version; only the current versions are restored"));
        }
        let mut name = version.key;
        let mut attributes = Attributes::of_metadata(&entry.metadata);
        match &entry.kind {
            EntryKind::File | EntryKind::Slice | EntryKind::HardLink { .. } => {}
            EntryKind::Directory => {
                name.push('/');
                attributes.headers.insert("content-type".to_owned(), DIRECTORY.to_owned());
            }
            EntryKind::Symlink { target } => {
                let target = target.escape_ascii();
                return Err(Error::unsupported(format!("it is a symbolic link to {target}, which no object can be")));
            }
            _ => return Err(Error::unsupported("an entry of this kind cannot be an object")),
        }
        let key = self.bucket.key(&name);
        if name.is_empty() {
            return Err(Error::invalid("it has no name"));
        }
        if key.len() > MAX_KEY {
            let text = format!("its key would have {} bytes; keys have at most {MAX_KEY}", key.len());
            return Err(Error::unsupported(text));
        }
        if naming == Naming::Paths
            && let Some(mtime) = entry.mtime
            && mtime.seconds >= 0
        {
            attributes.user_metadata.entry(MTIME.to_owned()).or_insert_with(|| mtime.to_string());
        }
        if let Some(class) = attributes.storage_class()
            && self.has_refused(class)
        {
            attributes = attributes.without_storage_class();
        }
        Ok(Item { key, attributes, copy: matches!(entry.kind, EntryKind::HardLink { .. }) })
    }
}

/// Whether an entry had what only files have.
pub(super) fn has_file_metadata(entry: &Entry) -> bool {
    let metadata = &entry.metadata;
    metadata.mode.is_some() || metadata.user.is_some() || metadata.group.is_some() || !metadata.xattrs.is_empty()
}
