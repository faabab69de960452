//! Changes of state, and requests.

use super::fixture::*;
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::model::{Checkpoint, Guard, Identity, LogLevel, LogRecord, Phase, Progress, Request, Transition};
use backup_core::state::Event;
use bytes::Bytes;
use std::sync::Arc;
use tokio::task::JoinSet;

fn loaded(mut transition: Transition) -> Transition {
    transition.checkpoint = Some(Checkpoint(Bytes::from("with the change")));
    transition.progress = Some(Progress { phase: Phase::Done, entries: 5, ..Progress::default() });
    transition.archive = Some(archive_record(&Identity::new("local", "/backups"), 1));
    transition
}

pub(super) async fn a_change_brings_everything_at_once(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    let id = &claim.fence.operation;
    let mut transition = loaded(by_fence(&claim.fence, Event::Commit));
    transition.archive = None;
    let checkpoint = transition.checkpoint.clone();
    store.transition(transition).await?;
    ensure_eq!(store.checkpoint(id).await?, checkpoint, "the checkpoint");
    let transition = loaded(by_fence(&claim.fence, Event::Complete { warnings: 3 }));
    let (progress, archive) = (transition.progress.clone(), transition.archive.clone());
    let after = store.transition(transition).await?;
    ensure_eq!(Some(&after.progress), progress.as_ref(), "the progress");
    ensure!(after.finished_at.is_some(), "a completed operation has an end");
    ensure_eq!(operation(&**store, id).await?, after, "what is read back");
    let archives = store.archives(&Identity::new("local", "/backups")).await?;
    ensure_eq!(archives.first().map(|known| &known.record), archive.as_ref(), "the archive");

    // Without them, what was there stays.
    let claim = running(&**store).await?;
    let id = &claim.fence.operation;
    store.save_checkpoint(&claim.fence, &Checkpoint(Bytes::from("kept"))).await?;
    store.renew(&claim.fence, LONG, progress.as_ref()).await?;
    let after = store.transition(by_fence(&claim.fence, pause())).await?;
    ensure_eq!(Some(after.progress), progress, "the progress after a change without any");
    let kept = store.checkpoint(id).await?;
    ensure_eq!(kept, Some(Checkpoint(Bytes::from("kept"))), "the checkpoint after a change without one");
    Ok(())
}

pub(super) async fn the_table_decides_and_a_refusal_changes_nothing(store: &Arc<dyn Store>) -> Outcome {
    for state in STATES {
        for event in events() {
            let (before, _) = in_state(&**store, state).await?;
            let what = format!("{event:?} of an operation that is {state}");
            let unchanged = snapshot(&**store, &before.new.id).await?;
            let archives = store.archives(&Identity::new("local", "/backups")).await?;
            let result = store.transition(loaded(by_version(&before, event.clone()))).await;
            match before.state.after(&event) {
                Ok(expected) => ensure_eq!(result?.state, expected, "the state after {what}"),
                Err(_) => {
                    conflict(result, &what)?;
                    ensure_eq!(snapshot(&**store, &before.new.id).await?, unchanged, "after {what}");
                    let now = store.archives(&Identity::new("local", "/backups")).await?;
                    ensure_eq!(now, archives, "the archives after {what}");
                }
            }
        }
    }
    let transition = Transition::new(unknown(), Guard::Version(1), Event::Cancel, LogRecord::info("test", "test"));
    refused(store.transition(transition).await, ErrorClass::NotFound, "a change of nothing")
}

