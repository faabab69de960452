//! Mistakes of people and programs: wrong keys, full disks, wrong places, wrong moments.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::adapter::{Destination, Granularity, RestoreTarget, Source, Store};
use backup_core::archive::{Codec, Header};
use backup_core::engine::{
    Archive, ArchiveStatus, BackupOptions, BackupRequest, CancelRestore, Engine, EngineOptions, Limits, OpenOptions,
    Outcome, RestoreRequest, ResumeBackup, ResumeRestore, Selection, SweepOptions, TakeOver, VerifyMode,
    delete_archive, find_archive, list_archives, sweep,
};
use backup_core::local::{LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::model::{
    ArchiveId, Checkpoint, ClaimOver, ClaimRequest, Guard, LogRecord, ObjectName, OperationId, Transition,
};
use backup_core::state::{Event, PauseReason, State};
use backup_testkit::doubles::{Blob, ManualClock, MemoryDestination, MemorySource, MemoryTarget};
use futures::TryStreamExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn object(id: &ArchiveId, relative: &str) -> ObjectName {
    ObjectName::new(format!("{id}/{relative}")).unwrap()
}

fn resume_request(
    operation: &OperationId,
    source: impl Source,
    destination: impl Destination,
    keys: &Keys,
) -> ResumeBackup {
    ResumeBackup {
        operation: operation.clone(),
        source: Arc::new(source),
        destination: Arc::new(destination),
        keys: keys.clone(),
        limits: Limits::default(),
        take_over: TakeOver::WhenFree,
    }
}

fn resume_restore_request(
    operation: &OperationId,
    destination: impl Destination,
    target: impl RestoreTarget,
) -> ResumeRestore {
    ResumeRestore {
        operation: operation.clone(),
        destination: Arc::new(destination),
        target: Arc::new(target),
        open: OpenOptions::default(),
        limits: Limits::default(),
        take_over: TakeOver::WhenFree,
        keep_going: false,
    }
}

async fn state(store: &MemoryStore, operation: &OperationId) -> State {
    store.get(operation).await.unwrap().unwrap().state
}

/// A backup of [`source`] that stands still because the destination was full; now there is room.
async fn paused(store: &MemoryStore, destination: &MemoryDestination, keys: &Keys) -> (OperationId, ArchiveId) {
    let used: usize = destination.objects().values().map(|bytes| bytes.len()).sum();
    destination.set_capacity(Some(used as u64 + 150_000));
    let mut request = backup_request(source(1), destination.clone());
    request.keys = keys.clone();
    let handle = engine(store).backup(request).await.unwrap();
    let (operation, archive) = (handle.id().clone(), handle.archive().clone());
    let outcome = wait(handle).await.unwrap();
    let Outcome::Paused { reason: PauseReason::NoSpace, resume_at: None, message: Some(message) } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(message.contains("full"), "{message}");
    assert!(matches!(state(store, &operation).await, State::Paused { reason: PauseReason::NoSpace, .. }));
    destination.set_capacity(None);
    // Puts that were under way are stopped, but not awaited.
    tokio::time::sleep(Duration::from_millis(50)).await;
    (operation, archive)
}

fn is_completed(outcome: &backup_core::Result<Outcome>) -> bool {
    matches!(outcome, Ok(Outcome::Completed { warnings: 0, .. }))
}

/// The archive is sound, and restores to what the source has.
async fn assert_whole(destination: &MemoryDestination, id: &ArchiveId, keys: &Keys) {
    let archive = open(destination, id, keys).await.unwrap();
    let found = verify(&archive, VerifyMode::Full).await.unwrap();
    assert!(found.is_sound(), "{found:?}");
    let target = MemoryTarget::new("target");
    let outcome = restore(&MemoryStore::new(), destination, id, target.clone(), keys).await;
    assert!(is_completed(&outcome), "{outcome:?}");
    for name in ["dir/empty", "dir/small", "dir/stored", "large", "z"] {
        assert!(target.content(name) == source(1).content(name), "{name}");
    }
    assert_eq!(target.items().len(), 9);
}

#[tokio::test]
async fn a_sealed_archive_opens_with_its_key_alone() {
    let destination = MemoryDestination::new("destination");
    let (right, wrong) = (Some(key()), Some(key()));
    let id = archive_of(1, &destination, Codec::Zstd, &right).await;
    for (keys, hint) in [(&None, "sealed"), (&wrong, "opens with")] {
        let error = open(&destination, &id, keys).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        assert!(error.to_string().contains(hint), "{error}");
        let target = MemoryTarget::new("target");
        let error = restore(&MemoryStore::new(), &destination, &id, target.clone(), keys).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        assert!(target.items().is_empty());
        let listed = list_archives(&Arc::new(destination.clone()), None, keys.as_deref()).await.unwrap();
        assert_eq!((&listed[0].status, listed[0].totals), (&ArchiveStatus::Complete, None), "listing needs no key");
    }
    assert!(list_archives(&Arc::new(destination.clone()), None, right.as_deref()).await.unwrap()[0].totals.is_some());
    assert_whole(&destination, &id, &right).await;
}

#[tokio::test]
async fn an_archive_that_is_not_sealed_is_refused_with_a_key_unless_allowed() {
    let destination = MemoryDestination::new("destination");
    let id = archive_of(1, &destination, Codec::Zstd, &None).await;
    let error = open(&destination, &id, &Some(key())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    assert!(error.to_string().contains("not sealed"), "{error}");
    let allowed = OpenOptions { keys: Some(key()), allow_unsealed: true };
    let archive = Archive::open(Arc::new(destination), &id, &allowed).await.unwrap();
    assert!(verify(&archive, VerifyMode::Full).await.unwrap().is_sound());
}

#[tokio::test]
async fn newer_archives_are_refused_with_a_clear_error() {
    let destination = MemoryDestination::new("destination");
    let id = archive_of(1, &destination, Codec::Zstd, &None).await;
    let header = Header::parse(&destination.bytes(&object(&id, "header.json")).unwrap()).unwrap();
    let newer = {
        let mut header = header.clone();
        (header.format, header.min_reader) = (2, 2);
        header
    };
    let featured = {
        let mut header = header.clone();
        header.features = vec!["time-travel".into()];
        header
    };
    for (header, hint) in [(newer, "reader version 2"), (featured, "time-travel")] {
        destination.insert(object(&id, "header.json").as_str(), header.encode().unwrap());
        let error = open(&destination, &id, &None).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unsupported);
        assert!(error.to_string().contains("newer version of this program") && error.to_string().contains(hint));
        let target = MemoryTarget::new("target");
        let error = restore(&MemoryStore::new(), &destination, &id, target, &None).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unsupported);
        let listed = list_archives(&Arc::new(destination.clone()), None, None).await.unwrap();
        let ArchiveStatus::Unreadable(why) = &listed[0].status else { panic!("{listed:?}") };
        assert!(why.contains(hint), "{why}");
    }
}

