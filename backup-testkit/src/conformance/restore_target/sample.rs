//! Entries to restore.

use crate::conformance::suite::bytes;
use backup_core::adapter::{PlanEntries, RestorePlan, SmallEntry, Wanted};
use backup_core::model::{Entry, EntryKind, EntryName, GroupName, Metadata, Naming, Timestamp};
use backup_core::{Digest, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;

/// Length of the large entry, in bytes: a few pieces and a bit.
const LARGE: usize = (2 << 20) + 12_345;

/// An entry as an archive has it, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The entry; [`plan`] numbers it.
    pub entry: Entry,
    /// Its content; empty for kinds that have none.
    pub content: Bytes,
}

impl Sample {
    /// An entry without metadata but a time of last modification.
    pub fn new(name: &str, kind: EntryKind, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let has_content = matches!(kind, EntryKind::File | EntryKind::Slice);
        let entry = Entry {
            name: name.into(),
            kind,
            size: content.len() as u64,
            mtime: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            metadata: Metadata::default(),
            sha256: has_content.then(|| Digest::of(&content)),
            offset: 0,
            ordinal: 0,
            group: None,
            inconsistent: false,
            superseded: false,
        };
        Self { entry, content }
    }

    /// A file.
    pub fn file(name: &str, content: impl Into<Bytes>) -> Self {
        Self::new(name, EntryKind::File, content)
    }

    /// A directory.
    pub fn directory(name: &str) -> Self {
        Self::new(name, EntryKind::Directory, Bytes::new())
    }

    /// A symbolic link.
    pub fn symlink(name: &str, target: &str) -> Self {
        let target = Bytes::copy_from_slice(target.as_bytes());
        Self::new(name, EntryKind::Symlink { target }, Bytes::new())
    }

    /// Another name of an entry.
    pub fn hard_link(name: &str, target: &str) -> Self {
        Self::new(name, EntryKind::HardLink { target: target.into() }, Bytes::new())
    }

    /// The slices of a group, as `group/000000` and so on.
    pub fn slices(group: &str, slices: Vec<Bytes>) -> Vec<Self> {
        let mut all = Vec::new();
        for (number, content) in slices.into_iter().enumerate() {
            let mut sample = Self::new(&format!("{group}/{number:06}"), EntryKind::Slice, content);
            sample.entry.group = Some(GroupName(group.into()));
            all.push(sample);
        }
        all
    }

    /// The name.
    pub fn name(&self) -> &EntryName {
        &self.entry.name
    }

    /// As `write_small` takes it.
    pub fn small(&self) -> SmallEntry {
        SmallEntry { entry: self.entry.clone(), content: self.content.clone() }
    }
}

/// What a suite writes into a target.
#[derive(Clone, Debug)]
pub struct Samples {
    /// At least three entries that are written by `write_small`, one of them below parents that no entry makes. All must fit beside each other.
    pub small: Vec<Sample>,
    /// An entry of the name of one of `small` that is another item.
    pub changed: Sample,
    /// An entry of one MiB or more that is written by `write_large`, if the target takes such.
    pub large: Option<Sample>,
    /// Groups of slices, if the target takes such.
    pub groups: Vec<Vec<Sample>>,
    /// Entries whose names must be refused, written in this order after `small`. A symbolic link among them is made, to go through it.
    pub hostile: Vec<Sample>,
    /// An entry that cannot be completed, such as a hard link to nothing, if there are such.
    pub unfinishable: Option<Sample>,
}

impl Samples {
    /// Samples for a target that takes files, directories and links, and understands names as paths.
    pub fn files() -> Self {
        Self {
            small: vec![
                Sample::directory("dir"),
                Sample::file("dir/a", "the content of a"),
                Sample::file("dir/empty", ""),
                Sample::file("missing/parents/b", bytes(1, 100_000)),
                Sample::symlink("link", "dir/a"),
                Sample::symlink("absolute", "/etc/passwd"),
                Sample::hard_link("dir/hard", "dir/a"),
                Sample::file("ünï code", "x"),
            ],
            changed: Sample::file("dir/a", "another content"),
            large: Some(Sample::file("large/file", bytes(2, LARGE))),
            groups: Vec::new(),
            hostile: vec![
                Sample::file("../escaped", "x"),
                Sample::file("dir/../../escaped", "x"),
                Sample::file("/tmp/.backup-conformance-escaped", "x"),
                Sample::directory("../escaped-directory"),
                Sample::symlink("../escaped-link", "dir/a"),
                Sample::symlink("out", ".."),
                Sample::file("out/escaped", "x"),
                Sample::symlink("inside", "dir"),
                Sample::file("inside/through", "x"),
                Sample::directory("out/escaped-directory"),
            ],
            unfinishable: Some(Sample::hard_link("dir/dangling", "dir/nothing")),
        }
    }

    /// With a large entry of so many bytes: for a target that records its progress less often than each MiB.
    #[must_use]
    pub fn with_large(mut self, size: usize) -> Self {
        self.large = Some(Sample::file("large/file", bytes(2, size)));
        self
    }

    /// Samples for a target that takes files only and understands names as plain keys.
    pub fn keys() -> Self {
        let files = Self::files();
        let small = files.small.into_iter().filter(|sample| sample.entry.kind == EntryKind::File).collect();
        Self { small, hostile: Vec::new(), unfinishable: None, ..files }
    }
}

#[derive(Debug)]
struct Listed(Vec<SmallEntry>);

impl PlanEntries for Listed {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        let entries: Vec<_> = self.0.iter().map(|small| Ok(small.entry.clone())).collect();
        futures::stream::iter(entries).boxed()
    }

    fn contents(&self, wanted: Wanted) -> BoxStream<'static, Result<SmallEntry>> {
        let has_content = |small: &&SmallEntry| small.entry.sha256.is_some() && wanted(&small.entry);
        let contents: Vec<_> = self.0.iter().filter(has_content).cloned().map(Ok).collect();
        futures::stream::iter(contents).boxed()
    }
}

/// A plan of these entries, numbered in their order.
pub fn plan<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> RestorePlan {
    let mut entries = Vec::new();
    for sample in samples {
        let entry = Entry { ordinal: entries.len() as u64, ..sample.entry.clone() };
        entries.push(SmallEntry { entry, content: sample.content.clone() });
    }
    RestorePlan {
        tag: "20260101T000000Z-00c0ffee".into(),
        attempt: 1,
        resumed: false,
        overwrite: false,
        naming: Naming::Paths,
        entries: Arc::new(Listed(entries)),
    }
}
