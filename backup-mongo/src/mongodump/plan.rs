//! A dump as what a restore gets its entries from. It is read twice: once to check all of it, once to restore it.

use super::input::{Piece, Take, Wants};
use super::{archive, directory};
use crate::Tally;
use crate::documents::Documents;
use crate::layout::{self, BUCKETS_PREFIX};
use crate::restore_target::is_capped;
use async_trait::async_trait;
use backup_core::adapter::{PlanEntries, RestorePlan, SmallEntry, SourceFacts, Wanted};
use backup_core::model::{Entry, EntryKind, EntryName, GroupName, Metadata, Naming};
use backup_core::{Digest, Error, Result, Sha256};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A dump that was read once and found whole. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dump {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    is_archive: bool,
    entries: Vec<Entry>,
    /// Contents of descriptions, which are short.
    descriptions: HashMap<EntryName, Bytes>,
    facts: SourceFacts,
}

/// Names pieces as the entries of an archive, in the same way each time a dump is read.
#[derive(Debug, Default)]
struct Namer {
    numbers: HashMap<(String, String), u64>,
    oplog: u64,
}

impl Namer {
    fn name(&mut self, piece: &Piece) -> Result<(EntryName, EntryKind, Option<GroupName>)> {
        Ok(match piece {
            Piece::Prelude(_) => (layout::PRELUDE.into(), EntryKind::File, None),
            Piece::Metadata { database, collection, .. } => {
                let name = collection.as_deref().unwrap_or_default();
                let name = name.strip_prefix(BUCKETS_PREFIX).unwrap_or(name);
                check(database, name)?;
                (layout::metadata_name(database, name), EntryKind::File, Some(layout::group(database, name)))
            }
            Piece::Documents { database, holder, .. } => {
                let name = holder.strip_prefix(BUCKETS_PREFIX).unwrap_or(holder);
                check(database, name)?;
                let number = self.numbers.entry((database.clone(), holder.clone())).or_default();
                let entry = layout::slice_name(database, holder, *number);
                *number += 1;
                (entry, EntryKind::Slice, Some(layout::group(database, name)))
            }
            Piece::Oplog(_) => {
                let entry = layout::oplog_name(self.oplog);
                self.oplog += 1;
                (entry, EntryKind::Slice, Some(GroupName(layout::OPLOG_GROUP.into())))
            }
        })
    }
}

fn check(database: &str, collection: &str) -> Result<()> {
    if database.contains(['.', '/']) || database.is_empty() || collection.is_empty() {
        return Err(
            Error::invalid("no collection can have this name").on(format!("{database}.{collection}").escape_debug())
        );
    }
    Ok(())
}

fn content(piece: Piece) -> Vec<u8> {
    match piece {
        Piece::Prelude(bytes) | Piece::Oplog(bytes) => bytes,
        Piece::Metadata { json, .. } => json,
        Piece::Documents { documents, .. } => documents,
    }
}

impl Dump {
    /// Opens a directory or archive of `mongodump`, also one that is packed with gzip, and reads all of it once: what is damaged or
    /// cut off is found before anything is restored.
    ///
    /// # Errors
    /// `NotFound` when there is nothing; `Corrupt` when it is damaged; `Invalid` when it is no dump.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let scan = tokio::task::spawn_blocking(move || scan(path));
        Ok(Self { inner: Arc::new(scan.await.map_err(|e| Error::permanent("a thread ended").because(e))??) })
    }

    /// Number of entries: descriptions and pieces of collections.
    pub fn entries(&self) -> u64 {
        self.inner.entries.len() as u64
    }

    /// Bytes in all, unpacked.
    pub fn bytes(&self) -> u64 {
        self.inner.entries.iter().map(|entry| entry.size).sum()
    }

    /// The databases in it.
    pub fn databases(&self) -> BTreeSet<String> {
        let groups = self.inner.entries.iter().filter_map(|entry| layout::split_group(entry.group.as_ref()?));
        groups.map(|(database, _)| database.to_owned()).collect()
    }

    /// A plan that restores those entries that are wanted. It is known again by what is in the dump: a restore that broke off goes
    /// on when the same dump is restored to the same place again.
    pub fn plan(&self, overwrite: bool, wanted: Wanted) -> RestorePlan {
        let mut hash = Sha256::new();
        for entry in &self.inner.entries {
            hash.update(entry.name.as_bytes());
            hash.update(&entry.sha256.map(|digest| digest.0).unwrap_or_default());
        }
        let tag = hash.finish().to_string().chars().take(24).collect::<String>();
        let entries = Arc::new(Chosen { dump: self.clone(), wanted, left: Default::default() });
        RestorePlan {
            tag: format!("dump-{tag}"),
            attempt: 1,
            resumed: false,
            overwrite,
            naming: Naming::Paths,
            entries,
        }
    }

    pub(super) fn chosen(&self, wanted: Wanted) -> Arc<Chosen> {
        Arc::new(Chosen { dump: self.clone(), wanted, left: Default::default() })
    }
}

