//! What only stores on servers meet: a server that goes away, several processes, tables of a newer version, plans of queries.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod databases;

use backup_core::ErrorClass;
use backup_core::adapter::{ConnectionStore, Store};
use backup_core::archive::generate_key_file;
use backup_core::local::LocalAdapter;
use backup_core::model::{ConnectionQuery, LogLevel, LogPosition, LogQuery, LogRecord, OperationQuery};
use backup_core::secrets::{KeyRing, SecretKey};
use backup_core::service::{BackupService, NewBackup, NewConnection, Role, WorkerOptions};
use backup_core::state::State;
use backup_store_sqlx::SqlxStore;
use databases::{Proxy, Server};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

const COMPLETED: State = State::Completed { warnings: 0 };

fn service(store: SqlxStore) -> BackupService {
    let key = SecretKey::parse(&generate_key_file().unwrap()).unwrap();
    let worker = WorkerOptions { look_every: Duration::from_millis(100), ..WorkerOptions::default() };
    let builder = BackupService::builder(Arc::new(store)).keys(Arc::new(KeyRing::new(key))).adapter(LocalAdapter);
    builder.worker(worker).build().unwrap()
}

/// The database is away for some seconds in the middle of a backup.
async fn a_server_that_goes_away_and_comes_back_costs_nothing_but_time(server: Server) {
    let url = server.new_database().await;
    let (proxy, through) = Proxy::start(&url).await;
    let store = SqlxStore::open(&through).await.unwrap();
    let service = service(store.clone());
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("docs")).unwrap();
    for number in 0..8_u8 {
        std::fs::write(dir.path().join(format!("docs/{number}")), vec![number; 1 << 20]).unwrap();
    }
    let config = |name: &str| serde_json::json!({ "path": dir.path().join(name) }).to_string().into();
    let docs = service.create_connection(NewConnection::new("docs", "local", config("docs"))).await.unwrap();
    let disk = NewConnection::new("disk", "local", config("disk")).checked_as([Role::Destination]);
    let disk = service.create_connection(disk).await.unwrap();
    let new = NewBackup { limit_read: NonZeroU64::new(1 << 20), ..NewBackup::new(&docs.id, &disk.id) };
    let id = service.backup(new).await.unwrap().new.id;
    while service.operation(&id).await.unwrap().state != State::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.down();
    let error = store.get(&id).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(!format!("{error:?} {store:?}").contains("tester:"), "{error:?}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    proxy.up();
    let done = service.wait(&id).await.unwrap();
    assert_eq!((done.state, done.attempt), (COMPLETED, 1), "it was not begun anew");
    let log = store.page_log(&id, &LogQuery { min_level: LogLevel::Debug, ..LogQuery::default() }).await.unwrap();
    assert!(log.records.iter().map(|stored| stored.sequence).eq(1..=log.records.len() as u64), "a log without gaps");
    assert_eq!(log.records.iter().filter(|stored| stored.record.step == "done").count(), 1);
    assert_eq!(service.archives(&disk.id).await.unwrap().len(), 1);
    service.shutdown().await;
    store.close().await;
    server.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_goes_away_and_comes_back() {
    a_server_that_goes_away_and_comes_back_costs_nothing_but_time(Server::postgres()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_goes_away_and_comes_back() {
    a_server_that_goes_away_and_comes_back_costs_nothing_but_time(Server::mysql()).await;
}

async fn what_does_not_fit_is_refused(server: Server) {
    let url = server.new_database().await;
    // Several processes make the tables of one new database.
    let opened = futures::future::join_all((0..5).map(|_| SqlxStore::open(&url))).await;
    let stores: Vec<SqlxStore> = opened.into_iter().map(|store| store.unwrap()).collect();
    for store in &stores {
        assert!(store.query(&OperationQuery::default()).await.unwrap().is_empty());
        assert!(store.connections(&ConnectionQuery::default()).await.unwrap().is_empty());
        store.close().await;
    }
    let newer = "INSERT INTO backup_migrations (version, description, success, checksum, execution_time) \
        VALUES (9999, 'of the future', TRUE, '00', 1)";
    server.execute_in(&url, newer).await;
    let error = SqlxStore::open(&url).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unsupported, "{error:?}");
    assert!(error.to_string().contains("newer version"), "{error}");

    let missing = url.replace("backup_test_", "backup_missing_");
    let error = SqlxStore::open(&missing).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error:?}");
    let (user, rest) = url.split_once("tester:").unwrap();
    let wrong = format!("{user}tester:wrong-hunter2@{}", rest.split_once('@').unwrap().1);
    let error = SqlxStore::open(&wrong).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized, "{error:?}");
    assert!(!format!("{error:?} {}", error.chain()).contains("hunter2"), "{error:?}");
    server.drop_databases().await;
}

#[tokio::test]
async fn postgresql_refuses_what_does_not_fit() {
    what_does_not_fit_is_refused(Server::postgres()).await;
}

#[tokio::test]
async fn mariadb_refuses_what_does_not_fit() {
    what_does_not_fit_is_refused(Server::mysql()).await;
}

/// Text that one of the databases could take for something else comes back as it was.
async fn odd_texts_come_back(server: Server) {
    let store = SqlxStore::open(&server.new_database().await).await.unwrap();
    let new = backup_core::model::NewOperation {
        id: backup_core::model::OperationId::generate(jiff::Timestamp::now()),
        kind: backup_core::model::OperationKind::Backup,
        name: "ünï 'q' \"d\" \\n %_ ? $1 {now} 🦀".into(),
        source: backup_core::model::Identity::new("local", "/".to_owned() + &"long/".repeat(2000)),
        destination: backup_core::model::Identity::new("local", "/b"),
        archive: backup_core::model::ArchiveId::generate(jiff::Timestamp::now()),
        spec: serde_json::json!({ "a": "?" }),
        connections: None,
        created_by: "x".repeat(5000),
    };
    let created = store.create(new.clone(), None).await.unwrap();
    assert_eq!(store.get(&new.id).await.unwrap().unwrap(), created);
    assert_eq!(created.new, new);
    let records = [LogRecord::info("transfer", "a\0b"), LogRecord::info("transfer", "x".repeat(1 << 20))];
    store.append_log(&new.id, LogPosition::new_writer(), &records).await.unwrap();
    let log = store.page_log(&new.id, &LogQuery::default()).await.unwrap().records;
    assert_eq!(log[1].record.message, "a\u{fffd}b");
    assert_eq!(log[2].record.message.len(), 1 << 20);
    store.close().await;
    server.drop_databases().await;
}

#[tokio::test]
async fn odd_texts_come_back_from_postgresql() {
    odd_texts_come_back(Server::postgres()).await;
}

#[tokio::test]
async fn odd_texts_come_back_from_mariadb() {
    odd_texts_come_back(Server::mysql()).await;
}
