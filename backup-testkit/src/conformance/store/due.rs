//! Claiming whatever is due.

use super::fixture::*;
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::model::{Capabilities, ClaimNext, ConnectionContent, Request, SealedSecret};
use backup_core::state::{Event, PauseReason, State};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

fn paused(resume_at: Option<jiff::Timestamp>) -> Event {
    Event::Pause { reason: PauseReason::Quota, resume_at }
}

pub(super) async fn what_is_due_is_claimed_the_longest_due_first(store: &Arc<dyn Store>) -> Outcome {
    let (from, to) = (connection(&**store).await?, connection(&**store).await?);
    let soon = now() + jiff::SignedDuration::from_millis(100);
    let far = now() + jiff::SignedDuration::from_secs(600);
    let fail = Event::Fail { error: "x".into() };
    let mut due = HashSet::new();
    let mut not_due = HashSet::new();
    for (event, resume, is_due) in [
        (None, false, true),
        (Some(paused(None)), false, false),
        (Some(paused(None)), true, true),
        (Some(paused(Some(soon))), false, true),
        (Some(paused(Some(far))), false, false),
        (Some(paused(Some(far))), true, true),
        (Some(fail.clone()), false, false),
        (Some(fail), true, true),
        (Some(Event::HandOver), false, true),
        (Some(Event::Cancel), false, false),
        (Some(Event::Complete { warnings: 0 }), false, false),
    ] {
        let id = pending_with(&**store, &from, &to).await?;
        if let Some(event) = event {
            let claim = store.claim(&id, claim_for(LONG)).await?;
            store.transition(by_fence(&claim.fence, event)).await?;
        }
        if resume {
            store.request(&id, Request::Resume).await?;
        }
        if is_due {
            due.insert(id)
        } else {
            not_due.insert(id)
        };
    }
    // One whose worker went away, one whose worker went away while it completed, and one whose worker is there.
    let lost = pending_with(&**store, &from, &to).await?;
    store.claim(&lost, claim_for(SHORT)).await?;
    let committing = pending_with(&**store, &from, &to).await?;
    let claim = store.claim(&committing, claim_for(SHORT)).await?;
    store.transition(by_fence(&claim.fence, Event::Commit)).await?;
    let held = pending_with(&**store, &from, &to).await?;
    store.claim(&held, claim_for(LONG)).await?;
    due.extend([lost, committing.clone()]);
    not_due.insert(held);
    tokio::time::sleep(Duration::from_millis(150)).await;

    tokio::time::sleep(Duration::from_millis(3)).await;
    let last = pending_with(&**store, &from, &to).await?;
    let mut order = Vec::new();
    while let Some(claim) = store.claim_next(&claim_next_for(LONG)).await? {
        let operation = &claim.operation;
        let expected = if operation.new.id == committing { State::Committing } else { State::Running };
        ensure_eq!(operation.state, expected, "the state after the claim");
        ensure!(operation.lease_running && operation.holder == Some(holder(1)), "{operation:?} is not held");
        order.push(operation.new.id.clone());
    }
    ensure_eq!(order.last(), Some(&last), "what became due last comes last");
    due.insert(last);
    ensure_eq!(order.iter().cloned().collect::<HashSet<_>>(), due, "what was claimed");
    ensure_eq!(order.len(), due.len(), "claims");
    Ok(())
}

pub(super) async fn what_has_no_connections_is_left_alone(store: &Arc<dyn Store>) -> Outcome {
    let id = pending(&**store).await?;
    let lost = pending(&**store).await?;
    store.claim(&lost, claim_for(SHORT)).await?;
    tokio::time::sleep(2 * SHORT).await;
    ensure!(store.claim_next(&claim_next_for(LONG)).await?.is_none(), "an operation without connections was claimed");
    ensure_eq!(operation(&**store, &id).await?.attempt, 0, "attempts of the operation");
    Ok(())
}

