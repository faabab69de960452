//! A restore target in memory.

mod place;

use super::lock;
use async_trait::async_trait;
use backup_core::adapter::{
    ContentReader, EntryProgress, Granularity, MismatchKind, RestorePlan, RestoreTarget, SmallEntry, VerifyReport,
    Warning, Written,
};
use backup_core::model::{Entry, EntryKind, EntryName, GroupName, Identity};
use backup_core::{Digest, Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use place::{Busy, Place, Staged};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

pub use place::Restored;

/// A restore target in memory. Cloning gives a second handle on the same place.
///
/// Stricter than most targets. It refuses, as a breach (`Invalid`, and kept in [`breaches`](Self::breaches)):
/// - small entries whose content is not what their digest and size say,
/// - writes before [`prepare`](RestoreTarget::prepare) or after [`finish`](RestoreTarget::finish),
/// - portions other than its granularity says, and slices of an ordered group out of order or two at a time,
/// - a resumed content that does not start where the saved progress ends.
///
/// What was written after the last [`sync`](RestoreTarget::sync) is lost in a [`crash`](Self::crash).
#[derive(Clone, Debug)]
pub struct MemoryTarget {
    identity: Identity,
    slices: Granularity,
    names: Names,
    record_every: u64,
    warns_of: Vec<EntryName>,
    place: Arc<Mutex<Place>>,
}

/// How a target understands the names of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As paths: `..`, empty parts and ways through symbolic links are refused.
    Paths,
    /// As plain keys, as an object store does: any name will do.
    Keys,
}

impl Default for MemoryTarget {
    fn default() -> Self {
        Self::new("target")
    }
}

impl MemoryTarget {
    /// An empty target that takes each slice by itself and understands names as paths; `name` tells it apart from others in
    /// [`RestoreTarget::identity`].
    pub fn new(name: &str) -> Self {
        Self {
            identity: Identity::new("memory", name),
            slices: Granularity::Slice,
            names: Names::Paths,
            record_every: 1 << 20,
            warns_of: Vec::new(),
            place: Arc::default(),
        }
    }

    /// In what portions it takes slices. Other kinds are always taken one by one.
    #[must_use]
    pub fn with_granularity(mut self, slices: Granularity) -> Self {
        self.slices = slices;
        self
    }

    /// How it understands names.
    #[must_use]
    pub fn with_names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Records its progress with a large entry each time that so many bytes have come.
    #[must_use]
    pub fn with_record_every(mut self, bytes: u64) -> Self {
        self.record_every = bytes;
        self
    }

    /// Warns of this entry's metadata when it is made.
    #[must_use]
    pub fn warning_of(mut self, name: &str) -> Self {
        self.warns_of.push(name.into());
        self
    }

    /// Everything that is visible. A group that is taken whole stands under the group's name.
    pub fn items(&self) -> BTreeMap<EntryName, Restored> {
        lock(&self.place).items.clone()
    }

    /// The content of an item.
    pub fn content(&self, name: &str) -> Option<Bytes> {
        lock(&self.place).items.get(&name.into()).map(|item| item.content.clone())
    }

    /// Puts an item there whatever was there before.
    pub fn insert(&self, name: &str, item: Restored) {
        lock(&self.place).items.insert(name.into(), item);
    }

