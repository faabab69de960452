//! The SQL store keeps the contract of every store: in a file, in memory, and on servers.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod databases;

use backup_core::adapter::Store;
use backup_store_sqlx::SqlxStore;
use backup_testkit::conformance::{connections, store};
use databases::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

async fn conforms<F: AsyncFn() -> Arc<dyn Store>>(make: F) {
    assert_eq!(store::each(&make).await, store::CASES.len());
    assert_eq!(connections::each(&make).await, connections::CASES.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_a_file_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    conforms(async || {
        let file = dir.path().join(format!("{}.db", next.fetch_add(1, Ordering::Relaxed)));
        Arc::new(SqlxStore::open_file(file).await.unwrap()) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_memory_conforms() {
    conforms(async || Arc::new(SqlxStore::open("sqlite::memory:").await.unwrap()) as Arc<dyn Store>).await;
}

async fn a_store_on_a_server_conforms(server: Server) {
    conforms(async || Arc::new(SqlxStore::open(&server.new_database().await).await.unwrap()) as Arc<dyn Store>).await;
    server.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_on_postgresql_conforms() {
    a_store_on_a_server_conforms(Server::postgres()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_on_mariadb_conforms() {
    a_store_on_a_server_conforms(Server::mysql()).await;
}