fn walk(path: &Path, is_archive: bool, wants: Wants<'_>, take: Take<'_>) -> Result<()> {
    if is_archive { archive::walk(path, take) } else { directory::walk(path, wants, take) }
}

fn scan(path: PathBuf) -> Result<Inner> {
    let about = std::fs::metadata(&path).map_err(|e| Error::io(e, "cannot look at the dump").on(path.display()))?;
    let is_archive = !about.is_dir();
    if is_archive && !archive::is_archive(&path).map_err(|e| e.on(path.display()))? {
        let text =
            "it is neither a directory of mongodump nor an archive (a single .bson file is restored by its directory)";
        return Err(Error::invalid(text).on(path.display()));
    }
    let mut namer = Namer::default();
    let mut entries: Vec<Entry> = Vec::new();
    let mut descriptions = HashMap::new();
    let mut tallies: BTreeMap<GroupName, Tally> = BTreeMap::new();
    let mut capped: BTreeSet<GroupName> = BTreeSet::new();
    walk(&path, is_archive, &|_| true, &mut |piece| {
        let (name, kind, group) = namer.name(&piece)?;
        match (&piece, &group) {
            (Piece::Metadata { json, .. }, Some(group)) if is_capped(json) => drop(capped.insert(group.clone())),
            (Piece::Documents { documents, .. }, Some(group)) => {
                let tally = tallies.entry(group.clone()).or_insert_with(|| Tally::new(capped.contains(group)));
                Documents::new(documents).try_for_each(|document| document.map(|d| tally.add(d)))?;
            }
            _ => {}
        }
        let is_description = !matches!(piece, Piece::Documents { .. } | Piece::Oplog(_));
        let content = Bytes::from(content(piece));
        entries.push(described(name.clone(), kind, &content, entries.len() as u64, group));
        if is_description {
            descriptions.insert(name, content);
        }
        Ok(())
    })?;
    if entries.iter().all(|entry| entry.group.is_none()) {
        return Err(Error::invalid("there is no collection in it; is it a dump?").on(path.display()));
    }
    let consistency = if namer.oplog > 0 { serde_json::json!({ "kind": "oplog" }) } else { serde_json::Value::Null };
    let group_digests = tallies.into_iter().map(|(group, tally)| (group, tally.digest().to_string())).collect();
    Ok(Inner { path, is_archive, entries, descriptions, facts: SourceFacts { consistency, group_digests } })
}

fn described(name: EntryName, kind: EntryKind, content: &Bytes, ordinal: u64, group: Option<GroupName>) -> Entry {
    Entry {
        name,
        kind,
        size: content.len() as u64,
        mtime: None,
        metadata: Metadata::default(),
        sha256: Some(Digest::of(content)),
        offset: 0,
        ordinal,
        group,
        inconsistent: false,
        superseded: false,
    }
}