    /// Loses an item; whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        lock(&self.place).items.remove(&name.into()).is_some()
    }

    /// Staged leftovers, by name.
    pub fn staged(&self) -> Vec<String> {
        lock(&self.place).staged.keys().cloned().collect()
    }

    /// What its caller did wrong so far.
    pub fn breaches(&self) -> Vec<String> {
        lock(&self.place).breaches.clone()
    }

    /// Everything is lost that was not synced, as when the power fails.
    pub fn crash(&self) {
        lock(&self.place).crash();
    }

    fn check_open(&self, plan: &RestorePlan) -> Result<()> {
        let mut place = lock(&self.place);
        if place.open.contains(&plan.tag) {
            return Ok(());
        }
        Err(place.breach(format!("a write of plan {:?} that was not prepared, or is finished", plan.tag)))
    }

    fn check_name(&self, place: &Place, name: &EntryName) -> Result<()> {
        match self.names {
            Names::Paths => place.check_path(name),
            Names::Keys => Ok(()),
        }
    }

    fn write_one(&self, plan: &RestorePlan, small: SmallEntry) -> Result<Written> {
        let SmallEntry { entry, content } = small;
        let mut place = lock(&self.place);
        self.check_name(&place, &entry.name)?;
        if matches!(entry.kind, EntryKind::HardLink { .. }) {
            return Ok(Written::Deferred);
        }
        let group = entry.group.clone().filter(|_| entry.kind == EntryKind::Slice);
        if let (Some(group), Granularity::OrderedSlices) = (group, self.slices) {
            let last = place.order.get(&group).copied();
            // A repeated call brings again what is there already.
            if last.is_some_and(|last| entry.ordinal <= last) && !place.items.contains_key(&entry.name) {
                return Err(place.breach(format!("{}: a slice that comes after a later one", entry.name)));
            }
            place.order.insert(group, entry.ordinal.max(last.unwrap_or(0)));
        }
        let name = entry.name.clone();
        let written = place.publish(&name, restored(entry, content), plan.overwrite)?;
        if written != Written::AlreadyThere && self.warns_of.contains(&name) {
            let message = "its owner is another".to_owned();
            place.warnings.push(Warning { name: Some(name), message, left_out: false });
        }
        Ok(written)
    }
}

fn restored(entry: Entry, content: Bytes) -> Restored {
    Restored { kind: entry.kind, mtime: entry.mtime, metadata: entry.metadata, content }
}

