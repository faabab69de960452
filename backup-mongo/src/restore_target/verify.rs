//! Reads the target back and compares it with what the archive says.

mod expiry;

use super::Shared;
use super::collection::Collection;
use super::create::Listed;
use super::finish::Notes;
use super::insert::{id_text, split};
use super::learn::{Learned, group_of};
use super::metadata::{Kind, Metadata};
use super::oplog::{Changes, Deleted, Met};
use super::present::Present;
use crate::documents::{Documents, id_of};
use crate::layout::{Item, slice_name};
use crate::{GroupDigest, Tally, driver_error};
use backup_core::adapter::{MismatchKind, RestorePlan, SourceFacts, VerifyReport};
use backup_core::model::{Entry, EntryName, GroupName};
use backup_core::{Error, ErrorClass, Result};
use bytes::Bytes;
use expiry::Expiry;
use futures::{StreamExt, TryStreamExt};
use mongodb::bson::{Document, doc};
use std::sync::Arc;

/// Collections that are compared at once.
const AT_ONCE: usize = 2;

impl Shared {
    pub(super) async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        let learned = self.learned(plan, false).await?;
        let facts = plan.entries.facts();
        let changes = self.changes(plan, &learned).await?;
        let mut report = VerifyReport::default();
        if let Some(size) = learned.prelude {
            report.entries += 1;
            report.bytes += size;
        }
        report.entries += learned.oplog.0;
        report.bytes += learned.oplog.1;
        // Owned by the futures, or the compiler cannot tell that they may move between threads.
        let collections: Vec<Arc<Collection>> = learned.collections.values().cloned().collect();
        let mut compared = futures::stream::iter(collections)
            .map(|collection| {
                let (facts, changes) = (&facts, &changes);
                async move {
                    let report = self.compare(plan, &collection, facts, changes).await;
                    report.map_err(|e| e.on(collection.full_name()))
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(part) = compared.try_next().await? {
            report.add(part);
        }
        drop(compared);
        if learned.others > 0 {
            self.no_data(plan, &mut report).await?;
        }
        Ok(report)
    }

    async fn no_data(&self, plan: &RestorePlan, report: &mut VerifyReport) -> Result<()> {
        let mut entries = plan.entries.entries();
        while let Some(entry) = entries.try_next().await? {
            let is_known = group_of(&entry).is_some()
                || matches!(Item::parse(&entry.name), Some(Item::Prelude | Item::Oplog { .. }));
            if !is_known {
                report.entries += 1;
                report.mismatch(plan, &entry.name, MismatchKind::Content, "it is no MongoDB data");
            }
        }
        Ok(())
    }

    /// Every entry of a collection is another one than it should be.
    async fn all_differ(&self, plan: &RestorePlan, collection: &Collection, text: &str) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut entries = plan.entries.entries();
        while let Some(entry) = entries.try_next().await? {
            if group_of(&entry).as_ref() == Some(&collection.group) {
                report.entries += 1;
                report.mismatch(plan, &entry.name, MismatchKind::Content, text);
            }
        }
        Ok(report)
    }

    async fn compare(
        &self,
        plan: &RestorePlan,
        collection: &Collection,
        facts: &SourceFacts,
        changes: &Changes,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        report.entries += collection.slices;
        if let Some((_, size)) = &collection.description {
            report.entries += 1;
            report.bytes += size;
        }
        if let Some((_, text)) = &collection.trouble {
            return self.all_differ(plan, collection, text).await;
        }
        if collection.is_of_users {
            self.compare_users(plan, collection, &mut report).await?;
            return Ok(report);
        }
        if changes.is_dropped(collection) {
            return Ok(report);
        }
        let Some(found) = self.listed(&collection.database, &collection.name).await? else {
            return self.all_differ(plan, collection, "the collection is missing").await;
        };
        if !changes.altered.contains(&collection.full_name()) {
            self.compare_description(plan, collection, found, &mut report).await?;
        }
        // Those were compared before the oplog was applied.
        if collection.kind() != Kind::View && !changes.touched.contains(&collection.full_name()) {
            self.compare_documents(plan, collection, facts, Moment::AtTheEnd(changes), &mut report).await?;
        }
        Ok(report)
    }

    async fn compare_description(
        &self,
        plan: &RestorePlan,
        collection: &Collection,
        found: Listed,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let Some((entry, _)) = &collection.description else { return Ok(()) };
        let is_view = collection.kind() == Kind::View;
        let indexes = if is_view { Vec::new() } else { self.list_indexes(collection).await? };
        let there = Metadata { name: None, options: found.options, indexes };
        let kind = if is_view { MismatchKind::Content } else { MismatchKind::Metadata };
        let (ours, theirs) = (collection.metadata.comparable_options(), there.comparable_options());
        if ours != theirs {
            let text = format!("its options are {theirs}, in the archive {ours}");
            report.mismatch(plan, entry, kind, text);
            return Ok(());
        }
        // A dump without descriptions says nothing of indexes.
        if is_view || collection.metadata.indexes.is_empty() {
            return Ok(());
        }
        let (ours, theirs) = (collection.metadata.comparable_indexes(), there.comparable_indexes());
        let missing: Vec<_> = ours.iter().filter(|index| !theirs.contains(index)).map(|(name, _)| &**name).collect();
        let more: Vec<_> = theirs.iter().filter(|index| !ours.contains(index)).map(|(name, _)| &**name).collect();
        if !missing.is_empty() || !more.is_empty() {
            let text = format!(
                "its indexes differ: missing or other than in the archive: {}; other or more than in the archive: {}",
                missing.join(", ").escape_debug(),
                more.join(", ").escape_debug()
            );
            report.mismatch(plan, entry, MismatchKind::Metadata, text);
        }
        Ok(())
    }

    async fn list_indexes(&self, collection: &Collection) -> Result<Vec<Document>> {
        let doing = "listing indexes (this needs the right to listIndexes, as in the role read)";
        let command = doc! { "listIndexes": &collection.name, "cursor": {} };
        let cursor = self.cluster.database(&collection.database).run_cursor_command(command).await;
        cursor.map_err(|e| driver_error(e, doing))?.try_collect().await.map_err(|e| driver_error(e, doing))
    }

    /// Compares documents, first as a whole.
    async fn compare_documents(
        &self,
        plan: &RestorePlan,
        collection: &Collection,
        facts: &SourceFacts,
        moment: Moment<'_>,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let expected = match facts.group_digests.get(&GroupName(collection.group.as_str().into())) {
            Some(text) => Some(text.parse::<GroupDigest>().map_err(|e| e.on(&collection.group))?),
            None => None,
        };
        let expected = match expected {
            Some(digest) if digest.bytes == collection.bytes || !leaves_out(plan, collection).await? => digest,
            // With a part of its slices chosen, the digest is not of them.
            _ => self.expected(plan, collection).await?,
        };
        let average = expected.bytes / expected.documents.max(1);
        let found = self.tally(&collection.database, &collection.holder(), expected.ordered, average).await?;
        report.bytes += found.bytes();
        if found.digest() != expected {
            self.find_difference(plan, collection, moment, &found, expected.ordered, report).await?;
        }
        Ok(())
    }

