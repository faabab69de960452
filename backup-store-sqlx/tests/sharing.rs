//! Several processes on one file: here several stores, each with connections of its own.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::model::{
    ArchiveId, Checkpoint, ClaimOver, ClaimRequest, Guard, Holder, Identity, LogPosition, LogQuery, LogRecord,
    NewOperation, OperationId, OperationKind, Request, Transition,
};
use backup_core::state::{Event, PauseReason};
use backup_store_sqlx::SqlxStore;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

fn new_operation() -> NewOperation {
    let now = jiff::Timestamp::now();
    NewOperation {
        id: OperationId::generate(now),
        kind: OperationKind::Backup,
        name: String::new(),
        source: Identity::new("local", "/home"),
        destination: Identity::new("local", "/backups"),
        archive: ArchiveId::generate(now),
        spec: serde_json::Value::Null,
        connections: None,
        created_by: String::new(),
    }
}

fn claim_by(pid: u32) -> ClaimRequest {
    let holder = Holder { boot: "boot".into(), host: "host".into(), pid, started: 1 };
    ClaimRequest { holder, lease: Duration::from_secs(600), over: ClaimOver::Nobody }
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    (dir, file)
}

/// Several stores on one new file, all opened at once.
async fn stores(file: &Path, count: usize) -> Vec<Arc<SqlxStore>> {
    let opened =
        futures::future::join_all((0..count).map(|_| tokio::spawn(SqlxStore::open_file(file.to_path_buf())))).await;
    opened.into_iter().map(|store| Arc::new(store.unwrap().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_file_can_be_opened_by_many_at_once() {
    for _ in 0..10 {
        let (_dir, file) = file();
        let stores = stores(&file, 6).await;
        let id = stores[0].create(new_operation(), None).await.unwrap().new.id;
        for store in &stores {
            assert!(store.get(&id).await.unwrap().is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_claims_from_all_sides_one_wins() {
    let (_dir, file) = file();
    let stores = stores(&file, 4).await;
    for _ in 0..10 {
        let id = stores[0].create(new_operation(), None).await.unwrap().new.id;
        let mut claims = JoinSet::new();
        for pid in 0..12 {
            let (store, id) = (Arc::clone(&stores[pid % stores.len()]), id.clone());
            claims.spawn(async move { store.claim(&id, claim_by(pid as u32)).await });
        }
        let results = claims.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(results.iter().all(|r| r.as_ref().map_or_else(|e| e.class() == ErrorClass::Conflict, |_| true)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_changes_from_all_sides_one_wins() {
    let (_dir, file) = file();
    let stores = stores(&file, 4).await;
    for _ in 0..10 {
        let id = stores[0].create(new_operation(), None).await.unwrap().new.id;
        let version = stores[0].claim(&id, claim_by(1)).await.unwrap().operation.version;
        let mut changes = JoinSet::new();
        for number in 0..8 {
            let store = Arc::clone(&stores[number % stores.len()]);
            let event = if number % 2 == 0 { Event::HandOver } else { Event::Cancel };
            let log = LogRecord::info("test", "change");
            let transition = Transition::new(id.clone(), Guard::Version(version), event, log);
            changes.spawn(async move { store.transition(transition).await });
        }
        let results = changes.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn logs_written_from_all_sides_have_no_gaps() {
    let (_dir, file) = file();
    let stores = stores(&file, 4).await;
    let id = stores[0].create(new_operation(), None).await.unwrap().new.id;
    let mut writers = JoinSet::new();
    for store in &stores {
        let (store, id) = (Arc::clone(store), id.clone());
        writers.spawn(async move {
            for number in 0..25 {
                let records = vec![LogRecord::info("transfer", "x"); 1 + number % 3];
                store.append_log(&id, LogPosition::new_writer(), &records).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let page = stores[1].page_log(&id, &LogQuery { limit: 10_000, ..LogQuery::default() }).await.unwrap();
    let sequences: Vec<u64> = page.records.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (1..=1 + 4 * 49).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wish_of_another_process_reaches_the_worker_while_it_works() {
    let (_dir, file) = file();
    let stores = stores(&file, 2).await;
    let (worker, cli) = (Arc::clone(&stores[0]), &stores[1]);
    let id = worker.create(new_operation(), None).await.unwrap().new.id;
    let claim = worker.claim(&id, claim_by(1)).await.unwrap();
    let work = tokio::spawn(async move {
        let checkpoint = Checkpoint(Bytes::from(vec![7; 100_000]));
        loop {
            worker.save_checkpoint(&claim.fence, &checkpoint).await.unwrap();
            worker
                .append_log(
                    &claim.fence.operation,
                    LogPosition::new_writer(),
                    &[LogRecord::info("checkpoint", "saved")],
                )
                .await
                .unwrap();
            if worker.renew(&claim.fence, Duration::from_secs(60), None).await.unwrap().request.is_some() {
                let event = Event::Pause { reason: PauseReason::Requested, resume_at: None };
                let guard = Guard::Fence(claim.fence.clone());
                let log = LogRecord::info("pause", "paused");
                return worker.transition(Transition::new(id, guard, event, log)).await.unwrap();
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listed = cli.query(&Default::default()).await.unwrap();
    cli.request(&listed[0].new.id, Request::Pause).await.unwrap();
    let paused = tokio::time::timeout(Duration::from_secs(20), work).await.unwrap().unwrap();
    assert_eq!(cli.get(&paused.new.id).await.unwrap(), Some(paused));
}

#[tokio::test]
async fn what_was_written_is_there_when_the_file_is_opened_again() {
    let (_dir, file) = file();
    let store = SqlxStore::open_file(&file).await.unwrap();
    let id = store.create(new_operation(), None).await.unwrap().new.id;
    let claim = store.claim(&id, claim_by(1)).await.unwrap();
    let checkpoint = Checkpoint(Bytes::from(vec![1, 2, 3]));
    store.save_checkpoint(&claim.fence, &checkpoint).await.unwrap();
    store.close().await;
    assert!(!file.with_extension("db-wal").exists(), "a closed store has put everything into its file");

    let store = SqlxStore::open(&format!("sqlite://{}", file.display())).await.unwrap();
    assert_eq!(store.get(&id).await.unwrap(), Some(claim.operation));
    assert_eq!(store.checkpoint(&id).await.unwrap(), Some(checkpoint));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_are_dropped_leave_a_store_that_works() {
    let (_dir, file) = file();
    let store = SqlxStore::open_file(&file).await.unwrap();
    let id = store.create(new_operation(), None).await.unwrap().new.id;
    let claim = store.claim(&id, claim_by(1)).await.unwrap();
    let checkpoint = Checkpoint(Bytes::from(vec![7; 200_000]));
    for step in 0..200_u64 {
        let patience = Duration::from_micros(step * 20);
        let _ = tokio::time::timeout(patience, store.save_checkpoint(&claim.fence, &checkpoint)).await;
        let record = [LogRecord::info("transfer", "x"), LogRecord::info("transfer", "y")];
        let _ = tokio::time::timeout(patience, store.append_log(&id, LogPosition::new_writer(), &record)).await;
    }
    store.save_checkpoint(&claim.fence, &checkpoint).await.unwrap();
    store.append_log(&id, LogPosition::new_writer(), &[LogRecord::info("transfer", "last")]).await.unwrap();
    let log = store.page_log(&id, &LogQuery { limit: 10_000, ..LogQuery::default() }).await.unwrap().records;
    assert!(log.iter().map(|record| record.sequence).eq(1..=log.len() as u64), "no gaps");
    assert_eq!(log.len() % 2, 1, "created, claim, both records of a call or none, and the last");
}
