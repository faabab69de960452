//! What goes in comes out.

use crate::plan::{Archived, Met, restore};
use crate::support::{SERVERS, Server, assert_equal, dataset, db_hash, drop_databases, fresh};
use backup_core::adapter::{RestoreTarget, Written};
use backup_mongo::{MongoRestoreTarget, MongoTargetOptions};
use mongodb::bson::{Bson, DateTime, Document, doc};

fn nothing_to_say(met: &Met) {
    assert!(met.refused.is_empty() && met.warnings.is_empty(), "{:?} {:?}", met.refused, met.warnings);
}

async fn target(server: Server, database: &str) -> MongoRestoreTarget {
    MongoRestoreTarget::new(server.cluster_of(database).await, MongoTargetOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_as_it_was() {
    for server in SERVERS {
        let client = server.client().await;
        let (from, to) = (fresh("from-ü%"), fresh("to"));
        dataset::fill(&client, &from, 1000).await;
        let archived = Archived::read(&client, &[&from]).await;
        let (plan, known) = archived.plan();
        let target = target(server, &to).await;
        assert!(target.is_empty().await.unwrap());
        nothing_to_say(&restore(&target, &archived, &plan, &known).await.unwrap());
        assert_equal((&client, &from), (&client, &to)).await;
        let report = target.verify(&plan).await.unwrap();
        assert_eq!((report.mismatch_count, report.metadata_count), (0, 0), "{:?}", report.mismatches);
        assert_eq!(report.entries, archived.entries.len() as u64);
        assert!(!target.is_empty().await.unwrap());
        // A second end of the same restore changes nothing.
        assert!(target.finish(&plan).await.unwrap().is_empty());
        assert_equal((&client, &from), (&client, &to)).await;
        drop_databases(&client, &[&from, &to]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_stays_or_is_dropped_as_the_caller_says() {
    let server = Server::Standalone;
    let client = server.client().await;
    let (from, to) = (fresh("from"), fresh("to"));
    for name in ["a", "b"] {
        let documents = (0..50).map(|n| doc! { "_id": n, "of": name });
        client.database(&from).collection(name).insert_many(documents).await.unwrap();
    }
    client.database(&to).collection("a").insert_one(doc! { "_id": 3, "of": "somebody else" }).await.unwrap();
    let archived = Archived::read(&client, &[&from]).await;
    let (mut plan, known) = archived.plan();
    let met = restore(&target(server, &to).await, &archived, &plan, &known).await.unwrap();
    assert_eq!(met.refused.len(), 2, "description and slice of a: {met:?}");
    assert!(met.refused[0].1.contains("there already"), "{met:?}");
    let kept: Vec<Document> = vec![client.database(&to).collection("a").find_one(doc! {}).await.unwrap().unwrap()];
    assert_eq!(kept, [doc! { "_id": 3, "of": "somebody else" }]);
    assert_eq!(db_hash(&client, &from).await["b"], db_hash(&client, &to).await["b"]);
    let report = target(server, &to).await.verify(&plan).await.unwrap();
    assert!(report.mismatch_count == 0 && report.known_count > 0, "{report:?}");

    plan.overwrite = true;
    plan.tag.replace_range(..4, "2027");
    known.left.lock().unwrap().clear();
    let met = restore(&target(server, &to).await, &archived, &plan, &known).await.unwrap();
    nothing_to_say(&met);
    assert!(met.written.iter().any(|(_, written)| *written == Written::Replaced));
    assert_equal((&client, &from), (&client, &to)).await;
    drop_databases(&client, &[&from, &to]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_broke_off_anywhere_is_gone_on_with_and_nothing_is_there_twice() {
    for server in SERVERS {
        let client = server.client().await;
        let (from, to) = (fresh("from"), fresh("to"));
        dataset::fill(&client, &from, 150).await;
        let archived = Archived::read(&client, &[&from]).await;
        let mut random = dataset::Random(3);
        for overwrite in [false, true] {
            client.database(&to).drop().await.unwrap();
            if overwrite {
                // What is dropped is dropped once.
                client.database(&to).collection("orders").insert_one(doc! { "_id": "other" }).await.unwrap();
            }
            let (mut plan, known) = archived.plan();
            plan.overwrite = overwrite;
            for attempt in 1..=8 {
                plan.attempt = attempt;
                plan.resumed = attempt > 1;
                let target = target(server, &to).await;
                let patience = std::time::Duration::from_millis(30 + random.below(600) * attempt);
                let work = restore(&target, &archived, &plan, &known);
                match tokio::time::timeout(patience, work).await {
                    Ok(met) => {
                        nothing_to_say(&met.unwrap());
                        break;
                    }
                    Err(_) => continue,
                }
            }
            plan.attempt += 1;
            plan.resumed = true;
            let target = target(server, &to).await;
            if client
                .database(&to)
                .list_collection_names()
                .await
                .unwrap()
                .iter()
                .any(|name| name.starts_with("backup-tmp-"))
            {
                nothing_to_say(&restore(&target, &archived, &plan, &known).await.unwrap());
            }
            assert_equal((&client, &from), (&client, &to)).await;
            let report = target.verify(&plan).await.unwrap();
            assert_eq!((report.mismatch_count, report.metadata_count), (0, 0), "{:?}", report.mismatches);
        }
        drop_databases(&client, &[&from, &to]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles_come_back_when_that_is_asked_for() {
    for server in SERVERS {
        let client = server.client().await;
        let admin = client.database("admin");
        let (user, role) = (fresh("user"), fresh("role"));
        let privilege = doc! { "resource": { "db": "x", "collection": "" }, "actions": ["find"] };
        admin.run_command(doc! { "createRole": &role, "privileges": [privilege], "roles": [] }).await.unwrap();
        admin.run_command(doc! { "createUser": &user, "pwd": "p", "roles": [&role] }).await.unwrap();
        let mut archived = Archived::default();
        for (name, key) in [("system.users", "user"), ("system.roles", "role")] {
            let collection = admin.collection::<mongodb::bson::RawDocumentBuf>(name);
            let ours = doc! { key: if key == "user" { &user } else { &role } };
            let found = collection.find_one(ours).await.unwrap().unwrap();
            archived.slices("admin", name, &backup_mongo::layout::group("admin", name), &[found], false);
        }
        admin.run_command(doc! { "dropUser": &user }).await.unwrap();
        admin.run_command(doc! { "dropRole": &role }).await.unwrap();
        let (mut plan, known) = archived.plan();
        let refused = MongoRestoreTarget::new(server.cluster().await, MongoTargetOptions::default()).unwrap();
        let met = restore(&refused, &archived, &plan, &known).await.unwrap();
        assert!(met.refused.len() == 2 && met.refused[0].1.contains("asked for"), "{met:?}");
        known.left.lock().unwrap().clear();
        plan.tag.replace_range(..4, "2027");
        let options = MongoTargetOptions { users_and_roles: true, ..Default::default() };
        let target = MongoRestoreTarget::new(server.cluster().await, options).unwrap();
        nothing_to_say(&restore(&target, &archived, &plan, &known).await.unwrap());
        let report = target.verify(&plan).await.unwrap();
        assert_eq!((report.mismatch_count, report.metadata_count), (0, 0), "{:?}", report.mismatches);
        let found = admin.run_command(doc! { "usersInfo": &user }).await.unwrap();
        let found = found.get_array("users").unwrap()[0].as_document().unwrap();
        assert_eq!(found.get_array("roles").unwrap(), &[Bson::Document(doc! { "role": &role, "db": "admin" })]);
        // The password is the same as before.
        let again = mongodb::Client::with_uri_str(server.uri_as(Some((&user, "p")))).await.unwrap();
        again.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
        // Nor does a restore that was killed while it put them aside, and then given up, leave the hashes of passwords.
        for name in ["tempusers", "temproles"] {
            admin.collection(name).insert_one(doc! { "_id": "left" }).await.unwrap();
        }
        target.discard(&plan).await.unwrap();
        let left = admin.list_collection_names().await.unwrap();
        assert!(!left.iter().any(|name| name.starts_with("temp")), "{left:?}");
        admin.run_command(doc! { "dropUser": &user }).await.unwrap();
        admin.run_command(doc! { "dropRole": &role }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_databases_go_where_their_new_names_say() {
    let server = Server::ReplicaSet;
    let client = server.client().await;
    let (one, two) = (fresh("one"), fresh("two"));
    for name in [&one, &two] {
        client.database(name).collection("c").insert_one(doc! { "_id": name }).await.unwrap();
    }
    let archived = Archived::read(&client, &[&one, &two]).await;
    let (plan, known) = archived.plan();
    let new = |name: &str| format!("{name}-new");
    let options = MongoTargetOptions {
        rename: [(one.clone(), new(&one)), (two.clone(), new(&two))].into(),
        ..Default::default()
    };
    let target = MongoRestoreTarget::new(server.cluster().await, options).unwrap();
    nothing_to_say(&restore(&target, &archived, &plan, &known).await.unwrap());
    for name in [&one, &two] {
        assert_equal((&client, name), (&client, &new(name))).await;
    }
    // They do not both go into one.
    let single = MongoRestoreTarget::new(server.cluster_of(&fresh("x")).await, MongoTargetOptions::default()).unwrap();
    let error = single.prepare(&plan).await.unwrap_err();
    assert!(error.to_string().contains("several databases"), "{error}");
    drop_databases(&client, &[&one, &two, &new(&one), &new(&two)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_may_delete_as_expired_is_no_damage() {
    let server = Server::Standalone;
    let client = server.client().await;
    let (from, to) = (fresh("from"), fresh("to"));
    let source = client.database(&from);
    let old = DateTime::from_millis(0);
    // No index yet in the source, or it would delete them.
    source.collection("sessions").insert_many((0..50).map(|n| doc! { "_id": n, "at": old })).await.unwrap();
    source.collection("sessions").insert_many((50..60).map(|n| doc! { "_id": n, "at": Bson::Null })).await.unwrap();
    let mut archived = Archived::read(&client, &[&from]).await;
    let index = r#"{"indexes":[{"v":2,"key":{"_id":1},"name":"_id_"},{"v":2,"key":{"at":1},"name":"ttl","expireAfterSeconds":1}]}"#;
    let at = archived.entries.iter().position(|small| small.entry.name.to_string().ends_with("metadata.json")).unwrap();
    let old = archived.entries.remove(at).entry;
    archived.push(old.name, old.kind, old.group, index);
    let (plan, known) = archived.plan();
    let target = target(server, &to).await;
    nothing_to_say(&restore(&target, &archived, &plan, &known).await.unwrap());
    // As the server does within a minute.
    let restored = client.database(&to).collection::<Document>("sessions");
    restored.delete_many(doc! { "_id": { "$lt": 20 } }).await.unwrap();
    let report = target.verify(&plan).await.unwrap();
    assert_eq!(report.mismatch_count, 0, "{:?}", report.mismatches);
    // One that has not expired is damage.
    restored.delete_one(doc! { "_id": 55 }).await.unwrap();
    let report = target.verify(&plan).await.unwrap();
    assert_eq!(report.mismatch_count, 1, "{:?}", report.mismatches);
    assert!(report.mismatches[0].message.contains("55"), "{:?}", report.mismatches);
    drop_databases(&client, &[&from, &to]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_without_an_id_are_restored_once() {
    let server = Server::Standalone;
    let client = server.client().await;
    let to = fresh("to");
    let mut archived = Archived::default();
    let documents: Vec<_> = (0..20).map(|n| mongodb::bson::rawdoc! { "n": n % 3 }).collect();
    archived.slices("shop", "log", &backup_mongo::layout::group("shop", "log"), &documents, false);
    let (mut plan, known) = archived.plan();
    for attempt in 1..3 {
        (plan.attempt, plan.resumed) = (attempt, attempt > 1);
        let target = target(server, &to).await;
        target.prepare(&plan).await.unwrap();
        for answer in target.write_small(&plan, archived.entries.clone()).await.unwrap() {
            answer.unwrap();
        }
    }
    let target = target(server, &to).await;
    nothing_to_say(&restore(&target, &archived, &plan, &known).await.unwrap());
    assert_eq!(client.database(&to).collection::<Document>("log").count_documents(doc! {}).await.unwrap(), 20);
    let report = target.verify(&plan).await.unwrap();
    assert_eq!(report.mismatch_count, 0, "{:?}", report.mismatches);
    drop_databases(&client, &[&to]).await;
}
