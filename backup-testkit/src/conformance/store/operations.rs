//! Creating, reading and listing operations.

use super::fixture::*;
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::model::{
    Checkpoint, ConnectionId, NewOperation, OperationConnections, OperationId, OperationKind, OperationQuery,
    OperationTotals, Progress,
};
use backup_core::state::State;
use std::sync::Arc;

pub(super) async fn a_new_operation_is_as_it_was_given(store: &Arc<dyn Store>) -> Outcome {
    let new = NewOperation {
        name: "Näme with 'quotes', \"more\", \n lines and 日本".into(),
        kind: OperationKind::Restore,
        created_by: "Ünal \"x\"".into(),
        spec: serde_json::json!({ "nested": { "list": [1, -2, 3.5, true, null, ""] }, "größe": u64::MAX }),
        ..new_operation()
    };
    let created = store.create(new.clone(), None).await?;
    ensure_eq!(created.new, new, "what was created");
    ensure_eq!(created.state, State::Pending, "the state");
    ensure_eq!((created.version, created.attempt, created.nonce), (1, 0, 0), "version, attempt and nonce");
    ensure_eq!(created.holder, None, "the holder");
    ensure!(!created.lease_running, "nobody has a lease");
    ensure_eq!(created.request, None, "the request");
    ensure_eq!(created.progress, Progress::default(), "the progress");
    ensure_eq!(created.finished_at, None, "the end");
    ensure_eq!(store.get(&new.id).await?, Some(created), "what is read back");
    let log = log_of(&**store, &new.id).await?;
    let steps: Vec<_> = log.iter().map(|stored| (stored.sequence, stored.record.step.as_str())).collect();
    ensure_eq!(steps, [(1, "created")], "the log");
    Ok(())
}

pub(super) async fn an_operation_is_created_with_its_first_checkpoint(store: &Arc<dyn Store>) -> Outcome {
    let checkpoint = Checkpoint(vec![0, 255, 7].into());
    let with = store.create(new_operation(), Some(&checkpoint)).await?;
    ensure_eq!(store.checkpoint(&with.new.id).await?, Some(checkpoint.clone()), "the first checkpoint");
    ensure_eq!(
        store.claim(&with.new.id, claim_for(LONG)).await?.checkpoint,
        Some(checkpoint),
        "the checkpoint that a claim brings"
    );
    let without = store.create(new_operation(), None).await?;
    ensure_eq!(store.checkpoint(&without.new.id).await?, None, "no checkpoint where none was given");
    Ok(())
}

pub(super) async fn an_id_is_taken_once(store: &Arc<dyn Store>) -> Outcome {
    let first = new_operation();
    let created = store.create(first.clone(), None).await?;
    let second = NewOperation { name: "another".into(), ..first.clone() };
    conflict(store.create(second, None).await, "creating an id again")?;
    ensure_eq!(store.get(&first.id).await?, Some(created), "the first operation");
    ensure_eq!(log_of(&**store, &first.id).await?.len(), 1, "records in its log");
    Ok(())
}

pub(super) async fn an_unknown_operation_is_none(store: &Arc<dyn Store>) -> Outcome {
    pending(&**store).await?;
    ensure_eq!(store.get(&unknown()).await?, None, "an operation that was never created");
    Ok(())
}

fn id(text: &str) -> Result<OperationId, backup_core::Error> {
    text.parse()
}

