//! What a store remembers of completed archives.

use super::fixture::*;
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::adapter::Store;
use backup_core::model::{ArchiveRecord, Identity, KnownArchive, StorageUse};
use backup_core::state::Event;
use backup_core::{Digest, ErrorClass, Result};
use std::sync::Arc;

async fn complete(store: &dyn Store, record: &ArchiveRecord) -> Result<()> {
    let claim = running(store).await?;
    let mut transition = by_fence(&claim.fence, Event::Complete { warnings: 0 });
    transition.archive = Some(record.clone());
    store.transition(transition).await?;
    Ok(())
}

/// The archives of a place, none of which is protected.
async fn known(store: &dyn Store, place: &Identity) -> Outcome<Vec<ArchiveRecord>> {
    let known = store.archives(place).await?;
    ensure!(known.iter().all(|known| !known.protected), "an archive is protected: {known:?}");
    Ok(known.into_iter().map(|known| known.record).collect())
}

pub(super) async fn completed_archives_are_remembered_until_forgotten(store: &Arc<dyn Store>) -> Outcome {
    let here = Identity::new("local", "/backups");
    let there = Identity::new("s3", "/backups");
    ensure!(store.archives(&here).await?.is_empty(), "a new store knows no archives");
    let mut records = Vec::new();
    for (seed, id) in (1..).zip(["20260103T000000Z-00000001", "20260101T000000Z-00000001", "20260102T000000Z-ffffffff"])
    {
        let record = ArchiveRecord { archive: id.parse()?, ..archive_record(&here, seed) };
        complete(&**store, &record).await?;
        records.push(record);
    }
    let elsewhere = ArchiveRecord { destination: there.clone(), ..records[0].clone() };
    complete(&**store, &elsewhere).await?;
    records.sort_by(|a, b| a.archive.cmp(&b.archive));
    ensure_eq!(known(&**store, &here).await?, records, "the archives, in order of their ids");
    ensure_eq!(
        known(&**store, &there).await?,
        std::slice::from_ref(&elsewhere),
        "the archives of another kind of destination"
    );

    // The end of an operation can be told twice, by a successor.
    let again = ArchiveRecord { manifest_sha256: Digest::of(b"again"), ..records[1].clone() };
    complete(&**store, &again).await?;
    records[1] = again;
    ensure_eq!(known(&**store, &here).await?, records, "the archives after one was recorded again");

    let forgotten = records.remove(1);
    store.forget_archive(&here, &forgotten.archive).await?;
    ensure_eq!(known(&**store, &here).await?, records, "the archives that were not forgotten");
    store.forget_archive(&here, &elsewhere.archive).await?;
    ensure_eq!(known(&**store, &there).await?, [elsewhere], "an archive of the same id elsewhere");
    Ok(())
}

pub(super) async fn forgetting_the_unknown_succeeds(store: &Arc<dyn Store>) -> Outcome {
    let here = Identity::new("local", "/backups");
    let record = archive_record(&here, 1);
    store.forget_archive(&here, &record.archive).await?;
    complete(&**store, &record).await?;
    for _ in 0..2 {
        store.forget_archive(&here, &record.archive).await?;
        ensure!(store.archives(&here).await?.is_empty(), "the archive is forgotten");
    }
    Ok(())
}

pub(super) async fn an_archive_is_known_at_each_of_its_places(store: &Arc<dyn Store>) -> Outcome {
    let (here, there) = (Identity::new("local", "/backups"), Identity::new("s3", "/backups"));
    let record = archive_record(&there, 1);
    let copy = ArchiveRecord { destination: here.clone(), ..record.clone() };
    for record in [&record, &copy, &archive_record(&here, 2)] {
        complete(&**store, record).await?;
    }
    let expected: Vec<_> = [&copy, &record].map(|r| KnownArchive { record: r.clone(), protected: false }).into();
    ensure_eq!(store.places(&record.archive).await?, expected, "the places of the archive");
    store.forget_archive(&here, &record.archive).await?;
    ensure_eq!(store.places(&record.archive).await?, expected[1..], "its places after one was forgotten");
    let other = archive_record(&here, 3);
    ensure!(store.places(&other.archive).await?.is_empty(), "an unknown archive has places");
    Ok(())
}

pub(super) async fn a_protected_archive_stays_so(store: &Arc<dyn Store>) -> Outcome {
    let (here, there) = (Identity::new("local", "/backups"), Identity::new("s3", "/backups"));
    let record = archive_record(&here, 1);
    let copy = ArchiveRecord { destination: there.clone(), ..record.clone() };
    complete(&**store, &record).await?;
    complete(&**store, &copy).await?;
    for protected in [true, true, false, false, true] {
        store.protect(&here, &record.archive, protected).await?;
        let known = KnownArchive { record: record.clone(), protected };
        ensure_eq!(store.archives(&here).await?, std::slice::from_ref(&known), "the archive");
        ensure_eq!(store.places(&record.archive).await?.first(), Some(&known), "its first place");
    }
    ensure!(!store.archives(&there).await?[0].protected, "its copy elsewhere is protected");
    complete(&**store, &record).await?;
    ensure!(store.archives(&here).await?[0].protected, "the protection ends when the archive is recorded again");
    store.forget_archive(&here, &record.archive).await?;
    complete(&**store, &record).await?;
    ensure!(!store.archives(&here).await?[0].protected, "the protection outlives the archive");
    Ok(())
}

pub(super) async fn the_unknown_is_not_protected(store: &Arc<dyn Store>) -> Outcome {
    let record = archive_record(&Identity::new("local", "/backups"), 1);
    let answer = store.protect(&record.destination, &record.archive, true).await;
    refused(answer, ErrorClass::NotFound, "the protection of an unknown archive")
}

pub(super) async fn storage_is_summed_by_destination(store: &Arc<dyn Store>) -> Outcome {
    ensure!(store.storage().await?.is_empty(), "a new store has archives");
    let (here, there) = (Identity::new("local", "/backups"), Identity::new("s3", "/backups"));
    for (place, seed) in [(&here, 1), (&there, 2), (&here, 4)] {
        complete(&**store, &archive_record(place, seed)).await?;
    }
    let used = |destination: &Identity, archives, gigabytes: u64| StorageUse {
        destination: destination.clone(),
        archives,
        stored_bytes: gigabytes << 32,
    };
    ensure_eq!(store.storage().await?, [used(&here, 2, 5), used(&there, 1, 2)], "what is used");
    Ok(())
}
