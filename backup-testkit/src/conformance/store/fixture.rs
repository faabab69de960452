//! Operations to test with, and ways to bring them into each state.

use crate::conformance::Outcome;
use backup_core::adapter::Store;
use backup_core::model::{
    ArchiveId, ArchiveRecord, Claim, ClaimNext, ClaimOver, ClaimRequest, ConnectionContent, ConnectionId, Fence, Guard,
    Holder, Identity, LogLevel, LogQuery, LogRecord, NewConnection, NewOperation, Operation, OperationConnections,
    OperationId, OperationKind, SealedSecret, StoredLogRecord, Transition,
};
use backup_core::state::{Event, PauseReason, State};
use backup_core::{Digest, Error, ErrorClass, Result};
use std::time::Duration;

/// Longer than any test runs.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// Short enough to be waited for.
pub(super) const SHORT: Duration = Duration::from_millis(50);

/// Fails the case unless both are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($why:tt)+) => {
        match (&$left, &$right) {
            (left, right) => if left != right {
                return Err($crate::conformance::Stop::Failed(format!(
                    "{}: {left:?} is not {right:?}",
                    format!($($why)+)
                )));
            }
        }
    };
}
pub(super) use ensure_eq;

/// Fails the case unless the result is an error of this class.
pub(super) fn refused<T>(result: Result<T>, class: ErrorClass, what: &str) -> Outcome {
    crate::conformance::suite::refused(result, &[class], what)
}

/// Fails the case unless the result is `Conflict`.
pub(super) fn conflict<T>(result: Result<T>, what: &str) -> Outcome {
    refused(result, ErrorClass::Conflict, what)
}

pub(super) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

pub(super) fn unknown() -> OperationId {
    OperationId::generate(now())
}

pub(super) fn new_operation() -> NewOperation {
    NewOperation {
        id: OperationId::generate(now()),
        kind: OperationKind::Backup,
        name: "nightly".into(),
        source: Identity::new("local", "/home"),
        destination: Identity::new("s3", "endpoint/bucket/prefix"),
        archive: ArchiveId::generate(now()),
        spec: serde_json::json!({ "codec": "zstd", "exclude": ["*.tmp"] }),
        connections: None,
        created_by: "somebody".into(),
    }
}

/// A new connection of the store.
pub(super) async fn connection(store: &dyn Store) -> Result<ConnectionId> {
    connection_of(store, "local", None).await
}

/// A new connection of a kind, with a secret.
pub(super) async fn connection_of(store: &dyn Store, kind: &str, secret: Option<&str>) -> Result<ConnectionId> {
    let id = ConnectionId::generate(now());
    let secret = secret.map(|secret| SealedSecret(secret.to_owned()));
    let content = ConnectionContent { name: id.to_string(), settings: serde_json::Value::Null, secret };
    store.create_connection(NewConnection { id: id.clone(), kind: kind.into(), content }).await?;
    Ok(id)
}

/// A new operation that works with these connections.
pub(super) async fn pending_with(
    store: &dyn Store,
    source: &ConnectionId,
    destination: &ConnectionId,
) -> Result<OperationId> {
    let connections = OperationConnections { source: source.clone(), destination: destination.clone() };
    let new = NewOperation { connections: Some(connections), ..new_operation() };
    Ok(store.create(new, None).await?.new.id)
}

pub(super) fn claim_next_for(lease: Duration) -> ClaimNext {
    ClaimNext { holder: holder(1), lease, per_connection: u32::MAX, able: None }
}

pub(super) fn holder(pid: u32) -> Holder {
    Holder { boot: "6f1c".into(), host: "host".into(), pid, started: 12_345 }
}

pub(super) fn claim_for(lease: Duration) -> ClaimRequest {
    ClaimRequest { holder: holder(1), lease, over: ClaimOver::Nobody }
}

pub(super) async fn pending(store: &dyn Store) -> Result<OperationId> {
    Ok(store.create(new_operation(), None).await?.new.id)
}

/// A new operation, claimed for a long time.
pub(super) async fn running(store: &dyn Store) -> Result<Claim> {
    let id = pending(store).await?;
    store.claim(&id, claim_for(LONG)).await
}

