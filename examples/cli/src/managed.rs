//! Operations of stored connections that run in this process.

use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::operations::{holder_text, reason_text};
use crate::run::{Ended, Runner, unless_interrupted};
use crate::service::{self, Means};
use crate::signals::Signals;
use backup_core::engine::{EngineOptions, TakeOver};
use backup_core::model::{Operation, OperationId};
use backup_core::service::BackupService;
use backup_core::state::State;
use serde_json::json;

/// What tells how an operation ended.
type Summary = fn(&App, &Operation, &crate::run::Completed) -> Exit;

/// A service without a worker, and who stays with an operation of it.
pub(crate) async fn open(app: &App, engine: EngineOptions) -> Result<(Runner<'_>, BackupService), Failure> {
    let (runner, sink) = Runner::new(app);
    let means = Means { engine, sinks: vec![sink], worker: None };
    Ok((runner, service::open(app, means, false).await?))
}

/// Runs an operation in this process until it ends. When a worker elsewhere has it, this waits for its end.
pub(crate) async fn run(
    app: &App,
    runner: Runner<'_>,
    service: &BackupService,
    id: &OperationId,
    (take_over, keep_going): (TakeOver, bool),
    signals: &mut Signals,
    summary: Summary,
) -> Result<Exit, Failure> {
    let operation = service.operation(id).await?;
    match unless_interrupted(signals, service.run_now(id, take_over, keep_going)).await?? {
        Some(handle) => match runner.attend(handle, operation.new.kind, signals).await? {
            Ended::Completed(completed) => Ok(summary(app, &operation, &completed)),
            Ended::Otherwise(exit) => Ok(exit),
        },
        None => {
            let now = service.operation(id).await?;
            app.out.event(&json!({ "event": "elsewhere", "operation": id, "holder": now.holder }));
            app.out.note(format!(
                "operation {id} is run by {}; waiting for its end (Ctrl-C leaves it alone)",
                holder_text(&now)
            ));
            let ended = unless_interrupted(signals, service.wait(id)).await??;
            let text = match reason_text(&ended) {
                Some(reason) => format!("operation {id} is {}: {reason}", ended.state),
                None => format!("operation {id} is {}", ended.state),
            };
            app.out.event(&json!({ "event": "ended", "operation": id, "state": ended.state.name() }));
            app.out.tell(text);
            Ok(match ended.state {
                State::Completed { warnings: 0 } => Exit::Done,
                State::Completed { .. } => Exit::Warnings,
                State::Failed { .. } | State::Cancelled => Exit::Failed,
                _ => Exit::Paused,
            })
        }
    }
}

/// Says that an operation waits for a worker.
pub(crate) fn left(app: &App, created: &Operation) -> Result<Exit, Failure> {
    let id = &created.new.id;
    app.out.document(&json!({ "event": "created", "operation": id, "archive": created.new.archive }))?;
    app.out.line(format!(
        "operation {id} waits for a worker; follow it with: {}",
        app.command(&format!("logs --follow {id}"))
    ))?;
    Ok(Exit::Done)
}
