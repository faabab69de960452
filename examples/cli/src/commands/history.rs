//! `backup history`

use super::operations::document;
use crate::app::App;
use crate::args::{History, KindFilter};
use crate::failure::{Exit, Failure};
use crate::operations::{kind_text, reason_text, state_text};
use crate::output::{Lines, table};
use crate::progress::figures;
use crate::units;
use backup_core::Error;
use backup_core::model::{
    ConnectionId, ConnectionQuery, Operation, OperationKind, OperationQuery, OperationTotals, StorageUse,
};
use serde_json::json;

pub(super) async fn run(app: &App, args: History) -> Result<Exit, Failure> {
    let History { state, kind, source, destination, since, until, before, limit } = args;
    let store = app.store().await?;
    let connection = async |name: Option<String>| -> Result<Option<ConnectionId>, Failure> {
        let Some(name) = name else { return Ok(None) };
        let query = ConnectionQuery { name: Some(name.clone()), ..ConnectionQuery::default() };
        match (store.connections(&query).await?.pop(), name.parse()) {
            (Some(connection), _) => Ok(Some(connection.id)),
            // One that is deleted may still be in the history.
            (None, Ok(id)) => Ok(Some(id)),
            (None, Err(_)) => Err(Error::not_found("there is no such connection").on(name.escape_debug()).into()),
        }
    };
    let query = OperationQuery {
        kind: kind.map(|kind| match kind {
            KindFilter::Backup => OperationKind::Backup,
            KindFilter::Restore => OperationKind::Restore,
            KindFilter::Verify => OperationKind::Verify,
        }),
        states: state.iter().map(|state| state.name()).collect(),
        source_connection: connection(source).await?,
        destination_connection: connection(destination).await?,
        since,
        until,
        before: before.map(|id| id.parse()).transpose()?,
        limit: Some(limit),
        ..OperationQuery::default()
    };
    let page = store.query(&query).await?;
    let totals = store.totals(&query).await?;
    let storage = store.storage().await?;
    let next = (page.len() as u64 == u64::from(limit)).then(|| page.last().map(|o| o.new.id.clone())).flatten();
    if app.out.json {
        let operations: Vec<_> = page.iter().map(document).collect();
        app.out.document(&json!({
            "operations": operations, "next_before": next, "totals": totals, "success_rate": totals.success_rate(),
            "storage": storage,
        }))?;
        return Ok(Exit::Done);
    }
    let mut lines = Lines::new();
    if page.is_empty() {
        app.out.note("there are no such operations");
    } else {
        let head = ["OPERATION", "KIND", "STATE", "CREATED", "TOOK", "FIGURES", "NAME", "BY", "FROM", "TO", "REASON"];
        lines.line(table(&head, &page.iter().map(row).collect::<Vec<_>>()))?;
    }
    if let Some(next) = next {
        lines.line(format!("older ones: --before {next}"))?;
    }
    lines.line(sum(&totals))?;
    for StorageUse { destination, archives, stored_bytes } in &storage {
        lines.line(format!(
            "{destination}: {}, {}",
            units::count(*archives, "archive"),
            units::bytes(*stored_bytes)
        ))?;
    }
    lines.flush()?;
    Ok(Exit::Done)
}

fn row(operation: &Operation) -> Vec<String> {
    let new = &operation.new;
    let took = operation.finished_at.map(|end| units::span(end.duration_since(operation.created_at).as_secs_f64()));
    vec![
        new.id.to_string(),
        kind_text(new.kind).into(),
        state_text(operation).into(),
        units::local_time(operation.created_at),
        took.unwrap_or_default(),
        figures(&operation.progress),
        new.name.clone(),
        new.created_by.clone(),
        new.source.to_string(),
        new.destination.to_string(),
        reason_text(operation).unwrap_or_default().lines().next().unwrap_or_default().to_string(),
    ]
}

/// `12 operations: 10 completed, 1 failed, 1 running; 91 % succeeded`
fn sum(totals: &OperationTotals) -> String {
    let OperationTotals { pending, running, committing, paused, completed, failed, cancelled } = *totals;
    let states = [
        (completed, "completed"),
        (failed, "failed"),
        (cancelled, "cancelled"),
        (running, "running"),
        (committing, "committing"),
        (paused, "paused"),
        (pending, "pending"),
    ];
    let parts: Vec<String> =
        states.iter().filter(|(count, _)| *count > 0).map(|(count, state)| format!("{count} {state}")).collect();
    let mut text = units::count(totals.all(), "operation");
    if !parts.is_empty() {
        text = format!("{text}: {}", parts.join(", "));
    }
    match totals.success_rate() {
        // Never rounded up to all.
        Some(rate) => format!("{text}; {} % succeeded", (rate * 100.0).floor()),
        None => text,
    }
}
