//! The service on this program's store: connections, and operations that work with them.

use crate::app::App;
use crate::failure::Failure;
use crate::secrets;
use backup_core::adapter::{LogSink, Store};
use backup_core::engine::EngineOptions;
use backup_core::local::LocalAdapter;
use backup_core::model::ConnectionQuery;
use backup_core::secrets::FileKeys;
use backup_core::service::{BackupService, BackupServiceBuilder, WorkerOptions};
use backup_gdrive::GDriveAdapter;
use backup_mongo::MongoAdapter;
use backup_s3::S3Adapter;
use std::sync::Arc;

/// What runs operations in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Means {
    /// How operations work.
    pub(crate) engine: EngineOptions,
    /// Where job log records go besides the store.
    pub(crate) sinks: Vec<Arc<dyn LogSink>>,
    /// How the worker of this process works; none without.
    pub(crate) worker: Option<WorkerOptions>,
}

/// The service. `make` also makes the key for secrets if there is none yet; without connections that have secrets none is needed.
///
/// # Errors
/// When the store or a key cannot be opened.
pub(crate) async fn open(app: &App, means: Means, make: bool) -> Result<BackupService, Failure> {
    let Means { engine, sinks, worker } = means;
    let missing = "there is no key for the secrets of connections; it is made with the first connection, or copy it from where that was made";
    let store = app.store().await?;
    let key_file = secrets::key_file()?;
    let has_secrets = has_secrets(&*store).await?;
    if make || has_secrets {
        // A second key beside one of another host would keep the workers of each from the secrets of the other.
        secrets::ring(make && !has_secrets, missing)?;
    }
    let builder = BackupService::builder(store)
        // Read each time: keys are changed while workers run.
        .keys(FileKeys::new(key_file))
        .adapter(LocalAdapter)
        .adapter(S3Adapter)
        .adapter(MongoAdapter)
        .adapter(GDriveAdapter)
        .engine(engine);
    let builder = sinks.into_iter().fold(builder, BackupServiceBuilder::log_sink);
    let builder = match app.open_options()?.keys {
        Some(keys) => builder.archive_keys(keys),
        None => builder,
    };
    let builder = match worker {
        Some(options) => builder.worker(options),
        None => builder.without_worker(),
    };
    Ok(builder.build()?)
}

/// Whether a connection of the store has secrets.
async fn has_secrets(store: &dyn Store) -> Result<bool, Failure> {
    let mut query = ConnectionQuery::default();
    loop {
        let page = store.connections(&query).await?;
        let Some(last) = page.last() else { return Ok(false) };
        query.after = Some(last.id.clone());
        if page.iter().any(|connection| connection.content.secret.is_some()) {
            return Ok(true);
        }
    }
}

/// Who uses this program, for the history.
pub(crate) fn user() -> String {
    std::env::var("USER").unwrap_or_default()
}
