//! What the tests share: places on servers, and runs through them.

use backup_core::Result;
use backup_core::adapter::{Content, Cursor, ReadContext, Source, SourceEvent, SourceFacts};
use backup_core::budget::ByteBudget;
use backup_core::limit::RateLimit;
use backup_core::model::{EntryKind, EntryName, GroupName};
use backup_mongo::layout::{Consistency, Item};
use backup_mongo::{MongoCluster, MongoConfig, MongoSource, MongoSourceOptions, Tally};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::{Client, Database};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The value of a variable that `scripts/test-servers` sets.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests with scripts/test-servers (docs/TESTING.md)"))
}

pub(crate) fn replica_set() -> String {
    variable("BACKUP_TEST_MONGODB")
}

pub(crate) fn standalone() -> String {
    variable("BACKUP_TEST_MONGODB_STANDALONE")
}

/// A database of its own on a server.
pub(crate) struct Place {
    pub(crate) uri: String,
    pub(crate) client: Client,
    pub(crate) name: String,
}

impl Place {
    pub(crate) async fn new(uri: &str) -> Self {
        let client = Client::with_uri_str(uri).await.unwrap();
        let name = format!("backup_test_{:016x}_ü%", Self::random());
        Self { uri: uri.into(), client, name }
    }

    fn random() -> u64 {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(std::process::id())
    }

    pub(crate) fn database(&self) -> Database {
        self.client.database(&self.name)
    }

    pub(crate) fn config(&self) -> MongoConfig {
        let mut config = MongoConfig::new(self.uri.clone());
        config.databases = vec![self.name.clone()];
        config
    }

    /// The place as another process sees it.
    pub(crate) async fn source(&self, options: MongoSourceOptions) -> Arc<MongoSource> {
        source(self.config(), options).await
    }

    /// Everything that is there now: what it is sorted, but for capped collections.
    pub(crate) async fn contents(&self) -> BTreeMap<String, Vec<Bytes>> {
        let database = self.database();
        let mut all = BTreeMap::new();
        let listed: Vec<_> = database.list_collections().await.unwrap().try_collect().await.unwrap();
        for collection in listed {
            let name = collection.name.clone();
            let series = name.strip_prefix("system.buckets.");
            let is_plain = serde_json::to_string(&collection.collection_type).unwrap() == "\"collection\"";
            if !is_plain || (name.starts_with("system.") && series.is_none()) {
                continue;
            }
            let raw = database.collection::<RawDocumentBuf>(&name);
            let documents = raw.find(doc! {}).hint(mongodb::options::Hint::Keys(doc! { "$natural": 1 }));
            let documents: Vec<RawDocumentBuf> = documents.await.unwrap().try_collect().await.unwrap();
            let mut documents: Vec<Bytes> = documents.into_iter().map(|d| d.into_bytes().into()).collect();
            if !collection.options.capped.unwrap_or(false) {
                documents.sort_unstable();
            }
            all.insert(series.unwrap_or(&name).to_owned(), documents);
        }
        all
    }

    pub(crate) async fn drop(self) {
        self.database().drop().await.unwrap();
    }
}

pub(crate) async fn source(config: MongoConfig, options: MongoSourceOptions) -> Arc<MongoSource> {
    Arc::new(MongoSource::new(MongoCluster::connect(config).await.unwrap(), options))
}

pub(crate) fn context() -> ReadContext {
    with_budget(21 << 20)
}

pub(crate) fn with_budget(bytes: u64) -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(bytes),
        limit: RateLimit::default(),
        stop: CancellationToken::new(),
        excluded: Arc::new([]),
    }
}

/// An entry as it was delivered.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: EntryName,
    pub(crate) kind: EntryKind,
    pub(crate) group: Option<GroupName>,
    pub(crate) bytes: Bytes,
    pub(crate) cursor: Cursor,
}

/// What one run, or several that went on from each other, have delivered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) entries: Vec<Seen>,
    pub(crate) warnings: Vec<String>,
    pub(crate) facts: SourceFacts,
    pub(crate) superseded: Vec<GroupName>,
}

impl Run {
    pub(crate) async fn whole(source: &Arc<MongoSource>) -> Self {
        let mut run = Self::default();
        run.go_on(source, &context(), usize::MAX).await.unwrap();
        run
    }

    /// Goes on behind the last entry, and drops the stream after so many entries; `false` when it came to its end.
    pub(crate) async fn go_on(&mut self, source: &Arc<MongoSource>, ctx: &ReadContext, entries: usize) -> Result<bool> {
        self.go_on_and(source, ctx, entries, async |_| false).await
    }

