//! What goes wrong is said, and nothing else suffers from it.

use crate::plan::{Archived, Met, restore};
use crate::support::{Server, dataset, drop_databases, fresh};
use backup_core::ErrorClass;
use backup_core::adapter::RestoreTarget;
use backup_core::model::{EntryKind, GroupName};
use backup_mongo::layout::{self, group};
use backup_mongo::{MongoCluster, MongoConfig, MongoRestoreTarget, MongoTargetOptions};
use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};

const ID_INDEX: &str = r#"{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}"#;

fn described(archived: &mut Archived, collection: &str, json: &str) {
    let name = layout::metadata_name("shop", collection);
    archived.push(name, EntryKind::File, Some(group("shop", collection)), json.to_owned());
}

fn collection(archived: &mut Archived, name: &str, options: &str, indexes: &str, documents: &[RawDocumentBuf]) {
    described(
        archived,
        name,
        &format!(r#"{{"options":{options},"indexes":[{ID_INDEX}{indexes}],"collectionName":"{name}"}}"#),
    );
    archived.slices("shop", name, &group("shop", name), documents, false);
}

struct Run {
    client: Client,
    database: String,
    target: MongoRestoreTarget,
    met: Met,
    report: backup_core::adapter::VerifyReport,
}

async fn run(archived: &Archived) -> Run {
    let server = Server::ReplicaSet;
    let (client, database) = (server.client().await, fresh("bad"));
    let target = MongoRestoreTarget::new(server.cluster_of(&database).await, MongoTargetOptions::default()).unwrap();
    let (plan, known) = archived.plan();
    let met = restore(&target, archived, &plan, &known).await.unwrap();
    let report = target.verify(&plan).await.unwrap();
    Run { client, database, target, met, report }
}

impl Run {
    async fn count(&self, collection: &str) -> u64 {
        let collection = self.client.database(&self.database).collection::<Document>(collection);
        collection.count_documents(doc! {}).await.unwrap()
    }

    async fn done(self) {
        assert!(!self.target.is_empty().await.unwrap());
        drop_databases(&self.client, &[&self.database]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_that_the_data_breaks_is_a_warning_and_all_documents_and_other_indexes_are_there() {
    let mut archived = Archived::default();
    let documents: Vec<_> = (0..10).map(|n| rawdoc! { "_id": n, "a": n / 2, "b": n }).collect();
    let indexes = r#",{"v":2,"key":{"a":1},"name":"a_u","unique":true},{"v":2,"key":{"b":1},"name":"b_1"}"#;
    collection(&mut archived, "c", "{}", indexes, &documents);
    let run = run(&archived).await;
    assert_eq!(run.count("c").await, 10);
    assert_eq!(run.met.warnings.len(), 1, "{:?}", run.met);
    let warning = &run.met.warnings[0];
    assert!(warning.message.contains("a_u") && !warning.left_out, "{warning:?}");
    let names = run.client.database(&run.database).collection::<Document>("c").list_index_names().await.unwrap();
    assert_eq!(names, ["_id_", "b_1"]);
    assert_eq!((run.report.mismatch_count, run.report.metadata_count), (0, 1), "{:?}", run.report);
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_a_validator_rejects_are_restored_as_they_were() {
    let mut archived = Archived::default();
    let options = r#"{"validator":{"email":{"$exists":true}},"validationLevel":"strict","validationAction":"error"}"#;
    collection(&mut archived, "c", options, "", &[rawdoc! { "_id": 1 }, rawdoc! { "_id": 2, "email": "x" }]);
    let run = run(&archived).await;
    assert_eq!(run.count("c").await, 2);
    assert!(run.met.refused.is_empty() && run.met.warnings.is_empty(), "{:?}", run.met);
    assert_eq!((run.report.mismatch_count, run.report.metadata_count), (0, 0), "{:?}", run.report);
    // It is in force afterwards.
    let collection = run.client.database(&run.database).collection::<Document>("c");
    assert!(collection.insert_one(doc! { "_id": 3 }).await.is_err());
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_know_is_left_out_with_a_warning_and_the_rest_is_restored() {
    let mut archived = Archived::default();
    let one = [rawdoc! { "_id": 1 }];
    // As a newer server might have written it.
    collection(&mut archived, "newer", r#"{"optionOfTheFuture":{"$numberInt":"1"}}"#, "", &one);
    collection(
        &mut archived,
        "indexed",
        "{}",
        r#",{"v":2,"key":{"a":1},"name":"f","indexOptionOfTheFuture":true}"#,
        &one,
    );
    described(&mut archived, "damaged", "{nonsense");
    archived.slices("shop", "damaged", &group("shop", "damaged"), &one, false);
    collection(&mut archived, "fine", "{}", "", &one);
    let run = run(&archived).await;
    assert_eq!((run.count("fine").await, run.count("indexed").await), (1, 1));
    let refused: Vec<String> = run.met.refused.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(refused.iter().filter(|name| name.starts_with("shop/newer/")).count(), 2, "{:?}", run.met);
    assert_eq!(refused.iter().filter(|name| name.starts_with("shop/damaged/")).count(), 2, "{:?}", run.met);
    assert_eq!(refused.len(), 4);
    assert!(run.met.refused[0].1.contains("optionOfTheFuture"), "{:?}", run.met.refused);
    assert!(!run.met.refused[0].1.contains("RawDocumentBuf"), "{:?}", run.met.refused);
    assert_eq!(run.met.warnings.len(), 1, "{:?}", run.met.warnings);
    assert_eq!((run.report.mismatch_count, run.report.known_count), (0, 4), "{:?}", run.report);
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_elsewhere_or_belong_to_the_server_are_refused() {
    let mut archived = Archived::default();
    let content = rawdoc! { "_id": 1 }.into_bytes();
    for name in [
        "../x/000000.bson",
        "a b/c/000000.bson",
        "$x/c/000000.bson",
        "local/oplog.rs/000000.bson",
        "config/shards/000000.bson",
        "admin/system.users/000000.bson",
        "shop/system.views/000000.bson",
        "shop/a%24b/000000.bson",
        "shop/%00/000000.bson",
        "shop/backup-tmp-x/000000.bson",
        "shop/%2E/000000.bson",
        "shop/%FF/000000.bson",
        "a/b/c/d",
        "file.txt",
        "shop/c/metadata.jso",
    ] {
        archived.push(name.into(), EntryKind::Slice, None, content.clone());
    }
    // A group that says another thing than the name.
    archived.push(
        "shop/good/000001.bson".into(),
        EntryKind::Slice,
        Some(GroupName("admin.system.users".into())),
        content.clone(),
    );
    archived.push(
        "shop/good/000000.bson".into(),
        EntryKind::Slice,
        Some(group("shop", "good")),
        rawdoc! { "_id": 2 }.into_bytes(),
    );
    let server = Server::Standalone;
    let client = server.client().await;
    let before = client.list_database_names().await.unwrap();
    let options = MongoTargetOptions { rename: [("shop".to_string(), fresh("renamed"))].into(), ..Default::default() };
    let to = options.rename["shop"].clone();
    let target = MongoRestoreTarget::new(server.cluster().await, options).unwrap();
    let (plan, known) = archived.plan();
    let met = restore(&target, &archived, &plan, &known).await.unwrap();
    assert_eq!(met.refused.len(), 15, "{:?}", met.written);
    assert_eq!(client.database(&to).list_collection_names().await.unwrap(), ["good"]);
    assert_eq!(client.database(&to).collection::<Document>("good").count_documents(doc! {}).await.unwrap(), 2);
    let mut after = client.list_database_names().await.unwrap();
    after.retain(|name| !before.contains(name) && *name != to && !name.contains('-'));
    assert!(after.is_empty(), "{after:?}");
    let report = target.verify(&plan).await.unwrap();
    assert_eq!((report.mismatch_count, report.known_count), (0, 15), "{report:?}");
    drop_databases(&client, &[&to]).await;

    let mut files = Archived::default();
    files.push("docs/a.txt".into(), EntryKind::File, None, "text");
    let error = target.prepare(&files.plan().0).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_restored_as_they_are_also_odd_ones() {
    let mut archived = Archived::default();
    let mut long = vec![0; 16 << 20];
    // A document of exactly 16 MiB: {_id: 1, b: binary}.
    let head = [
        &(16_777_216_i32).to_le_bytes()[..],
        b"\x10_id\0\x01\0\0\0\x05b\0",
        &(16_777_216_i32 - 4 - 9 - 3 - 5 - 1).to_le_bytes(),
        b"\0",
    ]
    .concat();
    long[..head.len()].copy_from_slice(&head);
    let long = RawDocumentBuf::from_bytes(long).unwrap();
    // Text that is not UTF-8, and a key twice.
    let mut odd = rawdoc! { "_id": 2, "text": "abcd", "k": 1, "k2": 2 }.into_bytes();
    let at = odd.windows(4).position(|w| w == b"abcd").unwrap();
    odd[at] = 0xff;
    let at = odd.windows(3).position(|w| w == b"\x10k2").unwrap();
    odd.remove(at + 2);
    odd[0] -= 1;
    let odd = RawDocumentBuf::from_bytes(odd).unwrap();
    collection(&mut archived, "c", "{}", "", &[long, odd]);
    let run = run(&archived).await;
    assert!(run.met.refused.is_empty() && run.met.warnings.is_empty(), "{:?}", run.met);
    assert_eq!((run.report.mismatch_count, run.report.metadata_count), (0, 0), "{:?}", run.report);
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_at_the_target_is_found_and_named() {
    let mut archived = Archived::default();
    let documents: Vec<_> = (0..3000).map(|n| rawdoc! { "_id": n, "pad": "x".repeat(100) }).collect();
    collection(&mut archived, "c", "{}", "", &documents);
    described(&mut archived, "log", r#"{"options":{"capped":true,"size":1000000},"indexes":[]}"#);
    let log: Vec<_> = (0..10).map(|n| rawdoc! { "_id": -n }).collect();
    archived.slices("shop", "log", &group("shop", "log"), &log, true);
    let run = run(&archived).await;
    assert_eq!(run.report.mismatch_count, 0, "{:?}", run.report);
    let (plan, _) = archived.plan();
    let database = run.client.database(&run.database);
    let c = database.collection::<Document>("c");
    c.update_one(doc! { "_id": 5 }, doc! { "$set": { "pad": "y" } }).await.unwrap();
    c.delete_one(doc! { "_id": 2999 }).await.unwrap();
    c.insert_one(doc! { "_id": "more" }).await.unwrap();
    // The same documents in another order.
    database.collection::<Document>("log").drop().await.unwrap();
    database.run_command(doc! { "create": "log", "capped": true, "size": 1_000_000 }).await.unwrap();
    database.collection::<Document>("log").insert_many((0..10).rev().map(|n| doc! { "_id": -n })).await.unwrap();
    let report = run.target.verify(&plan).await.unwrap();
    let found: Vec<String> = report.mismatches.iter().map(|m| format!("{}: {}", m.name, m.message)).collect();
    for part in [
        "shop/c/000000.bson: of its",
        "\"5\"}} is another document",
        "2999",
        "1 documents that the archive does not have",
        "another order",
    ] {
        assert!(found.iter().any(|text| text.contains(part)), "{part}: {found:?}");
    }
    run.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_are_enough_and_a_missing_one_is_named() {
    let server = Server::ReplicaSet;
    let plain = server.client().await;
    let (from, to, second) = (fresh("from"), fresh("to"), fresh("to"));
    dataset::fill(&plain, &from, 60).await;
    // Timestamps of zero need the right to update, which the role restore does not have.
    plain.database(&from).collection::<Document>("zero_ts").drop().await.unwrap();
    let archived = Archived::read(&plain, &[&from]).await;
    let (plan, known) = archived.plan();
    let root = server.client().await;
    let user = |name: &str, roles: Vec<mongodb::bson::Bson>| doc! { "createUser": name, "pwd": "p", "roles": roles };
    let admin = root.database("admin");
    let (can, cannot) = (fresh("can"), fresh("cannot"));
    admin.run_command(user(&can, vec!["restore".into(), "backup".into()])).await.unwrap();
    admin.run_command(user(&cannot, vec!["readAnyDatabase".into()])).await.unwrap();
    let target = async |name: &str, to: &str| {
        let mut config = MongoConfig::new(server.uri_as(Some((name, "p"))));
        config.databases = vec![to.to_owned()];
        let cluster = MongoCluster::connect(config).await.unwrap();
        MongoRestoreTarget::new(cluster, MongoTargetOptions::default()).unwrap()
    };
    let denied = target(&cannot, &to).await;
    denied.check().await.unwrap();
    let error = restore(&denied, &archived, &plan, &known).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized, "{error:?}");
    assert!(error.chain().contains("not authorized"), "{}", error.chain());
    let allowed = target(&can, &to).await;
    let met = restore(&allowed, &archived, &plan, &known).await.unwrap();
    assert!(met.refused.is_empty() && met.warnings.is_empty(), "{met:?}");
    let report = allowed.verify(&plan).await.unwrap();
    assert_eq!((report.mismatch_count, report.metadata_count), (0, 0), "{:?}", report.mismatches);
    crate::support::assert_equal((&plain, &from), (&root, &to)).await;

    // To restore, and to verify all but time-series, the role `read` does for that.
    let least = fresh("least");
    let roles = vec!["restore".into(), doc! { "role": "read", "db": &second }.into()];
    admin.run_command(user(&least, roles)).await.unwrap();
    let allowed = target(&least, &second).await;
    let met = restore(&allowed, &archived, &plan, &known).await.unwrap();
    assert!(met.refused.is_empty() && met.warnings.is_empty(), "{met:?}");
    crate::support::assert_equal((&plain, &from), (&root, &second)).await;
    assert_eq!(allowed.verify(&plan).await.unwrap_err().class(), ErrorClass::Unauthorized);
    plain.database(&from).collection::<Document>("weather").drop().await.unwrap();
    let archived = Archived::read(&plain, &[&from]).await;
    let report = target(&least, &second).await.verify(&archived.plan().0).await.unwrap();
    assert_eq!((report.mismatch_count, report.metadata_count), (0, 0), "{:?}", report.mismatches);
    for name in [&can, &cannot, &least] {
        admin.run_command(doc! { "dropUser": name }).await.unwrap();
    }
    drop_databases(&plain, &[&from, &to, &second]).await;
}
