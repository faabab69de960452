//! The store in memory keeps the contract of every store.

use backup_core::adapter::Store;
use backup_core::memory::MemoryStore;
use backup_testkit::conformance::{connections, store};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_in_memory_conforms() {
    let ran = store::each(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>).await;
    assert_eq!(ran, store::CASES.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_in_memory_keeps_connections() {
    let ran = connections::each(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>).await;
    assert_eq!(ran, connections::CASES.len());
}