    /// The same, and something happens behind each entry, before the stream is asked for more; it may also break off there.
    pub(crate) async fn go_on_and(
        &mut self,
        source: &Arc<MongoSource>,
        ctx: &ReadContext,
        entries: usize,
        happens: impl AsyncFn(&Seen) -> bool,
    ) -> Result<bool> {
        let after = self.entries.last().map(|seen| seen.cursor.clone());
        let mut events = source.clone().events(after, ctx.clone());
        let mut left = entries;
        // As the engine does: a superseded group is void from the next entry on.
        let mut void = Vec::new();
        while let Some(event) = events.next().await.transpose()? {
            match event {
                SourceEvent::Entry(entry) => {
                    self.settle(&mut void);
                    let Content::Inline { bytes, .. } = entry.content else { panic!("{} is not inline", entry.name) };
                    let (name, kind, group, cursor) = (entry.name, entry.kind, entry.group, entry.cursor);
                    let seen = Seen { name, kind, group, bytes, cursor };
                    let breaks_off = happens(&seen).await;
                    self.entries.push(seen);
                    left -= 1;
                    if left == 0 || breaks_off {
                        return Ok(true);
                    }
                }
                SourceEvent::Supersede { group } => void.push(group),
                SourceEvent::Warning(warning) => {
                    let name = warning.name.map(|name| format!("{name}: ")).unwrap_or_default();
                    self.warnings.push(format!("{name}{}", warning.message));
                }
                SourceEvent::Facts(facts) => {
                    if !facts.consistency.is_null() {
                        self.facts.consistency = facts.consistency;
                    }
                    self.facts.group_digests.extend(facts.group_digests);
                }
            }
        }
        self.settle(&mut void);
        Ok(false)
    }

    fn settle(&mut self, void: &mut Vec<GroupName>) {
        for group in void.drain(..) {
            // Its cursor is still where the next run goes on, if it was the last.
            let last = self.entries.last().map(|seen| seen.cursor.clone());
            self.entries.retain(|seen| seen.group.as_ref() != Some(&group));
            if let (Some(entry), Some(cursor)) = (self.entries.last_mut(), last) {
                entry.cursor = cursor;
            }
            self.facts.group_digests.remove(&group);
            self.superseded.push(group);
        }
    }

    pub(crate) fn consistency(&self) -> Consistency {
        serde_json::from_value(self.facts.consistency.clone()).unwrap()
    }

    /// The documents of each collection, in the order of delivery, by the collection's name; and each digest compared.
    pub(crate) fn collections(&self) -> BTreeMap<String, Vec<Bytes>> {
        let mut found: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
        let mut numbers: BTreeMap<&GroupName, u64> = BTreeMap::new();
        let mut tallies: BTreeMap<&GroupName, Tally> = BTreeMap::new();
        for seen in &self.entries {
            let Some(group) = &seen.group else { continue };
            let Some((_, collection)) = backup_mongo::layout::split_group(group) else { continue };
            match Item::parse(&seen.name).unwrap() {
                Item::Metadata { .. } => {
                    let metadata: serde_json::Value = serde_json::from_slice(&seen.bytes).unwrap();
                    assert_eq!(metadata["collectionName"], collection);
                    assert!(!numbers.contains_key(group), "{} comes behind its slices", seen.name);
                    if metadata["type"] != "view" {
                        let capped = metadata["options"]["capped"] == true;
                        assert!(tallies.insert(group, Tally::new(capped)).is_none(), "{} comes twice", seen.name);
                        found.insert(collection.into(), Vec::new());
                    }
                }
                Item::Slice { number, .. } => {
                    assert_eq!(seen.kind, EntryKind::Slice);
                    let next = numbers.entry(group).or_default();
                    assert_eq!(number, *next, "{} is not the next one", seen.name);
                    *next += 1;
                    for document in documents(&seen.bytes) {
                        tallies.get_mut(group).unwrap().add(&document);
                        found.get_mut(collection).unwrap().push(document);
                    }
                }
                other => panic!("{other:?} in {group}"),
            }
        }
        for (group, tally) in tallies {
            let told = self.facts.group_digests.get(group).unwrap_or_else(|| panic!("no digest of {group}"));
            assert_eq!(*told, tally.digest().to_string(), "{group}");
        }
        found
    }

    /// Compares the collections with what is at a place.
    pub(crate) async fn compare(&self, place: &Place) {
        let there = place.contents().await;
        let mut found = self.collections();
        let capped: Vec<String> = self.capped();
        for (name, documents) in &mut found {
            if !capped.contains(name) {
                documents.sort_unstable();
            }
        }
        let names: Vec<_> = found.keys().collect();
        assert_eq!(names, there.keys().collect::<Vec<_>>());
        for (name, documents) in &found {
            assert_eq!(documents.len(), there[name].len(), "{name}");
            assert!(*documents == there[name], "{name} has other documents");
        }
    }

    fn capped(&self) -> Vec<String> {
        let metadata = self.entries.iter().filter(|seen| seen.name.to_string().ends_with("/metadata.json"));
        let metadata = metadata.map(|seen| serde_json::from_slice::<serde_json::Value>(&seen.bytes).unwrap());
        metadata
            .filter(|m| m["options"]["capped"] == true)
            .map(|m| m["collectionName"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Documents that stand one behind the other.
pub(crate) fn documents(bytes: &Bytes) -> Vec<Bytes> {
    let (mut all, mut rest) = (Vec::new(), bytes.clone());
    while !rest.is_empty() {
        let length = i32::from_le_bytes(*rest.first_chunk().unwrap()) as usize;
        all.push(rest.split_to(length));
    }
    all
}
