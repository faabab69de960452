//! The SQL store keeps the contract of every store, in a file and in memory.

use backup_core::adapter::Store;
use backup_store_sqlx::SqlxStore;
use backup_testkit::conformance::store;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_a_file_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    let make = async || {
        let file = dir.path().join(format!("{}.db", next.fetch_add(1, Ordering::Relaxed)));
        Arc::new(SqlxStore::open_file(file).await.unwrap()) as Arc<dyn Store>
    };
    assert_eq!(store::each(make).await, store::CASES.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_memory_conforms() {
    let make = async || Arc::new(SqlxStore::open("sqlite::memory:").await.unwrap()) as Arc<dyn Store>;
    assert_eq!(store::each(make).await, store::CASES.len());
}
