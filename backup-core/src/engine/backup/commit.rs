//! The end of a backup, in two steps: first everything is checked and the manifest's exact bytes are saved with the change to
//! `Committing`; then these bytes are put. After the first step any worker only repeats the second.

use super::checkpoint::{Blob, Body, ManifestBytes};
use super::track::Tracker;
use super::volume::{Outlet, panicked};
use crate::adapter::{Destination, Payload};
use crate::archive::{Attempted, Header, Manifest, ObjectNames, Totals, seal};
use crate::engine::Outcome;
use crate::model::{ArchiveRecord, Identity, LogRecord, ObjectName, Phase};
use crate::state::Event;
use crate::{Digest, Error, Result};
use bytes::Bytes;
use futures::TryStreamExt;

/// Step 1: all data is durable; check it, and save what the manifest will be.
pub(super) async fn prepare(tracker: &mut Tracker, header: &Header) -> Result<()> {
    let outlet = tracker.outlet.clone();
    outlet.session.meter.phase(Phase::Finishing);
    tracker.flush_tail().await?;
    let leftovers = check_objects(&outlet, &tracker.body).await?;
    for name in leftovers {
        outlet.session.ensure_held()?;
        outlet.destination.delete(&name).await.map_err(|e| e.on(&name))?;
        outlet.session.log(LogRecord::info("clean", format!("removed {name}, left over by an earlier attempt")));
    }
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

/// Compares what the destination lists with what the archive names; returns what earlier attempts left over.
async fn check_objects(outlet: &Outlet, body: &Body) -> Result<Vec<ObjectName>> {
    let names = &outlet.names;
    let mut sizes = vec![None; usize::try_from(body.volume_count).unwrap_or(usize::MAX)];
    let mut pieces = vec![None; body.pieces.len()];
    let mut leftovers = Vec::new();
    let mut listed = outlet.destination.list(Some(&names.root()));
    while let Some(object) = listed.try_next().await? {
        if object.name == names.swept() {
            return Err(swept(names));
        }
        let Some(attempted) = ObjectNames::parse_attempt(&object.name) else { continue };
        let number = usize::try_from(attempted.number).unwrap_or(usize::MAX);
        let is_volume = object.name == names.volume(attempted);
        let expected = if is_volume {
            writer(body, attempted.number)
        } else {
            body.pieces
                .get(number)
                .and_then(|piece| names.object(&piece.record.name).ok())
                .and_then(|name| ObjectNames::parse_attempt(&name))
        };
        match (expected == Some(attempted), is_volume) {
            (true, true) => sizes[number] = Some(object.size),
            (true, false) => pieces[number] = Some(object.size),
            // A newer attempt may be at work already; what is not older than this one is not ours to remove.
            (false, _) if attempted.attempt < outlet.session.fence().attempt => leftovers.push(object.name),
            (false, _) => {}
        }
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
    Ok(leftovers)
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
pub(super) async fn complete(outlet: &Outlet, body: &Body, source: Identity) -> Result<Outcome> {
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
    still_there(&*outlet.destination, names).await?;
    outlet.put_as_is(&names.manifest(), Payload::from(bytes.clone())).await?;
    still_there(&*outlet.destination, names).await?;
    let warnings = body.position.warnings.count;
    let record = ArchiveRecord {
        archive: names.archive().clone(),
        destination: outlet.destination.identity(),
        source,
        manifest_sha256: Digest::of(bytes),
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

/// Fails when somebody swept the archive.
pub(super) async fn not_swept(destination: &dyn Destination, names: &ObjectNames) -> Result<()> {
    match destination.stat(&names.swept()).await? {
        Some(_) => Err(swept(names)),
        None => Ok(()),
    }
}

/// Fails when somebody sweeps the archive, or has done so: the last that a sweep removes are the header and then its mark, so
/// that without the mark the header tells whether a sweep is over or has not begun.
async fn still_there(destination: &dyn Destination, names: &ObjectNames) -> Result<()> {
    not_swept(destination, names).await?;
    match destination.stat(&names.header()).await? {
        Some(_) => Ok(()),
        None => Err(swept(names)),
    }
}

fn swept(names: &ObjectNames) -> Error {
    let text = "somebody has swept this unfinished archive from the destination; cancel this backup and make a new one";
    Error::permanent(text).on(names.archive())
}