pub(super) async fn busy_connections_are_passed_over(store: &Arc<dyn Store>) -> Outcome {
    let (a, b, c) = (connection(&**store).await?, connection(&**store).await?, connection(&**store).await?);
    let next = ClaimNext { per_connection: 2, ..claim_next_for(LONG) };
    let mut a_to_b = Vec::new();
    for _ in 0..4 {
        a_to_b.push(pending_with(&**store, &a, &b).await?);
        // Longer than the steps of any database's clock.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let b_to_c = pending_with(&**store, &b, &c).await?;
    let mut claims = Vec::new();
    for expected in &a_to_b[..2] {
        let claim = store.claim_next(&next).await?;
        ensure_eq!(claim.as_ref().map(|c| &c.operation.new.id), Some(expected), "the next claim");
        claims.extend(claim);
    }
    // What b is the destination of counts for what it is the source of, too.
    ensure_eq!(operation(&**store, &b_to_c).await?.state, State::Pending, "an operation that waits");
    ensure!(store.claim_next(&next).await?.is_none(), "a third operation of a connection was claimed");
    let c_to_c = pending_with(&**store, &c, &c).await?;
    let claim = store.claim_next(&next).await?.map(|claim| claim.operation.new.id);
    ensure_eq!(claim, Some(c_to_c), "the operation of connections that are free");
    store.transition(by_fence(&claims[0].fence, Event::Complete { warnings: 0 })).await?;
    let claim = store.claim_next(&next).await?.map(|claim| claim.operation.new.id);
    ensure_eq!(claim.as_ref(), Some(&a_to_b[2]), "the claim after one operation has ended");
    store.transition(by_fence(&claims[1].fence, Event::Cancel)).await?;
    let one = ClaimNext { per_connection: 1, ..next.clone() };
    ensure!(store.claim_next(&one).await?.is_none(), "a lower limit counts what the higher one has let in");
    let none = ClaimNext { per_connection: 0, ..next };
    refused(store.claim_next(&none).await, ErrorClass::Invalid, "a claim that allows nothing")
}

pub(super) async fn what_a_worker_cannot_work_with_is_left_to_others(store: &Arc<dyn Store>) -> Outcome {
    // More than a store may look at in one go, and all due before what the worker is able to run.
    const MANY: usize = 60;
    let [local, other, old, new, odd, newer] = [
        connection_of(&**store, "local", None).await?,
        connection_of(&**store, "other", None).await?,
        connection_of(&**store, "local", Some("sealed-1.old.c2VjcmV0")).await?,
        connection_of(&**store, "local", Some("sealed-1.new.c2VjcmV0")).await?,
        connection_of(&**store, "local", Some("no secret at all")).await?,
        connection_of(&**store, "local", Some("sealed-2.new.c2VjcmV0")).await?,
    ];
    let mut left = HashSet::new();
    for number in 0..MANY {
        let (from, to) =
            [(&local, &other), (&other, &local), (&new, &local), (&local, &new), (&newer, &old)][number % 5];
        left.insert(pending_with(&**store, from, to).await?);
    }
    // Whatever the state that it is due in.
    let resumed = operation_with(&**store, &local, &other, "paused").await?;
    store.request(&resumed, Request::Resume).await?;
    let lost = pending_with(&**store, &other, &other).await?;
    store.claim(&lost, claim_for(SHORT)).await?;
    left.extend([resumed, lost]);
    tokio::time::sleep(2 * SHORT).await;
    let mut mine = HashSet::new();
    for (from, to) in [(&local, &old), (&old, &local), (&old, &old), (&odd, &local)] {
        mine.insert(pending_with(&**store, from, to).await?);
    }

    let able = |kinds: &[&str], keys: &[&str]| {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ClaimNext { able: Some(Capabilities { kinds: of(kinds), keys: of(keys) }), ..claim_next_for(LONG) }
    };
    let claim_all = async |next: ClaimNext| {
        let mut claimed = HashSet::new();
        while let Some(claim) = store.claim_next(&next).await? {
            claimed.insert(claim.operation.new.id);
        }
        backup_core::Result::<HashSet<_>>::Ok(claimed)
    };
    ensure_eq!(claim_all(able(&[], &[])).await?.len(), 0, "claims of a worker that can do nothing");
    ensure_eq!(claim_all(able(&["local"], &["sealed-1.old"])).await?, mine, "what the worker is able to run");
    for id in &left {
        ensure!(operation(&**store, id).await?.attempt <= 1, "an attempt was begun by who cannot run it");
    }
    // A change of the connection counts at once.
    let sealed = store.connection(&new).await?.ok_or_else(|| backup_core::Error::not_found("the connection"))?;
    let content = ConnectionContent { secret: Some(SealedSecret("sealed-1.old.bmV3".into())), ..sealed.content };
    store.update_connection(&new, sealed.version, content).await?;
    let now_mine = claim_all(able(&["local"], &["sealed-1.old"])).await?;
    ensure_eq!(now_mine.len(), MANY / 5 * 2, "what the worker is able to run after the connection was changed");
    let keys = ["sealed-1.old", "sealed-1.new", "sealed-2.new"];
    let rest = claim_all(able(&["local", "other"], &keys)).await?;
    ensure!(
        rest.is_disjoint(&now_mine) && rest.len() + now_mine.len() == left.len(),
        "another worker gets all the rest"
    );
    Ok(())
}

pub(super) async fn of_many_claims_of_what_is_due_each_gets_another(store: &Arc<dyn Store>) -> Outcome {
    const OPERATIONS: usize = 6;
    const LIMIT: u32 = 4;
    let (from, to) = (connection(&**store).await?, connection(&**store).await?);
    for _ in 0..OPERATIONS {
        pending_with(&**store, &from, &to).await?;
    }
    let mut claims = JoinSet::new();
    for pid in 0..12 {
        let store = Arc::clone(store);
        let next = ClaimNext { holder: holder(pid), per_connection: LIMIT, ..claim_next_for(LONG) };
        claims.spawn(async move { store.claim_next(&next).await });
    }
    let mut won = HashSet::new();
    while let Some(claim) = claims.join_next().await {
        if let Some(claim) = claim?? {
            ensure!(won.insert(claim.fence.operation.clone()), "{} was claimed twice", claim.fence.operation);
        }
    }
    ensure!(won.len() <= LIMIT as usize, "{} operations of one connection were claimed", won.len());
    // A claim that met another one at work may have gone away with nothing.
    while let Some(claim) = store.claim_next(&ClaimNext { per_connection: LIMIT, ..claim_next_for(LONG) }).await? {
        ensure!(won.insert(claim.fence.operation.clone()), "{} was claimed twice", claim.fence.operation);
    }
    ensure_eq!(won.len(), LIMIT as usize, "operations that were claimed");
    Ok(())
}

pub(super) async fn a_claim_of_what_is_due_is_as_any_claim(store: &Arc<dyn Store>) -> Outcome {
    ensure!(store.claim_next(&claim_next_for(LONG)).await?.is_none(), "there is nothing to claim");
    let (from, to) = (connection(&**store).await?, connection(&**store).await?);
    let id = pending_with(&**store, &from, &to).await?;
    let first = store.claim(&id, claim_for(LONG)).await?;
    let checkpoint = backup_core::model::Checkpoint("saved".into());
    store.save_checkpoint(&first.fence, &checkpoint).await?;
    store.transition(by_fence(&first.fence, pause())).await?;
    let before = store.request(&id, Request::Resume).await?;
    ensure_eq!(before.request, Some(Request::Resume), "the request before the claim");
    let Some(claim) = store.claim_next(&claim_next_for(LONG)).await? else {
        return Err(crate::conformance::Stop::Failed("what was asked to go on was not claimed".into()));
    };
    ensure_eq!(claim.operation, operation(&**store, &id).await?, "what is read back");
    ensure_eq!(claim.operation.request, None, "the request after the claim");
    ensure!(claim.operation.version > before.version, "a claim raises the version");
    ensure_eq!(claim.fence.attempt, 2, "the attempt");
    ensure_eq!(claim.checkpoint, Some(checkpoint), "the checkpoint");
    let log = log_of(&**store, &id).await?;
    ensure_eq!(log[log.len() - 1].record.step, "claim", "the newest record's step");
    conflict(store.renew(&first.fence, LONG, None).await, "the fence of the claim before")?;

    // A pause that no worker lived to see to stays, for the next one to see to.
    let asked = pending_with(&**store, &from, &to).await?;
    store.claim(&asked, claim_for(SHORT)).await?;
    store.request(&asked, Request::Pause).await?;
    tokio::time::sleep(2 * SHORT).await;
    let Some(claim) = store.claim_next(&claim_next_for(LONG)).await? else {
        return Err(crate::conformance::Stop::Failed("what a dead worker left was not claimed".into()));
    };
    ensure_eq!(claim.operation.new.id, asked, "the operation that was claimed");
    ensure_eq!(store.renew(&claim.fence, LONG, None).await?.request, Some(Request::Pause), "the request");
    Ok(())
}
