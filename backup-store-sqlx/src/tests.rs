//! What only the crate itself can see: settings of the connections, and a full disk.

use crate::SqlxStore;
use backup_core::ErrorClass;
use backup_core::adapter::{ConnectionStore, Store};
use backup_core::model::{
    ArchiveId, Checkpoint, ClaimNext, ClaimOver, ClaimRequest, ConnectionContent, ConnectionId, Holder, Identity,
    LogPosition, LogRecord, NewConnection, NewOperation, Operation, OperationConnections, OperationId, OperationKind,
    OperationQuery,
};
use bytes::Bytes;
use sqlx::{Any, AssertSqlSafe, Pool, Row};
use std::time::{Duration, Instant};

async fn pragma(pool: &Pool<Any>, name: &str) -> i64 {
    let row = sqlx::query(AssertSqlSafe(format!("PRAGMA {name}"))).fetch_one(pool).await.unwrap();
    crate::rows::number(&row).unwrap()
}

pub(crate) fn new_operation() -> NewOperation {
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

fn claim() -> ClaimRequest {
    let holder = Holder { boot: "boot".into(), host: "host".into(), pid: 1, started: 1 };
    ClaimRequest { holder, lease: Duration::from_secs(600), over: ClaimOver::Nobody }
}

#[tokio::test]
async fn commits_reach_the_disk_before_they_return() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqlxStore::open_file(dir.path().join("store.db")).await.unwrap();
    for pool in [&store.db().writer, &store.db().reader] {
        let mode: String = sqlx::query("PRAGMA journal_mode").fetch_one(pool).await.unwrap().get(0);
        assert_eq!(mode, "wal");
        assert_eq!(pragma(pool, "synchronous").await, 2, "FULL");
        assert_eq!(pragma(pool, "fullfsync").await, 1);
        assert_eq!(pragma(pool, "foreign_keys").await, 1);
        assert_eq!(pragma(pool, "busy_timeout").await, 10_000);
    }
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqlxStore::open_file(dir.path().join("store.db")).await.unwrap();
    assert!(sqlx::query("DELETE FROM backup_operations").execute(&store.db().reader).await.is_err());
}

#[tokio::test]
async fn a_full_disk_is_no_space_and_the_store_goes_on_when_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqlxStore::open_file(dir.path().join("store.db")).await.unwrap();
    let id = store.create(new_operation(), None).await.unwrap().new.id;
    let fence = store.claim(&id, claim()).await.unwrap().fence;
    let small = Checkpoint(Bytes::from("small"));
    store.save_checkpoint(&fence, &small).await.unwrap();
    let large = Checkpoint(Bytes::from(vec![1; 1 << 20]));

    for _ in 0..3 {
        // The limit ends with its connection.
        sqlx::query("PRAGMA max_page_count = 40").fetch_all(&store.db().writer).await.unwrap();
        let error = store.save_checkpoint(&fence, &large).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::NoSpace, "{error:?}");
        assert!(error.to_string().contains("store.db"), "{error}");
        assert_eq!(store.checkpoint(&id).await.unwrap(), Some(small.clone()));
        store.append_log(&id, LogPosition::new_writer(), &[LogRecord::info("test", "still works")]).await.unwrap();
    }
    sqlx::query("PRAGMA max_page_count = 1000000").fetch_all(&store.db().writer).await.unwrap();
    store.save_checkpoint(&fence, &large).await.unwrap();
    assert_eq!(store.checkpoint(&id).await.unwrap(), Some(large));
}

/// When SQLite has ended a transaction by itself, sqlx counts it as open and refuses to begin another.
#[tokio::test]
async fn a_connection_whose_transaction_went_lost_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqlxStore::open_file(dir.path().join("store.db")).await.unwrap();
    let mut tx = store.db().begin().await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
    drop(tx);
    store.create(new_operation(), None).await.unwrap();
}

