//! With the engine and the source: backups that were killed and restores that were killed.

use crate::support::{SERVERS, Server, assert_equal, dataset, drop_databases, fresh};
use backup_core::adapter::{Destination, RestoreTarget, Source, Store};
use backup_core::engine::{
    BackupRequest, Engine, EngineOptions, Limits, OpenOptions, OperationHandle, Outcome, RestoreRequest, ResumeBackup,
    ResumeRestore, TakeOver,
};
use backup_core::memory::MemoryStore;
use backup_core::model::ArchiveId;
use backup_mongo::{MongoRestoreTarget, MongoSource, MongoSourceOptions, MongoTargetOptions, ReadConsistency};
use backup_testkit::doubles::MemoryDestination;
use mongodb::bson::{Document, doc};
use std::sync::Arc;
use std::time::Duration;

fn engine(store: &MemoryStore) -> Engine {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    Engine::with_options(store, EngineOptions { memory: 96 << 20, ..EngineOptions::default() }, Vec::new())
}

async fn source(server: Server, database: &str, options: MongoSourceOptions) -> Arc<dyn Source> {
    Arc::new(MongoSource::new(server.cluster_of(database).await, options))
}

async fn target(server: Server, database: &str) -> Arc<dyn RestoreTarget> {
    Arc::new(MongoRestoreTarget::new(server.cluster_of(database).await, MongoTargetOptions::default()).unwrap())
}

async fn completed(handle: OperationHandle) -> u64 {
    match handle.wait().await.unwrap() {
        Outcome::Completed { warnings, .. } => warnings,
        other => panic!("not completed: {other:?}"),
    }
}

async fn back_up(
    server: Server,
    database: &str,
    options: MongoSourceOptions,
    destination: &MemoryDestination,
) -> ArchiveId {
    let request = BackupRequest::new(source(server, database, options).await, Arc::new(destination.clone()));
    let handle = engine(&MemoryStore::new()).backup(request).await.unwrap();
    let archive = handle.archive().clone();
    completed(handle).await;
    archive
}