pub(super) async fn a_guard_that_does_not_hold_changes_nothing(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    let operation = &claim.operation;
    let mut older_attempt = claim.fence.clone();
    older_attempt.attempt -= 1;
    let mut other_bits = claim.fence.clone();
    other_bits.nonce = !other_bits.nonce;
    let guards = [
        ("an older attempt", Guard::Fence(older_attempt)),
        ("other random bits", Guard::Fence(other_bits)),
        ("the fence of another operation", Guard::Fence(running(&**store).await?.fence)),
        ("an older version", Guard::Version(operation.version - 1)),
        ("a version to come", Guard::Version(operation.version + 1)),
    ];
    let before = snapshot(&**store, &operation.new.id).await?;
    for (what, guard) in guards {
        for event in [pause(), Event::Cancel] {
            let transition = Transition { guard: guard.clone(), ..loaded(by_version(operation, event)) };
            conflict(store.transition(transition).await, &format!("a change guarded by {what}"))?;
            ensure_eq!(snapshot(&**store, &operation.new.id).await?, before, "after a change guarded by {what}");
        }
    }
    ensure!(store.archives(&Identity::new("local", "/backups")).await?.is_empty(), "a refused change left an archive");

    // The worker gave the operation back: it has no say any more, though nobody else has claimed it.
    store.transition(by_fence(&claim.fence, pause())).await?;
    conflict(store.transition(by_fence(&claim.fence, Event::Cancel)).await, "a change by a worker that has paused")
}

pub(super) async fn of_many_changes_from_one_version_one_wins(store: &Arc<dyn Store>) -> Outcome {
    for _ in 0..5 {
        let claim = running(&**store).await?;
        let id = claim.fence.operation.clone();
        let mut changes = JoinSet::new();
        for event in [pause(), Event::HandOver, Event::Cancel, Event::Commit, Event::Fail { error: "x".into() }] {
            for transition in [by_fence(&claim.fence, event.clone()), by_version(&claim.operation, event)] {
                let store = Arc::clone(store);
                let of_version = Transition { guard: Guard::Version(claim.operation.version), ..transition };
                changes.spawn(async move { store.transition(of_version).await });
            }
        }
        let mut winners = Vec::new();
        while let Some(change) = changes.join_next().await {
            match change? {
                Ok(operation) => winners.push(operation),
                lost => conflict(lost, "a change that comes too late")?,
            }
        }
        ensure_eq!(winners.len(), 1, "winners of 10 changes from one version");
        ensure_eq!(operation(&**store, &id).await?, winners[0], "the operation is the winner's");
        ensure_eq!(log_of(&**store, &id).await?.len(), 3, "records: created, claim, the winner's");
    }
    Ok(())
}

pub(super) async fn leaving_the_worker_ends_lease_and_request(store: &Arc<dyn Store>) -> Outcome {
    for event in events() {
        let claim = running(&**store).await?;
        let before = store.request(&claim.fence.operation, Request::Pause).await?;
        let after = store.transition(by_fence(&claim.fence, event.clone())).await?;
        ensure!(after.version > before.version, "{event:?} raises the version");
        ensure_eq!(after.request, None, "the request after {event:?}");
        if after.state.is_held() {
            ensure!(after.lease_running, "the lease runs on after {event:?}");
            ensure_eq!(store.renew(&claim.fence, LONG, None).await?.request, None, "the request after {event:?}");
            continue;
        }
        ensure!(!after.lease_running, "the lease ends with {event:?}");
        if is_claimable(&after.state) {
            let next = store.claim(&after.new.id, claim_for(LONG)).await?;
            ensure!(next.fence.attempt > claim.fence.attempt, "the next claim after {event:?} has a new attempt");
        }
    }
    Ok(())
}

pub(super) async fn cancel_voids_the_fence_of_the_worker(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    let after = store.transition(by_version(&claim.operation, Event::Cancel)).await?;
    ensure!(after.attempt > claim.fence.attempt, "cancel raises the attempt");
    ensure!(after.finished_at.is_some(), "a cancelled operation has an end");
    conflict(store.renew(&claim.fence, LONG, None).await, "renewing after a cancel")?;
    let saved = store.save_checkpoint(&claim.fence, &Checkpoint(Bytes::new())).await;
    conflict(saved, "a checkpoint after a cancel")?;
    conflict(store.transition(by_fence(&claim.fence, Event::Commit)).await, "a commit after a cancel")?;
    for state in ["pending", "paused", "failed"] {
        let (before, _) = in_state(&**store, state).await?;
        let after = store.transition(by_version(&before, Event::Cancel)).await?;
        ensure!(after.attempt > before.attempt, "cancel of an operation that is {state} raises the attempt");
    }
    Ok(())
}