/// What a newer version has written keeps nobody from the operations of this one.
#[tokio::test]
async fn operations_that_cannot_be_read_are_passed_over() {
    let store = SqlxStore::open("sqlite::memory:").await.unwrap();
    let id = ConnectionId::generate(jiff::Timestamp::now());
    let content = ConnectionContent { name: "one".into(), settings: serde_json::Value::Null, secret: None };
    store.create_connection(NewConnection { id: id.clone(), kind: "local".into(), content }).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..50 {
        let connections = Some(OperationConnections { source: id.clone(), destination: id.clone() });
        all.push(store.create(NewOperation { connections, ..new_operation() }, None).await.unwrap().new);
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let change = async |text: String| sqlx::query(AssertSqlSafe(text)).execute(&store.db().writer).await.unwrap();
    // All are due at the same time, and most of them, in front and between, are of another version.
    change("UPDATE backup_operations SET due_at = 1".into()).await;
    let mut readable = Vec::new();
    for (number, operation) in all.iter().enumerate() {
        match number {
            10 | 45 | 49 => readable.push(operation.id.clone()),
            _ => {
                let what =
                    if number % 2 == 0 { "state_data = '{\"state\":\"newer\"}'" } else { "source_connection = '?'" };
                change(format!("UPDATE backup_operations SET {what} WHERE id = '{}'", operation.id)).await;
            }
        }
    }
    readable.reverse();
    let ids = |found: Vec<Operation>| found.into_iter().map(|operation| operation.new.id).collect::<Vec<_>>();
    for (limit, states) in [(None, vec![]), (Some(10), vec!["pending"]), (Some(10), vec!["pending", "failed"])] {
        let query = OperationQuery { limit, states, ..OperationQuery::default() };
        assert_eq!(ids(store.query(&query).await.unwrap()), readable);
    }
    let query = OperationQuery { limit: Some(2), ..OperationQuery::default() };
    assert_eq!(ids(store.query(&query).await.unwrap()), readable[..2]);
    // Whoever deletes an archive must know all that work on it.
    let of = |number: usize| OperationQuery { archive: Some(all[number].archive.clone()), ..OperationQuery::default() };
    assert_eq!(ids(store.query(&of(10)).await.unwrap()), [all[10].id.clone()]);
    let refused = store.query(&of(11)).await.unwrap_err();
    assert!(
        refused.chain().contains("a newer version") && refused.chain().contains(all[11].id.as_str()),
        "{refused:?}"
    );

    let next = ClaimNext { holder: claim().holder, lease: claim().lease, per_connection: 10, able: None };
    let mut claimed = Vec::new();
    while let Some(claim) = store.claim_next(&next).await.unwrap() {
        claimed.insert(0, claim.operation.new.id);
    }
    assert_eq!(claimed, readable);
}

#[tokio::test]
async fn a_large_checkpoint_and_a_long_log_are_quick() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqlxStore::open_file(dir.path().join("store.db")).await.unwrap();
    let id = store.create(new_operation(), None).await.unwrap().new.id;
    let fence = store.claim(&id, claim()).await.unwrap().fence;
    let checkpoint = Checkpoint(Bytes::from(vec![1; 512 << 10]));
    let start = Instant::now();
    for _ in 0..20 {
        store.save_checkpoint(&fence, &checkpoint).await.unwrap();
    }
    let save = start.elapsed() / 20;
    let start = Instant::now();
    store
        .append_log(&id, LogPosition::new_writer(), &vec![LogRecord::info("transfer", "some file"); 5_000])
        .await
        .unwrap();
    let append = start.elapsed();
    println!("checkpoint of 512 KiB: {save:?}, 5,000 log records: {append:?}");
    // Far more than they need, so that a slow disk does not fail it and a quadratic mistake does.
    assert!(save < Duration::from_millis(500), "{save:?}");
    assert!(append < Duration::from_secs(5), "{append:?}");
}