pub(super) async fn pages_list_the_newest_first_without_gaps_or_doubles(store: &Arc<dyn Store>) -> Outcome {
    // Not created in the order of their ids.
    let mut ids = Vec::new();
    for text in [
        "20260105T000000Z-00000000",
        "20260101T000000Z-ffffffff",
        "20260104T000000Z-0000000a",
        "20260104T000000Z-00000009",
        "20251231T235959Z-00000000",
        "20260102T000000Z-abcdef01",
        "20260103T000000Z-00000000",
    ] {
        store.create(NewOperation { id: id(text)?, ..new_operation() }, None).await?;
        ids.push(id(text)?);
    }
    ids.sort_unstable_by(|a, b| b.cmp(a));
    for limit in [1, 3, 7, 100] {
        let mut query = OperationQuery { limit: Some(limit), ..OperationQuery::default() };
        let mut listed = Vec::new();
        loop {
            let page = store.query(&query).await?;
            ensure!(page.len() <= limit as usize, "a page of {limit} has {} operations", page.len());
            let Some(last) = page.last() else { break };
            query.before = Some(last.new.id.clone());
            listed.extend(page.into_iter().map(|operation| operation.new.id));
        }
        ensure_eq!(listed, ids, "the listing in pages of {limit}");
    }
    Ok(())
}

