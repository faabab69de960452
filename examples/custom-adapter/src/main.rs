//! Backs a table up and lists what is in the archive.
//!
//! ```text
//! cargo run -p backup-example-custom-adapter -- ./table-backups
//! ```

use backup_core::adapter::Destination;
use backup_core::engine::{Archive, BackupRequest, Engine, OpenOptions, Selection};
use backup_core::local::LocalDestination;
use backup_core::memory::MemoryStore;
use backup_core::{Error, Result};
use backup_example_custom_adapter::TableSource;
use futures::TryStreamExt;
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    let place = std::env::args_os().nth(1).ok_or_else(|| Error::invalid("say where the archive is to be kept"))?;
    let report = "month,sales\n2026-10,1200\n2026-11,1350\n";
    let table = TableSource::new(
        "example",
        [
            ("reports/sales.csv".into(), report.into()),
            ("settings/theme".into(), "dark".into()),
            ("settings/language".into(), "en".into()),
        ],
    );
    let destination: Arc<dyn Destination> = Arc::new(LocalDestination::new(place)?);
    let engine = Engine::new(Arc::new(MemoryStore::new()));

    let backup = engine.backup(BackupRequest::new(Arc::new(table), destination.clone())).await?;
    let id = backup.archive().clone();
    backup.wait().await?;

    let archive = Archive::open(destination, &id, &OpenOptions::default()).await?;
    println!("archive {id}:");
    let mut entries = archive.entries(&Selection::default())?;
    while let Some(entry) = entries.try_next().await? {
        println!("{:>8}  {}", entry.size, entry.name);
    }
    Ok(())
}
