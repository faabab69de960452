//! Finding operations in the store, and saying how they stand.

use backup_core::adapter::Store;
use backup_core::engine::holder_is_dead;
use backup_core::model::{Operation, OperationKind, OperationQuery};
use backup_core::state::{PauseReason, State};
use backup_core::{Error, Result};

/// The operation that a person means: an id, the beginning of one, or `latest`.
///
/// # Errors
/// `NotFound` when there is none, `Invalid` when several begin so.
pub(crate) async fn find(store: &dyn Store, selector: &str) -> Result<Operation> {
    let latest = selector == "latest";
    let query = OperationQuery {
        id_prefix: (!latest).then(|| selector.to_string()),
        // Ids of one second are in no order, so the newest of them is found by its time.
        limit: Some(if latest { 100 } else { 2 }),
        ..OperationQuery::default()
    };
    let mut found = store.query(&query).await?;
    if latest {
        found = found.into_iter().max_by_key(|operation| operation.created_at).into_iter().collect();
    }
    match (found.pop(), found.is_empty()) {
        (Some(operation), true) => Ok(operation),
        (Some(_), false) => {
            Err(Error::invalid("several operations begin so; write more of the id (see `backup operations`)")
                .on(selector))
        }
        (None, _) if latest => Err(Error::not_found("there is no operation yet")),
        (None, _) => Err(Error::not_found("there is no such operation; see `backup operations`").on(selector)),
    }
}

/// Who holds an operation that is `Running` or `Committing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nobody: it is in another state.
    None,
    /// A worker whose lease runs.
    Live,
    /// A process of this host that is dead.
    Dead,
    /// A worker that has not renewed its lease in time.
    Expired,
}

/// Who holds it. Looks at this host's processes.
pub(crate) fn hold(operation: &Operation) -> Hold {
    match &operation.holder {
        _ if !operation.state.is_held() => Hold::None,
        Some(holder) if holder_is_dead(holder) => Hold::Dead,
        _ if operation.lease_running => Hold::Live,
        _ => Hold::Expired,
    }
}

/// The holder for people: `process 123 on host`.
pub(crate) fn holder_text(operation: &Operation) -> String {
    match &operation.holder {
        Some(holder) => format!("process {} on {}", holder.pid, holder.host),
        None => "another worker".into(),
    }
}

/// The state in a word, told apart where a person must do something: a running operation whose worker died is `interrupted`.
pub(crate) fn state_text(operation: &Operation) -> &'static str {
    match hold(operation) {
        Hold::Dead | Hold::Expired => "interrupted",
        _ => operation.state.name(),
    }
}

/// Why it stands as it does, if there is more to say.
pub(crate) fn reason_text(operation: &Operation) -> Option<String> {
    match (&operation.state, hold(operation)) {
        (_, Hold::Dead) => Some("its worker died; `backup resume` goes on".into()),
        (_, Hold::Expired) => Some(format!("no sign of {} any more; `backup resume` goes on", holder_text(operation))),
        (State::Pending, _) => Some("waits for a worker; `backup resume` goes on".into()),
        (State::Paused { reason, .. }, _) => Some(pause_text(reason).into()),
        (State::Failed { error }, _) => Some(error.clone()),
        (State::Running, _) if operation.request.is_some() => Some("asked to pause".into()),
        _ => None,
    }
}

/// Why an operation is paused, and what ends it.
pub(crate) fn pause_text(reason: &PauseReason) -> &'static str {
    match reason {
        PauseReason::Requested => "paused on request",
        PauseReason::KeyNeeded => "needs the key: give --key-file or --passphrase-env",
        PauseReason::Unauthorized => "the credentials were refused: mend them, then resume",
        PauseReason::NoSpace => "no space is left: make room, then resume",
        PauseReason::Quota => "a quota is used up for now",
        PauseReason::ConsistencyLost => "the source no longer gives one consistent picture",
        _ => "stands still",
    }
}

/// The kind in a word.
pub(crate) fn kind_text(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Backup => "backup",
        OperationKind::Restore => "restore",
        OperationKind::Verify => "verify",
        _ => "other",
    }
}
