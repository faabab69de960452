//! Archives that the tests make themselves, by reading a database in the simplest way.

use crate::support::documents;
use backup_core::adapter::{
    Content, MismatchKind, PlanEntries, ReadContext, RestorePlan, RestoreTarget, SmallEntry, Source as _, SourceEvent,
    SourceFacts, Wanted, Warning, Written,
};
use backup_core::budget::ByteBudget;
use backup_core::model::{Entry, EntryKind, EntryName, GroupName, Metadata};
use backup_core::{Digest, Result};
use backup_mongo::layout::{self, BUCKETS_PREFIX, CollectionKind, CollectionMetadata};
use backup_mongo::{MongoRestoreTarget, MongoSource, Tally};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use mongodb::Client;
use mongodb::bson::{Document, RawArrayBuf, RawDocumentBuf, doc};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Slices of so many bytes, so that even small collections have several.
const SLICE: usize = 64 << 10;

/// The contents of an archive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archived {
    pub(crate) entries: Vec<SmallEntry>,
    pub(crate) facts: SourceFacts,
}

impl Archived {
    pub(crate) fn push(
        &mut self,
        name: EntryName,
        kind: EntryKind,
        group: Option<GroupName>,
        content: impl Into<Bytes>,
    ) {
        let content = content.into();
        let entry = Entry {
            name,
            kind,
            size: content.len() as u64,
            mtime: None,
            metadata: Metadata::default(),
            sha256: Some(Digest::of(&content)),
            offset: 0,
            ordinal: self.entries.len() as u64,
            group,
            inconsistent: false,
            superseded: false,
        };
        self.entries.push(SmallEntry { entry, content });
    }

    pub(crate) fn slices(
        &mut self,
        database: &str,
        collection: &str,
        group: &GroupName,
        documents: &[RawDocumentBuf],
        ordered: bool,
    ) {
        let mut tally = Tally::new(ordered);
        let (mut number, mut slice) = (0, Vec::new());
        for (n, document) in documents.iter().enumerate() {
            tally.add(document.as_bytes());
            slice.extend_from_slice(document.as_bytes());
            if slice.len() >= SLICE || n + 1 == documents.len() {
                let name = layout::slice_name(database, collection, number);
                self.push(name, EntryKind::Slice, Some(group.clone()), std::mem::take(&mut slice));
                number += 1;
            }
        }
        self.facts.group_digests.insert(group.clone(), tally.digest().to_string());
    }

    pub(crate) async fn read(client: &Client, databases: &[&str]) -> Self {
        let mut archived = Self::default();
        archived.push(
            layout::PRELUDE.into(),
            EntryKind::File,
            None,
            r#"{"ServerVersion":"6.0.5","ToolVersion":"test"}"#,
        );
        for name in databases {
            archived.read_database(client, name).await;
        }
        archived
    }

    async fn read_database(&mut self, client: &Client, name: &str) {
        let database = client.database(name);
        let command = doc! { "listCollections": 1, "cursor": {} };
        let mut all: Vec<Document> = database.run_cursor_command(command).await.unwrap().try_collect().await.unwrap();
        all.sort_by_key(|c| c.get_str("name").unwrap().to_owned());
        for found in all {
            let collection = found.get_str("name").unwrap();
            if collection.starts_with("system.") && collection != "system.js" {
                continue;
            }
            let kind = match found.get_str("type").unwrap() {
                "view" => CollectionKind::View,
                "timeseries" => CollectionKind::TimeSeries,
                _ => CollectionKind::Collection,
            };
            let options = found.get_document("options").unwrap();
            let mut indexes = RawArrayBuf::new();
            if kind != CollectionKind::View {
                let command = doc! { "listIndexes": collection, "cursor": {} };
                let list: Vec<Document> =
                    database.run_cursor_command(command).await.unwrap().try_collect().await.unwrap();
                list.iter().for_each(|index| indexes.push(RawDocumentBuf::try_from(index).unwrap()));
            }
            let metadata = CollectionMetadata {
                collection: collection.to_owned(),
                kind,
                options: RawDocumentBuf::try_from(options).unwrap(),
                indexes,
                uuid: None,
            };
            let group = layout::group(name, collection);
            let entry = layout::metadata_name(name, collection);
            self.push(entry, EntryKind::File, Some(group.clone()), metadata.to_json().unwrap());
            let holder = match kind {
                CollectionKind::View => continue,
                CollectionKind::TimeSeries => format!("{BUCKETS_PREFIX}{collection}"),
                CollectionKind::Collection => collection.to_owned(),
            };
            let ordered = options.get_bool("capped").unwrap_or(false);
            self.slices(name, &holder, &group, &documents(client, name, &holder).await, ordered);
        }
    }

