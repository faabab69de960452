//! `backup restore`

mod mongodump;

use super::create::{json_options, warned};
use super::show::description;
use crate::app::App;
use crate::args::Restore;
use crate::confirm::confirm;
use crate::failure::{Exit, Failure};
use crate::keys;
use crate::locator::TargetOptions;
use crate::managed;
use crate::run::{Completed, Ended, Runner, begin, unless_interrupted};
use crate::service;
use crate::signals::Signals;
use crate::spec::{ResourcesSpec, RestoreSpec, Spec};
use crate::units;
use backup_core::engine::{OpenOptions, RestoreOptions, RestoreRequest, Selection, TakeOver};
use backup_core::model::{EntryName, Identity, OperationId, OperationKind};
use backup_core::service::NewRestore;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;

pub(super) async fn run(app: &App, args: Restore) -> Result<Exit, Failure> {
    if args.from_mongodump.is_some() {
        return mongodump::run(app, args).await;
    }
    let Restore {
        archive,
        at,
        to,
        destination,
        target,
        target_options,
        detach,
        mut include,
        mut exclude,
        entries,
        overwrite,
        force,
        no_verify,
        keep_going,
        mongodb,
        from_mongodump: _,
        resources,
    } = args;
    let resources = ResourcesSpec::from(resources);
    // A name may be any bytes.
    let names = entries.iter().map(|name| EntryName::new(name.clone().into_vec())).collect();
    let (archive, at, to) = match (archive, at, to, destination, target) {
        (Some(archive), Some(at), Some(to), None, None) => (archive, at, to),
        (Some(archive), None, None, Some(destination), Some(target)) => {
            let selection = Selection { include, exclude, names };
            let options = RestoreOptions { selection, overwrite, skip_verify: no_verify, keep_going };
            let target_options = json_options(target_options, "--target-options")?;
            let places = Places { archive, destination, target, target_options };
            return stored(app, places, options, resources, detach).await;
        }
        _ => {
            return Err(Failure::Usage(
                "name an archive, its place and a target: both as locators, or both as stored connections".into(),
            ));
        }
    };
    let selected = !include.is_empty() || !entries.is_empty();
    let options = TargetOptions { mongodb: mongodb.into() };
    if to.is_mongodb() {
        (include, exclude) = options.mongodb.selection(include, exclude);
    }
    let key = app.key.clone();
    let spec = RestoreSpec { at, to, target: options, key, allow_unsealed: app.allow_unsealed(), resources };
    let (destination, archive) = app.open_archive(&spec.at, &archive).await?;
    let target = spec.to.target(&spec.target).await.map_err(Failure::of_request)?;
    let place = target.identity();
    if !overwrite && !force && !target.is_empty().await? {
        if app.out.is_interactive() {
            app.out.note(description(&archive));
        }
        let question = format!("{place} is not empty: restore into it? What is there is kept.");
        confirm(app.out, &question, "--force (keep what is there) or --overwrite (replace it)")?;
    } else {
        app.out.note(description(&archive));
    }
    let mut signals = Signals::install()?;
    let request = RestoreRequest {
        destination,
        archive: archive.header().id.clone(),
        target,
        open: OpenOptions { keys: keys::load(spec.key.as_ref())?, allow_unsealed: spec.allow_unsealed },
        options: RestoreOptions {
            selection: Selection { include, exclude, names },
            overwrite,
            skip_verify: no_verify,
            keep_going,
        },
        limits: resources.limits(),
        name: archive.header().name.clone(),
        spec: Spec::Restore(spec).to_json()?,
        connections: None,
        created_by: service::user(),
    };
    // What was read to describe the archive is not needed while it is restored.
    drop(archive);
    let store = app.store().await?;
    let (runner, engine) = Runner::with_engine(app, store.clone(), resources.engine_options());
    let (kind, spec) = (OperationKind::Restore, request.spec.clone());
    let work = engine.restore(request);
    let handle = match begin(app, &*store, &mut signals, (kind, &spec), work).await? {
        ControlFlow::Continue(handle) => handle,
        ControlFlow::Break(exit) => return Ok(exit),
    };
    let operation = handle.id().clone();
    match runner.attend(handle, OperationKind::Restore, &mut signals).await? {
        Ended::Completed(completed) => {
            let exit = summary(app, &operation, &place, &completed);
            if selected && completed.progress.entries == 0 {
                app.out.note("warning: nothing in the archive fits what was asked for");
                return Ok(exit.worse(Exit::Warnings));
            }
            Ok(exit)
        }
        Ended::Otherwise(exit) => Ok(exit),
    }
}

/// The stored connections that a restore works with.
struct Places {
    archive: String,
    destination: String,
    target: String,
    target_options: serde_json::Value,
}

/// A restore of stored connections.
async fn stored(
    app: &App,
    places: Places,
    options: RestoreOptions,
    resources: ResourcesSpec,
    detach: bool,
) -> Result<Exit, Failure> {
    let mut signals = Signals::install()?;
    let (runner, service) = managed::open(app, resources.engine_options()).await?;
    let destination = service.find_connection(&places.destination).await?.id;
    let target = service.find_connection(&places.target).await?.id;
    let archive = service.find_archive(&destination, &places.archive).await?;
    let new = NewRestore {
        target_options: places.target_options,
        options,
        allow_unsealed: app.allow_unsealed(),
        limit_read: resources.limit_read,
        limit_write: resources.limit_write,
        created_by: service::user(),
        ..NewRestore::new(&destination, &archive, &target)
    };
    let created = unless_interrupted(&mut signals, service.restore(new)).await?.map_err(Failure::of_request)?;
    if detach {
        return managed::left(app, &created);
    }
    let id = created.new.id;
    managed::run(app, runner, &service, &id, (TakeOver::WhenFree, false), &mut signals, |app, operation, completed| {
        summary(app, &operation.new.id, &operation.new.destination, completed)
    })
    .await
}

/// Says what was restored, and what reading it back gave.
pub(super) fn summary(app: &App, operation: &OperationId, target: &Identity, completed: &Completed) -> Exit {
    let Completed { warnings, progress, verification } = completed;
    let entries = units::count(progress.entries, "entry");
    app.out.tell(format!("restored {entries}, {} to {target}", units::bytes(progress.bytes)));
    match verification {
        Some(result) => app.out.tell(format!("verified: {result}")),
        None => app.out.tell("not read back"),
    }
    warned(app, operation, *warnings)
}