pub(super) async fn filters_hold_together(store: &Arc<dyn Store>) -> Outcome {
    let kinds = [OperationKind::Backup, OperationKind::Restore, OperationKind::Verify];
    let mut all = Vec::new();
    for (day, kind) in (10..).zip(kinds.into_iter().cycle().take(9)) {
        let new = NewOperation { id: id(&format!("202601{day}T000000Z-00000000"))?, kind, ..new_operation() };
        store.create(new.clone(), None).await?;
        if day % 2 == 0 {
            store.claim(&new.id, claim_for(LONG)).await?;
        }
        all.push(operation(&**store, &new.id).await?);
    }
    all.reverse();

    let prefixes = [None, Some(""), Some("2026011"), Some("20260112T000000Z-00000000"), Some("2025"), Some("2026_1%")];
    let state_lists: [&[&'static str]; 4] = [&[], &["pending"], &["running", "failed"], &["completed"]];
    let second = |day: u32| format!("2026-01-{day}T00:00:00Z").parse::<jiff::Timestamp>().ok();
    let times =
        [(None, None), (second(12), None), (None, second(16)), (second(11), second(14)), (second(14), second(11))];
    for kind in [None, Some(OperationKind::Backup), Some(OperationKind::Verify)] {
        for states in state_lists {
            for prefix in prefixes {
                for before in [None, Some(all[3].new.id.clone())] {
                    for (since, until) in times {
                        let query = OperationQuery {
                            kind,
                            states: states.to_vec(),
                            id_prefix: prefix.map(str::to_string),
                            since,
                            until,
                            before: before.clone(),
                            ..OperationQuery::default()
                        };
                        let time = |op: &backup_core::model::Operation| {
                            let day = op.new.id.as_str()[6..8].parse().unwrap_or(0);
                            second(day)
                        };
                        let expected: Vec<_> = all
                            .iter()
                            .filter(|op| kind.is_none_or(|kind| op.new.kind == kind))
                            .filter(|op| states.is_empty() || states.contains(&op.state.name()))
                            .filter(|op| prefix.is_none_or(|prefix| op.new.id.as_str().starts_with(prefix)))
                            .filter(|op| before.as_ref().is_none_or(|before| op.new.id < *before))
                            .filter(|op| since.is_none() || time(op) >= since)
                            .filter(|op| until.is_none() || time(op) < until)
                            .cloned()
                            .collect();
                        ensure_eq!(store.query(&query).await?, expected, "the answer to {query:?}");
                    }
                }
            }
        }
    }
    for operation in &all {
        let archive = Some(operation.new.archive.clone());
        for (states, found) in [(vec![], true), (vec![operation.state.name()], true), (vec!["completed"], false)] {
            let query = OperationQuery { archive: archive.clone(), states, ..OperationQuery::default() };
            let expected: Vec<_> = all
                .iter()
                .filter(|other| found && other.new.archive == operation.new.archive)
                .filter(|other| query.states.is_empty() || query.states.contains(&other.state.name()))
                .cloned()
                .collect();
            ensure_eq!(store.query(&query).await?, expected, "the answer to {query:?}");
        }
    }
    connections_are_filters(&**store).await
}

async fn connections_are_filters(store: &dyn Store) -> Outcome {
    let (a, b, c) = (connection(store).await?, connection(store).await?, connection(store).await?);
    let made = [(&a, &b), (&a, &c), (&b, &c), (&a, &b)];
    let mut ids = Vec::new();
    for (source, destination) in made {
        ids.push(pending_with(store, source, destination).await?);
    }
    for source in [None, Some(&a), Some(&b), Some(&c)] {
        for destination in [None, Some(&b), Some(&c)] {
            for states in [vec![], vec!["pending"], vec!["pending", "running"], vec!["running"]] {
                if source.is_none() && destination.is_none() {
                    continue;
                }
                let query = OperationQuery {
                    source_connection: source.cloned(),
                    destination_connection: destination.cloned(),
                    states: states.clone(),
                    ..OperationQuery::default()
                };
                let fits = |(from, to): (&ConnectionId, &ConnectionId)| {
                    source.is_none_or(|s| s == from) && destination.is_none_or(|d| d == to)
                };
                let mut expected: Vec<_> = made
                    .iter()
                    .zip(&ids)
                    .filter(|((from, to), _)| fits((from, to)) && (states.is_empty() || states.contains(&"pending")))
                    .map(|(_, id)| id.clone())
                    .collect();
                expected.sort_unstable_by(|a, b| b.cmp(a));
                let found: Vec<_> = store.query(&query).await?.into_iter().map(|o| o.new.id).collect();
                ensure_eq!(found, expected, "the answer to {query:?}");
                let totals = store.totals(&query).await?;
                ensure_eq!(totals.all(), expected.len() as u64, "the totals of {query:?}");
            }
        }
    }
    Ok(())
}

pub(super) async fn an_operation_names_connections_that_are_there(store: &Arc<dyn Store>) -> Outcome {
    let there = connection(&**store).await?;
    let gone = ConnectionId::generate(now());
    for (source, destination) in [(&there, &gone), (&gone, &there), (&gone, &gone)] {
        let connections = OperationConnections { source: source.clone(), destination: destination.clone() };
        let new = NewOperation { connections: Some(connections), ..new_operation() };
        refused(
            store.create(new.clone(), None).await,
            ErrorClass::NotFound,
            "an operation of a connection that is gone",
        )?;
        ensure_eq!(store.get(&new.id).await?, None, "the operation that was refused");
    }
    let connections = Some(OperationConnections { source: there.clone(), destination: there });
    let new = NewOperation { connections: connections.clone(), ..new_operation() };
    let created = store.create(new.clone(), None).await?;
    ensure_eq!(created.new, new, "what was created");
    ensure_eq!(store.get(&new.id).await?, Some(created), "what is read back");
    Ok(())
}

pub(super) async fn totals_count_what_the_filters_leave(store: &Arc<dyn Store>) -> Outcome {
    ensure_eq!(store.totals(&OperationQuery::default()).await?, OperationTotals::default(), "the totals of nothing");
    for (state, count) in STATES.into_iter().zip(1..) {
        for _ in 0..count {
            in_state(&**store, state).await?;
        }
    }
    let all =
        OperationTotals { pending: 1, running: 2, committing: 3, paused: 4, completed: 5, failed: 6, cancelled: 7 };
    let newest = store.query(&OperationQuery::default()).await?;
    let before = newest.first().map(|operation| operation.new.id.clone());
    let query = OperationQuery { before, limit: Some(1), ..OperationQuery::default() };
    ensure_eq!(store.totals(&query).await?, all, "the totals");
    ensure_eq!(all.success_rate(), Some(5.0 / 11.0), "the success rate");
    let query = OperationQuery { states: vec!["paused", "failed"], ..OperationQuery::default() };
    let some = OperationTotals { paused: 4, failed: 6, ..OperationTotals::default() };
    ensure_eq!(store.totals(&query).await?, some, "the totals of two states");
    let query = OperationQuery { kind: Some(OperationKind::Verify), ..OperationQuery::default() };
    ensure_eq!(store.totals(&query).await?, OperationTotals::default(), "the totals of another kind");
    Ok(())
}
