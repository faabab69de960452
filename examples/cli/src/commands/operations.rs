//! `backup operations`, `backup pause`, `backup cancel`

use crate::app::App;
use crate::args::{OperationArg, Operations};
use crate::failure::{Exit, Failure};
use crate::keys;
use crate::operations::{Hold, find, hold, holder_text, kind_text, reason_text, state_text};
use crate::output::{Lines, table};
use crate::progress::figures;
use crate::service::{self, Means};
use crate::spec::{CreateSpec, RestoreSpec, Spec};
use crate::units;
use backup_core::Error;
use backup_core::engine::{CancelRestore, Engine, OpenOptions};
use backup_core::model::{Operation, OperationQuery};
use backup_core::state::{PauseReason, State};
use serde_json::json;
use std::time::Duration;

/// Operations that are read from the store at once.
const PAGE: u32 = 200;
/// How often the store is asked whether a request was seen to.
const ASK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn list(app: &App, args: Operations) -> Result<Exit, Failure> {
    let Operations { state, limit } = args;
    let limit = limit.unwrap_or(usize::MAX);
    let store = app.store().await?;
    let mut query = OperationQuery {
        states: state.iter().map(|s| s.name()).collect(),
        limit: Some(PAGE),
        ..OperationQuery::default()
    };
    let mut operations = Vec::new();
    while operations.len() < limit {
        let page = store.query(&query).await?;
        query.before = page.last().map(|o| o.new.id.clone());
        let last = page.len() < PAGE as usize;
        operations.extend(page);
        if last {
            break;
        }
    }
    operations.truncate(limit);
    if app.out.json {
        let operations: Vec<_> = operations.iter().map(document).collect();
        app.out.document(&json!({ "operations": operations }))?;
        return Ok(Exit::Done);
    }
    if operations.is_empty() {
        app.out.note("there are no operations");
        return Ok(Exit::Done);
    }
    let now = jiff::Timestamp::now();
    let rows: Vec<Vec<String>> = operations
        .iter()
        .map(|o| {
            let age = now.duration_since(o.created_at).as_secs_f64();
            vec![
                o.new.id.to_string(),
                kind_text(o.new.kind).into(),
                state_text(o).into(),
                figures(&o.progress),
                units::span(age),
                o.new.source.to_string(),
                o.new.destination.to_string(),
                // An error text may have several lines; the job log has them all.
                reason_text(o).unwrap_or_default().lines().next().unwrap_or_default().to_string(),
            ]
        })
        .collect();
    let mut lines = Lines::new();
    lines.line(table(&["OPERATION", "KIND", "STATE", "PROGRESS", "AGE", "FROM", "TO", "REASON"], &rows))?;
    lines.flush()?;
    Ok(Exit::Done)
}

pub(super) async fn pause(app: &App, args: OperationArg) -> Result<Exit, Failure> {
    let store = app.store().await?;
    let operation = find(&*store, &args.operation).await?;
    let id = operation.new.id.clone();
    let engine = Engine::new(store.clone());
    if !matches!(operation.state, State::Paused { .. }) {
        engine.request_pause(&id).await?;
        if hold(&operation) == Hold::Live {
            app.out.note(format!("asked {} to pause {id}", holder_text(&operation)));
        }
    }
    // Until it is seen to, nobody knows whether it was in time.
    let now = loop {
        let now = find(&*store, id.as_str()).await?;
        match hold(&now) {
            Hold::None => break now,
            Hold::Live => tokio::time::sleep(ASK_EVERY).await,
            // Its worker died before it saw the wish; asking again pauses it in its place.
            Hold::Dead | Hold::Expired if now.state == State::Running => {
                engine.request_pause(&id).await?;
            }
            Hold::Dead | Hold::Expired => {
                return Err(Failure::from(Error::conflict("it is completing and cannot be paused any more").on(&id))
                    .hint(format!("go on with: {}", app.resume_command(&id))));
            }
        }
    };
    app.out.document(&document(&now))?;
    match &now.state {
        State::Paused { reason: PauseReason::Requested, .. } => {
            app.out.line(format!("operation {id} is paused\ngo on with: {}", app.resume_command(&id)))?;
        }
        state => app.out.line(format!("operation {id} is {state}"))?,
    }
    Ok(match &now.state {
        State::Failed { .. } | State::Cancelled => Exit::Failed,
        _ => Exit::Done,
    })
}

pub(super) async fn cancel(app: &App, args: OperationArg) -> Result<Exit, Failure> {
    let store = app.store().await?;
    let operation = find(&*store, &args.operation).await?;
    let id = operation.new.id.clone();
    let engine = Engine::new(store.clone());
    let spec = if operation.new.connections.is_some() { None } else { Some(Spec::of(&operation)?) };
    let cancelled = match spec {
        None => service::open(app, Means::default(), false).await?.cancel(&id).await,
        Some(Spec::Create(CreateSpec { to, .. })) => engine.cancel_backup(&id, &to.destination().await?).await,
        Some(Spec::Restore(RestoreSpec { at, to, target: options, key, allow_unsealed, .. })) => {
            let open = OpenOptions {
                keys: keys::load(app.key.as_ref().or(key.as_ref()))?,
                allow_unsealed: allow_unsealed || app.allow_unsealed(),
            };
            let (destination, target) = (at.destination().await?, to.target(&options).await?);
            engine.cancel_restore(CancelRestore { operation: id.clone(), destination, target, open }).await
        }
    };
    match cancelled {
        Ok(operation) => {
            app.out.document(&document(&operation))?;
            app.out.line(format!("operation {id} is cancelled"))?;
            Ok(Exit::Done)
        }
        Err(error) => {
            // The store's answer stands even when the removal of what was written met trouble.
            let cancelled = matches!(store.get(&id).await, Ok(Some(now)) if now.state == State::Cancelled);
            let failure = Failure::from(error);
            if !cancelled {
                return Err(failure);
            }
            let again = app.command(&format!("cancel {id}"));
            Err(failure.hint(format!("the operation is cancelled; what is left of it goes with: {again}")))
        }
    }
}

/// An operation for machines.
pub(super) fn document(operation: &Operation) -> serde_json::Value {
    let Operation {
        new,
        state,
        attempt,
        holder,
        lease_running,
        request,
        progress,
        created_at,
        updated_at,
        finished_at,
        version: _,
        nonce: _,
    } = operation;
    json!({
        "id": new.id, "kind": new.kind, "name": new.name, "archive": new.archive,
        "from": new.source, "to": new.destination,
        "state": state.name(), "details": state, "reason": reason_text(operation),
        "interrupted": matches!(hold(operation), Hold::Dead | Hold::Expired),
        "connections": new.connections, "created_by": new.created_by, "attempt": attempt, "holder": holder, "lease_running": lease_running, "request": request,
        "progress": progress,
        "created_at": created_at, "updated_at": updated_at, "finished_at": finished_at,
    })
}