#[tokio::test]
async fn an_archive_without_manifest_is_not_one() {
    let destination = MemoryDestination::new("destination");
    let older = archive_of(2, &destination, Codec::Zstd, &None).await;
    let id = archive_of(1, &destination, Codec::Zstd, &None).await;
    let id = if older < id { id } else { older };
    destination.remove(&object(&id, "manifest.json"));
    let error = open(&destination, &id, &None).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert!(error.to_string().contains("not complete"), "{error}");
    let target = MemoryTarget::new("target");
    let error = restore(&MemoryStore::new(), &destination, &id, target, &None).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    let listed = list_archives(&Arc::new(destination.clone()), None, None).await.unwrap();
    let summary = listed.iter().find(|summary| summary.id == id).unwrap();
    assert_eq!((&summary.status, summary.totals), (&ArchiveStatus::Incomplete, None));
    assert_ne!(find_archive(&Arc::new(destination.clone()), "latest").await.unwrap(), id);

    let error = open(&destination, &"20200101T000000Z-00000000".parse().unwrap(), &None).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert!(error.to_string().contains("no such archive"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_destination_pauses_the_backup_and_room_lets_it_go_on() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let (operation, archive) = paused(&store, &destination, &None).await;
    // Still full: it pauses again, and loses nothing by it.
    let used: usize = destination.objects().values().map(|bytes| bytes.len()).sum();
    destination.set_capacity(Some(used as u64 + 10));
    let request = resume_request(&operation, source(1), destination.clone(), &None);
    let outcome = wait(engine(&store).resume_backup(request).await.unwrap()).await;
    assert!(matches!(outcome, Ok(Outcome::Paused { reason: PauseReason::NoSpace, .. })), "{outcome:?}");

    destination.set_capacity(None);
    let request = resume_request(&operation, source(1), destination.clone(), &None);
    let outcome = wait(engine(&store).resume_backup(request).await.unwrap()).await;
    assert!(is_completed(&outcome), "{outcome:?}");
    assert_whole(&destination, &archive, &None).await;
}

/// A small file system; taken away with the value.
struct Small(PathBuf);

impl Small {
    /// `None` when this process may not mount.
    fn new(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(at).output();
        mount.is_ok_and(|out| out.status.success()).then(|| Self(at.to_owned()))
    }

    fn grow(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=32m"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// 2 MiB in files of 256 KiB, and one larger than the others.
fn two_mib(root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    for n in 0..6 {
        std::fs::write(root.join(format!("file-{n}")), Blob::pattern(n, 256 << 10).bytes()).unwrap();
    }
    std::fs::write(root.join("large"), Blob::pattern(9, 512 << 10).bytes()).unwrap();
}

fn same_files(a: &Path, b: &Path) {
    let names = |root: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(root).unwrap().map(|item| item.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        assert!(std::fs::read(a.join(&name)).unwrap() == std::fs::read(b.join(&name)).unwrap(), "{name:?}");
    }
}

fn local_source(root: &Path) -> LocalSource {
    LocalSource::new(LocalSourceConfig { root: root.to_owned(), ..LocalSourceConfig::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_file_systems_pause_backup_and_restore_until_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let (from, disk, to) = (place.path().join("from"), place.path().join("disk"), place.path().join("to"));
    two_mib(&from);
    let Some(small) = Small::new(&disk) else {
        eprintln!("skipped: this process may not mount a file system");
        return;
    };
    let store = MemoryStore::new();
    let destination = || LocalDestination::new(disk.join("archives")).unwrap();
    let handle = engine(&store).backup(backup_request(local_source(&from), destination())).await.unwrap();
    let (operation, archive) = (handle.id().clone(), handle.archive().clone());
    let outcome = wait(handle).await;
    assert!(matches!(outcome, Ok(Outcome::Paused { reason: PauseReason::NoSpace, .. })), "{outcome:?}");
    small.grow();
    let request = resume_request(&operation, local_source(&from), destination(), &None);
    let outcome = wait(engine(&store).resume_backup(request).await.unwrap()).await;
    assert!(is_completed(&outcome), "{outcome:?}");

    let Some(small) = Small::new(&to) else { panic!("mounting worked a moment ago") };
    let target = || LocalTarget::new(LocalTargetConfig::new(to.join("root"))).unwrap();
    let request = RestoreRequest::new(Arc::new(destination()), archive.clone(), Arc::new(target()));
    let handle = engine(&store).restore(request).await.unwrap();
    let operation = handle.id().clone();
    let outcome = wait(handle).await;
    assert!(matches!(outcome, Ok(Outcome::Paused { reason: PauseReason::NoSpace, .. })), "{outcome:?}");
    small.grow();
    let request = resume_restore_request(&operation, destination(), target());
    let outcome = wait(engine(&store).resume_restore(request).await.unwrap()).await;
    assert!(is_completed(&outcome), "{outcome:?}");
    same_files(&from, &to.join("root"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_inside_the_source_is_left_out_of_the_backup() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("docs")).unwrap();
    std::fs::write(place.path().join("docs/letter"), "dear").unwrap();
    std::fs::write(place.path().join("z"), "last").unwrap();
    let store = MemoryStore::new();
    for _ in 0..3 {
        let destination = LocalDestination::new(place.path().join("backups")).unwrap();
        let id = back_up(&store, backup_request(local_source(place.path()), destination.clone())).await;
        let archive = Archive::open(Arc::new(destination), &id, &OpenOptions::default()).await.unwrap();
        let entries: Vec<_> = archive.entries(&Selection::default()).unwrap().try_collect().await.unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["docs", "docs/letter", "z"]);
    }
}

#[tokio::test]
async fn a_source_that_is_the_destination_or_lies_in_it_is_refused() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(place.path().join("data/inner")).unwrap();
    let store = MemoryStore::new();
    for inside in ["data", "data/inner"] {
        let destination = LocalDestination::new(place.path().join("data")).unwrap();
        let request = backup_request(local_source(&place.path().join(inside)), destination);
        let error = engine(&store).backup(request).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid, "{}", error.chain());
        assert!(error.to_string().contains("another destination"), "{error}");
    }
    assert!(store.query(&Default::default()).await.unwrap().is_empty(), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_with_other_places_is_refused_and_changes_nothing() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let (operation, archive) = paused(&store, &destination, &None).await;
    let before = store.get(&operation).await.unwrap().unwrap();
    let elsewhere = MemoryDestination::new("elsewhere");
    for request in [
        resume_request(&operation, source(2), destination.clone(), &None),
        resume_request(&operation, source(1), elsewhere.clone(), &None),
    ] {
        let error = engine(&store).resume_backup(request).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
        assert!(error.to_string().contains("was started with"), "{error}");
    }
    let error = engine(&store).cancel_backup(&operation, &Arc::new(elsewhere.clone())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    let request = resume_restore_request(&operation, destination.clone(), MemoryTarget::new("target"));
    let error = engine(&store).resume_restore(request).await.unwrap_err();
    assert_eq!((error.class(), error.to_string().contains("not a restore")), (ErrorClass::Invalid, true));
    let unknown = OperationId::generate(jiff::Timestamp::now());
    let error = engine(&store)
        .resume_backup(resume_request(&unknown, source(1), destination.clone(), &None))
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert_eq!(store.get(&operation).await.unwrap().unwrap(), before);
    assert!(elsewhere.objects().is_empty());

    let request = resume_request(&operation, source(1), destination.clone(), &None);
    let outcome = wait(engine(&store).resume_backup(request).await.unwrap()).await;
    assert!(is_completed(&outcome), "{outcome:?}");
    assert_whole(&destination, &archive, &None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_finished_is_neither_resumed_nor_cancelled() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let (operation, archive) = paused(&store, &destination, &None).await;
    let request = || resume_request(&operation, source(1), destination.clone(), &None);
    assert!(is_completed(&wait(engine(&store).resume_backup(request()).await.unwrap()).await));
    let objects = destination.objects();
    let error = engine(&store).resume_backup(request()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{}", error.chain());
    let error = engine(&store).cancel_backup(&operation, &Arc::new(destination.clone())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{}", error.chain());
    let error = engine(&store).request_pause(&operation).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{}", error.chain());
    assert_eq!(destination.objects(), objects, "a refused cancel removes nothing");
    assert_whole(&destination, &archive, &None).await;

    let (operation, archive) = paused(&store, &destination, &None).await;
    engine(&store).cancel_backup(&operation, &Arc::new(destination.clone())).await.unwrap();
    assert!(below(&destination, &archive, "data").is_empty());
    let request = resume_request(&operation, source(1), destination.clone(), &None);
    let error = engine(&store).resume_backup(request).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{}", error.chain());
    assert_eq!(destination.objects(), objects, "cancelling removes its own archive alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_in_use_is_not_deleted() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let (operation, archive) = paused(&store, &destination, &None).await;
    let error = delete_archive(&Arc::new(destination.clone()), Some(&store), &archive).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert!(error.to_string().contains(operation.as_str()), "{error}");
    let request = resume_request(&operation, source(1), destination.clone(), &None);
    assert!(is_completed(&wait(engine(&store).resume_backup(request).await.unwrap()).await));
    assert_whole(&destination, &archive, &None).await;

    // A restore that is running; it cannot end before its target lets it.
    let mut request =
        RestoreRequest::new(Arc::new(destination.clone()), archive.clone(), Arc::new(MemoryTarget::new("target")));
    request.limits.read = backup_core::limit::RateLimit::new(std::num::NonZeroU64::new(1000));
    let handle = engine(&store).restore(request).await.unwrap();
    let error = delete_archive(&Arc::new(destination.clone()), Some(&store), &archive).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert!(error.to_string().contains(handle.id().as_str()), "{error}");
    let cancel = CancelRestore {
        operation: handle.id().clone(),
        destination: Arc::new(destination.clone()),
        target: Arc::new(MemoryTarget::new("target")),
        open: OpenOptions::default(),
    };
    engine(&store).cancel_restore(cancel).await.unwrap();
    drop(handle);
    delete_archive(&Arc::new(destination.clone()), Some(&store), &archive).await.unwrap();
    assert!(destination.objects().is_empty());
    let error = delete_archive(&Arc::new(destination.clone()), Some(&store), &archive).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_resumes_at_once_one_works() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let (operation, archive) = paused(&store, &destination, &None).await;
    let resume = || async {
        let request = resume_request(&operation, source(1), destination.clone(), &None);
        wait(engine(&store).resume_backup(request).await?).await
    };
    let (one, other) = tokio::join!(resume(), resume());
    let completed = [&one, &other].iter().filter(|outcome| is_completed(outcome)).count();
    assert_eq!(completed, 1, "{one:?} {other:?}");
    let refused = if is_completed(&one) { other } else { one };
    assert_eq!(refused.unwrap_err().class(), ErrorClass::Conflict);
    assert_whole(&destination, &archive, &None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_backup_waits_for_its_key() {
    let (store, destination, keys) = (MemoryStore::new(), MemoryDestination::new("destination"), Some(key()));
    let (operation, archive) = paused(&store, &destination, &keys).await;
    for wrong in [None, Some(key())] {
        let request = resume_request(&operation, source(1), destination.clone(), &wrong);
        let outcome = wait(engine(&store).resume_backup(request).await.unwrap()).await;
        let Ok(Outcome::Paused { reason: PauseReason::KeyNeeded, message: Some(message), .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(message.contains("key"), "{message}");
    }
    let request = resume_request(&operation, source(1), destination.clone(), &keys);
    let outcome = wait(engine(&store).resume_backup(request).await.unwrap()).await;
    assert!(is_completed(&outcome), "{outcome:?}");
    assert_whole(&destination, &archive, &keys).await;
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_before_anything_is_done() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let request = || backup_request(source(1), destination.clone());
    let options = EngineOptions { memory: (64 << 20) - 1, ..EngineOptions::default() };
    let small = Engine::with_options(Arc::new(store.clone()), options, Vec::new());
    let error = small.backup(request()).await.unwrap_err();
    assert_eq!((error.class(), error.to_string().contains("64 MiB")), (ErrorClass::Invalid, true), "{error}");
    for frame_size in [0, (64 << 10) - 1, (8 << 20) + 1] {
        let options = BackupOptions { frame_size, ..BackupOptions::default() };
        let error = engine(&store).backup(BackupRequest { options, ..request() }).await.unwrap_err();
        assert_eq!((error.class(), error.to_string().contains("frame")), (ErrorClass::Invalid, true), "{error}");
    }
    assert!(store.query(&Default::default()).await.unwrap().is_empty());
    assert!(destination.objects().is_empty());

    let id = archive_of(1, &destination, Codec::Zstd, &None).await;
    let target = Arc::new(MemoryTarget::new("target"));
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), id.clone(), target);
    request.options.selection.include = vec!["a[".into()];
    let error = engine(&store).restore(request).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    let archive = open(&destination, &id, &None).await.unwrap();
    for percent in [0.0, -1.0, 100.5, f64::NAN] {
        let error = verify(&archive, VerifyMode::Sample { percent }).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid, "{percent}: {error}");
    }
    assert!(store.query(&Default::default()).await.unwrap().is_empty());
}

/// Puts other bytes in the place of a paused operation's checkpoint.
async fn spoil_checkpoint(store: &MemoryStore, operation: &OperationId, bytes: &'static [u8]) {
    let holder = backup_core::engine::this_process();
    let request = ClaimRequest { holder, lease: Duration::from_secs(60), over: ClaimOver::Nobody };
    let fence = store.claim(operation, request).await.unwrap().fence;
    store.save_checkpoint(&fence, &Checkpoint(bytes.into())).await.unwrap();
    let event = Event::Pause { reason: PauseReason::Requested, resume_at: None };
    let change = Transition::new(operation.clone(), Guard::Fence(fence), event, LogRecord::info("test", "spoilt"));
    store.transition(change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_of_garbage_fails_the_operation_and_touches_nothing() {
    for bytes in [&b""[..], b"{}", b"\x00\xff garbage", b"{\"version\":99}"] {
        let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
        let (operation, _) = paused(&store, &destination, &None).await;
        let objects = destination.objects();
        spoil_checkpoint(&store, &operation, bytes).await;
        let request = resume_request(&operation, source(1), destination.clone(), &None);
        let resumed = engine(&store).resume_backup(request).await;
        let error = match resumed {
            Ok(handle) => wait(handle).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(!error.chain().contains("panicked"), "{}", error.chain());
        let State::Failed { error } = state(&store, &operation).await else { panic!("{error}") };
        assert!(error.contains("checkpoint"), "{error}");
        assert_eq!(destination.objects(), objects);
        engine(&store).cancel_backup(&operation, &Arc::new(destination.clone())).await.unwrap();
        assert!(destination.objects().is_empty());
    }

    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let id = archive_of(1, &destination, Codec::Zstd, &None).await;
    let target = MemoryTarget::new("target");
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), id, Arc::new(target.clone()));
    request.limits.read = backup_core::limit::RateLimit::new(std::num::NonZeroU64::new(1000));
    let handle = engine(&store).restore(request).await.unwrap();
    let operation = handle.id().clone();
    handle.pause();
    let outcome = wait(handle).await;
    assert!(matches!(outcome, Ok(Outcome::Paused { reason: PauseReason::Requested, .. })), "{outcome:?}");
    spoil_checkpoint(&store, &operation, b"\x00\xff garbage").await;
    let request = resume_restore_request(&operation, destination.clone(), target.clone());
    let error = wait(engine(&store).resume_restore(request).await.unwrap()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt, "{}", error.chain());
    assert!(matches!(state(&store, &operation).await, State::Failed { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_takes_only_what_is_old_and_unfinished() {
    let clock = ManualClock::new("2026-11-20T06:00:00Z".parse().unwrap());
    let destination = MemoryDestination::new("destination").with_clock(clock.clone());
    let store = MemoryStore::new();
    let complete = archive_of(2, &destination, Codec::Zstd, &None).await;
    let sealed = archive_of(3, &destination, Codec::Zstd, &Some(key())).await;
    let (operation, unfinished) = paused(&store, &destination, &None).await;
    destination.insert("notes/readme", &b"somebody's"[..]);
    let day = Duration::from_secs(24 * 3600);
    clock.advance(29 * day);
    let before = destination.objects();

    let report = sweep(&Arc::new(destination.clone()), &SweepOptions::default()).await.unwrap();
    assert!(report.swept.is_empty(), "{report:?}");
    assert_eq!(report.kept.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&unfinished]);
    assert_eq!(destination.objects(), before);

    clock.advance(2 * day);
    let report = sweep(&Arc::new(destination.clone()), &SweepOptions { dry_run: true, ..SweepOptions::default() })
        .await
        .unwrap();
    let belongs = |name: &ObjectName| name.as_str().starts_with(unfinished.as_str());
    let theirs: Vec<_> = before.iter().filter(|(name, _)| belongs(name)).collect();
    assert_eq!((&report.swept[..], report.objects), (&[unfinished.clone()][..], theirs.len() as u64));
    assert_eq!(report.bytes, theirs.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    assert_eq!(destination.objects(), before, "a dry run removes nothing");

    let swept = sweep(&Arc::new(destination.clone()), &SweepOptions::default()).await.unwrap();
    assert_eq!(swept.swept, std::slice::from_ref(&unfinished));
    assert!(!destination.objects().keys().any(belongs));
    let rest: Vec<_> = before.keys().filter(|name| !belongs(name)).collect();
    assert_eq!(destination.objects().keys().collect::<Vec<_>>(), rest);
    for id in [complete, sealed] {
        assert!(rest.iter().any(|name| name.as_str().starts_with(id.as_str())));
    }

    // The backup that was asleep must not complete an archive with holes.
    let request = resume_request(&operation, source(1), destination.clone(), &None);
    let resumed = engine(&store).resume_backup(request).await;
    let outcome = match resumed {
        Ok(handle) => wait(handle).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(_) => assert_whole(&destination, &unfinished, &None).await,
        Err(_) => assert!(open(&destination, &unfinished, &None).await.is_err()),
    }
}

#[tokio::test]
async fn an_empty_source_makes_an_empty_archive() {
    let destination = MemoryDestination::new("destination");
    for codec in [Codec::Zstd, Codec::None] {
        let mut request = backup_request(MemorySource::new("nothing"), destination.clone());
        request.options = options(codec);
        let id = back_up(&MemoryStore::new(), request).await;
        assert!(verify(&open(&destination, &id, &None).await.unwrap(), VerifyMode::Full).await.unwrap().is_sound());
        assert!(restored(&destination, &id, &None).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_items_stay_because_they_may_not_be_replaced_the_restore_completes_with_warnings() {
    let mut source = MemorySource::new("many");
    for n in 0..1100 {
        source = source.file(&format!("file-{n:04}"), format!("new {n}").as_str());
    }
    let destination = MemoryDestination::new("destination");
    let id = back_up(&MemoryStore::new(), backup_request(source, destination.clone())).await;
    let target = MemoryTarget::new("target");
    let outcome = restore(&MemoryStore::new(), &destination, &id, target.clone(), &None).await;
    assert!(is_completed(&outcome), "{outcome:?}");

    // All of them are others now.
    for (name, mut item) in target.items() {
        item.content = "old".into();
        target.insert(name.as_str().unwrap(), item);
    }
    let outcome = restore(&MemoryStore::new(), &destination, &id, target.clone(), &None).await;
    let Ok(Outcome::Completed { warnings, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(warnings >= 1100, "{warnings}");
    assert!(target.items().values().all(|item| item.content == "old"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_does_not_wait_for_large_contents() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::new("destination"));
    let mut source = MemorySource::new("groups");
    for group in ["a", "b", "c", "d"] {
        source = source.slices(group, vec![Blob::pattern(1, 100_000), Blob::pattern(2, 100_000)]);
    }
    let id = back_up(&store, backup_request(source, destination.clone())).await;
    // Taken whole, groups are written like large files: two at once, the others wait.
    let target = MemoryTarget::new("target").with_granularity(Granularity::Whole);
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), id, Arc::new(target.clone()));
    request.limits.write = backup_core::limit::RateLimit::new(std::num::NonZeroU64::new(1000));
    let handle = engine(&store).restore(request).await.unwrap();
    let operation = handle.id().clone();
    tokio::time::sleep(Duration::from_millis(300)).await;
    handle.pause();
    let ended = tokio::time::timeout(Duration::from_secs(20), wait(handle)).await;
    let outcome = ended.expect("the pause waits for what is being written");
    assert!(matches!(outcome, Ok(Outcome::Paused { reason: PauseReason::Requested, .. })), "{outcome:?}");

    let request = resume_restore_request(&operation, destination.clone(), target.clone());
    let outcome = wait(engine(&store).resume_restore(request).await.unwrap()).await;
    assert!(is_completed(&outcome), "{outcome:?}");
    for group in ["a", "b", "c", "d"] {
        let whole = [Blob::pattern(1, 100_000).bytes(), Blob::pattern(2, 100_000).bytes()].concat();
        assert!(target.content(group).unwrap() == whole, "{group}");
    }
}
