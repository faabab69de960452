//! The end of a backup, in two steps: first everything is checked and the manifest's exact bytes are saved with the change to
//! `Committing`; then these bytes are put. After the first step any worker only repeats the second.

use super::chapters::gather;
use super::checkpoint::{Blob, Body, ManifestBytes};
use super::track::Tracker;
use super::volume::{Outlet, panicked};
use crate::adapter::{Destination, Payload};
use crate::archive::{Attempted, Header, Manifest, ObjectNames, Totals, seal};
use crate::engine::Outcome;
use crate::engine::remove::REMOVED_AT_ONCE;
use crate::model::{ArchiveRecord, LogRecord, ObjectName, Phase};
use crate::state::Event;
use crate::{Digest, Error, ErrorClass, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::ready;
use futures::stream::TryChunksError;

/// Step 1: all data is durable; check it, and save what the manifest will be.
pub(super) async fn prepare(tracker: &mut Tracker, header: &Header) -> Result<()> {
    let outlet = tracker.outlet.clone();
    outlet.session.meter.phase(Phase::Finishing);
    tracker.flush_tail().await?;
    gather(&outlet, header.codec, &mut tracker.body).await?;
    check_objects(&outlet, &tracker.body).await?;
    let manifest = manifest(header, &tracker.head.header.0, &tracker.body);
    let (key, names) = (outlet.key.clone(), outlet.names.clone());
    let bytes = tokio::task::spawn_blocking(move || -> Result<Bytes> {
        let plain = Bytes::from(manifest.encode()?);
        let Some(key) = key else { return Ok(plain) };
        let name = names.manifest();
        let relative = names.relative(&name).unwrap_or_default();
        Ok(seal(&key, names.archive(), relative, &[plain])?.into())
    });
    tracker.body.manifest = Some(ManifestBytes(Blob(bytes.await.map_err(panicked)??)));
    let checkpoint = tracker.checkpoint().await?;
    let log = LogRecord::info("commit", "all data is stored and was found at the destination; completing the archive");
    outlet.session.ensure_held()?;
    outlet.session.transition(Event::Commit, log, |t| t.checkpoint = Some(checkpoint)).await?;
    Ok(())
}

/// Compares what the destination lists with what the archive names.
async fn check_objects(outlet: &Outlet, body: &Body) -> Result<()> {
    let names = &outlet.names;
    let mut header = false;
    let mut sizes = vec![None; usize::try_from(body.volume_count).unwrap_or(usize::MAX)];
    let mut pieces = vec![None; body.pieces.len()];
    let mut listed = outlet.destination.list(Some(&names.root()));
    while let Some(object) = listed.try_next().await? {
        if object.name == names.swept() {
            return Err(swept(names));
        }
        if object.name == names.manifest() {
            return Err(completed_elsewhere(names));
        }
        header |= object.name == names.header();
        let Some(attempted) = ObjectNames::parse_attempt(&object.name) else { continue };
        let number = usize::try_from(attempted.number).unwrap_or(usize::MAX);
        if names_it(names, body, &object.name, attempted) {
            let is_volume = object.name == names.volume(attempted);
            (if is_volume { &mut sizes } else { &mut pieces })[number] = Some(object.size);
        }
    }
    if !header {
        return Err(swept(names));
    }
    for (number, size) in sizes.iter().enumerate() {
        if size.is_none() {
            let name =
                writer(body, number as u64).map(|attempted| names.volume(attempted).to_string()).unwrap_or_default();
            return Err(Error::corrupt("the volume has vanished from the destination").on(name));
        }
    }
    for (piece, size) in body.pieces.iter().zip(pieces) {
        if size != Some(piece.record.size) {
            return Err(Error::corrupt("the index piece has vanished from the destination, or has another size")
                .on(&piece.record.name));
        }
        let first = usize::try_from(piece.record.first_volume).unwrap_or(usize::MAX);
        let count = usize::try_from(piece.record.volumes).unwrap_or(usize::MAX);
        let sum: u64 = sizes.iter().skip(first).take(count).flatten().sum();
        if sum != piece.volume_bytes {
            let range = format!("volumes {first} to {}", (first + count).saturating_sub(1));
            return Err(Error::corrupt("the destination lists other sizes than were stored").on(range));
        }
    }
    Ok(())
}

/// Whether the archive names this volume or index piece.
fn names_it(names: &ObjectNames, body: &Body, name: &ObjectName, attempted: Attempted) -> bool {
    if *name == names.volume(attempted) {
        return writer(body, attempted.number) == Some(attempted);
    }
    let piece = usize::try_from(attempted.number).ok().and_then(|number| body.pieces.get(number));
    piece.is_some_and(|piece| names.relative(name) == Some(piece.record.name.as_str()))
}

/// Removes what earlier attempts have put and the archive does not name. Only once the manifest is there: until then another
/// worker, whose store is a copy of this one's, may be about to complete the archive with just these objects.
async fn remove_leftovers(outlet: &Outlet, body: &Body) -> Result<()> {
    let names = &outlet.names;
    let root = names.root();
    let left_over = |name: &ObjectName| {
        let attempted = ObjectNames::parse_attempt(name)?;
        // These served for the manifest, which is there.
        if *name == names.chapter(attempted) {
            return Some(None);
        }
        // A newer attempt may be at work already; what is not older than this one is not ours to remove.
        let older = attempted.attempt < outlet.session.fence().attempt && !names_it(names, body, name, attempted);
        older.then(|| Some(format!("removed {name}, left over by an earlier attempt")))
    };
    let listed = outlet.destination.list(Some(&root)).map_ok(|object| object.name);
    let mut some = listed.try_filter(|name| ready(left_over(name).is_some())).try_chunks(REMOVED_AT_ONCE);
    while let Some(names) = some.try_next().await.map_err(|TryChunksError(_, error)| error)? {
        outlet.session.ensure_held()?;
        outlet.destination.delete_many(&names).await?;
        for text in names.iter().filter_map(|name| left_over(name)?) {
            outlet.session.log(LogRecord::info("clean", text));
        }
    }
    Ok(())
}

/// Who wrote the volume with this number, by the archive's own record.
fn writer(body: &Body, number: u64) -> Option<Attempted> {
    let mut before = 0;
    for run in &body.volumes {
        if number < before + run.count {
            return Some(Attempted { number, attempt: run.attempt, nonce: run.nonce });
        }
        before += run.count;
    }
    None
}

fn manifest(header: &Header, header_bytes: &[u8], body: &Body) -> Manifest {
    let position = &body.position;
    Manifest {
        format: header.format,
        min_reader: header.min_reader,
        features: header.features.clone(),
        header_sha256: Digest::of(header_bytes),
        id: header.id.clone(),
        source: header.source.clone(),
        codec: header.codec,
        started_at: header.started_at,
        finished_at: jiff::Timestamp::now(),
        totals: Totals {
            entries: position.ordinal,
            bytes: position.content,
            raw_bytes: position.raw,
            stored_bytes: body.stored_bytes,
            volumes: body.volume_count,
            warnings: position.warnings.count,
            inconsistent: position.inconsistent,
            superseded: position.superseded,
        },
        consistency: position.facts.consistency.clone(),
        group_digests: position.facts.group_digests.clone(),
        superseded: position.groups.to_vec(),
        previous: body.previous.clone(),
        references: Vec::new(),
        pieces: body.pieces.iter().map(|piece| piece.record.clone()).collect(),
    }
}

/// Step 2: put the saved manifest. Repeating it is harmless.
pub(super) async fn complete(outlet: &Outlet, body: &Body, header: &Header) -> Result<Outcome> {
    let ManifestBytes(Blob(bytes)) = body
        .manifest
        .as_ref()
        .ok_or_else(|| Error::corrupt("the checkpoint of a completing backup has no manifest"))?;
    outlet.session.meter.phase(Phase::Finishing);
    let names = &outlet.names;
    if outlet.key.is_none() {
        let text: String = (0..body.volume_count)
            .filter_map(|number| writer(body, number))
            .filter_map(|attempted| names.relative(&names.volume(attempted)).map(|name| format!("{name}\n")))
            .collect();
        outlet.put_as_is(&names.volumes_txt(), Payload::from(text.into_bytes())).await?;
    }
    not_swept(&*outlet.destination, names).await?;
    outlet.put_as_is(&names.manifest(), Payload::from(bytes.clone())).await?;
    not_swept(&*outlet.destination, names).await?;
    if let Err(error) = remove_leftovers(outlet, body).await {
        let text = format!("the archive is complete, but leftovers of earlier attempts remain: {}", error.chain());
        outlet.session.log(LogRecord::warning("clean", text));
    }
    // A worker that has taken this one over may be staging objects.
    outlet.session.ensure_held()?;
    outlet.remove_staged().await;
    let warnings = body.position.warnings.count;
    let record = ArchiveRecord {
        archive: names.archive().clone(),
        destination: outlet.destination.identity(),
        source: header.source.clone(),
        manifest_sha256: Digest::of(bytes),
        name: header.name.clone(),
        stored_bytes: body.stored_bytes,
        completed_at: jiff::Timestamp::now(),
    };
    outlet.session.meter.update(|p| p.stored_bytes = body.stored_bytes);
    outlet.session.meter.phase(Phase::Done);
    let log = LogRecord::info("done", format!("the archive {} is complete", names.archive())).with(serde_json::json!({
        "entries": body.position.ordinal,
        "bytes": body.position.content,
        "stored_bytes": body.stored_bytes,
        "volumes": body.volume_count,
        "warnings": warnings,
    }));
    outlet.session.transition(Event::Complete { warnings }, log, |t| t.archive = Some(record)).await?;
    Ok(Outcome::Completed { warnings, progress: outlet.session.meter.snapshot() })
}

/// Fails when somebody sweeps the archive or has swept it.
///
/// A sweep puts `swept.json` first, and removes the header before that mark. Looked at in this order, a sweep that was over
/// before shows by the missing header, one that is at work by its mark, and one that begins after finds the manifest.
async fn not_swept(destination: &dyn Destination, names: &ObjectNames) -> Result<()> {
    if destination.stat(&names.swept()).await?.is_some() || destination.stat(&names.header()).await?.is_none() {
        return Err(swept(names));
    }
    Ok(())
}

/// Fails when the header of an archive that has volumes already is not at the destination. To be called before anything is
/// written there: below the path of a disk that is not mounted, a check would make a new root, and puts would go astray.
pub(super) async fn find_archive(destination: &dyn Destination, names: &ObjectNames) -> Result<()> {
    let cause = match destination.stat(&names.header()).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) if destination.stat(&names.swept()).await?.is_some() => return Err(swept(names)),
        Ok(None) => None,
        Err(e) if e.class() == ErrorClass::NotFound => Some(e),
        Err(e) => return Err(e.on(names.header())),
    };
    let text = format!(
        "the archive's header is not at {}; is the disk mounted? If the archive was swept or deleted, cancel this backup and \
         make a new one",
        destination.identity()
    );
    let error = Error::not_found(text).on(names.archive());
    Err(match cause {
        Some(cause) => error.because(cause),
        None => error,
    })
}

/// Fails when it makes no sense to go on with a backup: its archive was swept, or another worker has completed it.
pub(super) async fn may_go_on(destination: &dyn Destination, names: &ObjectNames, body: &Body) -> Result<()> {
    if body.volume_count > 0 {
        not_swept(destination, names).await?;
    } else if destination.stat(&names.swept()).await?.is_some() {
        // The header may not be there yet.
        return Err(swept(names));
    }
    match destination.stat(&names.manifest()).await? {
        Some(_) => Err(completed_elsewhere(names)),
        None => Ok(()),
    }
}

fn completed_elsewhere(names: &ObjectNames) -> Error {
    let text = "another worker has completed this archive, with a store of which this one is a copy; cancel this operation, \
                the archive stays";
    Error::conflict(text).on(names.archive())
}

fn swept(names: &ObjectNames) -> Error {
    let text = "somebody has swept this unfinished archive from the destination; cancel this backup and make a new one";
    Error::permanent(text).on(names.archive())
}
