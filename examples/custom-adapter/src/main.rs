//! Backs a table up through a connection of a kind of its own, and lists what is in the archive.
//!
//! ```text
//! cargo run -p backup-example-custom-adapter -- ./table-backups
//! ```

use backup_core::engine::Selection;
use backup_core::local::LocalAdapter;
use backup_core::memory::MemoryStore;
use backup_core::secrets::{KeyRing, SecretKey};
use backup_core::service::{BackupService, NewBackup, NewConnection, Role};
use backup_core::{Error, Result, archive};
use backup_example_custom_adapter::{TableAdapter, TableSource};
use futures::TryStreamExt;
use serde_json::json;
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    let place = std::env::args_os().nth(1).ok_or_else(|| Error::invalid("say where the archive is to be kept"))?;
    let place = std::path::absolute(place).map_err(|e| Error::io(e, "not a path"))?;
    let report = "month,sales\n2026-10,1200\n2026-11,1350\n";
    let table = TableSource::new(
        "example",
        [
            ("reports/sales.csv".into(), report.into()),
            ("settings/theme".into(), "dark".into()),
            ("settings/language".into(), "en".into()),
        ],
    );
    let key = SecretKey::parse(&archive::generate_key_file()?)?;
    let service = BackupService::builder(Arc::new(MemoryStore::new()))
        .keys(Arc::new(KeyRing::new(key)))
        .adapter(LocalAdapter)
        .adapter(TableAdapter::new([table]))
        .build()?;

    let config = json!({ "table": "example" }).to_string();
    let table = service.create_connection(NewConnection::new("my table", "table", config.into())).await?;
    let config = json!({ "path": place }).to_string();
    let disk = NewConnection::new("disk", "local", config.into()).checked_as([Role::Destination]);
    let disk = service.create_connection(disk).await?;

    let backup = service.backup(NewBackup::new(&table.id, &disk.id)).await?;
    let done = service.wait(&backup.new.id).await?;
    let archive = service.archive(&disk.id, &done.new.archive).await?;
    println!("archive {}, {}:", done.new.archive, done.state);
    let mut entries = archive.entries(&Selection::default())?;
    while let Some(entry) = entries.try_next().await? {
        println!("{:>8}  {}", entry.size, entry.name);
    }
    service.shutdown().await;
    Ok(())
}
