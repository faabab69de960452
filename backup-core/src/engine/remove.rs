//! Removing archives: on cancel, on delete, and sweeping up what was never completed.

use super::archive::{read_header, stream_document};
use super::catalog::archive_ids;
use super::process::boot_time;
use super::retrying;
use super::session::no_such;
use crate::adapter::{Destination, Payload, Store};
use crate::archive::{Codec, ObjectNames};
use crate::model::{
    ArchiveId, Guard, Identity, LogPosition, LogRecord, Operation, OperationId, OperationKind, OperationQuery,
    Transition,
};
use crate::state::{Event, State};
use crate::{Error, ErrorClass, Result};
use futures::TryStreamExt;
use futures::future::ready;
use futures::stream::TryChunksError;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// So many objects are removed by one call, as many as one request to S3 takes.
pub(super) const REMOVED_AT_ONCE: usize = 1000;

/// The compare-and-set to `Cancelled`, which voids the worker's claim; one that is cancelled already stays so. `fits` looks at
/// the operation before anything is changed.
pub(super) async fn set_cancelled(
    store: &Arc<dyn Store>,
    id: &OperationId,
    fits: impl Fn(&Operation) -> Result<()>,
) -> Result<Operation> {
    loop {
        let operation = store.get(id).await?.ok_or_else(|| no_such(id))?;
        let about = |e: Error| e.on(format!("operation {id}"));
        fits(&operation).map_err(about)?;
        if operation.state == State::Cancelled {
            return Ok(operation);
        }
        operation.state.after(&Event::Cancel).map_err(about)?;
        let log = LogRecord::info("cancel", "cancelled on request");
        let change = Transition::new(id.clone(), Guard::Version(operation.version), Event::Cancel, log);
        match store.transition(change).await {
            // It changed meanwhile; look again.
            Err(e) if e.class() == ErrorClass::Conflict => {}
            result => return result,
        }
    }
}

/// Cancels a backup, then removes the archive's objects; of one that is cancelled already, what is left of them.
pub(super) async fn cancel_backup(
    store: &Arc<dyn Store>,
    id: &OperationId,
    destination: &dyn Destination,
) -> Result<Operation> {
    let place = destination.identity();
    let cancelled = set_cancelled(store, id, |operation| {
        if operation.new.kind != OperationKind::Backup {
            return Err(Error::invalid("it is not a backup"));
        }
        if operation.new.destination != place {
            return Err(Error::invalid(format!("the backup goes to {}, not to {place}", operation.new.destination)));
        }
        Ok(())
    })
    .await?;
    let removed = remove_unfinished(destination, &cancelled.new.archive).await;
    let log = match &removed {
        Ok(None) => {
            let text = "the archive was completed, by a worker whose store is not this one, or just before this operation \
                        failed; it stays, delete it if it is not wanted";
            LogRecord::warning("cancel", text)
        }
        Ok(Some(count)) => LogRecord::info("cancel", format!("removed {count} objects of the unfinished archive")),
        Err(e) => {
            let text = format!("objects remain; cancelling again, or a sweep, removes them: {}", e.chain());
            LogRecord::warning("cancel", text)
        }
    };
    store.append_log(id, LogPosition::new_writer(), &[log]).await?;
    removed?;
    Ok(cancelled)
}

/// Removes all objects of an archive without a manifest. `None` when it has one: what is complete is removed by its own name only.
pub(super) async fn remove_unfinished(destination: &dyn Destination, archive: &ArchiveId) -> Result<Option<u64>> {
    let names = |sealed| ObjectNames::new(archive.clone(), Codec::None, sealed);
    // A manifest without a header is what a worker put that woke up after a sweep; it completes nothing.
    let is_whole = destination.stat(&names(false).header()).await?.is_some();
    if is_whole && destination.stat(&names(false).swept()).await?.is_none() {
        for manifest in [names(false).manifest(), names(true).manifest()] {
            if destination.stat(&manifest).await?.is_some() {
                return Ok(None);
            }
        }
    }
    remove_objects(destination, archive).await.map(Some)
}

/// Removes all objects of an archive, the manifest first, so that what is half removed is never taken for complete.
pub(super) async fn remove_objects(destination: &dyn Destination, archive: &ArchiveId) -> Result<u64> {
    let names = ObjectNames::new(archive.clone(), Codec::None, false);
    let sealed = ObjectNames::new(archive.clone(), Codec::None, true);
    for manifest in [names.manifest(), sealed.manifest()] {
        destination.delete(&manifest).await?;
    }
    let mut count = 0;
    // The marks that tell what this was come last, and that of a sweep at the very end: a backup that is about to complete
    // the archive finds it, or else no header.
    let last = [names.header(), names.swept()];
    // A listing may not show what was put a moment ago.
    for _ in 0..2 {
        let root = names.root();
        let listed = destination.list(Some(&root)).map_ok(|object| object.name);
        let mut some = listed.try_filter(|name| ready(!last.contains(name))).try_chunks(REMOVED_AT_ONCE);
        while let Some(names) = some.try_next().await.map_err(|TryChunksError(_, error)| error)? {
            destination.delete_many(&names).await?;
            count += names.len() as u64;
        }
    }
    if let Err(error) = destination.remove_staged(&names.root()).await {
        // A worker may still have a put on its way; what it leaves behind is no object.
        tracing::warn!(%archive, error = %error.chain(), "staged leftovers remain");
    }
    for name in last {
        if destination.stat(&name).await?.is_some() {
            destination.delete(&name).await?;
            count += 1;
        }
    }
    // Where folders are things of their own, the archive's go now that nothing is in them.
    if let Err(error) = destination.remove_staged(&names.root()).await {
        tracing::warn!(%archive, error = %error.chain(), "what an archive without objects leaves behind remains");
    }
    Ok(count)
}

