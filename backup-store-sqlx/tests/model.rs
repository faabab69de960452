//! Random sequences of calls give the same on the store in memory and on the SQL store.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use backup_core::adapter::Store;
use backup_core::memory::MemoryStore;
use backup_core::model::{
    ArchiveId, ArchiveRecord, Checkpoint, Claim, ClaimOver, ClaimRequest, Fence, Guard, Holder, Identity, LogLevel,
    LogPosition, LogQuery, LogRecord, NewOperation, Operation, OperationId, OperationKind, OperationQuery, Phase,
    Progress, Request, Transition,
};
use backup_core::state::{Event, PauseReason};
use backup_core::{Digest, ErrorClass, Result};
use backup_store_sqlx::SqlxStore;
use proptest::prelude::*;
use std::time::Duration;

/// Two that never end during the test, or one that has ended at once.
const LEASES: [Duration; 3] = [Duration::from_secs(3600), Duration::MAX, Duration::ZERO];

/// A call; small numbers choose among few operations, fences and versions, so that calls meet each other.
#[derive(Clone, Debug)]
enum Call {
    Create { op: u8, kind: u8 },
    Claim { op: u8, pid: u32, lease: usize, over: Option<i8> },
    Renew { fence: Stale, lease: usize, progress: Option<u64> },
    Save { fence: Stale, data: Vec<u8> },
    Transition { guard: By, event: u8, extras: u8 },
    Request { op: u8, resume: bool },
    Append { op: u8, levels: Vec<u8> },
    Page { op: u8, after: u64, level: u8, limit: u32 },
    Query { kind: Option<u8>, states: Vec<u8>, prefix: Option<usize>, before: Option<u8>, limit: Option<u32> },
    Forget { archive: u8 },
    Protect { archive: u8, protected: bool },
}

/// A fence made from what the operation is now, or from what it was some claims ago, or with wrong bits.
#[derive(Clone, Debug)]
struct Stale {
    op: u8,
    attempts_ago: u64,
    wrong_bits: bool,
}

#[derive(Clone, Debug)]
enum By {
    Fence(Stale),
    Version { op: u8, off: i8 },
}

const OPERATIONS: u8 = 4;

fn stale() -> impl Strategy<Value = Stale> {
    (0..=OPERATIONS, prop_oneof![6 => Just(0_u64), 1 => 1..3_u64], prop::bool::weighted(0.1))
        .prop_map(|(op, attempts_ago, wrong_bits)| Stale { op, attempts_ago, wrong_bits })
}

fn off() -> impl Strategy<Value = i8> {
    prop_oneof![5 => Just(0_i8), 1 => -1..=1_i8]
}

fn call() -> impl Strategy<Value = Call> {
    let op = 0..=OPERATIONS;
    let by =
        prop_oneof![stale().prop_map(By::Fence), (op.clone(), off()).prop_map(|(op, off)| By::Version { op, off }),];
    prop_oneof![
        2 => (0..OPERATIONS, 0..3_u8).prop_map(|(op, kind)| Call::Create { op, kind }),
        4 => (op.clone(), 1..4_u32, 0..LEASES.len(), prop::option::of(off()))
            .prop_map(|(op, pid, lease, over)| Call::Claim { op, pid, lease, over }),
        3 => (stale(), 0..LEASES.len(), prop::option::of(any::<u64>()))
            .prop_map(|(fence, lease, progress)| Call::Renew { fence, lease, progress }),
        3 => (stale(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(fence, data)| Call::Save { fence, data }),
        5 => (by, 0..7_u8, 0..8_u8).prop_map(|(guard, event, extras)| Call::Transition { guard, event, extras }),
        2 => (op.clone(), any::<bool>()).prop_map(|(op, resume)| Call::Request { op, resume }),
        2 => (op.clone(), prop::collection::vec(0..4_u8, 0..6)).prop_map(|(op, levels)| Call::Append { op, levels }),
        2 => (op.clone(), 0..30_u64, 0..4_u8, 0..12_u32)
            .prop_map(|(op, after, level, limit)| Call::Page { op, after, level, limit }),
        2 => (
            prop::option::of(0..3_u8),
            prop::collection::vec(0..7_u8, 0..3),
            prop::option::of(0..26_usize),
            prop::option::of(op),
            prop::option::of(0..4_u32),
        )
            .prop_map(|(kind, states, prefix, before, limit)| Call::Query { kind, states, prefix, before, limit }),
        1 => (0..3_u8).prop_map(|archive| Call::Forget { archive }),
        1 => (0..3_u8, any::<bool>()).prop_map(|(archive, protected)| Call::Protect { archive, protected }),
    ]
}

fn id(op: u8) -> OperationId {
    format!("2026010{}T000000Z-0000000{op}", op % 3 + 1).parse().unwrap()
}

fn destination() -> Identity {
    Identity::new("local", "/backups")
}

fn archive(number: u8) -> ArchiveId {
    format!("20260101T000000Z-0000000{number}").parse().unwrap()
}

fn kind(number: u8) -> OperationKind {
    [OperationKind::Backup, OperationKind::Restore, OperationKind::Verify][usize::from(number)]
}

fn level(number: u8) -> LogLevel {
    [LogLevel::Info, LogLevel::Warning, LogLevel::Error, LogLevel::Debug][usize::from(number)]
}

fn event(number: u8) -> Event {
    match number {
        0 => Event::Claim,
        1 => Event::Commit,
        2 => Event::Complete { warnings: 3 },
        3 => Event::Pause { reason: PauseReason::Quota, resume_at: Some(jiff::Timestamp::UNIX_EPOCH) },
        4 => Event::HandOver,
        5 => Event::Fail { error: "broken: \"x\"".into() },
        _ => Event::Cancel,
    }
}

fn progress(seed: u64) -> Progress {
    Progress {
        phase: Phase::Transferring,
        entries: seed,
        bytes_total: seed.is_multiple_of(2).then_some(seed),
        bytes_per_second: if seed.is_multiple_of(7) { f64::NAN } else { (seed % 1000) as f64 },
        eta_seconds: seed.is_multiple_of(3).then_some(f64::INFINITY),
        ..Progress::default()
    }
}

/// A store with what its own callers know of it.
struct Side<'a> {
    store: &'a dyn Store,
}

