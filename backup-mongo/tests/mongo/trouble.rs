//! What goes wrong while a deployment is read, and data that is hard to read.

use crate::data::fill;
use crate::server::{ReplicaSet, config, standalone};
use crate::support::{Place, Run, context, documents, replica_set, source, with_budget};
use backup_core::adapter::{ReadContext, Source};
use backup_core::limit::RateLimit;
use backup_core::{ErrorClass, Result};
use backup_mongo::layout::Consistency;
use backup_mongo::{MongoConfig, MongoSource, MongoSourceOptions, ReadConsistency, ReadOrder};
use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

async fn fill_plain(client: &Client, database: &str) {
    for name in ["one", "two"] {
        let collection = client.database(database).collection::<Document>(name);
        for chunk in 0..8 {
            let new = (chunk * 500..(chunk + 1) * 500).map(|n| doc! { "_id": n, "pad": "p".repeat(4000) });
            collection.insert_many(new).await.unwrap();
        }
    }
}

fn slow(rate: u64) -> ReadContext {
    ReadContext { limit: RateLimit::new(NonZeroU64::new(rate)), ..context() }
}

/// Goes on until the end, again and again after errors that may pass, as the engine does.
async fn patiently(run: &mut Run, source: &Arc<MongoSource>) {
    for _ in 0..60 {
        match run.go_on(source, &context(), usize::MAX).await {
            Ok(_) => return,
            Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("it does not pass");
}

fn documents_in(run: &Run) -> Vec<usize> {
    run.collections().values().map(Vec::len).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_is_read_on() {
    // Written for good, since the server is killed soon after.
    let mut server = standalone();
    server.run(doc! { "hello": 1 }).await;
    let uri = format!("mongodb://{}/?serverSelectionTimeoutMS=2000&journal=true", server.host());
    fill_plain(&Client::with_uri_str(&uri).await.unwrap(), "shop").await;
    let source = source(config(&uri, "shop"), MongoSourceOptions::default()).await;
    let mut run = Run::default();
    assert!(run.go_on(&source, &context(), 4).await.unwrap());
    let delivered = run.entries.len();
    server.kill();
    let error = run.go_on(&source, &context(), usize::MAX).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    server.launch();
    patiently(&mut run, &source).await;
    assert_eq!(documents_in(&run), [4000, 4000]);
    // What it had written last may be lost, and other records may have got the numbers.
    assert!(!run.superseded.is_empty());
    assert!(run.entries.len() >= delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_inside_a_run_is_an_error_that_may_pass() {
    let mut set = ReplicaSet::start(1, &[]).await;
    let uri = set.uri();
    fill_plain(&Client::with_uri_str(&uri).await.unwrap(), "shop").await;
    let source = source(config(&uri, "shop"), MongoSourceOptions::default()).await;
    let mut run = Run::default();
    let ctx = slow(4 << 20);
    let reading = run.go_on(&source, &ctx, usize::MAX);
    let killing = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        set.members[0].kill();
    };
    let (error, ()) = tokio::join!(reading, killing);
    assert!(error.unwrap_err().is_retryable());
    assert!(!run.entries.is_empty());
    set.members[0].launch();
    patiently(&mut run, &source).await;
    assert_eq!(documents_in(&run), [4000, 4000]);
    // It has numbered its newest records anew.
    assert!(!run.superseded.is_empty());
    // Whether the snapshot outlives the server is the server's to say; nothing in between is right.
    assert!(!matches!(run.consistency(), Consistency::BestEffort { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_takes_over() {
    for order in [ReadOrder::Natural, ReadOrder::Id] {
        let mut set = ReplicaSet::start(3, &[]).await;
        let uri = set.uri();
        let client = Client::with_uri_str(&uri).await.unwrap();
        fill_plain(&client, "shop").await;
        // All of them have it.
        client
            .database("shop")
            .collection::<Document>("done")
            .insert_one(doc! {})
            .write_concern(majority_of(3))
            .await
            .unwrap();
        let source = source(config(&uri, "shop"), MongoSourceOptions { order, ..MongoSourceOptions::default() }).await;
        let mut run = Run::default();
        assert!(run.go_on(&source, &context(), 5).await.unwrap());
        set.members[0].kill();
        set.wait_for_primary().await;
        patiently(&mut run, &source).await;
        assert_eq!(documents_in(&run), [1, 4000, 4000]);
        // Numbers of records mean nothing on another member; identifiers do.
        assert_eq!(run.superseded.is_empty(), order == ReadOrder::Id, "{:?}", run.superseded);
        assert!(matches!(run.consistency(), Consistency::Snapshot { .. }), "{:?}", run.consistency());
    }
}

fn majority_of(members: u32) -> mongodb::options::WriteConcern {
    mongodb::options::WriteConcern::nodes(members)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_ends_while_a_cursor_is_open_goes_on_with_the_oplog() {
    let set = ReplicaSet::start(1, &[]).await;
    set.keep_for(1).await;
    let client = Client::with_uri_str(&set.uri()).await.unwrap();
    fill_plain(&client, "shop").await;
    let source = source(config(&set.uri(), "shop"), MongoSourceOptions::default()).await;
    let mut run = Run::default();
    let writing = async {
        // The server lets go of old versions when there are newer ones.
        for n in 0..60 {
            client
                .database("shop")
                .collection::<Document>("two")
                .insert_one(doc! { "_id": 100_000 + n })
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let ctx = slow(3 << 20);
    let (ended, ()) = tokio::join!(run.go_on(&source, &ctx, usize::MAX), writing);
    ended.unwrap();
    assert!(matches!(run.consistency(), Consistency::Oplog { .. }), "{:?}", run.consistency());
    assert!(run.superseded.is_empty(), "{:?}", run.superseded);
    assert_eq!(run.collections()["one"].len(), 4000);
    // Told before, and when it came.
    assert_eq!(run.warnings.len(), 2, "{:?}", run.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_that_were_killed_are_opened_again() {
    let server = standalone();
    let uri = format!("mongodb://{}/", server.host());
    fill_plain(&Client::with_uri_str(&uri).await.unwrap(), "shop").await;
    let source = source(config(&uri, "shop"), MongoSourceOptions::default()).await;
    let mut run = Run::default();
    let ctx = slow(4 << 20);
    let killing = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.run(doc! { "killAllSessions": [] }).await;
    };
    let (ended, ()) = tokio::join!(run.go_on(&source, &ctx, usize::MAX), killing);
    assert!(ended.unwrap_err().is_retryable());
    patiently(&mut run, &source).await;
    assert_eq!(documents_in(&run), [4000, 4000]);
    assert!(run.superseded.is_empty(), "{:?}", run.superseded);
}

/// A user with some roles on the replica set, and the place as that user sees it.
async fn as_user(place: &Place, roles: Vec<Document>) -> MongoConfig {
    let name = place.name.clone();
    let create = doc! { "createUser": &name, "pwd": "s3cret-pw", "roles": roles };
    place.client.database("admin").run_command(create).await.unwrap();
    let (_, hosts) = place.uri.split_once('@').unwrap();
    let mut config = MongoConfig::new(format!("mongodb://{hosts}"));
    config.databases = vec![place.name.clone()];
    config.username = Some(name);
    config.password = Some("s3cret-pw".to_string().into());
    config.auth_database = Some("admin".into());
    config
}

async fn forget_user(place: &Place) {
    place.client.database("admin").run_command(doc! { "dropUser": &place.name }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_backup_is_enough() {
    let place = Place::new(&replica_set()).await;
    fill(&place.database(), 300).await;
    let config = as_user(&place, vec![doc! { "role": "backup", "db": "admin" }]).await;
    for consistency in [ReadConsistency::Automatic, ReadConsistency::Oplog] {
        let options = MongoSourceOptions { consistency, ..MongoSourceOptions::default() };
        let source = source(config.clone(), options).await;
        source.check().await.unwrap();
        let run = Run::whole(&source).await;
        run.compare(&place).await;
        assert_eq!(run.warnings, Vec::<String>::new());
        assert_eq!(matches!(run.consistency(), Consistency::Oplog { .. }), consistency == ReadConsistency::Oplog);
    }
    forget_user(&place).await;
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named() {
    let place = Place::new(&replica_set()).await;
    fill(&place.database(), 300).await;
    // May read, but neither the buckets of time-series nor the oplog.
    let config = as_user(&place, vec![doc! { "role": "read", "db": &place.name }]).await;
    let reader = source(config.clone(), MongoSourceOptions::default()).await;
    reader.check().await.unwrap();
    let run = Run::whole(&reader).await;
    let [denied] = &run.warnings[..] else { panic!("{:?}", run.warnings) };
    assert!(
        denied.contains("/weather/") && denied.contains("skipped") && denied.contains("not authorized"),
        "{denied}"
    );
    assert!(run.collections().contains_key("orders") && !run.collections().contains_key("weather"));
    let options = MongoSourceOptions { consistency: ReadConsistency::Oplog, ..MongoSourceOptions::default() };
    let error = Run::default().go_on(&source(config.clone(), options).await, &context(), 1).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized);
    assert!(error.chain().contains("role `backup`"), "{error:?}");

    let update = doc! { "updateUser": &place.name, "roles": [{ "role": "read", "db": "elsewhere" }] };
    place.client.database("admin").run_command(update).await.unwrap();
    let error = reader.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error:?}");
    assert!(!format!("{error:?} {config:?}").contains("s3cret-pw"));
    forget_user(&place).await;
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_unauthorized_and_not_printed() -> Result<()> {
    let place = Place::new(&replica_set()).await;
    let mut config = as_user(&place, vec![]).await;
    config.password = Some("wr0ng-pw".to_string().into());
    let source = source(config, MongoSourceOptions::default()).await;
    for error in [source.check().await.unwrap_err(), Run::default().go_on(&source, &context(), 1).await.unwrap_err()] {
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        assert!(!format!("{error:?}").contains("wr0ng-pw"), "{error:?}");
    }
    forget_user(&place).await;
    Ok(())
}

/// Inserts documents as they are, also ones that no driver would make.
async fn insert_raw(place: &Place, collection: &str, documents: &[Vec<u8>]) {
    let mut array = mongodb::bson::RawArrayBuf::new();
    for document in documents {
        array.push(RawDocumentBuf::from_bytes(document.clone()).unwrap());
    }
    let command = rawdoc! { "insert": collection, "documents": array };
    let answer = place.database().run_raw_command(command).await.unwrap();
    assert!(!answer.contains_key("writeErrors"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_kept_byte_by_byte() {
    let place = Place::new(&replica_set()).await;
    let mut not_utf8 = rawdoc! { "_id": 1, "text": "abc" }.into_bytes();
    let at = not_utf8.len() - 4;
    not_utf8[at] = 0xff;
    let mut twice = rawdoc! { "_id": 2, "a": 1, "b": 2 }.into_bytes();
    let at = twice.iter().rposition(|byte| *byte == b'b').unwrap();
    twice[at] = b'a';
    let odd = [not_utf8, twice];
    insert_raw(&place, "odd", &odd).await;
    // The longest that a server takes.
    let empty = rawdoc! { "_id": 3, "pad": "" }.into_bytes().len();
    let longest = rawdoc! { "_id": 3, "pad": "p".repeat((16 << 20) - empty) }.into_bytes();
    assert_eq!(longest.len(), 16 << 20);
    for id in 3..6 {
        let mut document = longest.clone();
        document[9] = id;
        insert_raw(&place, "long", &[document]).await;
        insert_raw(&place, "long", &[rawdoc! { "_id": i32::from(id) * 10 }.into_bytes()]).await;
    }
    for order in [ReadOrder::Natural, ReadOrder::Id] {
        let source = place.source(MongoSourceOptions { order, ..MongoSourceOptions::default() }).await;
        let mut run = Run::default();
        while run.go_on(&source, &with_budget(1 << 20), 1).await.unwrap() {}
        let mut found = run.collections();
        found.values_mut().for_each(|documents| documents.sort_unstable());
        let mut expected = odd.clone().map(bytes::Bytes::from);
        expected.sort_unstable();
        assert_eq!(found["odd"], expected);
        assert_eq!(found["long"].len(), 6);
        assert_eq!(found["long"].iter().filter(|d| d.len() == 16 << 20).count(), 3);
        let slices = run.entries.iter().filter(|seen| seen.name.to_string().contains("/long/"));
        assert!(slices.clone().all(|seen| seen.bytes.len() <= (16 << 20)), "no slice has more than one of them");
        assert!(
            slices
                .filter(|seen| seen.name.to_string().ends_with(".bson"))
                .all(|seen| !documents(&seen.bytes).is_empty())
        );
    }
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_never_holds_more_than_its_budget() {
    let place = Place::new(&replica_set()).await;
    fill_plain(&place.client, &place.name).await;
    let source = place.source(MongoSourceOptions::default()).await;
    let ctx = with_budget(24 << 20);
    let mut events = source.events(None, ctx.clone());
    let mut held = Vec::new();
    let mut most = 0;
    while let Some(event) = futures::StreamExt::next(&mut events).await {
        held.push(event.unwrap());
        // A consumer that lets go of what it has only when there is no memory for more.
        if ctx.budget.available() < (12 << 20) {
            held.clear();
        }
        most = most.max(ctx.budget.total() - ctx.budget.available());
    }
    assert!(most > 4 << 20, "{most}");
    drop(events);
    drop(held);
    place.drop().await;
}
