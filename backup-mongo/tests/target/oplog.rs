//! Archives with an oplog: what it does to documents, and to collections that are made, dropped and changed in its time.

use crate::plan::{Archived, Met, Plan, restore};
use crate::support::{Server, assert_equal, documents, drop_databases, fresh};
use backup_core::adapter::{
    MismatchKind, PlanEntries, RestorePlan, RestoreTarget, SmallEntry, SourceFacts, VerifyReport, Wanted,
};
use backup_core::model::{Entry, EntryKind, EntryName};
use backup_core::{Error, ErrorClass, Result};
use backup_mongo::layout::{self, Item, group};
use backup_mongo::{MongoRestoreTarget, MongoSource, MongoSourceOptions, MongoTargetOptions, ReadConsistency};
use futures::StreamExt;
use futures::stream::BoxStream;
use mongodb::Client;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const ID_INDEX: &str = r#"{"v":2,"key":{"_id":1},"name":"_id_"}"#;

fn entry(op: &str, ns: &str, o: RawDocumentBuf, o2: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "ts": Timestamp { time: 1, increment: 1 }, "v": 2_i64, "op": op, "ns": ns, "o": o, "o2": o2 }
}

fn insert(collection: &str, document: RawDocumentBuf) -> RawDocumentBuf {
    entry("i", &format!("shop.{collection}"), document, rawdoc! {})
}

fn delete(collection: &str, id: i32) -> RawDocumentBuf {
    entry("d", &format!("shop.{collection}"), rawdoc! { "_id": id }, rawdoc! {})
}

fn command(database: &str, o: RawDocumentBuf) -> RawDocumentBuf {
    entry("c", &format!("{database}.$cmd"), o, rawdoc! {})
}