pub(super) async fn operation(store: &dyn Store, id: &OperationId) -> Result<Operation> {
    store.get(id).await?.ok_or_else(|| Error::not_found("the operation is gone").on(id))
}

pub(super) fn by_fence(fence: &Fence, event: Event) -> Transition {
    Transition::new(fence.operation.clone(), Guard::Fence(fence.clone()), event, LogRecord::info("test", "by fence"))
}

pub(super) fn by_version(of: &Operation, event: Event) -> Transition {
    Transition::new(of.new.id.clone(), Guard::Version(of.version), event, LogRecord::info("test", "by version"))
}

pub(super) fn pause() -> Event {
    Event::Pause { reason: PauseReason::Requested, resume_at: None }
}

/// One event of each kind that a transition can bring.
pub(super) fn events() -> Vec<Event> {
    vec![
        Event::Commit,
        Event::Complete { warnings: 2 },
        Event::Pause { reason: PauseReason::NoSpace, resume_at: Some(jiff::Timestamp::UNIX_EPOCH) },
        Event::HandOver,
        Event::Fail { error: "the source broke off: \"timeout\"".into() },
        Event::Cancel,
    ]
}

/// The names of all states.
pub(super) const STATES: [&str; 7] = ["pending", "running", "committing", "paused", "completed", "failed", "cancelled"];

/// A new operation in the state of this name, and the fence of its claim, if it had one.
pub(super) async fn in_state(store: &dyn Store, state: &str) -> Result<(Operation, Option<Fence>)> {
    let id = pending(store).await?;
    bring(store, &id, state).await
}

/// A new operation that works with these connections, in the state of this name.
pub(in crate::conformance) async fn operation_with(
    store: &dyn Store,
    source: &ConnectionId,
    destination: &ConnectionId,
    state: &str,
) -> Result<OperationId> {
    let id = pending_with(store, source, destination).await?;
    bring(store, &id, state).await?;
    Ok(id)
}

/// The names of all states.
pub(in crate::conformance) fn states() -> [&'static str; 7] {
    STATES
}

/// Brings a pending operation into the state of this name.
async fn bring(store: &dyn Store, id: &OperationId, state: &str) -> Result<(Operation, Option<Fence>)> {
    if state == "pending" {
        return Ok((operation(store, id).await?, None));
    }
    let claim = store.claim(id, claim_for(LONG)).await?;
    let events: &[Event] = match state {
        "committing" => &[Event::Commit],
        "paused" => &[pause()],
        "completed" => &[Event::Commit, Event::Complete { warnings: 0 }],
        "failed" => &[Event::Fail { error: "broken".into() }],
        "cancelled" => &[Event::Cancel],
        _ => &[],
    };
    let mut operation = claim.operation;
    for event in events {
        operation = store.transition(by_fence(&claim.fence, event.clone())).await?;
    }
    if operation.state.name() == state {
        Ok((operation, Some(claim.fence)))
    } else {
        let text = format!("the operation must be {state} now, not {}", operation.state);
        Err(Error::new(ErrorClass::Permanent, text))
    }
}

/// The whole log, in one page.
pub(super) async fn log_of(store: &dyn Store, id: &OperationId) -> Result<Vec<StoredLogRecord>> {
    let query = LogQuery { after: 0, min_level: LogLevel::Debug, limit: 10_000 };
    Ok(store.page_log(id, &query).await?.records)
}

/// What must stay the same when a call is refused.
pub(super) async fn snapshot(
    store: &dyn Store,
    id: &OperationId,
) -> Result<(Operation, usize, Option<backup_core::model::Checkpoint>)> {
    Ok((operation(store, id).await?, log_of(store, id).await?.len(), store.checkpoint(id).await?))
}

pub(super) fn archive_record(destination: &Identity, seed: u8) -> ArchiveRecord {
    ArchiveRecord {
        archive: ArchiveId::generate(now()),
        destination: destination.clone(),
        source: Identity::new("local", "/home"),
        manifest_sha256: Digest::of(&[seed]),
        name: format!("archive {seed}"),
        stored_bytes: u64::from(seed) << 32,
        completed_at: jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_micros(1_700_000_000_123_456),
    }
}

pub(super) fn is_claimable(state: &State) -> bool {
    state.after(&Event::Claim).is_ok()
}
