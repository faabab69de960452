//! The shortest real program: backs a directory up, prints the progress, and restores the archive elsewhere.
//!
//! ```text
//! cargo run -p backup-example-embed -- ./docs ./backups ./restored
//! ```

use backup_core::adapter::Destination;
use backup_core::engine::{BackupRequest, Engine, OperationHandle, Outcome, RestoreRequest};
use backup_core::local::{LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::{Error, Result};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, backups, to] = args.as_slice() else {
        return Err(Error::invalid("say what to back up, where to keep the archive, and where to restore it"));
    };
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let destination: Arc<dyn Destination> = Arc::new(LocalDestination::new(backups)?);

    let source = Arc::new(LocalSource::new(LocalSourceConfig { root: from.into(), ..LocalSourceConfig::default() })?);
    let backup = engine.backup(BackupRequest::new(source, destination.clone())).await?;
    let archive = backup.archive().clone();
    attend("backup", backup).await?;

    let target = Arc::new(LocalTarget::new(LocalTargetConfig::new(to))?);
    let restore = engine.restore(RestoreRequest::new(destination, archive, target)).await?;
    attend("restore", restore).await
}

/// Prints the progress of an operation until it ends.
async fn attend(what: &str, operation: OperationHandle) -> Result<()> {
    let mut progress = operation.progress();
    let print = async {
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().clone();
            println!("{what}: {:?}, {} entries, {} bytes", now.phase, now.entries, now.bytes);
        }
        std::future::pending().await
    };
    let outcome = tokio::select! { outcome = operation.wait() => outcome?, () = print => unreachable!() };
    match outcome {
        Outcome::Completed { warnings, .. } => println!("{what}: done with {warnings} warnings"),
        other => println!("{what}: {other:?}"),
    }
    Ok(())
}