fn create(collection: &str) -> RawDocumentBuf {
    command("shop", rawdoc! { "create": collection, "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } })
}

/// A collection with its description and documents.
fn collection(archived: &mut Archived, name: &str, indexes: &str, documents: &[RawDocumentBuf]) {
    let json = format!(r#"{{"indexes":[{ID_INDEX}{indexes}],"collectionName":"{name}"}}"#);
    archived.push(layout::metadata_name("shop", name), EntryKind::File, Some(group("shop", name)), json);
    archived.slices("shop", name, &group("shop", name), documents, false);
}

/// Each part of the oplog is a slice.
fn log(archived: &mut Archived, parts: &[&[RawDocumentBuf]]) {
    for (number, part) in parts.iter().enumerate() {
        let bytes: Vec<u8> = part.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect();
        archived.push(layout::oplog_name(number as u64), EntryKind::Slice, None, bytes);
    }
    archived.facts.consistency =
        serde_json::json!({ "kind": "oplog", "start": { "t": 1, "i": 1 }, "end": { "t": 9, "i": 1 } });
}

struct Restored {
    client: Client,
    database: String,
    met: Met,
    report: VerifyReport,
}

impl Restored {
    async fn documents(&self, collection: &str) -> Vec<RawDocumentBuf> {
        let mut all = documents(&self.client, &self.database, collection).await;
        all.sort_by_key(|d| d.get_i32("_id").unwrap());
        all
    }

    async fn indexes(&self, collection: &str) -> Vec<String> {
        let collection = self.client.database(&self.database).collection::<Document>(collection);
        collection.list_index_names().await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let mut names = self.client.database(&self.database).list_collection_names().await.unwrap();
        names.sort();
        names
    }

    fn is_clean(&self) {
        assert!(self.met.refused.is_empty() && self.met.warnings.is_empty(), "{:?}", self.met);
        assert_eq!((self.report.mismatch_count, self.report.metadata_count), (0, 0), "{:?}", self.report.mismatches);
    }

    async fn done(self) {
        drop_databases(&self.client, &[&self.database]).await;
    }
}

async fn target(database: &str) -> MongoRestoreTarget {
    MongoRestoreTarget::new(Server::ReplicaSet.cluster_of(database).await, MongoTargetOptions::default()).unwrap()
}

async fn restored(archived: &Archived) -> Restored {
    let (client, database) = (Server::ReplicaSet.client().await, fresh("oplog"));
    let (plan, known) = archived.plan();
    let target = target(&database).await;
    let met = restore(&target, archived, &plan, &known).await.unwrap();
    let report = target.verify(&plan).await.unwrap();
    Restored { client, database, met, report }
}

/// A plan that selects one collection of those that are made, and whose oplog cannot be read on once.
#[derive(Debug)]
struct Odd {
    plan: Arc<Plan>,
    selected: Option<&'static str>,
    /// The time at which the oplog is read only as far as its first slice; from 1.
    breaks_at: u32,
    reads: AtomicU32,
}

impl PlanEntries for Odd {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        self.plan.entries()
    }

    fn contents(&self, wanted: Wanted) -> BoxStream<'static, Result<SmallEntry>> {
        let contents = self.plan.contents(wanted.clone());
        let is_oplog = |small: &SmallEntry| matches!(Item::parse(&small.entry.name), Some(Item::Oplog { .. }));
        let oplog = self.plan.archived.entries.iter().any(|small| is_oplog(small) && wanted(&small.entry));
        if oplog && self.reads.fetch_add(1, Ordering::Relaxed) + 1 == self.breaks_at {
            let broken = futures::stream::once(async { Err(Error::transient("the connection is gone")) });
            return contents.take(1).chain(broken).boxed();
        }
        contents
    }

    fn selects(&self, name: &EntryName) -> bool {
        self.selected.is_none_or(|selected| *name == layout::metadata_name("shop", selected))
    }

    fn facts(&self) -> SourceFacts {
        self.plan.facts()
    }

    fn known_to_differ(&self, name: &EntryName) -> Option<MismatchKind> {
        self.plan.known_to_differ(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_was_inserted_again_while_it_was_read_may_be_in_the_slices_twice() {
    let mut archived = Archived::default();
    let all = [(1, 0), (2, 0), (3, 0), (1, 5), (2, 0)].map(|(id, v)| rawdoc! { "_id": id, "v": v });
    collection(&mut archived, "c", "", &all);
    let again = |id, v| [delete("c", id), insert("c", rawdoc! { "_id": id, "v": v })];
    log(&mut archived, &[&again(1, 5), &again(2, 0), &again(9, 9)]);
    let run = restored(&archived).await;
    run.is_clean();
    let expected = [(1, 5), (2, 0), (3, 0), (9, 9)].map(|(id, v)| rawdoc! { "_id": id, "v": v });
    assert_eq!(run.documents("c").await, expected);
    run.done().await;

    // Whatever else differs before the oplog is applied is damage.
    let change = doc! { "$set": { "v": 7 } };
    for damage in 0..4 {
        let (client, database) = (Server::ReplicaSet.client().await, fresh("oplog"));
        let (plan, _) = archived.plan();
        let target = target(&database).await;
        target.prepare(&plan).await.unwrap();
        for answer in target.write_small(&plan, archived.entries.clone()).await.unwrap() {
            answer.unwrap();
        }
        let c = client.database(&database).collection::<Document>("c");
        match damage {
            0 => drop(c.delete_one(doc! { "_id": 1 }).await.unwrap()),
            1 => drop(c.delete_one(doc! { "_id": 3 }).await.unwrap()),
            2 => drop(c.insert_one(doc! { "_id": 4 }).await.unwrap()),
            _ => drop(c.update_one(doc! { "_id": 3 }, change.clone()).await.unwrap()),
        }
        let error = target.finish(&plan).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt, "{damage}: {error:?}");
        drop_databases(&client, &[&database]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_met_a_document_twice_is_restored() {
    let server = Server::ReplicaSet;
    let client = server.client().await;
    let (from, to) = (fresh("from"), fresh("to"));
    let c = client.database(&from).collection::<Document>("c");
    let pad = "p".repeat(4000);
    c.insert_many((0..2500).map(|n| doc! { "_id": n, "v": 0, "pad": &pad })).await.unwrap();
    let options = MongoSourceOptions { consistency: ReadConsistency::Oplog, ..Default::default() };
    let source = MongoSource::new(server.cluster_of(&from).await, options);
    let archived = Archived::of_source(source, async |name| {
        if name.to_string().ends_with("/c/000000.bson") {
            for (id, v) in [(0, 1), (1, 0)] {
                c.delete_one(doc! { "_id": id }).await.unwrap();
                c.insert_one(doc! { "_id": id, "v": v, "pad": &pad }).await.unwrap();
            }
        }
    })
    .await;
    let told = &archived.facts.group_digests[&group(&from, "c")];
    assert!(told.starts_with("documents=2502 "), "{told}");
    let (plan, known) = archived.plan();
    let target = target(&to).await;
    let met = restore(&target, &archived, &plan, &known).await.unwrap();
    assert!(met.refused.is_empty() && met.warnings.is_empty(), "{met:?}");
    assert_equal((&client, &from), (&client, &to)).await;
    drop_databases(&client, &[&from, &to]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_of_two_collections_in_one_group_are_damage() {
    let mut archived = Archived::default();
    collection(&mut archived, "c", "", &[rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }]);
    let told = archived.facts.group_digests.clone();
    archived.slices("shop", "c", &group("shop", "c"), &[rawdoc! { "_id": 3 }], false);
    archived.facts.group_digests = told;
    let run = restored(&archived).await;
    assert!(run.report.mismatch_count > 0, "{:?}", run.report);
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_that_were_made_while_the_backup_ran_have_their_indexes() {
    let mut archived = Archived::default();
    collection(&mut archived, "again", r#",{"v":2,"key":{"old":1},"name":"old_1"}"#, &[rawdoc! { "_id": 1 }]);
    let index = |collection: &str, name: &str| {
        let o = doc! { "createIndexes": collection, "v": 2, "key": { name: 1 }, "name": name };
        command("shop", RawDocumentBuf::try_from(&o).unwrap())
    };
    let expires =
        rawdoc! { "createIndexes": "late", "v": 2, "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 1 };
    let built = rawdoc! { "commitIndexBuild": "late", "indexes": [{ "v": 2, "key": { "b": 1 }, "name": "b" }] };
    let after = DateTime::from_millis(4_000_000_000_000);
    log(
        &mut archived,
        &[&[
            create("late"),
            index("late", "a"),
            insert("late", rawdoc! { "_id": 1, "at": after }),
            command("shop", expires),
            command("shop", built),
            command("shop", rawdoc! { "drop": "again" }),
            create("again"),
            index("again", "new"),
            insert("again", rawdoc! { "_id": 2 }),
            create("gone"),
            index("gone", "a"),
            command("shop", rawdoc! { "drop": "gone" }),
        ]],
    );
    let run = restored(&archived).await;
    run.is_clean();
    assert_eq!(run.names().await, ["again", "late"]);
    assert_eq!(run.indexes("late").await, ["_id_", "a", "b", "ttl"]);
    assert_eq!(run.indexes("again").await, ["_id_", "new"]);
    assert_eq!(run.documents("again").await, [rawdoc! { "_id": 2 }]);
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_oplog_may_be_interrupted_and_repeated() {
    let mut archived = Archived::default();
    collection(&mut archived, "c", "", &[rawdoc! { "_id": 1 }]);
    collection(&mut archived, "dropped", "", &[rawdoc! { "_id": 1 }]);
    let index = rawdoc! { "createIndexes": "late", "v": 2, "key": { "a": 1 }, "name": "a" };
    let first = [
        create("late"),
        insert("late", rawdoc! { "_id": 1 }),
        insert("dropped", rawdoc! { "_id": 2 }),
        command("shop", rawdoc! { "drop": "dropped" }),
    ];
    log(&mut archived, &[&first, &[insert("late", rawdoc! { "_id": 2 }), command("shop", index), delete("c", 1)]]);
    for same_process in [true, false] {
        let (client, database) = (Server::ReplicaSet.client().await, fresh("oplog"));
        let (plan, known) = archived.plan();
        // First it is looked through, then it is applied.
        let odd = Odd { plan: known.clone(), selected: None, breaks_at: 2, reads: AtomicU32::new(0) };
        let plan = RestorePlan { entries: Arc::new(odd), ..plan };
        let mut to = target(&database).await;
        let error = restore(&to, &archived, &plan, &known).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
        if !same_process {
            to = target(&database).await;
        }
        let warnings = to.finish(&plan).await.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let report = to.verify(&plan).await.unwrap();
        assert_eq!((report.mismatch_count, report.metadata_count), (0, 0), "{:?}", report.mismatches);
        let run = Restored { client, database, met: Met::default(), report };
        assert_eq!(run.names().await, ["c", "late"]);
        assert_eq!(run.documents("late").await, [rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }]);
        assert_eq!(run.indexes("late").await, ["_id_", "a"]);
        assert!(run.documents("c").await.is_empty());
        run.done().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_series_that_was_dropped_while_the_backup_ran_is_gone() {
    let (client, from) = (Server::ReplicaSet.client().await, fresh("from"));
    let source = client.database(&from);
    source.run_command(doc! { "create": "weather", "timeseries": { "timeField": "t" } }).await.unwrap();
    source.collection("weather").insert_one(doc! { "t": DateTime::from_millis(1000), "v": 1 }).await.unwrap();
    source.collection("c").insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut archived = Archived::read(&client, &[&from]).await;
    let views = entry("d", &format!("{from}.system.views"), rawdoc! { "_id": format!("{from}.weather") }, rawdoc! {});
    log(&mut archived, &[&[command(&from, rawdoc! { "drop": "system.buckets.weather" }), views]]);
    let run = restored(&archived).await;
    run.is_clean();
    assert!(!run.names().await.iter().any(|name| name.contains("weather")), "{:?}", run.names().await);
    drop_databases(&client, &[&from]).await;
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_oplog_cannot_bring_to_its_end_is_said() {
    let mut archived = Archived::default();
    collection(&mut archived, "c", "", &[rawdoc! { "_id": 1 }]);
    let view = |op: &str, name: &str, on: &str| {
        entry(
            op,
            "shop.system.views",
            rawdoc! { "_id": format!("shop.{name}"), "viewOn": on, "pipeline": [] },
            rawdoc! {},
        )
    };
    log(
        &mut archived,
        &[&[
            view("i", "paid", "c"),
            view("d", "paid", "c"),
            command("shop", rawdoc! { "create": "system.buckets.weather", "timeseries": { "timeField": "t" } }),
            view("i", "weather", "system.buckets.weather"),
            insert("system.buckets.weather", rawdoc! { "_id": 1 }),
            command("elsewhere", rawdoc! { "create": "new" }),
            command("config", rawdoc! { "create": "x" }),
        ]],
    );
    let run = restored(&archived).await;
    let said: Vec<&str> = run.met.warnings.iter().map(|warning| &*warning.message).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains(".paid was made, changed or dropped"), "{said:?}");
    assert!(said[1].contains(".weather was made"), "{said:?}");
    assert!(said[2].contains("elsewhere.new was made"), "{said:?}");
    assert_eq!(run.names().await, ["c"]);
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_a_part_does_not_make_what_was_not_chosen() {
    let mut archived = Archived::default();
    collection(&mut archived, "c", "", &[rawdoc! { "_id": 1 }]);
    let made = ["chosen", "other"].map(|name| [create(name), insert(name, rawdoc! { "_id": 1 })]);
    log(&mut archived, &[&made.concat(), &[command("elsewhere", rawdoc! { "create": "new" })]]);
    let (client, database) = (Server::ReplicaSet.client().await, fresh("oplog"));
    let (plan, known) = archived.plan();
    let odd = Odd { plan: known.clone(), selected: Some("chosen"), breaks_at: 0, reads: AtomicU32::new(0) };
    let plan = RestorePlan { entries: Arc::new(odd), ..plan };
    let target = target(&database).await;
    let met = restore(&target, &archived, &plan, &known).await.unwrap();
    let report = target.verify(&plan).await.unwrap();
    let run = Restored { client, database, met, report };
    run.is_clean();
    assert_eq!(run.names().await, ["c", "chosen"]);
    run.done().await;
}