    /// What a source delivers with so little memory that it reads a batch only when the one before is taken. Something happens
    /// behind each entry, before that.
    pub(crate) async fn of_source(source: MongoSource, happens: impl AsyncFn(&EntryName)) -> Self {
        let ctx = ReadContext {
            budget: ByteBudget::new(1 << 20),
            limit: Default::default(),
            stop: Default::default(),
            excluded: Arc::new([]),
        };
        let mut archived = Self::default();
        let mut events = Arc::new(source).events(None, ctx);
        while let Some(event) = events.try_next().await.unwrap() {
            match event {
                SourceEvent::Entry(entry) => {
                    happens(&entry.name).await;
                    let Content::Inline { bytes, permit } = entry.content else {
                        panic!("{} is not inline", entry.name)
                    };
                    archived.push(entry.name, entry.kind, entry.group, Bytes::copy_from_slice(&bytes));
                    drop(permit);
                }
                SourceEvent::Supersede { group } => {
                    archived.entries.retain(|small| small.entry.group.as_ref() != Some(&group))
                }
                SourceEvent::Warning(warning) => panic!("{}", warning.message),
                SourceEvent::Facts(SourceFacts { consistency, group_digests }) => {
                    if !consistency.is_null() {
                        archived.facts.consistency = consistency;
                    }
                    archived.facts.group_digests.extend(group_digests);
                }
            }
        }
        archived
    }

    pub(crate) fn plan(&self) -> (RestorePlan, Arc<Plan>) {
        let plan = Arc::new(Plan { archived: self.clone(), left: Mutex::default() });
        let tag = format!("20260101T000000Z-{:08x}", std::process::id());
        (
            RestorePlan {
                tag,
                attempt: 1,
                resumed: false,
                overwrite: false,
                naming: backup_core::model::Naming::Paths,
                entries: plan.clone(),
            },
            plan,
        )
    }
}

/// A plan of everything, which knows what was left out.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) archived: Archived,
    pub(crate) left: Mutex<BTreeSet<EntryName>>,
}

impl PlanEntries for Plan {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        let entries: Vec<_> = self.archived.entries.iter().map(|small| Ok(small.entry.clone())).collect();
        futures::stream::iter(entries).boxed()
    }

    fn contents(&self, wanted: Wanted) -> BoxStream<'static, Result<SmallEntry>> {
        let all: Vec<_> = self.archived.entries.iter().filter(|small| wanted(&small.entry)).cloned().map(Ok).collect();
        futures::stream::iter(all).boxed()
    }

    fn facts(&self) -> SourceFacts {
        self.archived.facts.clone()
    }

    fn known_to_differ(&self, name: &EntryName) -> Option<MismatchKind> {
        self.left.lock().unwrap().contains(name).then_some(MismatchKind::Content)
    }
}

/// What a restore met.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) written: Vec<(EntryName, Written)>,
    pub(crate) refused: Vec<(EntryName, String)>,
    pub(crate) warnings: Vec<Warning>,
}

/// Restores as the engine does: several batches at once, then the end.
pub(crate) async fn restore(
    target: &MongoRestoreTarget,
    archived: &Archived,
    plan: &RestorePlan,
    known: &Plan,
) -> Result<Met> {
    target.check().await?;
    target.prepare(plan).await?;
    let batches: Vec<Vec<SmallEntry>> = archived.entries.chunks(3).map(<[_]>::to_vec).collect();
    let mut met = Met::default();
    let mut answers = futures::stream::iter(batches)
        .map(|batch| async move {
            let names: Vec<EntryName> = batch.iter().map(|small| small.entry.name.clone()).collect();
            target.write_small(plan, batch).await.map(|answers| names.into_iter().zip(answers).collect::<Vec<_>>())
        })
        .buffered(4);
    while let Some(batch) = answers.try_next().await? {
        for (name, answer) in batch {
            match answer {
                Ok(written) => met.written.push((name, written)),
                Err(error) => {
                    known.left.lock().unwrap().insert(name.clone());
                    met.refused.push((name, error.chain()));
                }
            }
        }
    }
    target.sync().await?;
    met.warnings = target.finish(plan).await?;
    let left = met.warnings.iter().filter(|warning| warning.left_out).filter_map(|warning| warning.name.clone());
    known.left.lock().unwrap().extend(left);
    Ok(met)
}
