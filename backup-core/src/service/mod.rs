//! What a program embeds: connections with sealed secrets, operations in the background, archives, logs and history on one
//! [`Store`].
//!
//! [`BackupService`] is the one façade. A connection is stored configuration of a place; operations name connections, so that any
//! process on the same store can build their adapters again. Workers, in this process or others, claim what is due and run it: pause,
//! cancel and shutdown reach them through the store, and what a dead one leaves is continued by the next.
//!
//! ```
//! use backup_core::local::LocalAdapter;
//! use backup_core::memory::MemoryStore;
//! use backup_core::secrets::{KeyRing, SecretKey};
//! use backup_core::service::{BackupService, NewBackup, NewConnection};
//! use backup_core::state::State;
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> backup_core::Result<()> {
//! # let place = std::env::temp_dir().join(format!("backup-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(place.join("docs")).unwrap();
//! # std::fs::write(place.join("docs/letter.txt"), "Dear reader").unwrap();
//! let key = SecretKey::parse(&backup_core::archive::generate_key_file()?)?;
//! let service = BackupService::builder(Arc::new(MemoryStore::new()))
//!     .keys(Arc::new(KeyRing::new(key)))
//!     .adapter(LocalAdapter)
//!     .build()?;
//!
//! let config = |path: &str| serde_json::json!({ "path": place.join(path) }).to_string().into();
//! let docs = service.create_connection(NewConnection::new("docs", "local", config("docs"))).await?;
//! let disk = NewConnection::new("disk", "local", config("backups")).checked_as([backup_core::service::Role::Destination]);
//! let disk = service.create_connection(disk).await?;
//!
//! let backup = service.backup(NewBackup::new(&docs.id, &disk.id)).await?;
//! let done = service.wait(&backup.new.id).await?;
//! assert!(matches!(done.state, State::Completed { warnings: 0 }));
//! assert_eq!(service.archives(&disk.id).await?.len(), 1);
//! service.shutdown().await;
//! # std::fs::remove_dir_all(place).unwrap();
//! # Ok(()) }
//! ```

mod adapter;
mod archives;
mod builder;
mod config;
mod connections;
mod events;
mod keeper;
mod logs;
mod operations;
mod sinks;
mod spec;
mod worker;

pub use adapter::{Adapter, Role};
pub use archives::DeletedEverywhere;
pub use builder::BackupServiceBuilder;
pub use config::{AdapterConfig, SecretKeeper, parse_options};
pub use connections::{AdapterInfo, ConnectionChange, ConnectionView, NewConnection};
pub use events::ServiceEvent;
pub use operations::{NewBackup, NewRestore};
pub use sinks::TracingSink;
pub use worker::WorkerOptions;

use crate::adapter::Store;
use crate::archive::KeyProvider;
use crate::engine::{Engine, Limits};
use crate::model::OperationId;
use crate::secrets::KeyRingProvider;
use adapter::Registry;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

/// Connections, operations, archives, logs and history on one store. Cheap to clone; see the [module](self).
///
/// Its methods may be called from any number of tasks, and their futures may be dropped at any time. What a method changes is in the
/// store when it returns; several processes may use one store, and all that they share is there.
///
/// When the last clone is dropped, the worker of this process hands its operations over, as by [`shutdown`](Self::shutdown), but nobody
/// waits for that.
#[derive(Clone)]
pub struct BackupService {
    inner: Arc<Inner>,
    /// Held by the program's clones, not by the worker's.
    _guard: Option<Arc<Guard>>,
}

/// Stops the worker when nobody uses the service any more.
struct Guard(CancellationToken);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Inner {
    store: Arc<dyn Store>,
    engine: Engine,
    adapters: Registry,
    keys: Arc<dyn KeyRingProvider>,
    archive_keys: Option<Arc<dyn KeyProvider>>,
    clock: Clock,
    events: broadcast::Sender<ServiceEvent>,
    /// Something may be due now.
    due: Notify,
    /// Of operations that the worker of this process runs, with the attempts.
    limits: Mutex<HashMap<OperationId, (u64, Limits)>>,
    worker: Mutex<Option<worker::Running>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackupService")
    }
}

type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

impl fmt::Debug for BackupService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupService")
            .field("store", &self.inner.store)
            .field("adapters", &self.inner.adapters)
            .finish_non_exhaustive()
    }
}

impl BackupService {
    /// A service on a store; the keys for secrets and at least one adapter must be given before it is built.
    pub fn builder(store: Arc<dyn Store>) -> BackupServiceBuilder {
        BackupServiceBuilder::new(store)
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }
}