    /// The digest of the slices of the plan.
    async fn expected(&self, plan: &RestorePlan, collection: &Collection) -> Result<GroupDigest> {
        let mut tally = Tally::new(collection.kind() == Kind::Capped);
        if collection.slices == 0 {
            return Ok(tally.digest());
        }
        let mut slices = slices(plan, collection);
        while let Some(slice) = slices.try_next().await? {
            let added = tokio::task::spawn_blocking(move || {
                Documents::new(&slice.content).try_for_each(|document| document.map(|d| tally.add(d)))?;
                Ok::<_, Error>(tally)
            });
            tally = added.await.map_err(|e| Error::permanent("a thread ended").because(e))??;
        }
        Ok(tally.digest())
    }

    /// Compares each document, and names the slices that differ.
    async fn find_difference(
        &self,
        plan: &RestorePlan,
        collection: &Collection,
        moment: Moment<'_>,
        found: &Tally,
        ordered: bool,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let (expiry, mut deleted) = match moment {
            Moment::AtTheEnd(changes) => (Expiry::new(collection, changes), Deleted::default()),
            Moment::BeforeReplay(learned) => {
                (Expiry::new(collection, &Changes::default()), self.deleted(plan, learned, collection).await?)
            }
        };
        let (mut present, mut expired, mut differs, mut without_id, mut is_twice) = (0, 0, false, false, false);
        let mut slices = slices(plan, collection);
        while let Some(slice) = slices.try_next().await? {
            let name = slice.entry.name;
            without_id |=
                Documents::new(&slice.content).any(|d| d.is_ok_and(|d| id_of(d).is_ok_and(|id| id.is_none())));
            let (mut wrong, mut total, mut first) = (0_u64, 0_u64, None);
            for part in split(&slice.content, &name.to_string(), true)? {
                let states = self.present(&collection.database, &collection.holder(), &part.documents).await?;
                for (document, state) in part.documents.iter().zip(states) {
                    total += 1;
                    let met = deleted.meet(document)?;
                    is_twice |= met == Met::Again;
                    match state {
                        Present::Same | Present::Other | Present::ButEmptyTimestamps if met == Met::Again => {}
                        Present::Other if met == Met::First => present += 1,
                        Present::Same => present += 1,
                        Present::Missing if expiry.is_over(document) => expired += 1,
                        Present::Missing => {
                            wrong += 1;
                            first.get_or_insert_with(|| format!("{} is missing", id_text(document)));
                        }
                        Present::Other | Present::ButEmptyTimestamps => {
                            wrong += 1;
                            present += 1;
                            first.get_or_insert_with(|| format!("{} is another document", id_text(document)));
                        }
                    }
                }
            }
            if let Some(first) = first {
                differs = true;
                let text = format!("of its {total} documents {wrong} differ, the first one: {first}");
                report.mismatch(plan, &name, MismatchKind::Content, text);
            }
        }
        let Some(entry) = collection.entry() else { return Ok(()) };
        let more = found.documents().saturating_sub(present);
        if more > 0 {
            let text = format!("the collection has {more} documents that the archive does not have");
            report.mismatch(plan, entry, MismatchKind::Content, text);
        } else if !differs && ordered && expired == 0 {
            report.mismatch(plan, entry, MismatchKind::Content, "its documents are there, but in another order");
        } else if !differs && expired == 0 && !without_id && !is_twice {
            let text = "all documents of the archive are there, but what the archive says of them as a whole does not fit them";
            report.mismatch(plan, entry, MismatchKind::Content, text);
        }
        Ok(())
    }

