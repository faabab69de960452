//! Gives a restore up: the operation is cancelled, and what it left staged at the target is removed.

use super::begin::same_archive;
use super::checkpoint::RestoreCheckpoint;
use super::plan::{Losses, Plan};
use crate::adapter::{PlanEntries, RestorePlan, RestoreTarget, SavedProgress};
use crate::archive::PieceRecord;
use crate::engine::archive::Archive;
use crate::engine::backup::same_place;
use crate::engine::remove::set_cancelled;
use crate::engine::selection::Chosen;
use crate::engine::{CancelRestore, Engine};
use crate::limit::RateLimit;
use crate::model::{Entry, EntryName, LogPosition, LogRecord, Operation, OperationKind, STAGE_PREFIX};
use crate::retry::Retrying;
use crate::{Error, ErrorClass, Result};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::sync::Arc;

/// First a compare-and-set to `Cancelled`, which voids the worker's claim; then the leftovers are removed. A worker that is still
/// alive hears of it and does the same, so that what it stages meanwhile goes too.
pub(in crate::engine) async fn cancel(engine: &Engine, request: CancelRestore) -> Result<Operation> {
    engine.options.check()?;
    let id = request.operation.clone();
    let cancelled = set_cancelled(&engine.store, &id, |operation| {
        if operation.new.kind != OperationKind::Restore {
            return Err(Error::invalid("it is not a restore"));
        }
        same_place("archive place", &operation.new.source, &request.destination.identity())?;
        same_place("target", &operation.new.destination, &request.target.identity())
    })
    .await?;
    // The cancel counts as an attempt; without another one nobody has ever written anything.
    if cancelled.attempt > 1 {
        let discarded = discard(engine, &cancelled, request).await;
        let log = match &discarded {
            Ok(()) => LogRecord::info("cancel", "removed what was staged at the target; restored entries stay"),
            Err(e) => {
                let text = format!("staged leftovers may remain: {}", e.chain());
                LogRecord::warning("cancel", text)
            }
        };
        engine.store.append_log(&id, LogPosition::new_writer(), &[log]).await?;
        discarded.map_err(|e| match e.class() {
            ErrorClass::NotFound => e.context(format!(
                "the restore is cancelled, but what it left staged is found only by its archive: cancel it again when that can \
                 be reached, or remove what is named {STAGE_PREFIX}{id}-… at the target by hand"
            )),
            _ => e.context("the restore is cancelled, but what it left staged could not be removed"),
        })?;
    }
    Ok(cancelled)
}

async fn discard(engine: &Engine, operation: &Operation, request: CancelRestore) -> Result<()> {
    let CancelRestore { operation: id, destination, target, open } = request;
    let Some(saved) = engine.store.checkpoint(&id).await? else { return Ok(()) };
    let head = RestoreCheckpoint::decode_head(&saved)?;
    let archive = Archive::open_with(destination, &head.archive, &open, engine.options.retry).await?;
    same_archive(&archive, &head)?;
    let body = RestoreCheckpoint::decode(&saved, archive.inner.key.as_ref())?.body;
    let chosen = Arc::new(Chosen::new(&body.options.selection)?);
    let naming = archive.header().naming;
    // What the index does not tell any more, nobody could restore either.
    let plan = Plan { archive, chosen, limit: RateLimit::default(), losses: Some(Arc::new(Unheard)) };
    let unfinished = body.account.large.into_iter().map(|(_, saved)| saved).collect();
    let plan = RestorePlan {
        tag: id.to_string(),
        attempt: operation.attempt,
        resumed: true,
        overwrite: body.options.overwrite,
        naming,
        entries: Arc::new(GivenUp { plan, unfinished }),
    };
    let target: Arc<dyn RestoreTarget> = Retrying::new(target, engine.options.retry);
    target.discard(&plan).await
}

/// The plan of a restore that nobody works on.
#[derive(Debug)]
struct GivenUp {
    plan: Plan,
    unfinished: Vec<SavedProgress>,
}

#[async_trait]
impl PlanEntries for GivenUp {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        self.plan.clone().restored()
    }

    async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        self.plan.find(name).await
    }

    fn selects(&self, name: &EntryName) -> bool {
        self.plan.chosen.contains_name(name)
    }

    fn unfinished(&self) -> Vec<SavedProgress> {
        self.unfinished.clone()
    }
}

#[derive(Debug)]
struct Unheard;

impl Losses for Unheard {
    fn lost_piece(&self, number: usize, _: &PieceRecord, error: &Error) {
        tracing::warn!(number, error = %error.chain(), "a part of the index is damaged");
    }
}