impl Side<'_> {
    async fn fence(&self, stale: &Stale) -> Fence {
        let now = self.store.get(&id(stale.op)).await.unwrap();
        let (attempt, nonce) = now.map_or((1, 1), |operation| (operation.attempt, operation.nonce));
        Fence {
            operation: id(stale.op),
            attempt: attempt.saturating_sub(stale.attempts_ago),
            nonce: if stale.wrong_bits { !nonce } else { nonce },
        }
    }

    async fn version(&self, op: u8, off: i8) -> u64 {
        let now = self.store.get(&id(op)).await.unwrap();
        now.map_or(1, |operation| operation.version).saturating_add_signed(off.into())
    }

    /// Makes the call and tells its result without times and random bits.
    async fn make(&self, call: &Call) -> String {
        let store = self.store;
        match call {
            Call::Create { op, kind: number } => {
                let new = NewOperation {
                    id: id(*op),
                    kind: kind(*number),
                    name: format!("operation {op}"),
                    source: Identity::new("local", "/home"),
                    destination: destination(),
                    archive: archive(0),
                    spec: serde_json::json!({ "op": op }),
                    connections: None,
                    created_by: String::new(),
                };
                told(store.create(new, None).await, operation)
            }
            Call::Claim { op, pid, lease, over } => {
                let over = match over {
                    None => ClaimOver::Nobody,
                    Some(off) => ClaimOver::Holder { version: self.version(*op, *off).await },
                };
                let holder = Holder { boot: "boot".into(), host: "host".into(), pid: *pid, started: 1 };
                let claim = store.claim(&id(*op), ClaimRequest { holder, lease: LEASES[*lease], over }).await;
                told(claim, |Claim { operation: after, fence, checkpoint }| {
                    let bytes = checkpoint.map(|checkpoint| checkpoint.0);
                    format!("{} {} {} {bytes:?}", operation(after), fence.operation, fence.attempt)
                })
            }
            Call::Renew { fence, lease, progress: seed } => {
                let progress = seed.map(progress);
                let renewal = store.renew(&self.fence(fence).await, LEASES[*lease], progress.as_ref()).await;
                told(renewal, |renewal| format!("{renewal:?}"))
            }
            Call::Save { fence, data } => {
                let checkpoint = Checkpoint(data.clone().into());
                told(store.save_checkpoint(&self.fence(fence).await, &checkpoint).await, |()| String::new())
            }
            Call::Transition { guard, event: number, extras } => {
                let (op, guard) = match guard {
                    By::Fence(stale) => (stale.op, Guard::Fence(self.fence(stale).await)),
                    By::Version { op, off } => (*op, Guard::Version(self.version(*op, *off).await)),
                };
                let log = LogRecord { time: jiff::Timestamp::UNIX_EPOCH, ..LogRecord::warning("test", "changed") };
                let transition = Transition {
                    checkpoint: (extras & 1 > 0).then(|| Checkpoint(vec![*extras].into())),
                    progress: (extras & 2 > 0).then(|| progress(u64::from(*extras))),
                    archive: (extras & 4 > 0).then(|| ArchiveRecord {
                        archive: archive(extras % 3),
                        destination: destination(),
                        source: Identity::new("local", "/home"),
                        manifest_sha256: Digest::of(&[*extras]),
                        name: format!("archive {extras}"),
                        stored_bytes: u64::from(*extras),
                        completed_at: jiff::Timestamp::UNIX_EPOCH,
                    }),
                    ..Transition::new(id(op), guard, event(*number), log)
                };
                told(store.transition(transition).await, operation)
            }
            Call::Request { op, resume } => {
                let request = if *resume { Request::Resume } else { Request::Pause };
                told(store.request(&id(*op), request).await, operation)
            }
            Call::Append { op, levels } => {
                let records: Vec<_> = levels
                    .iter()
                    .map(|number| {
                        LogRecord::new(level(*number), "test", "line").with(serde_json::json!({ "n": number }))
                    })
                    .collect();
                told(store.append_log(&id(*op), LogPosition::new_writer(), &records).await, |()| String::new())
            }
            Call::Page { op, after, level: number, limit } => {
                let query = LogQuery { after: *after, min_level: level(*number), limit: *limit };
                told(store.page_log(&id(*op), &query).await, |page| {
                    let records: Vec<_> = page.records.into_iter().map(log_record).collect();
                    format!("{records:?} {} {}", page.next_after, page.more)
                })
            }
            Call::Query { kind: number, states, prefix, before, limit } => {
                let names = ["pending", "running", "committing", "paused", "completed", "failed", "cancelled"];
                let query = OperationQuery {
                    kind: number.map(kind),
                    states: states.iter().map(|state| names[usize::from(*state)]).collect(),
                    id_prefix: prefix.map(|length| id(1).as_str().chars().take(length).collect()),
                    before: before.map(id),
                    limit: *limit,
                    ..OperationQuery::default()
                };
                let totals = format!("{:?}", store.totals(&query).await);
                let found = store.query(&query).await;
                told(found, |found| found.into_iter().map(operation).collect::<Vec<_>>().join("\n") + &totals)
            }
            Call::Forget { archive: number } => {
                told(store.forget_archive(&destination(), &archive(*number)).await, |()| String::new())
            }
            Call::Protect { archive: number, protected } => {
                told(store.protect(&destination(), &archive(*number), *protected).await, |()| String::new())
            }
        }
    }

    /// All that the store can tell, without times and random bits.
    async fn everything(&self) -> String {
        let mut all = vec![format!("{:?}", self.store.archives(&destination()).await.unwrap())];
        all.push(format!("{:?}", self.store.storage().await.unwrap()));
        for op in 0..=OPERATIONS {
            let found = self.store.get(&id(op)).await.unwrap().map(operation);
            let checkpoint = self.store.checkpoint(&id(op)).await.unwrap().map(|checkpoint| checkpoint.0);
            let log = self.store.page_log(&id(op), &LogQuery::default()).await.unwrap();
            let records: Vec<_> = log.records.into_iter().map(log_record).collect();
            all.push(format!("{found:?} {checkpoint:?} {records:?}"));
        }
        all.join("\n")
    }
}