pub(super) async fn what_is_completed_needs_no_checkpoint(store: &Arc<dyn Store>) -> Outcome {
    let checkpoint = Checkpoint(Bytes::from("saved"));
    for brings_one in [false, true] {
        let claim = running(&**store).await?;
        let id = &claim.fence.operation;
        store.save_checkpoint(&claim.fence, &checkpoint).await?;
        store.transition(by_fence(&claim.fence, Event::Commit)).await?;
        ensure_eq!(store.checkpoint(id).await?, Some(checkpoint.clone()), "the checkpoint while it completes");
        let mut complete = by_fence(&claim.fence, Event::Complete { warnings: 0 });
        complete.checkpoint = brings_one.then(|| checkpoint.clone());
        store.transition(complete).await?;
        ensure_eq!(store.checkpoint(id).await?, None, "the checkpoint of a completed operation");
    }
    for event in [Event::Cancel, Event::Fail { error: "broken".into() }] {
        let claim = running(&**store).await?;
        store.save_checkpoint(&claim.fence, &checkpoint).await?;
        let after = store.transition(by_version(&claim.operation, event)).await?;
        let kept = store.checkpoint(&after.new.id).await?;
        ensure_eq!(kept, Some(checkpoint.clone()), "the checkpoint of an operation that is {}", after.state);
    }
    Ok(())
}

pub(super) async fn each_change_adds_one_log_record(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    let id = &claim.fence.operation;
    for (count, event) in [(3, Event::Commit), (4, Event::Complete { warnings: 1 })] {
        let mut transition = by_fence(&claim.fence, event);
        let record = LogRecord::warning("done", "with 'quotes' and\nlines").with(serde_json::json!({ "files": [1] }));
        let time = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_micros(1_700_000_000_123_456);
        transition.log = LogRecord { time, ..record };
        store.transition(transition.clone()).await?;
        let log = log_of(&**store, id).await?;
        ensure_eq!(log.len(), count, "records");
        let last = &log[log.len() - 1];
        ensure_eq!((last.sequence, &last.record), (count as u64, &transition.log), "the newest record");
        ensure_eq!(last.record.level, LogLevel::Warning, "its level");
    }
    Ok(())
}

pub(super) async fn each_request_has_its_states(store: &Arc<dyn Store>) -> Outcome {
    for (request, states) in [(Request::Pause, &["running"][..]), (Request::Resume, &["paused", "failed"])] {
        for state in STATES {
            let (before, _) = in_state(&**store, state).await?;
            let result = store.request(&before.new.id, request).await;
            if states.contains(&state) {
                ensure_eq!(result?.request, Some(request), "the request");
            } else {
                conflict(result, &format!("{request:?} to an operation that is {state}"))?;
                ensure_eq!(operation(&**store, &before.new.id).await?, before, "the operation that is {state}");
            }
        }
    }
    refused(store.request(&unknown(), Request::Pause).await, ErrorClass::NotFound, "a request to nothing")
}

pub(super) async fn a_request_stands_until_it_is_cleared(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    let id = &claim.fence.operation;
    let after = store.request(id, Request::Pause).await?;
    ensure!(after.version > claim.operation.version, "a request raises the version");
    ensure_eq!(after.state, claim.operation.state, "the state");
    store.renew(&claim.fence, LONG, None).await?;
    ensure_eq!(operation(&**store, id).await?.request, Some(Request::Pause), "the request after a renewal");
    let paused = store.transition(by_fence(&claim.fence, pause())).await?;
    ensure_eq!(paused.request, None, "the request after the pause");
    Ok(())
}
