//! The shortest complete service: connections and history in a database file, backups in the background, everything resumable.
//!
//! ```text
//! cargo run -p backup-example-embed -- ./state ./docs ./backups ./restored
//! ```

use backup_core::local::LocalAdapter;
use backup_core::model::{ConnectionId, Operation, OperationQuery};
use backup_core::secrets::FileKeys;
use backup_core::service::{BackupService, NewBackup, NewConnection, NewRestore, Role};
use backup_core::{Error, ErrorClass, Result};
use backup_store_sqlx::SqlxStore;
use futures::TryStreamExt;
use std::path::{Path, absolute};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [state, from, backups, to] = args.as_slice() else {
        return Err(Error::invalid(
            "say where to keep the state and the archives, what to back up, and where to restore",
        ));
    };
    let store = SqlxStore::open_file(Path::new(state).join("store.db")).await?;
    // Needed as soon as a connection has secrets; a real service keeps its keys elsewhere.
    let keys = FileKeys::new(Path::new(state).join("secrets.key"));
    let service = BackupService::builder(Arc::new(store)).keys(keys).adapter(LocalAdapter).build()?;

    // What a run that was killed has left goes on by itself.
    let left = OperationQuery { states: vec!["pending", "running", "committing"], ..OperationQuery::default() };
    for operation in service.history(&left).await? {
        attend(&service, &operation).await?;
    }
    let source = connect(&service, from, Role::Source).await?;
    let disk = connect(&service, backups, Role::Destination).await?;
    let backup = service.backup(NewBackup::new(&source, &disk)).await?;
    attend(&service, &backup).await?;

    let target = connect(&service, to, Role::Target).await?;
    let restore = service.restore(NewRestore::new(&disk, &backup.new.archive, &target)).await?;
    attend(&service, &restore).await?;
    service.shutdown().await;
    Ok(())
}

/// The connection to a directory; a new one is checked, and stored when it works.
async fn connect(service: &BackupService, path: &str, role: Role) -> Result<ConnectionId> {
    let path = absolute(path).map_err(|e| Error::io(e, "not a path"))?;
    let config = serde_json::json!({ "path": path }).to_string();
    let new = NewConnection::new(format!("{role} {}", path.display()), "local", config.into()).checked_as([role]);
    match service.find_connection(&new.name).await {
        Err(e) if e.class() == ErrorClass::NotFound => Ok(service.create_connection(new).await?.id),
        found => Ok(found?.id),
    }
}

/// Prints how an operation comes along, until it stands still.
async fn attend(service: &BackupService, operation: &Operation) -> Result<()> {
    let mut watch = std::pin::pin!(service.watch(&operation.new.id));
    while let Some(now) = watch.try_next().await? {
        println!("{:?}: {}, {} entries, {} bytes", now.new.kind, now.state, now.progress.entries, now.progress.bytes);
    }
    Ok(())
}