fn told<T>(result: Result<T>, tell: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => format!("ok {}", tell(value)),
        Err(e) => {
            assert!(matches!(e.class(), ErrorClass::Conflict | ErrorClass::NotFound | ErrorClass::Invalid), "{e:?}");
            format!("{e:?}")
        }
    }
}

fn operation(operation: Operation) -> String {
    let finished = operation.finished_at.is_some();
    let times = jiff::Timestamp::UNIX_EPOCH;
    let bare = Operation { nonce: 0, created_at: times, updated_at: times, finished_at: None, ..operation };
    format!("{bare:?} {finished}")
}

fn log_record(stored: backup_core::model::StoredLogRecord) -> String {
    let record = LogRecord { time: jiff::Timestamp::UNIX_EPOCH, ..stored.record };
    format!("{} {record:?}", stored.sequence)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_give_the_same(calls in prop::collection::vec(call(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let memory = MemoryStore::new();
            let sql = SqlxStore::open("sqlite::memory:").await.unwrap();
            let (left, right) = (Side { store: &memory }, Side { store: &sql });
            for call in &calls {
                prop_assert_eq!(left.make(call).await, right.make(call).await, "{:?}", call);
            }
            prop_assert_eq!(left.everything().await, right.everything().await);
            Ok(())
        })?;
    }
}
