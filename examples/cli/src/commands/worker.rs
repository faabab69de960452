//! `backup worker`

use crate::app::App;
use crate::args::Worker;
use crate::failure::{Exit, Failure};
use crate::service::{self, Means};
use crate::signals::Signals;
use backup_core::engine::EngineOptions;
use backup_core::model::LogLevel;
use backup_core::service::{ServiceEvent, WorkerOptions};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

pub(super) async fn run(app: &App, args: Worker) -> Result<Exit, Failure> {
    let Worker { parallel, per_connection, look_every, memory, lease } = args;
    let mut signals = Signals::install()?;
    let defaults = EngineOptions::default();
    let engine = EngineOptions {
        memory: memory.unwrap_or(defaults.memory),
        lease: lease.map_or(defaults.lease, Duration::from_secs),
        ..defaults
    };
    let worker = WorkerOptions { parallel, per_connection, look_every: Duration::from_secs_f64(look_every) };
    let means = Means { engine, sinks: vec![Arc::new(backup_core::service::TracingSink)], worker: Some(worker) };
    let service = service::open(app, means, false).await.map_err(usage)?;
    let mut events = service.events();
    app.out.event(&json!({ "event": "started", "pid": std::process::id() }));
    app.out.note(format!("waiting for operations, up to {parallel} at once; Ctrl-C hands over what runs, and stops"));
    loop {
        tokio::select! {
            _ = signals.next() => break,
            event = events.recv() => match event {
                Ok(event) => tell(app, &service, event).await,
                Err(RecvError::Lagged(missed)) => app.out.note(format!("{missed} events were not shown")),
                Err(RecvError::Closed) => break,
            },
        }
    }
    app.out.note("handing over: what has been read is being stored; again stops at once");
    tokio::select! {
        () = service.shutdown() => {}
        _ = signals.next() => {}
    }
    app.out.event(&json!({ "event": "stopped" }));
    Ok(Exit::Done)
}

fn usage(failure: Failure) -> Failure {
    match failure {
        Failure::Error { error, .. } if error.class() == backup_core::ErrorClass::Invalid => {
            Failure::Usage(error.chain())
        }
        other => other,
    }
}

async fn tell(app: &App, service: &backup_core::service::BackupService, event: ServiceEvent) {
    match event {
        ServiceEvent::Started(operation) => {
            let new = &operation.new;
            app.out.event(
                &json!({ "event": "begun", "operation": new.id, "kind": new.kind, "attempt": operation.attempt }),
            );
            app.out.tell(format!("{}: {} -> {}", new.id, new.source, new.destination));
        }
        ServiceEvent::Ended(id) => {
            let state = match service.operation(&id).await {
                Ok(operation) => crate::operations::state_text(&operation).to_owned(),
                Err(error) => format!("not known: {}", error.chain()),
            };
            app.out.event(&json!({ "event": "ended", "operation": id, "state": state }));
            app.out.tell(format!("{id}: {state}"));
        }
        ServiceEvent::Log { operation, record } if app.is_verbose() || record.level >= LogLevel::Warning => {
            app.out.note(format!("{operation}: {}: {}", record.step, record.message));
        }
        _ => {}
    }
}
