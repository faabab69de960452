//! Backs up a source that makes its entries while they are read, so that all memory that is used is the engine's.
//!
//! ```text
//! cargo run --release -p backup-benches --bin synthetic -- ENTRIES BYTES DIRECTORY
//! ```

use backup_core::engine::{BackupRequest, Engine, Outcome};
use backup_core::local::LocalDestination;
use backup_core::memory::MemoryStore;
use backup_core::{Error, Result};
use backup_testkit::doubles::{MemorySource, Synthetic};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [entries, size, directory] = args.as_slice() else {
        return Err(Error::invalid("say how many entries of how many bytes, and where the archive goes"));
    };
    let number = |text: &str| text.parse::<u64>().map_err(|e| Error::invalid("not a number").on(text).because(e));
    let entries = Synthetic { entries: number(entries)?, size: number(size)?, inline: true };
    let source = Arc::new(MemorySource::synthetic("synthetic", entries));
    let destination = Arc::new(LocalDestination::new(directory)?);
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    match engine.backup(BackupRequest::new(source, destination)).await?.wait().await? {
        Outcome::Completed { progress, .. } => {
            println!("{} entries, {} bytes, stored as {}", progress.entries, progress.bytes, progress.stored_bytes);
            Ok(())
        }
        other => Err(Error::permanent(format!("the backup ended otherwise: {other:?}"))),
    }
}
