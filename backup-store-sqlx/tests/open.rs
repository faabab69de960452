//! Which files are opened, and how others are refused.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_store_sqlx::SqlxStore;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};
use std::path::Path;

async fn raw(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).create_if_missing(true).connect().await.unwrap()
}

/// The error of opening the file, which must name it.
async fn refusal(file: &Path) -> backup_core::Error {
    let error = SqlxStore::open_file(file).await.unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error} does not name the file");
    error
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_what_is_made() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data/backup/store.db");
    let store = SqlxStore::open_file(&file).await.unwrap();
    assert!(store.query(&Default::default()).await.unwrap().is_empty());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("data")), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path().join("data/backup")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
        files += 1;
    }
    assert_eq!(files, 3, "database, write-ahead log and its index");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    let text = "This is a text file, and long enough to hold a whole database header. ".repeat(100);
    std::fs::write(&file, &text).unwrap();
    let error = refusal(&file).await;
    assert_eq!(error.class(), ErrorClass::Corrupt);
    assert!(error.to_string().contains("not an SQLite database"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_database_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    SqlxStore::open_file(&file).await.unwrap().close().await;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100..].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(refusal(&file).await.class(), ErrorClass::Corrupt);
}

#[tokio::test]
async fn the_database_of_another_program_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (name, sql) in [("tables.db", "CREATE TABLE notes (text TEXT)"), ("id.db", "PRAGMA application_id = 77")] {
        let file = dir.path().join(name);
        let mut other = raw(&file).await;
        other.execute(sql).await.unwrap();
        other.close().await.unwrap();
        let before = std::fs::read(&file).unwrap();
        let error = refusal(&file).await;
        assert_eq!(error.class(), ErrorClass::Invalid);
        assert!(error.to_string().contains("another program"), "{error}");
        assert!(std::fs::read(&file).unwrap() == before, "{name} was changed");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    SqlxStore::open_file(&file).await.unwrap().close().await;
    let mut newer = raw(&file).await;
    let insert = "INSERT INTO backup_migrations (version, description, success, checksum, execution_time) \
        VALUES (9999, 'of the future', TRUE, x'00', 1)";
    newer.execute(insert).await.unwrap();
    newer.close().await.unwrap();
    let error = refusal(&file).await;
    assert_eq!(error.class(), ErrorClass::Unsupported);
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test]
async fn a_schema_that_was_changed_by_hand_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    SqlxStore::open_file(&file).await.unwrap().close().await;
    let mut changed = raw(&file).await;
    changed.execute("UPDATE backup_migrations SET checksum = x'00'").await.unwrap();
    changed.close().await.unwrap();
    assert_eq!(refusal(&file).await.class(), ErrorClass::Corrupt);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_names_the_operation_and_the_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    let store = SqlxStore::open_file(&file).await.unwrap();
    let mut other = raw(&file).await;
    let insert = "INSERT INTO backup_operations VALUES ('20260101T000000Z-00000000', 'backup', '', 'a', 'b', 'c', 'd', \
        '20260101T000000Z-00000000', 'null', NULL, NULL, '', 'running', '{\"state\":\"dancing\"}', 1, 0, 0, NULL, NULL, NULL, NULL, \
        '{}', 0, 0, 0, NULL)";
    other.execute(insert).await.unwrap();
    let error = store.get(&"20260101T000000Z-00000000".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt);
    let text = error.to_string();
    assert!(text.contains("20260101T000000Z-00000000") && text.contains("state_data"), "{text}");
}

#[tokio::test]
async fn a_directory_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(refusal(dir.path()).await.class(), ErrorClass::Permanent);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(refusal(&file.join("store.db")).await.class(), ErrorClass::NotFound);
}
