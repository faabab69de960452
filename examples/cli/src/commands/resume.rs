//! `backup resume`

use super::create;
use super::restore;
use crate::app::App;
use crate::args::{Password, Resources, Resume};
use crate::failure::{Exit, Failure};
use crate::keys;
use crate::managed;
use crate::operations::{Hold, find, hold, holder_text};
use crate::run::{Ended, Runner, unless_interrupted};
use crate::signals::Signals;
use crate::spec::{CreateSpec, ResourcesSpec, RestoreSpec, Spec};
use backup_core::adapter::Store;
use backup_core::engine::{OpenOptions, ResumeBackup, ResumeRestore, TakeOver};
use backup_core::model::{Operation, OperationKind, OperationQuery};
use serde_json::json;
use std::sync::Arc;

/// How operations are continued.
#[derive(Clone, Debug)]
struct How {
    take_over: TakeOver,
    keep_going: bool,
    password: Password,
    resources: Resources,
}

pub(super) async fn run(app: &App, args: Resume) -> Result<Exit, Failure> {
    let Resume { operation, all: _, take_over, keep_going, password, resources } = args;
    let take_over = if take_over { TakeOver::Now } else { TakeOver::WhenFree };
    let how = How { take_over, keep_going, password, resources };
    let store = app.store().await?;
    let mut signals = Signals::install()?;
    match operation {
        Some(selector) => {
            let operation = find(&*store, &selector).await?;
            if hold(&operation) == Hold::Live && how.take_over == TakeOver::WhenFree {
                app.out
                    .event(&json!({ "event": "waiting", "operation": operation.new.id, "holder": operation.holder }));
                app.out.note(format!(
                    "{} holds this operation; waiting until it ends or gives no sign of life any more \
                     (--take-over goes on at once, if you know that it is gone)",
                    holder_text(&operation)
                ));
            }
            Box::pin(one(app, &store, &operation, &how, &mut signals)).await
        }
        None => Box::pin(all(app, &store, &how, &mut signals)).await,
    }
}

/// Continues everything that can go on, the oldest first, and ends with the worst of their ends.
async fn all(app: &App, store: &Arc<dyn Store>, how: &How, signals: &mut Signals) -> Result<Exit, Failure> {
    let mut operations = Vec::new();
    let mut query = OperationQuery {
        states: vec!["pending", "running", "committing", "paused", "failed"],
        ..OperationQuery::default()
    };
    loop {
        let page = store.query(&query).await?;
        let Some(last) = page.last() else { break };
        query.before = Some(last.new.id.clone());
        operations.extend(page);
    }
    operations.reverse();
    let mut worst = Exit::Done;
    let mut resumed = 0;
    for operation in operations {
        let id = &operation.new.id;
        if hold(&operation) == Hold::Live && how.take_over == TakeOver::WhenFree {
            app.out.note(format!("{id}: left to {}, which works on it", holder_text(&operation)));
            continue;
        }
        resumed += 1;
        app.out.note(format!("{id}: {} -> {}", operation.new.source, operation.new.destination));
        match one(app, store, &operation, how, signals).await {
            // Whoever pauses one by a signal means all of them.
            Ok(Exit::Paused) if signals.were_received() => return Ok(worst.worse(Exit::Paused)),
            Ok(exit) => worst = worst.worse(exit),
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => {
                failure.report(app.out.json);
                worst = Exit::Failed;
            }
        }
    }
    if resumed == 0 {
        app.out.note("there is nothing to resume");
    }
    Ok(worst)
}

/// Continues one operation.
async fn one(
    app: &App,
    store: &Arc<dyn Store>,
    operation: &Operation,
    how: &How,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let How { take_over, keep_going, password, resources } = how.clone();
    let id = operation.new.id.clone();
    if operation.new.connections.is_some() {
        let resources = ResourcesSpec::from(resources);
        let (runner, service) = managed::open(app, resources.engine_options()).await?;
        return managed::run(
            app,
            runner,
            &service,
            &id,
            (take_over, keep_going),
            signals,
            |app, operation, completed| match operation.new.kind {
                OperationKind::Backup => create::summary(app, &operation.new.id, &operation.new.archive, completed),
                _ => restore::summary(app, &operation.new.id, &operation.new.destination, completed),
            },
        )
        .await;
    }
    match Spec::of(operation)? {
        Spec::Create(CreateSpec { from, mut source, to, key, resources: kept }) => {
            source.mongodb.overridden_by(password);
            let resources = kept.overridden_by(resources);
            let (runner, engine) = Runner::with_engine(app, store.clone(), resources.engine_options());
            let request = ResumeBackup {
                operation: id.clone(),
                source: from.source(&source).await?,
                destination: to.destination().await?,
                keys: keys::load(app.key.as_ref().or(key.as_ref()))?,
                limits: resources.limits(),
                take_over,
            };
            let handle = unless_interrupted(signals, engine.resume_backup(request)).await??;
            match runner.attend(handle, OperationKind::Backup, signals).await? {
                Ended::Completed(completed) => Ok(create::summary(app, &id, &operation.new.archive, &completed)),
                Ended::Otherwise(exit) => Ok(exit),
            }
        }
        Spec::Restore(RestoreSpec { at, to, mut target, key, allow_unsealed, resources: kept }) => {
            target.mongodb.overridden_by(password);
            let resources = kept.overridden_by(resources);
            let (runner, engine) = Runner::with_engine(app, store.clone(), resources.engine_options());
            let request = ResumeRestore {
                operation: id.clone(),
                destination: at.destination().await?,
                target: to.target(&target).await?,
                open: OpenOptions {
                    keys: keys::load(app.key.as_ref().or(key.as_ref()))?,
                    allow_unsealed: allow_unsealed || app.allow_unsealed(),
                },
                limits: resources.limits(),
                take_over,
                keep_going,
            };
            let handle = unless_interrupted(signals, engine.resume_restore(request)).await??;
            match runner.attend(handle, OperationKind::Restore, signals).await? {
                Ended::Completed(completed) => Ok(restore::summary(app, &id, &operation.new.destination, &completed)),
                Ended::Otherwise(exit) => Ok(exit),
            }
        }
    }
}