/// What an entry's index record says must be its content.
fn is_verified(small: &SmallEntry) -> bool {
    let SmallEntry { entry, content } = small;
    let has_content = matches!(entry.kind, EntryKind::File | EntryKind::Slice);
    entry.size == content.len() as u64
        && match entry.sha256 {
            Some(digest) => digest == Digest::of(content),
            None => content.is_empty() && !has_content,
        }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RestoreTarget for MemoryTarget {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn granularity(&self, kind: &EntryKind) -> Granularity {
        if *kind == EntryKind::Slice { self.slices } else { Granularity::Slice }
    }

    async fn check(&self) -> Result<()> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn is_empty(&self) -> Result<bool> {
        tokio::task::yield_now().await;
        Ok(lock(&self.place).items.is_empty())
    }

    async fn prepare(&self, plan: &RestorePlan) -> Result<()> {
        tokio::task::yield_now().await;
        let mut place = lock(&self.place);
        place.open.insert(plan.tag.clone());
        place.order.clear();
        Ok(())
    }

    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        self.check_open(plan)?;
        let mut busy = Busy(&self.place, Vec::new());
        for small in &batch {
            let name = &small.entry.name;
            let mut place = lock(&self.place);
            if !is_verified(small) {
                return Err(place.breach(format!("{name}: content that is not what its digest says")));
            }
            if small.entry.kind != EntryKind::Slice {
                continue;
            }
            match (self.slices, &small.entry.group) {
                (Granularity::Whole, _) => {
                    return Err(place.breach(format!("{name}: a single slice of a group that is taken whole")));
                }
                (Granularity::OrderedSlices, Some(group)) if !busy.1.contains(group) => {
                    if !place.busy.insert(group.clone()) {
                        return Err(place.breach(format!("{name}: two writes at once in an ordered group")));
                    }
                    busy.1.push(group.clone());
                }
                _ => {}
            }
        }
        let mut answers = Vec::with_capacity(batch.len());
        for small in batch {
            tokio::task::yield_now().await;
            answers.push(self.write_one(plan, small));
        }
        tokio::task::yield_now().await;
        Ok(answers)
    }

    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        mut content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>> {
        self.check_open(plan)?;
        let whole = self.granularity(&entry.kind) == Granularity::Whole;
        let name = match &entry.group {
            Some(group) if whole => EntryName::from(&*group.0),
            _ => entry.name.clone(),
        };
        let stage = {
            let mut place = lock(&self.place);
            if let Err(error) = self.check_name(&place, &name) {
                return Ok(Err(error));
            }
            let saved = progress.saved();
            let start = saved.as_ref().map_or(0, |saved| saved.offset);
            if content.position() != start {
                let at = content.position();
                return Err(place.breach(format!("{name}: content from {at} on where progress ends at {start}")));
            }
            let stage = match saved.as_ref().map(|saved| saved.state["staged"].as_str().unwrap_or_default()) {
                Some(stage) => stage.to_owned(),
                None => {
                    place.stages += 1;
                    let stage = format!("{}-{}", plan.tag, place.stages);
                    place.staged.insert(stage.clone(), Staged::default());
                    stage
                }
            };
            match place.staged.get_mut(&stage) {
                Some(staged) if staged.bytes.len() as u64 >= start => staged.bytes.truncate(start as usize),
                _ => return Ok(Err(Error::changed("what was staged before is gone").on(&name))),
            }
            stage
        };
        let lost = || Error::changed("the staged content vanished while it was written").on(&name);
        let mut recorded = content.position();
        while let Some(bytes) = content.next().await? {
            lock(&self.place).staged.get_mut(&stage).ok_or_else(lost)?.bytes.extend_from_slice(&bytes);
            if content.position() - recorded >= self.record_every {
                recorded = content.position();
                progress.record(&content, serde_json::json!({ "staged": stage }));
            }
        }
        content.finish()?;
        tokio::task::yield_now().await;
        let written = {
            let mut place = lock(&self.place);
            let bytes = place.staged.remove(&stage).ok_or_else(lost)?.bytes;
            place.publish(&name, restored(entry.clone(), bytes.into()), plan.overwrite)
        };
        tokio::task::yield_now().await;
        Ok(written)
    }

    async fn sync(&self) -> Result<()> {
        tokio::task::yield_now().await;
        lock(&self.place).sync();
        Ok(())
    }

    fn take_warnings(&self) -> Vec<Warning> {
        std::mem::take(&mut lock(&self.place).warnings)
    }

    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        let mut warnings = self.take_warnings();
        let mut entries = plan.entries.entries();
        while let Some(entry) = entries.next().await.transpose()? {
            let EntryKind::HardLink { target } = &entry.kind else { continue };
            let mut place = lock(&self.place);
            let content = place.items.get(target).map(|item| item.content.clone());
            let made = match content {
                Some(content) => {
                    let name = entry.name.clone();
                    self.check_name(&place, &name)
                        .and_then(|()| place.publish(&name, restored(entry.clone(), content), plan.overwrite))
                }
                None => Err(Error::not_found("the target of the hard link is missing")),
            };
            if let Err(error) = made {
                warnings.push(Warning { name: Some(entry.name), message: error.chain(), left_out: true });
            }
        }
        let mut place = lock(&self.place);
        place.unstage(&plan.tag);
        place.open.remove(&plan.tag);
        place.sync();
        Ok(warnings)
    }

    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        tokio::task::yield_now().await;
        // A worker that has not heard of it yet may still write, and discards what it wrote when it has.
        lock(&self.place).unstage(&plan.tag);
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut within: HashMap<GroupName, u64> = HashMap::new();
        let mut entries = plan.entries.entries();
        while let Some(entry) = entries.next().await.transpose()? {
            report.entries += 1;
            let whole = self.granularity(&entry.kind) == Granularity::Whole;
            let place = lock(&self.place);
            let (item, content) = match &entry.group {
                Some(group) if whole => {
                    let item = place.items.get(&EntryName::from(&*group.0));
                    let start = within.entry(group.clone()).or_default();
                    let end = *start + entry.size;
                    let content = item.and_then(|item| {
                        (end <= item.content.len() as u64).then(|| item.content.slice(*start as usize..end as usize))
                    });
                    *start = end;
                    (item, content)
                }
                _ => {
                    let item = place.items.get(&entry.name);
                    (item, item.map(|item| item.content.clone()))
                }
            };
            let Some(item) = item else {
                report.mismatch(plan, &entry.name, MismatchKind::Content, "missing");
                continue;
            };
            let content = content.unwrap_or_default();
            report.bytes += content.len() as u64;
            if item.kind != entry.kind {
                report.mismatch(plan, &entry.name, MismatchKind::Content, "another kind");
            } else if entry.sha256.is_some_and(|digest| digest != Digest::of(&content)) {
                report.mismatch(plan, &entry.name, MismatchKind::Content, "another content");
            } else if !whole && (item.mtime != entry.mtime || item.metadata != entry.metadata) {
                report.mismatch(plan, &entry.name, MismatchKind::Metadata, "other metadata");
            }
        }
        Ok(report)
    }
}