/// The chosen entries of a dump.
pub(super) struct Chosen {
    dump: Dump,
    wanted: Wanted,
    /// Entries that were left out.
    pub(super) left: std::sync::Mutex<std::collections::HashMap<EntryName, backup_core::adapter::MismatchKind>>,
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chosen").field("path", &self.dump.inner.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl PlanEntries for Chosen {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        let (inner, wanted) = (self.dump.inner.clone(), self.wanted.clone());
        let count = inner.entries.len();
        let entries =
            (0..count).filter_map(move |n| inner.entries.get(n).filter(|entry| wanted(entry)).cloned().map(Ok));
        futures::stream::iter(entries).boxed()
    }

    fn contents(&self, wanted: Wanted) -> BoxStream<'static, Result<SmallEntry>> {
        let (inner, chosen) = (self.dump.inner.clone(), self.wanted.clone());
        let picks: Vec<bool> = inner.entries.iter().map(|entry| chosen(entry) && wanted(entry)).collect();
        let is_described = |entry: &Entry| inner.descriptions.contains_key(&entry.name);
        if inner.entries.iter().zip(&picks).all(|(entry, picked)| !picked || is_described(entry)) {
            let kept = (0..picks.len()).filter(move |n| picks.get(*n) == Some(&true)).filter_map(move |n| {
                let entry = inner.entries.get(n)?.clone();
                let content = inner.descriptions.get(&entry.name)?.clone();
                Some(Ok(SmallEntry { entry, content }))
            });
            return futures::stream::iter(kept).boxed();
        }
        let (sender, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_again(&inner, &picks, &sender) {
                // Without a reader nobody wants to know.
                let _ = sender.blocking_send(Err(error));
            }
        });
        futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
            .boxed()
    }

    async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        Ok(self.dump.inner.entries.iter().find(|entry| entry.name == *name).cloned())
    }

    fn selects(&self, name: &EntryName) -> bool {
        (self.wanted)(&described(name.clone(), EntryKind::File, &Bytes::new(), 0, None))
    }

    fn facts(&self) -> SourceFacts {
        self.dump.inner.facts.clone()
    }

    fn known_to_differ(&self, name: &EntryName) -> Option<backup_core::adapter::MismatchKind> {
        self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(name).copied()
    }
}

/// Reads a dump a second time; what is handed out is compared with what was read first.
fn read_again(inner: &Inner, picks: &[bool], sender: &mpsc::Sender<Result<SmallEntry>>) -> Result<()> {
    let picked: HashMap<&EntryName, &Entry> =
        inner.entries.iter().zip(picks).filter(|(_, picked)| **picked).map(|(entry, _)| (&entry.name, entry)).collect();
    // Whole files that nothing is wanted of are not opened.
    let groups: BTreeSet<&GroupName> = picked.values().filter_map(|entry| entry.group.as_ref()).collect();
    let wants = |of: Option<(&str, &str)>| match of {
        Some((database, holder)) => {
            groups.contains(&layout::group(database, holder.strip_prefix(BUCKETS_PREFIX).unwrap_or(holder)))
        }
        None => groups.contains(&GroupName(layout::OPLOG_GROUP.into())),
    };
    let mut namer = Namer::default();
    let mut left = picked.len();
    let gone = || Error::cancelled("nobody reads on");
    let walked = walk(&inner.path, inner.is_archive, &wants, &mut |piece| {
        let (name, _, _) = namer.name(&piece)?;
        let Some(entry) = picked.get(&name) else { return Ok(()) };
        let content = Bytes::from(content(piece));
        if entry.sha256 != Some(Digest::of(&content)) {
            return Err(Error::changed("the dump has changed since it was checked").on(name));
        }
        left -= 1;
        sender.blocking_send(Ok(SmallEntry { entry: (*entry).clone(), content })).map_err(|_| gone())
    });
    match walked {
        Err(_) if sender.is_closed() => Ok(()),
        Ok(()) if left > 0 => Err(Error::changed("the dump has changed since it was checked").on(inner.path.display())),
        walked => walked,
    }
}