    async fn compare_users(
        &self,
        plan: &RestorePlan,
        collection: &Collection,
        report: &mut VerifyReport,
    ) -> Result<()> {
        if collection.name == "system.version" {
            return Ok(());
        }
        let mut slices = slices(plan, collection);
        while let Some(slice) = slices.try_next().await? {
            let documents: Vec<Bytes> =
                Documents::new(&slice.content).map(|d| d.map(|d| slice.content.slice_ref(d))).collect::<Result<_>>()?;
            let name = &slice.entry.name;
            match self.present("admin", &collection.name, &documents).await {
                Ok(states) => {
                    let wrong = states.iter().filter(|state| **state != Present::Same).count();
                    if wrong > 0 {
                        report.mismatch(plan, name, MismatchKind::Content, format!("{wrong} users or roles differ"));
                    }
                }
                Err(error) if error.class() == ErrorClass::Unauthorized => {
                    let text = "users and roles cannot be read back with this user's rights";
                    report.mismatch(plan, name, MismatchKind::Metadata, text);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Compares the collections that the oplog is going to change, while they are as they were read.
    pub(super) async fn check_before_replay(
        &self,
        plan: &RestorePlan,
        learned: &Learned,
        ours: &[Arc<Collection>],
        changes: &Changes,
        notes: &Notes,
    ) -> Result<()> {
        let facts = plan.entries.facts();
        let mut report = VerifyReport::default();
        for collection in ours {
            if changes.touched.contains(&collection.full_name()) {
                self.compare_documents(plan, collection, &facts, Moment::BeforeReplay(learned), &mut report).await?;
            }
        }
        let is_said = |name| notes.0.iter().any(|warning| warning.name.as_ref() == Some(name) && warning.left_out);
        let of_content = |kind| kind == MismatchKind::Content;
        match report.mismatches.iter().find(|m| of_content(m.kind) && !is_said(&m.name)) {
            Some(first) => {
                let text = format!("reading back before the oplog is applied: {}", first.message);
                Err(Error::corrupt(text).on(&first.name))
            }
            None => Ok(()),
        }
    }
}

/// When documents are compared.
#[derive(Clone, Copy)]
enum Moment<'a> {
    /// When all is done, and the oplog has made its changes.
    AtTheEnd(&'a Changes),
    /// Before the oplog is applied. A document that was deleted and inserted again while its collection was read may be in the slices
    /// twice, and either of the two is there.
    BeforeReplay(&'a Learned),
}

/// Whether slices of a collection are not among what is restored.
async fn leaves_out(plan: &RestorePlan, collection: &Collection) -> Result<bool> {
    if collection.slices < collection.next {
        return Ok(true);
    }
    let folder = collection.first.as_ref().and_then(|name| Some(name.as_str()?.rsplit_once('/')?.0.to_owned()));
    let next = match (folder, collection.group.split_once('.')) {
        (Some(folder), _) => EntryName::new(format!("{folder}/{:06}.bson", collection.next)),
        (None, Some((database, _))) => slice_name(database, &collection.holder(), collection.next),
        (None, None) => return Ok(false),
    };
    Ok(plan.entries.find(&next).await?.is_some())
}

fn slices(
    plan: &RestorePlan,
    collection: &Collection,
) -> futures::stream::BoxStream<'static, Result<backup_core::adapter::SmallEntry>> {
    let group = collection.group.clone();
    plan.entries.contents(Arc::new(move |entry: &Entry| {
        matches!(Item::parse(&entry.name), Some(Item::Slice { .. })) && group_of(entry).as_ref() == Some(&group)
    }))
}
