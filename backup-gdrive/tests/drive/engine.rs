//! Whole backups into a drive, and what happens when the account is in the way.

use crate::fixture::{Place, config};
use backup_core::Result;
use backup_core::engine::{
    Archive, BackupRequest, Engine, Limits, OpenOptions, OperationHandle, Outcome, RestoreRequest, ResumeBackup,
    SweepOptions, TakeOver, VerifyMode, delete_archive, sweep,
};
use backup_core::local::{LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::model::OperationId;
use backup_core::state::PauseReason;
use backup_gdrive::account::{Account, AccountFile};
use backup_gdrive::{GDrive, GDriveDestination};
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation};
use std::path::Path;
use std::sync::Arc;

fn tree(root: &Path) {
    for n in 0..60u32 {
        let content: Vec<u8> =
            (0..200_000u32).flat_map(|i| (i ^ n).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(root.join(format!("{n:02}")), content).unwrap();
    }
}

fn source(root: &Path) -> Arc<LocalSource> {
    Arc::new(LocalSource::new(LocalSourceConfig { root: root.into(), ..LocalSourceConfig::default() }).unwrap())
}

async fn begin(engine: &Engine, root: &Path, destination: Arc<GDriveDestination>) -> Result<OperationHandle> {
    let mut request = BackupRequest::new(source(root), destination);
    request.options.volume_size = Some(2 << 20);
    engine.backup(request).await
}

async fn resume(
    engine: &Engine,
    id: &OperationId,
    root: &Path,
    destination: Arc<GDriveDestination>,
) -> Result<Outcome> {
    let (limits, take_over) = (Limits::default(), TakeOver::WhenFree);
    let request =
        ResumeBackup { operation: id.clone(), source: source(root), destination, keys: None, limits, take_over };
    engine.resume_backup(request).await?.wait().await
}

fn is_complete(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Completed { warnings: 0, .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_through_a_drive_that_fails_all_the_time_and_comes_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(from.path());
    let place = Place::new().await;
    for (operation, when, fault) in [
        (DriveOperation::UploadChunk, When::Every(5), DriveFault::FailAfter { status: 503 }),
        (DriveOperation::UploadChunk, When::Every(7), DriveFault::Partial { kept: 512 << 10 }),
        (DriveOperation::BeginUpload, When::Every(4), DriveFault::rate_limit()),
        (DriveOperation::List, When::Every(9), DriveFault::Drop),
        (DriveOperation::Download, When::Every(3), DriveFault::Break { after: 300_000 }),
    ] {
        place.server.faults().add(operation, when, fault);
    }
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let backup = begin(&engine, from.path(), place.destination()).await.unwrap();
    let archive = backup.archive().clone();
    assert!(is_complete(&backup.wait().await.unwrap()));
    let opened = Archive::open(place.destination(), &archive, &OpenOptions::default()).await.unwrap();
    let verified = opened.verify(VerifyMode::Full, &tokio::sync::watch::Sender::default()).await.unwrap();
    assert!(verified.is_sound(), "{verified:?}");
    let target = Arc::new(LocalTarget::new(LocalTargetConfig::new(to.path())).unwrap());
    let restore = engine.restore(RestoreRequest::new(place.destination(), archive, target)).await.unwrap();
    assert!(is_complete(&restore.wait().await.unwrap()));
    for n in 0..60 {
        let name = format!("{n:02}");
        assert!(
            std::fs::read(from.path().join(&name)).unwrap() == std::fs::read(to.path().join(&name)).unwrap(),
            "{name}"
        );
    }
    // A person who looks into the folder finds the archive as the format describes it.
    let paths: Vec<String> = place.server.files().into_iter().map(|file| file.path).collect();
    let there = |end: &str| paths.iter().any(|path| path.ends_with(end));
    assert!(there("/header.json") && there("/manifest.json") && there("/volumes.txt"), "{paths:?}");
    let mut once = paths.clone();
    once.dedup();
    assert_eq!(once, paths, "no object is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_that_is_taken_back_pauses_the_backup_until_somebody_signs_in_again() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let place = Place::new().await;
    let keys = backup_core::archive::generate_key_file().unwrap();
    let ring = backup_core::secrets::KeyRing::new(backup_core::secrets::SecretKey::parse(&keys).unwrap());
    let file = AccountFile::new(from.path().with_extension("account"), Arc::new(ring));
    let account = |token: String| Account {
        client_id: place.server.client_id().into(),
        client_secret: place.server.client_secret().into(),
        refresh_token: token.into(),
    };
    file.write(&account(place.server.refresh_token())).await.unwrap();
    let destination = || {
        let config = config(&place.server, &place.folder, "not this one");
        Arc::new(GDriveDestination::new(GDrive::with_token_store(config, Arc::new(file.clone())).unwrap()))
    };
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    // In the middle the account's owner removes the app.
    let refused = DriveFault::Fail { status: 401, reason: "authError" };
    place.server.faults().add(DriveOperation::BeginUpload, When::From(6), refused);
    let backup = begin(&engine, from.path(), destination()).await.unwrap();
    let (id, archive) = (backup.id().clone(), backup.archive().clone());
    place.server.revoke_all();
    let outcome = backup.wait().await.unwrap();
    let Outcome::Paused { reason, message, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(*reason, PauseReason::Unauthorized);
    assert!(message.as_ref().is_some_and(|text| text.contains("sign in again")), "{message:?}");
    // As long as nobody does, a resume ends in the same way, and nothing is lost.
    place.server.faults().clear();
    match resume(&engine, &id, from.path(), destination()).await {
        Ok(Outcome::Paused { reason: PauseReason::Unauthorized, .. }) => {}
        Err(error) => assert_eq!(error.class(), backup_core::ErrorClass::Unauthorized, "{}", error.chain()),
        Ok(other) => panic!("{other:?}"),
    }
    file.write(&account(place.server.refresh_token())).await.unwrap();
    let outcome = resume(&engine, &id, from.path(), destination()).await.unwrap();
    assert!(is_complete(&outcome), "{outcome:?}");
    let opened = Archive::open(destination(), &archive, &OpenOptions::default()).await.unwrap();
    assert!(opened.verify(VerifyMode::Full, &tokio::sync::watch::Sender::default()).await.unwrap().is_sound());
    std::fs::remove_file(file.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_a_day_pauses_the_backup_until_a_time_that_it_states() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let place = Place::new().await;
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    place.server.faults().add(DriveOperation::BeginUpload, When::From(6), DriveFault::rate_limit());
    let backup = begin(&engine, from.path(), place.destination()).await.unwrap();
    let id = backup.id().clone();
    let outcome = backup.wait().await.unwrap();
    let Outcome::Paused { reason: PauseReason::Quota, resume_at: Some(at), .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(at > jiff::Timestamp::now(), "{at}");
    place.server.faults().clear();
    let outcome = resume(&engine, &id, from.path(), place.destination()).await.unwrap();
    assert!(is_complete(&outcome), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_drive_pauses_the_backup_as_a_matter_of_space() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let place = Place::new().await;
    place.server.set_quota(Some(5 << 20));
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let (id, outcome) = match begin(&engine, from.path(), place.destination()).await {
        Ok(backup) => (backup.id().clone(), backup.wait().await.unwrap()),
        Err(error) => panic!("{}", error.chain()),
    };
    assert!(matches!(outcome, Outcome::Paused { reason: PauseReason::NoSpace, .. }), "{outcome:?}");
    place.server.set_quota(None);
    assert!(is_complete(&resume(&engine, &id, from.path(), place.destination()).await.unwrap()));
}

/// Archives that go take their folders with them, by whichever way they go.
#[tokio::test(flavor = "multi_thread")]
async fn no_folder_is_left_of_archives_that_were_deleted_cancelled_or_swept() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let place = Place::new().await;
    let store = Arc::new(MemoryStore::new());
    let engine = Engine::new(store.clone());
    let destination = place.destination();
    let left = || -> Vec<String> {
        let paths = place.server.folders().into_iter().map(|folder| folder.path);
        paths.filter(|path| path.contains("/of one/")).collect()
    };
    let unfinished = async || {
        place.server.faults().add(DriveOperation::BeginUpload, When::From(6), DriveFault::rate_limit());
        let backup = begin(&engine, from.path(), place.destination()).await.unwrap();
        let id = backup.id().clone();
        assert!(matches!(backup.wait().await.unwrap(), Outcome::Paused { .. }));
        place.server.faults().clear();
        assert!(!left().is_empty());
        id
    };
    let backup = begin(&engine, from.path(), place.destination()).await.unwrap();
    let archive = backup.archive().clone();
    assert!(is_complete(&backup.wait().await.unwrap()));
    delete_archive(&destination, Some(&*store), &archive).await.unwrap();
    assert_eq!(left(), [""; 0], "deleted");

    let id = unfinished().await;
    engine.cancel_backup(&id, &destination).await.unwrap();
    assert_eq!(left(), [""; 0], "cancelled");

    unfinished().await;
    let options = SweepOptions { min_age: std::time::Duration::ZERO, dry_run: false };
    assert_eq!(sweep(&destination, &options).await.unwrap().swept.len(), 1);
    assert_eq!(left(), [""; 0], "swept");
}
