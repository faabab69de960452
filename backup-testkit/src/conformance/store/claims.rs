//! Claiming operations.

use super::fixture::*;
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::model::{Checkpoint, ClaimOver, ClaimRequest, Request};
use backup_core::state::State;
use bytes::Bytes;
use std::sync::Arc;
use tokio::task::JoinSet;

pub(super) async fn only_claimable_states_can_be_claimed(store: &Arc<dyn Store>) -> Outcome {
    for state in STATES {
        let (before, _) = in_state(&**store, state).await?;
        let over = ClaimOver::Holder { version: before.version };
        let claim = store.claim(&before.new.id, ClaimRequest { over, ..claim_for(LONG) }).await;
        if is_claimable(&before.state) {
            let operation = claim?.operation;
            let expected = if state == "committing" { State::Committing } else { State::Running };
            ensure_eq!(operation.state, expected, "the state after a claim of {state}");
            ensure_eq!(operation.finished_at, None, "the end of an operation that runs");
        } else {
            conflict(claim, &format!("a claim of an operation that is {state}"))?;
            ensure_eq!(operation(&**store, &before.new.id).await?, before, "the refused operation");
        }
    }
    Ok(())
}

pub(super) async fn a_running_lease_keeps_others_out(store: &Arc<dyn Store>) -> Outcome {
    let first = running(&**store).await?;
    let id = &first.fence.operation;
    ensure!(first.operation.lease_running, "the lease runs after a claim");
    let before = snapshot(&**store, id).await?;
    conflict(store.claim(id, claim_for(LONG)).await, "a claim while another lease runs")?;
    let over = |version| ClaimRequest { over: ClaimOver::Holder { version }, ..claim_for(LONG) };
    let version = first.operation.version;
    conflict(store.claim(id, over(version - 1)).await, "going over a holder of an older version")?;
    conflict(store.claim(id, over(version + 1)).await, "going over a holder of a version to come")?;
    ensure_eq!(snapshot(&**store, id).await?, before, "the operation after refused claims");
    let second = store.claim(id, ClaimRequest { holder: holder(2), ..over(version) }).await?;
    ensure_eq!(second.operation.holder, Some(holder(2)), "the holder");
    conflict(store.save_checkpoint(&first.fence, &Checkpoint(Bytes::new())).await, "the old fence")?;
    Ok(())
}

pub(super) async fn a_lease_that_ran_out_lets_the_next_in(store: &Arc<dyn Store>) -> Outcome {
    let id = pending(&**store).await?;
    store.claim(&id, claim_for(SHORT)).await?;
    tokio::time::sleep(2 * SHORT).await;
    let seen = operation(&**store, &id).await?;
    ensure!(!seen.lease_running, "the lease has run out");
    ensure_eq!(seen.holder, Some(holder(1)), "the holder that did not come back");
    let next = store.claim(&id, ClaimRequest { holder: holder(2), ..claim_for(LONG) }).await?;
    ensure_eq!(next.fence.attempt, 2, "the attempt");
    ensure!(next.operation.lease_running, "the new lease runs");
    Ok(())
}

pub(super) async fn each_claim_is_a_new_attempt_with_a_log_record(store: &Arc<dyn Store>) -> Outcome {
    refused(store.claim(&unknown(), claim_for(LONG)).await, ErrorClass::NotFound, "a claim of nothing")?;
    let id = pending(&**store).await?;
    let mut nonces = Vec::new();
    for attempt in 1..=4 {
        let before = operation(&**store, &id).await?;
        let over = ClaimOver::Holder { version: before.version };
        let claim = store.claim(&id, ClaimRequest { over, ..claim_for(LONG) }).await?;
        let after = &claim.operation;
        ensure_eq!(claim.fence.operation, id, "the fence's operation");
        ensure_eq!((claim.fence.attempt, claim.fence.nonce), (after.attempt, after.nonce), "fence and operation");
        ensure_eq!(after.attempt, attempt, "the attempt");
        ensure!(after.version > before.version, "a claim raises the version");
        ensure_eq!(after.request, None, "a request of before the claim");
        ensure_eq!(operation(&**store, &id).await?, *after, "what is read back");
        nonces.push(after.nonce);
        let log = log_of(&**store, &id).await?;
        ensure_eq!(log.len() as u64, 1 + attempt, "records after {attempt} claims");
        ensure_eq!(log[log.len() - 1].record.step, "claim", "the newest record's step");
        store.request(&id, Request::Pause).await?;
    }
    ensure!(nonces.iter().any(|nonce| *nonce != nonces[0]), "four claims drew the same random bits: {nonces:?}");
    Ok(())
}

pub(super) async fn of_many_claims_at_once_one_wins(store: &Arc<dyn Store>) -> Outcome {
    for _ in 0..5 {
        let id = pending(&**store).await?;
        let mut claims = JoinSet::new();
        for pid in 0..8 {
            let (store, id) = (Arc::clone(store), id.clone());
            let request = ClaimRequest { holder: holder(pid), ..claim_for(LONG) };
            claims.spawn(async move { store.claim(&id, request).await });
        }
        let mut winners = Vec::new();
        while let Some(claim) = claims.join_next().await {
            match claim? {
                Ok(claim) => winners.push(claim),
                lost => conflict(lost, "a claim that comes too late")?,
            }
        }
        ensure_eq!(winners.len(), 1, "winners of 8 claims at once");
        ensure_eq!(operation(&**store, &id).await?, winners[0].operation, "the operation is the winner's");
        ensure_eq!(log_of(&**store, &id).await?.len(), 2, "records: created, claim");
    }
    Ok(())
}

pub(super) async fn a_claim_brings_the_last_checkpoint(store: &Arc<dyn Store>) -> Outcome {
    let first = running(&**store).await?;
    ensure_eq!(first.checkpoint, None, "the checkpoint of a new operation");
    for text in ["one", "two"] {
        store.save_checkpoint(&first.fence, &Checkpoint(Bytes::from(text))).await?;
    }
    store.transition(by_fence(&first.fence, pause())).await?;
    let second = store.claim(&first.fence.operation, claim_for(LONG)).await?;
    ensure_eq!(second.checkpoint, Some(Checkpoint(Bytes::from("two"))), "the checkpoint of the next claim");
    Ok(())
}
