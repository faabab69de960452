//! `backup create`

use crate::app::App;
use crate::args::{Codec, Create};
use crate::failure::{Exit, Failure};
use crate::keys;
use crate::locator::SourceOptions;
use crate::locator::mongodb::SourceOptions as MongoSourceOptions;
use crate::managed;
use crate::run::{Completed, Ended, Runner, begin, unless_interrupted};
use crate::service;
use crate::signals::Signals;
use crate::spec::{CreateSpec, ResourcesSpec, Spec};
use crate::units;
use backup_core::archive::{self, Compression};
use backup_core::engine::{BackupOptions, BackupRequest, TakeOver};
use backup_core::model::{ArchiveId, OperationId, OperationKind};
use backup_core::service::NewBackup;
use std::ops::ControlFlow;

/// The engine makes no volume longer than this part of its memory.
const VOLUMES_IN_MEMORY: u64 = 6;

pub(super) async fn run(app: &App, args: Create) -> Result<Exit, Failure> {
    let Create {
        from,
        to,
        source,
        destination,
        source_options,
        detach,
        name,
        codec,
        level,
        volume_size,
        exclude,
        one_file_system,
        mongodb,
        resources,
    } = args;
    let compression = Compression::new(codec.into(), level).map_err(|e| Failure::Usage(format!("--level: {e}")))?;
    let resources = ResourcesSpec::from(resources);
    let engine_options = resources.engine_options();
    if let Some(size) = volume_size.filter(|size| *size > engine_options.memory / VOLUMES_IN_MEMORY) {
        return Err(Failure::Usage(format!(
            "--volume-size: volumes of {} need more memory: add --memory {}MiB, or choose at most {}",
            units::bytes(size),
            size.saturating_mul(VOLUMES_IN_MEMORY).div_ceil(1 << 20),
            units::bytes(engine_options.memory / VOLUMES_IN_MEMORY),
        )));
    }
    let name = name.unwrap_or_default();
    let options = BackupOptions { compression, volume_size, ..BackupOptions::default() };
    let (from, to) = match (from, to, source, destination) {
        (Some(from), Some(to), None, None) => (from, to),
        (None, None, Some(source), Some(destination)) => {
            if !exclude.is_empty()
                || one_file_system
                || MongoSourceOptions::from(mongodb.clone()) != MongoSourceOptions::default()
            {
                let text = "options of the source are given as --source-options JSON when it is a stored connection";
                return Err(Failure::Usage(text.into()));
            }
            let places =
                Places { source, destination, source_options: json_options(source_options, "--source-options")? };
            return stored(app, places, name, options, resources, detach).await;
        }
        _ => return Err(Failure::Usage("name both places as locators, or both as stored connections".into())),
    };
    let spec = CreateSpec {
        from,
        source: SourceOptions { exclude, one_file_system, mongodb: mongodb.into() },
        to,
        key: app.key.clone(),
        resources,
    };
    let mut signals = Signals::install()?;
    let request = BackupRequest {
        source: spec.from.source(&spec.source).await.map_err(Failure::of_request)?,
        destination: spec.to.destination().await?,
        name,
        options,
        keys: keys::load(spec.key.as_ref())?,
        limits: resources.limits(),
        spec: Spec::Create(spec).to_json()?,
        connections: None,
        created_by: service::user(),
    };
    let store = app.store().await?;
    let (runner, engine) = Runner::with_engine(app, store.clone(), engine_options);
    let (kind, spec) = (OperationKind::Backup, request.spec.clone());
    let work = engine.backup(request);
    let handle = match begin(app, &*store, &mut signals, (kind, &spec), work).await? {
        ControlFlow::Continue(handle) => handle,
        ControlFlow::Break(exit) => return Ok(exit),
    };
    let (operation, archive) = (handle.id().clone(), handle.archive().clone());
    match runner.attend(handle, OperationKind::Backup, &mut signals).await? {
        Ended::Completed(completed) => Ok(summary(app, &operation, &archive, &completed)),
        Ended::Otherwise(exit) => Ok(exit),
    }
}

/// The stored connections that a backup works with.
struct Places {
    source: String,
    destination: String,
    source_options: serde_json::Value,
}

/// A backup of stored connections.
async fn stored(
    app: &App,
    places: Places,
    name: String,
    options: BackupOptions,
    resources: ResourcesSpec,
    detach: bool,
) -> Result<Exit, Failure> {
    let mut signals = Signals::install()?;
    let (runner, service) = managed::open(app, resources.engine_options()).await?;
    let new = NewBackup {
        name,
        source_options: places.source_options,
        options,
        limit_read: resources.limit_read,
        limit_write: resources.limit_write,
        created_by: service::user(),
        ..NewBackup::new(
            &service.find_connection(&places.source).await?.id,
            &service.find_connection(&places.destination).await?.id,
        )
    };
    let created = unless_interrupted(&mut signals, service.backup(new)).await?.map_err(Failure::of_request)?;
    if detach {
        return managed::left(app, &created);
    }
    let id = created.new.id;
    managed::run(app, runner, &service, &id, (TakeOver::WhenFree, false), &mut signals, |app, operation, completed| {
        summary(app, &operation.new.id, &operation.new.archive, completed)
    })
    .await
}

/// Options of an adapter.
pub(super) fn json_options(text: Option<String>, option: &str) -> Result<serde_json::Value, Failure> {
    match text {
        Some(text) => serde_json::from_str(&text).map_err(|e| Failure::Usage(format!("{option}: {e}"))),
        None => Ok(serde_json::Value::Null),
    }
}

/// Says what was made.
pub(super) fn summary(app: &App, operation: &OperationId, archive: &ArchiveId, completed: &Completed) -> Exit {
    let Completed { warnings, progress, .. } = completed;
    app.out.tell(format!(
        "archive {archive}: {}, {}, stored as {}",
        units::count(progress.entries, "entry"),
        units::bytes(progress.bytes),
        units::bytes(progress.stored_bytes),
    ));
    warned(app, operation, *warnings)
}

/// Says how many warnings there were and where they are.
pub(super) fn warned(app: &App, operation: &OperationId, warnings: u64) -> Exit {
    if warnings == 0 {
        return Exit::Done;
    }
    let logs = app.command(&format!("logs {operation}"));
    app.out.tell(format!("completed with {}; see: {logs}", units::count(warnings, "warning")));
    Exit::Warnings
}

impl From<Codec> for archive::Codec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Zstd => Self::Zstd,
            Codec::Gzip => Self::Gzip,
            Codec::None => Self::None,
        }
    }
}
