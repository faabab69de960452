//! What a suite of sources works on.

use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::Source;
use backup_core::model::{EntryKind, EntryName, GroupName, Identity};
use bytes::Bytes;
use std::sync::Arc;

/// Makes places for a suite. What has a default is a means that some fixtures do not have: without it, its cases are skipped.
#[async_trait]
pub trait SourceFixture: Send + Sync + 'static {
    /// A new place with at least four items, at each call another; as varied as the adapter knows them: empty, small and large
    /// content (one item of 100 KiB or more that is fetched by `read`, if the adapter has such), items without content, groups.
    async fn place(&self) -> Result<Box<dyn SourcePlace>>;

    /// A place with so many small items (20,000, say) that no adapter reads half of them ahead.
    async fn many(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        Ok(None)
    }

    /// A source whose place does not exist.
    async fn missing(&self) -> Result<Option<Arc<dyn Source>>> {
        Ok(None)
    }

    /// A source whose credentials the service refuses.
    async fn unauthorized(&self) -> Result<Option<Arc<dyn Source>>> {
        Ok(None)
    }

    /// A place whose connection breaks off somewhere inside the content of each item of 100 KiB and more that is fetched by `read`.
    async fn breaking(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        Ok(None)
    }
}

/// A place where a case runs; dropping it may remove it.
#[async_trait]
pub trait SourcePlace: Send + Sync {
    /// The source.
    fn source(&self) -> Arc<dyn Source>;

    /// The same place as another process sees it: a source that was built anew.
    async fn again(&self) -> Result<Arc<dyn Source>>;

    /// Everything that is there, in any order.
    fn items(&self) -> Vec<KnownItem>;

    /// Secrets that the source was built with.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// A place inside the source.
    fn part(&self) -> Option<SourcePart> {
        None
    }

    /// Does something to an item past the adapter; `false` when the fixture cannot.
    async fn disturb(&self, item: &EntryName, how: Disturbance) -> Result<bool> {
        let _ = (item, how);
        Ok(false)
    }
}

/// An item that a place was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownItem {
    /// It is delivered as one entry.
    Entry {
        /// Its name.
        name: EntryName,
        /// What it is.
        kind: EntryKind,
        /// Its content; `None` for kinds that have none.
        content: Option<Bytes>,
    },
    /// It is delivered as a group of slices.
    Group {
        /// The group's name.
        name: GroupName,
        /// The content of all slices in order.
        content: Bytes,
    },
    /// It is not delivered, but named in a warning.
    Skipped {
        /// Its name.
        name: EntryName,
    },
}

impl KnownItem {
    /// An item with content of its own.
    pub fn file(name: &str, content: impl Into<Bytes>) -> Self {
        Self::Entry { name: name.into(), kind: EntryKind::File, content: Some(content.into()) }
    }

    /// A directory.
    pub fn directory(name: &str) -> Self {
        Self::Entry { name: name.into(), kind: EntryKind::Directory, content: None }
    }

    /// A symbolic link.
    pub fn symlink(name: &str, target: &str) -> Self {
        let target = Bytes::copy_from_slice(target.as_bytes());
        Self::Entry { name: name.into(), kind: EntryKind::Symlink { target }, content: None }
    }

    /// An item that comes as slices.
    pub fn group(name: &str, content: impl Into<Bytes>) -> Self {
        Self::Group { name: GroupName(name.into()), content: content.into() }
    }

    /// An item that is only named in a warning.
    pub fn skipped(name: &str) -> Self {
        Self::Skipped { name: name.into() }
    }
}

/// A place inside a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePart {
    /// The place, as the identity of a destination there.
    pub identity: Identity,
    /// The items that are in it, and the place's own entry if it has one that is left out too.
    pub names: Vec<EntryName>,
}

/// What can happen to an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// It goes away.
    Remove,
    /// It gets other content of any length, and so becomes another version.
    Change(Bytes),
    /// It loses its end, but for so many bytes.
    Shorten(u64),
    /// It may not be read any more.
    Deny,
}
