//! What a worker does with its claim: renewing it, saving checkpoints.

use super::fixture::*;
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::model::{Checkpoint, ClaimOver, ClaimRequest, Fence, Phase, Progress, Request};
use backup_core::state::Event;
use bytes::Bytes;
use std::sync::Arc;

pub(super) async fn a_renewal_extends_the_lease_and_stores_progress(store: &Arc<dyn Store>) -> Outcome {
    let id = pending(&**store).await?;
    let claim = store.claim(&id, claim_for(SHORT)).await?;
    let progress = Progress {
        phase: Phase::Transferring,
        entries: 7,
        entries_total: Some(1 << 40),
        bytes: 1 << 50,
        bytes_total: None,
        stored_bytes: 3,
        warnings: 1,
        bytes_per_second: 0.5,
        eta_seconds: Some(1.25),
    };
    store.renew(&claim.fence, LONG, Some(&progress)).await?;
    tokio::time::sleep(2 * SHORT).await;
    let seen = operation(&**store, &id).await?;
    ensure!(seen.lease_running, "the renewed lease runs on when the first one would have ended");
    ensure_eq!(seen.progress, progress, "the progress");
    store.renew(&claim.fence, SHORT, None).await?;
    tokio::time::sleep(2 * SHORT).await;
    let seen = operation(&**store, &id).await?;
    ensure!(!seen.lease_running, "a shorter renewal counts from its own moment");
    ensure_eq!(seen.progress, progress, "the progress after a renewal without any");
    store.renew(&claim.fence, LONG, None).await?;
    ensure!(operation(&**store, &id).await?.lease_running, "a fence stays good after its lease until another claims");
    Ok(())
}

/// Fences that are void for different reasons, with the reason.
async fn void_fences(store: &dyn Store) -> Result<Vec<(String, Fence)>, backup_core::Error> {
    let mut fences = Vec::new();
    for state in STATES {
        let (operation, fence) = in_state(store, state).await?;
        if let Some(fence) = fence.filter(|_| !operation.state.is_held()) {
            fences.push((format!("the fence of an operation that is {state}"), fence));
        }
    }
    let first = running(store).await?;
    let over = ClaimOver::Holder { version: first.operation.version };
    let second = store.claim(&first.fence.operation, ClaimRequest { over, ..claim_for(LONG) }).await?.fence;
    fences.push(("the fence of an older claim".into(), first.fence));
    fences.push(("a fence with other random bits".into(), Fence { nonce: !second.nonce, ..second.clone() }));
    fences.push(("the fence of a claim to come".into(), Fence { attempt: second.attempt + 1, ..second }));
    Ok(fences)
}

pub(super) async fn a_void_fence_renews_nothing(store: &Arc<dyn Store>) -> Outcome {
    for (what, fence) in void_fences(&**store).await? {
        let before = snapshot(&**store, &fence.operation).await?;
        let progress = Progress { entries: 99, ..Progress::default() };
        conflict(store.renew(&fence, 2 * LONG, Some(&progress)).await, &format!("renewing with {what}"))?;
        ensure_eq!(snapshot(&**store, &fence.operation).await?, before, "after renewing with {what}");
    }
    let nothing = Fence { operation: unknown(), attempt: 1, nonce: 1 };
    refused(store.renew(&nothing, LONG, None).await, ErrorClass::NotFound, "renewing nothing")
}

pub(super) async fn a_renewal_tells_of_the_request_until_it_is_cleared(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    let id = &claim.fence.operation;
    ensure_eq!(store.renew(&claim.fence, LONG, None).await?.request, None, "the request before one was made");
    store.request(id, Request::Pause).await?;
    for _ in 0..2 {
        let request = store.renew(&claim.fence, LONG, None).await?.request;
        ensure_eq!(request, Some(Request::Pause), "the request");
    }
    store.transition(by_fence(&claim.fence, pause())).await?;
    let next = store.claim(id, claim_for(LONG)).await?;
    ensure_eq!(store.renew(&next.fence, LONG, None).await?.request, None, "the request after it was seen to");
    Ok(())
}

pub(super) async fn a_checkpoint_replaces_the_one_before(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    let other = running(&**store).await?;
    let large: Vec<u8> = (0..512 * 1024_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.save_checkpoint(&other.fence, &Checkpoint(Bytes::from("other"))).await?;
    for data in [Bytes::from("small"), Bytes::from(large), Bytes::new(), Bytes::from(vec![0, 255, 0])] {
        let checkpoint = Checkpoint(data);
        store.save_checkpoint(&claim.fence, &checkpoint).await?;
        let saved = store.checkpoint(&claim.fence.operation).await?;
        ensure!(saved.as_ref() == Some(&checkpoint), "{saved:?} was read back, not {checkpoint:?}");
    }
    let untouched = store.checkpoint(&other.fence.operation).await?;
    ensure!(untouched == Some(Checkpoint(Bytes::from("other"))), "another operation's checkpoint was changed");
    store.transition(by_fence(&claim.fence, Event::Commit)).await?;
    store.save_checkpoint(&claim.fence, &Checkpoint(Bytes::from("committing"))).await?;
    Ok(())
}

pub(super) async fn a_void_fence_saves_nothing(store: &Arc<dyn Store>) -> Outcome {
    for (what, fence) in void_fences(&**store).await? {
        let before = snapshot(&**store, &fence.operation).await?;
        let saved = store.save_checkpoint(&fence, &Checkpoint(Bytes::from("late"))).await;
        conflict(saved, &format!("saving with {what}"))?;
        ensure_eq!(snapshot(&**store, &fence.operation).await?, before, "after saving with {what}");
    }
    let nothing = Fence { operation: unknown(), attempt: 1, nonce: 1 };
    let saved = store.save_checkpoint(&nothing, &Checkpoint(Bytes::new())).await;
    refused(saved, ErrorClass::NotFound, "saving for nothing")
}

pub(super) async fn no_checkpoint_is_none(store: &Arc<dyn Store>) -> Outcome {
    let claim = running(&**store).await?;
    ensure_eq!(store.checkpoint(&claim.fence.operation).await?, None, "the checkpoint of a new operation");
    ensure_eq!(store.checkpoint(&unknown()).await?, None, "the checkpoint of nothing");
    Ok(())
}
