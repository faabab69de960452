//! An operation that was claimed, and on which work has not begun yet.

use super::process::{boot_time, holder_is_dead};
use super::session::{Session, no_such};
use super::{Engine, Outcome, TakeOver};
use crate::model::{Capabilities, Claim, ClaimNext, ClaimOver, ClaimRequest, Operation, OperationId};
use crate::state::Event;
use crate::{Error, ErrorClass, Result};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The right to work on an operation, until its lease runs out: it is renewed only once the work has begun.
#[derive(Debug)]
pub struct Claimed {
    pub(super) session: Arc<Session>,
    pub(super) claim: Claim,
}

impl Claimed {
    /// The operation after the claim.
    pub fn operation(&self) -> &Operation {
        &self.claim.operation
    }

    /// A token that hands the operation over when it is cancelled; it goes on to be that of the [handle](super::OperationHandle).
    pub fn hand_over_token(&self) -> CancellationToken {
        self.session.hand_over.clone()
    }

    /// Runs what must be done before the work can begin, under the lease. `None` when the operation is to pause, or to be handed over,
    /// before that is done: then [`stop`](Self::stop) it. What is completing does not pause.
    ///
    /// # Errors
    /// What `work` met; `Conflict` when the claim is void.
    pub async fn before_work<T>(&self, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        self.session.before_work(work).await
    }

    /// Pauses the operation, or hands it over, as was asked for. One that is completing is given back as it is.
    ///
    /// # Errors
    /// What the store met.
    pub async fn stop(self) -> Result<Outcome> {
        self.session.paused().await
    }

    /// Leaves the operation as it is, since this worker cannot go on with it: after a while, which grows with its attempts, any worker may
    /// claim it.
    ///
    /// # Errors
    /// What the store met; its lease runs out then.
    pub async fn leave_to_others(self) -> Result<()> {
        self.session.leave_to_others().await
    }

    /// Gives the operation back because the work cannot begin: it pauses when a human can mend that, else it fails.
    ///
    /// # Errors
    /// The error given, when the operation failed by it.
    pub async fn broke_off(self, error: Error) -> Result<Outcome> {
        self.session.broke_off(error).await
    }
}

/// Claims what has been due for longest.
pub(super) async fn next(engine: &Engine, per_connection: u32, able: Option<Capabilities>) -> Result<Option<Claimed>> {
    let before = boot_time();
    let (holder, lease) = (engine.options.holder.clone(), engine.options.lease);
    let claim = engine.store.claim_next(&ClaimNext { holder, lease, per_connection, able }).await?;
    Ok(claim.map(|claim| Claimed { session: Session::of(engine, &claim, before), claim }))
}

/// Claims an operation once. `None` when another living worker has it, or was faster.
pub(super) async fn try_claim(engine: &Engine, id: &OperationId, take_over: TakeOver) -> Result<Option<Claimed>> {
    let operation = engine.store.get(id).await?.ok_or_else(|| no_such(id))?;
    // Tells at once when it can never be claimed.
    operation.state.after(&Event::Claim).map_err(|e| e.on(format!("operation {id}")))?;
    let held = operation.state.is_held() && operation.lease_running;
    let dead = operation.holder.as_ref().is_some_and(holder_is_dead);
    let over = if held && (dead || take_over == TakeOver::Now) {
        ClaimOver::Holder { version: operation.version }
    } else {
        ClaimOver::Nobody
    };
    let before = boot_time();
    let request = ClaimRequest { holder: engine.options.holder.clone(), lease: engine.options.lease, over };
    match engine.store.claim(id, request).await {
        Ok(claim) => Ok(Some(Claimed { session: Session::of(engine, &claim, before), claim })),
        Err(e) if e.class() == ErrorClass::Conflict => Ok(None),
        Err(e) => Err(e),
    }
}

/// Claims an operation whose holder is known to be dead. `None` when it is not, or when somebody else was faster.
pub(super) async fn orphan(engine: &Engine, operation: &Operation) -> Result<Option<Claimed>> {
    if !operation.state.is_held() || !operation.holder.as_ref().is_some_and(holder_is_dead) {
        return Ok(None);
    }
    match try_claim(engine, &operation.new.id, TakeOver::WhenFree).await {
        // It has ended meanwhile.
        Err(e) if matches!(e.class(), ErrorClass::Conflict | ErrorClass::NotFound) => Ok(None),
        result => result,
    }
}