/// Deletes an archive, complete or not. Returns how many objects were removed; what is gone already is no failure.
///
/// # Errors
/// `NotFound` when nothing of it is there; `Conflict` when it is protected, another archive refers to it or an operation is at work on it;
/// otherwise what the destination or the store met, and deleting again goes on.
pub async fn delete_archive(
    destination: &Arc<impl Destination + ?Sized>,
    store: Option<&dyn Store>,
    id: &ArchiveId,
) -> Result<u64> {
    delete(&*retrying(destination), store, id).await
}

async fn delete(destination: &dyn Destination, store: Option<&dyn Store>, id: &ArchiveId) -> Result<u64> {
    let known = archive_ids(destination).await?.contains(id);
    if !known {
        if let Some(store) = store {
            store.forget_archive(&destination.identity(), id).await?;
        }
        return Err(Error::not_found("there is no such archive at this destination").on(id));
    }
    if let Some(store) = store
        && store.places(id).await?.iter().any(|k| k.protected && k.record.destination == destination.identity())
    {
        return Err(Error::conflict("it is protected; take the protection away first").on(id));
    }
    if let Some(other) = referred_to_by(destination, id).await? {
        return Err(Error::conflict(format!("the archive {other} uses its volumes; delete that one first")).on(id));
    }
    if let Some(store) = store
        && let Some(operation) = at_work_on(store, id, &destination.identity()).await?
    {
        let text = format!("operation {} ({}) still uses it; cancel that first", operation.new.id, operation.state);
        return Err(Error::conflict(text).on(id));
    }
    let count = remove_objects(destination, id).await?;
    if let Some(store) = store {
        store.forget_archive(&destination.identity(), id).await?;
    }
    Ok(count)
}

/// An operation that needs an archive: a backup that may still complete it, or whoever reads it now.
async fn at_work_on(store: &dyn Store, id: &ArchiveId, place: &Identity) -> Result<Option<Operation>> {
    let mut query = OperationQuery {
        archive: Some(id.clone()),
        states: vec!["pending", "running", "committing", "paused", "failed"],
        ..OperationQuery::default()
    };
    loop {
        let page = store.query(&query).await?;
        let Some(last) = page.last() else { return Ok(None) };
        query.before = Some(last.new.id.clone());
        let at_work = page
            .into_iter()
            .find(|o| (o.new.kind == OperationKind::Backup || waits_or_runs(&o.state)) && place_of_archive(o) == place);
        if at_work.is_some() {
            return Ok(at_work);
        }
    }
}

/// Whether a restore goes on, or is meant to.
fn waits_or_runs(state: &State) -> bool {
    state.is_held() || matches!(state, State::Pending | State::Paused { .. })
}

fn place_of_archive(operation: &Operation) -> &Identity {
    match operation.new.kind {
        OperationKind::Backup => &operation.new.destination,
        OperationKind::Restore | OperationKind::Verify => &operation.new.source,
    }
}

/// What a deletion asks of another archive's manifest; the rest passes by.
#[derive(Deserialize)]
struct References {
    #[serde(default)]
    references: Vec<ArchiveId>,
}

