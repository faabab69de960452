//! Begins a restore, or an attempt at one that was begun before.

use super::Attempt;
use super::checkpoint::{Head, RestoreCheckpoint};
use crate::adapter::RestoreTarget;
use crate::engine::archive::Archive;
use crate::engine::backup::same_place;
use crate::engine::selection::Chosen;
use crate::engine::session::{self, Session, no_such};
use crate::engine::{
    Claimed, Engine, Limits, OperationHandle, RestoreRequest, RestoreWork, ResumeRestore, for_any_worker,
};
use crate::model::{ArchiveId, Claim, Identity, NewOperation, Operation, OperationId, OperationKind};
use crate::retry::Retrying;
use crate::state::State;
use crate::{Error, ErrorClass, Result};
use std::sync::Arc;

/// A restore that is about to be created.
struct Prepared {
    new: NewOperation,
    first: RestoreCheckpoint,
    archive: Archive,
    target: Arc<dyn RestoreTarget>,
    limits: Limits,
}

pub(in crate::engine) async fn start(engine: &Engine, request: RestoreRequest) -> Result<OperationHandle> {
    let Prepared { new, first, archive, target, limits } = prepare(engine, request).await?;
    let session = Session::create(engine, new, &first.encode(archive.inner.key.as_ref())?).await?;
    Ok(spawn(engine, session, archive, target, limits, first, false))
}

pub(in crate::engine) async fn create(engine: &Engine, request: RestoreRequest) -> Result<Operation> {
    let Prepared { new, first, archive, .. } = prepare(engine, request).await?;
    for_any_worker(&new)?;
    session::create(engine, new, &first.encode(archive.inner.key.as_ref())?).await
}

async fn prepare(engine: &Engine, request: RestoreRequest) -> Result<Prepared> {
    let RestoreRequest { destination, archive: id, target, open, options, limits, name, spec, connections, created_by } =
        request;
    engine.options.check()?;
    Chosen::new(&options.selection)?;
    let archive = Archive::open_with(destination.clone(), &id, &open, engine.options.retry).await?;
    let place = destination.identity();
    let known = engine.store.archives(&place).await?;
    if known.iter().any(|k| k.record.archive == id && k.record.manifest_sha256 != archive.manifest_sha256()) {
        let text = "its manifest is not the one that was written: somebody has put another archive in its place";
        return Err(Error::corrupt(text).on(&id));
    }
    let target: Arc<dyn RestoreTarget> = Retrying::new(target, engine.options.retry);
    not_among_archives(&place, &target.identity())?;
    target.check().await.map_err(|e| e.context(format!("the target {} cannot be used", target.identity())))?;
    let first = RestoreCheckpoint::first(id.clone(), archive.manifest_sha256(), options);
    let new = NewOperation {
        id: OperationId::generate(jiff::Timestamp::now()),
        kind: OperationKind::Restore,
        name,
        source: place,
        destination: target.identity(),
        archive: id,
        spec,
        connections,
        created_by,
    };
    Ok(Prepared { new, first, archive, target, limits })
}

/// Refuses to restore over archives: into the very place that keeps them, or into one of them.
fn not_among_archives(archives: &Identity, target: &Identity) -> Result<()> {
    let Some(below) = archives.below(target) else { return Ok(()) };
    let first = below.split('/').next().unwrap_or_default();
    if !below.is_empty() && first.parse::<ArchiveId>().is_err() {
        return Ok(());
    }
    Err(Error::invalid(format!("archives are kept in the target {target}; choose another target")))
}

pub(in crate::engine) async fn resume(engine: &Engine, request: ResumeRestore) -> Result<OperationHandle> {
    let ResumeRestore { operation: id, destination, target, open, limits, take_over, keep_going } = request;
    engine.options.check()?;
    let operation = engine.store.get(&id).await?.ok_or_else(|| no_such(&id))?;
    let work = RestoreWork { destination, target, open, limits, keep_going };
    fit(&work, &operation)?;
    let (session, claim) = Session::claim(engine, &id, take_over).await?;
    Ok(begin(engine, session, claim, work).await)
}

pub(in crate::engine) async fn go_on(engine: &Engine, claimed: Claimed, work: RestoreWork) -> Result<OperationHandle> {
    let Claimed { session, claim } = claimed;
    match fit(&work, &claim.operation) {
        Ok(()) => Ok(begin(engine, session, claim, work).await),
        Err(error) => {
            session.broke_off(error).await?;
            Err(Error::conflict("the operation cannot be continued now")
                .on(format!("operation {}", claim.operation.new.id)))
        }
    }
}

/// Whether it is what the operation was started with.
fn fit(work: &RestoreWork, operation: &Operation) -> Result<()> {
    if operation.new.kind != OperationKind::Restore {
        return Err(Error::invalid("it is not a restore").on(format!("operation {}", operation.new.id)));
    }
    same_place("archive place", &operation.new.source, &work.destination.identity())?;
    same_place("target", &operation.new.destination, &work.target.identity())
}

/// Begins an attempt under a claim, from the last checkpoint.
async fn begin(engine: &Engine, session: Arc<Session>, claim: Claim, work: RestoreWork) -> OperationHandle {
    let RestoreWork { destination, target, open, limits, keep_going } = work;
    let opened = async {
        let saved = claim.checkpoint.as_ref().ok_or_else(|| Error::corrupt("the operation has no checkpoint"))?;
        let head = RestoreCheckpoint::decode_head(saved)?;
        let archive = Archive::open_with(destination, &head.archive, &open, engine.options.retry).await?;
        same_archive(&archive, &head)?;
        let mut saved = RestoreCheckpoint::decode(saved, archive.inner.key.as_ref())?;
        saved.body.options.keep_going |= keep_going;
        Ok::<_, Error>((archive, saved))
    };
    match session.before_work(opened).await {
        Ok(None) => {
            let of = session.clone();
            OperationHandle::of(&of, claim.operation.new.archive, async move { session.paused().await })
        }
        Ok(Some((archive, saved))) => {
            let target = Retrying::new(target, engine.options.retry);
            // Nobody has prepared the target yet when this is the first attempt.
            spawn(engine, session, archive, target, limits, saved, claim.fence.attempt > 1)
        }
        Err(error) => {
            let of = session.clone();
            let key_needed = error.class() == ErrorClass::Unauthorized && claim.operation.state == State::Running;
            let work = async move {
                if key_needed { session.key_needed(error).await } else { session.broke_off(error).await }
            };
            OperationHandle::of(&of, claim.operation.new.archive, work)
        }
    }
}

fn spawn(
    engine: &Engine,
    session: Arc<Session>,
    archive: Archive,
    target: Arc<dyn RestoreTarget>,
    limits: Limits,
    start: RestoreCheckpoint,
    resumed: bool,
) -> OperationHandle {
    let (of, id) = (session.clone(), archive.id().clone());
    let attempt = Attempt { engine: engine.clone(), session, archive, target, limits, resumed };
    OperationHandle::of(&of, id, attempt.run(start))
}

pub(super) fn same_archive(archive: &Archive, head: &Head) -> Result<()> {
    if archive.manifest_sha256() == head.manifest_sha256 {
        return Ok(());
    }
    Err(Error::corrupt("the archive is not the one that the restore began with").on(archive.id()))
}