/// Lets work go on for a moment and drops it, as a process that is killed does.
async fn kill_after(handle: OperationHandle, patience: Duration) -> bool {
    tokio::time::timeout(patience, handle.wait()).await.is_ok_and(|outcome| outcome.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_goes_through_an_archive_and_comes_back_although_all_is_killed_again_and_again() {
    for server in SERVERS {
        let client = server.client().await;
        let (from, to) = (fresh("from-ü"), fresh("to"));
        dataset::fill(&client, &from, 2000).await;
        let destination = MemoryDestination::default();
        let place: Arc<dyn Destination> = Arc::new(destination.clone());
        let mut random = dataset::Random(11);
        let store = MemoryStore::new();
        let options = MongoSourceOptions::default();
        let mut request = BackupRequest::new(source(server, &from, options).await, place.clone());
        request.options.volume_size = Some(256 << 10);
        request.options.frame_size = 64 << 10;
        let handle = engine(&store).backup(request).await.unwrap();
        let (operation, archive) = (handle.id().clone(), handle.archive().clone());
        let mut handle = Some(handle);
        for turn in 0..40 {
            let patience = Duration::from_millis(10 + random.below(40 * (turn + 1)));
            if kill_after(handle.take().unwrap(), patience).await {
                break;
            }
            let resume = ResumeBackup {
                operation: operation.clone(),
                source: source(server, &from, options).await,
                destination: place.clone(),
                keys: None,
                limits: Limits::default(),
                take_over: TakeOver::Now,
            };
            handle = Some(engine(&store).resume_backup(resume).await.unwrap());
        }
        if let Some(handle) = handle {
            completed(handle).await;
        }

        let request = RestoreRequest::new(place.clone(), archive, target(server, &to).await);
        let handle = engine(&store).restore(request).await.unwrap();
        let operation = handle.id().clone();
        let mut handle = Some(handle);
        let mut kills = 0;
        for turn in 0..40 {
            let patience = Duration::from_millis(10 + random.below(60 * (turn + 1)));
            if kill_after(handle.take().unwrap(), patience).await {
                break;
            }
            kills += 1;
            let resume = ResumeRestore {
                operation: operation.clone(),
                destination: place.clone(),
                target: target(server, &to).await,
                open: OpenOptions::default(),
                limits: Limits::default(),
                take_over: TakeOver::Now,
                keep_going: false,
            };
            handle = Some(engine(&store).resume_restore(resume).await.unwrap());
        }
        if let Some(handle) = handle {
            assert_eq!(completed(handle).await, 0);
        }
        assert!(kills > 0, "nothing was killed");
        assert_equal((&client, &from), (&client, &to)).await;
        drop_databases(&client, &[&from, &to]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_moves_while_the_backup_runs_is_neither_lost_nor_made() {
    const ACCOUNTS: i32 = 3000;
    let server = Server::ReplicaSet;
    let client = server.client().await;
    for consistency in [ReadConsistency::Automatic, ReadConsistency::Oplog] {
        let (from, to) = (fresh("bank"), fresh("to"));
        let database = client.database(&from);
        for name in ["a", "b"] {
            let pad = "x".repeat(1000);
            let accounts = (0..ACCOUNTS).map(|n| doc! { "_id": n, "money": 100_i64, "pad": &pad });
            database.collection(name).insert_many(accounts).await.unwrap();
        }
        let stop = tokio_util::sync::CancellationToken::new();
        let writers: Vec<_> = (0..3)
            .map(|n| {
                let (client, database, stop) = (client.clone(), database.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut random = dataset::Random(n);
                    let (a, b) = (database.collection::<Document>("a"), database.collection::<Document>("b"));
                    let mut moved = 0_u32;
                    while !stop.is_cancelled() {
                        let mut session = client.start_session().await.unwrap();
                        session.start_transaction().await.unwrap();
                        let sum = random.below(50) as i64;
                        let mut id = || doc! { "_id": random.below(ACCOUNTS as u64) as i32 };
                        let one = a.update_one(id(), doc! { "$inc": { "money": -sum } }).session(&mut session).await;
                        let two = b.update_one(id(), doc! { "$inc": { "money": sum } }).session(&mut session).await;
                        let done = one.is_ok() && two.is_ok();
                        // Some documents come and go as well.
                        if done && session.commit_transaction().await.is_ok() {
                            moved += 1;
                            let id = format!("{n}-{}", moved % 7);
                            let _ = a.delete_one(doc! { "_id": &id }).await;
                            let _ = a.insert_one(doc! { "_id": &id, "money": 0_i64 }).await;
                        } else {
                            let _ = session.abort_transaction().await;
                        }
                    }
                    moved
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let destination = MemoryDestination::default();
        let options = MongoSourceOptions { consistency, ..Default::default() };
        let archive = back_up(server, &from, options, &destination).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
        let mut moved = 0;
        for writer in writers {
            moved += writer.await.unwrap();
        }
        assert!(moved > 10, "only {moved} transactions");
        let store = MemoryStore::new();
        let request = RestoreRequest::new(Arc::new(destination), archive, target(server, &to).await);
        assert_eq!(completed(engine(&store).restore(request).await.unwrap()).await, 0);
        let mut sum = 0;
        for name in ["a", "b"] {
            let group = vec![doc! { "$group": { "_id": null, "sum": { "$sum": "$money" }, "count": { "$sum": 1 } } }];
            use futures::TryStreamExt;
            let mut cursor = client.database(&to).collection::<Document>(name).aggregate(group).await.unwrap();
            let found = cursor.try_next().await.unwrap().unwrap();
            sum += found.get_i64("sum").unwrap();
            assert!(found.get_i32("count").unwrap() >= ACCOUNTS);
        }
        assert_eq!(sum, i64::from(ACCOUNTS) * 200, "{consistency:?} after {moved} transactions");
        drop_databases(&client, &[&from, &to]).await;
    }
}

/// Begins a slow restore to a server of the test's own.
async fn slow_restore(
    from: &str,
    config: backup_mongo::MongoConfig,
    destination: &MemoryDestination,
    archive: ArchiveId,
) -> OperationHandle {
    let cluster = backup_mongo::MongoCluster::connect(config).await.unwrap();
    let target = Arc::new(MongoRestoreTarget::new(cluster, MongoTargetOptions::default()).unwrap());
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), archive, target);
    request.limits.write.set(std::num::NonZeroU64::new(1 << 20));
    request.name = from.to_owned();
    engine(&MemoryStore::new()).restore(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_of_a_restore_gets_the_rest_when_it_is_back() {
    let client = Server::Standalone.client().await;
    let from = fresh("from");
    dataset::fill(&client, &from, 2000).await;
    let destination = MemoryDestination::default();
    let archive = back_up(Server::Standalone, &from, MongoSourceOptions::default(), &destination).await;
    let mut own = crate::server::standalone();
    let uri = format!("mongodb://{}/?serverSelectionTimeoutMS=30000", own.host());
    own.run(doc! { "ping": 1 }).await;
    let handle = slow_restore(&from, crate::server::config(&uri, "to"), &destination, archive).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    own.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    own.launch();
    assert_eq!(completed(handle).await, 0);
    let there = mongodb::Client::with_uri_str(&uri).await.unwrap();
    assert_equal((&client, &from), (&there, "to")).await;
    drop_databases(&client, &[&from]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_steps_down_in_the_middle_of_a_restore_loses_nothing() {
    let client = Server::ReplicaSet.client().await;
    let from = fresh("from");
    dataset::fill(&client, &from, 2000).await;
    let destination = MemoryDestination::default();
    let archive = back_up(Server::ReplicaSet, &from, MongoSourceOptions::default(), &destination).await;
    let set = crate::server::ReplicaSet::start(3, &[]).await;
    let handle = slow_restore(&from, crate::server::config(&set.uri(), "to"), &destination, archive).await;
    let there = mongodb::Client::with_uri_str(set.uri()).await.unwrap();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        // Its answer may be lost with the connection.
        let _ =
            there.database("admin").run_command(doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 2 }).await;
    }
    assert_eq!(completed(handle).await, 0);
    assert_equal((&client, &from), (&there, "to")).await;
    drop_databases(&client, &[&from]).await;
}