/// An archive whose manifest says that it uses volumes of this one. Manifests of sealed archives cannot be asked without their
/// key; they never refer to others in this format version. One that cannot be read at all refers to nothing that could be restored.
async fn referred_to_by(destination: &dyn Destination, id: &ArchiveId) -> Result<Option<ArchiveId>> {
    for other in archive_ids(destination).await? {
        if other == *id {
            continue;
        }
        let manifest = ObjectNames::new(other.clone(), Codec::None, false).manifest();
        match stream_document::<References>(destination, &manifest).await {
            Ok(document) if document.references.contains(id) => return Ok(Some(other)),
            Ok(_) => {}
            Err(e) if matches!(e.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// How long another sweep may take before its mark counts as left behind.
const OTHER_SWEEP: Duration = Duration::from_secs(3600);

/// What a sweep removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepOptions {
    /// Only archives whose newest object is older, on the destination's clock.
    pub min_age: Duration,
    /// Only say what would be removed.
    pub dry_run: bool,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { min_age: Duration::from_secs(30 * 24 * 3600), dry_run: false }
    }
}

/// What a sweep did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Archives that were never completed and are removed now.
    pub swept: Vec<ArchiveId>,
    /// Unfinished archives that stay, and why.
    pub kept: Vec<(ArchiveId, String)>,
    /// Objects removed.
    pub objects: u64,
    /// Bytes removed.
    pub bytes: u64,
}

/// Removes archives that were never completed and have not grown for a long time, and what broken puts left staged in complete
/// ones of that age. `swept.json` is put first: a backup that was
/// only asleep finds it and fails, instead of completing an archive with holes.
///
/// # Errors
/// What the destination met; sweeping again goes on.
pub async fn sweep(destination: &Arc<impl Destination + ?Sized>, options: &SweepOptions) -> Result<SweepReport> {
    sweep_all(&*retrying(destination), options).await
}

async fn sweep_all(destination: &dyn Destination, options: &SweepOptions) -> Result<SweepReport> {
    let mut report = SweepReport::default();
    let ids = archive_ids(destination).await?;
    if ids.is_empty() {
        return Ok(report);
    }
    let now = destination.now().await?;
    // What the clock dates in the future was put before the clock was set back: nobody knows when.
    let age = |then: jiff::Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
    for id in ids {
        let (codec, sealed, has_header) = match read_header(destination, &id).await {
            Ok((header, _)) => (header.codec, header.sealed, true),
            Err(e) if e.class() == ErrorClass::NotFound => (Codec::None, false, false),
            Err(e) if matches!(e.class(), ErrorClass::Corrupt | ErrorClass::Unsupported) => {
                report.kept.push((id, e.chain()));
                continue;
            }
            Err(e) => return Err(e),
        };
        let names = ObjectNames::new(id.clone(), codec, sealed);
        let manifest = destination.stat(&names.manifest()).await?;
        let mark = destination.stat(&names.swept()).await?;
        if let (Some(manifest), None, true) = (&manifest, &mark, has_header) {
            // A worker that died after another had taken over leaves what it was putting; by now nobody puts there.
            if !options.dry_run && age(manifest.modified) >= options.min_age {
                destination.remove_staged(&names.root()).await?;
            }
            continue;
        }
        let (mut objects, mut bytes, mut newest) = (0, 0, None);
        let mut data = false;
        let mut listed = destination.list(Some(&names.root()));
        while let Some(object) = listed.try_next().await? {
            objects += 1;
            bytes += object.size;
            data |= object.name.as_str().contains("/data/");
            newest = newest.max(Some(object.modified));
        }
        let why_kept = match &mark {
            None if manifest.is_some() && data => {
                Some("it has a manifest and data, but its header is missing: delete it if it is not wanted".to_owned())
            }
            Some(_) if manifest.is_some() => {
                Some("it has a manifest and was swept, by whom cannot be told: verify it, or delete it".to_owned())
            }
            Some(mark) if age(mark.modified) < OTHER_SWEEP => {
                Some(format!("another sweep began {} ago", human(age(mark.modified))))
            }
            Some(_) => None,
            None => {
                let age = newest.map(age).unwrap_or_default();
                (age < options.min_age).then(|| format!("its newest object is only {} old", human(age)))
            }
        };
        if let Some(why) = why_kept {
            report.kept.push((id, why));
            continue;
        }
        if !options.dry_run {
            if mark.is_none()
                && let Some(why) = mark_swept(destination, &names, has_header).await?
            {
                report.kept.push((id, why));
                continue;
            }
            remove_objects(destination, &id).await?;
        }
        report.swept.push(id);
        report.objects += objects;
        report.bytes += bytes;
    }
    Ok(report)
}

/// Puts `swept.json` under a token of its own, so that of two sweeps only one goes on, and looks once more for a manifest.
/// Answers why the archive is kept, if it is.
///
/// From here on a backup that wakes up finds the mark after it has put its manifest, and fails. One that had put its manifest
/// before the mark has completed, and the mark is taken away again; that is safe only while no other sweep can have taken
/// the mark for that of a dead one.
async fn mark_swept(destination: &dyn Destination, names: &ObjectNames, has_header: bool) -> Result<Option<String>> {
    let start = boot_time();
    let token = format!("{{\"swept\":true,\"token\":\"{:032x}\"}}\n", rand::random::<u128>());
    match destination.put(&names.swept(), Payload::from(token.into_bytes())).await {
        Ok(()) => {}
        Err(e) if e.class() == ErrorClass::Conflict => return Ok(Some("another sweep has just begun".to_owned())),
        Err(e) => return Err(e),
    }
    // A manifest alone is what a worker put that woke up after a sweep; it completes nothing.
    if !has_header || destination.stat(&names.manifest()).await?.is_none() {
        return Ok(None);
    }
    if boot_time() - start < OTHER_SWEEP / 4 {
        destination.delete(&names.swept()).await?;
        return Ok(Some("it was completed just now".to_owned()));
    }
    Ok(Some("it was completed while it was being swept: verify it, or delete it".to_owned()))
}

fn human(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
