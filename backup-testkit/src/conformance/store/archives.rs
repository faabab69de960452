//! What a store remembers of completed archives.

use super::fixture::*;
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::adapter::Store;
use backup_core::model::{ArchiveRecord, Identity};
use backup_core::state::Event;
use backup_core::{Digest, Result};
use std::sync::Arc;

async fn complete(store: &dyn Store, record: &ArchiveRecord) -> Result<()> {
    let claim = running(store).await?;
    let mut transition = by_fence(&claim.fence, Event::Complete { warnings: 0 });
    transition.archive = Some(record.clone());
    store.transition(transition).await?;
    Ok(())
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
    ensure_eq!(store.archives(&here).await?, records, "the archives, in order of their ids");
    ensure_eq!(
        store.archives(&there).await?,
        std::slice::from_ref(&elsewhere),
        "the archives of another kind of destination"
    );

    // The end of an operation can be told twice, by a successor.
    let again = ArchiveRecord { manifest_sha256: Digest::of(b"again"), ..records[1].clone() };
    complete(&**store, &again).await?;
    records[1] = again;
    ensure_eq!(store.archives(&here).await?, records, "the archives after one was recorded again");

    let forgotten = records.remove(1);
    store.forget_archive(&here, &forgotten.archive).await?;
    ensure_eq!(store.archives(&here).await?, records, "the archives that were not forgotten");
    store.forget_archive(&here, &elsewhere.archive).await?;
    ensure_eq!(store.archives(&there).await?, [elsewhere], "an archive of the same id elsewhere");
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
