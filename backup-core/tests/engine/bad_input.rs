//! Wrong keys, wrong places, archives from elsewhere, full disks: each a clear error, and nothing lost.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::adapter::Destination;
use backup_core::archive::{Codec, PassphraseParameters, PassphraseProvider};
use backup_core::engine::{
    Archive, ArchiveStatus, BackupRequest, Engine, EngineOptions, OpenOptions, Outcome, RestoreRequest, delete_archive,
    find_archive, list_archives,
};
use backup_core::local::{LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, ObjectName};
use backup_core::state::{PauseReason, State};
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource, MemoryTarget};
use std::path::Path;
use std::sync::Arc;

fn source() -> Arc<MemorySource> {
    Arc::new(MemorySource::new("s").file("a", "a").stored("b", Blob::pattern(1, 3 << 20)).file("c", "c"))
}

fn object(archive: &ArchiveId, name: &str) -> ObjectName {
    ObjectName::new(format!("{archive}/{name}")).unwrap()
}

async fn open(destination: &MemoryDestination, archive: &ArchiveId, options: &OpenOptions) -> backup_core::Error {
    let opened = Archive::open(Arc::new(destination.clone()), archive, options).await;
    opened.map(|_| ()).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_archive_opens_only_with_its_key() {
    let destination = MemoryDestination::default();
    let cheap = PassphraseParameters { memory_kib: 8 * 1024, passes: 1, lanes: 1 };
    let passphrase = |text: &str| Arc::new(PassphraseProvider::with_parameters(text.into(), cheap).unwrap());
    let mut sealed = request(&source(), &destination);
    sealed.keys = Some(passphrase("correct horse"));
    let archive = back_up(sealed).await;
    assert_good(&destination, &archive, source(), Some(passphrase("correct horse"))).await;
    for keys in [None, Some(key()), Some(passphrase("wrong horse") as _)] {
        let error = open(&destination, &archive, &opening(keys)).await;
        assert_eq!(error.class(), ErrorClass::Unauthorized, "{error}");
        assert!(!error.chain().contains("horse"), "{}", error.chain());
    }
    // It is listed without a key all the same.
    let listed = list_archives(&destination, None, None).await.unwrap();
    assert_eq!(listed[0].status, ArchiveStatus::Complete);
    assert!(listed[0].totals.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_not_sealed_is_refused_when_a_key_is_given() {
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source(), &destination)).await;
    let error = open(&destination, &archive, &opening(Some(key()))).await;
    assert!(error.class() == ErrorClass::Invalid && error.to_string().contains("not sealed"), "{error}");
    let allowed = OpenOptions { keys: Some(key()), allow_unsealed: true };
    assert!(Archive::open(Arc::new(destination), &archive, &allowed).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_a_newer_format_is_named_as_such() {
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source(), &destination)).await;
    let header = object(&archive, "header.json");
    let text = String::from_utf8(destination.bytes(&header).unwrap().to_vec()).unwrap();
    for (from, to, said) in
        [("\"min_reader\":1", "\"min_reader\":7", "newer"), ("\"features\":[]", "\"features\":[\"deltas\"]", "deltas")]
    {
        // With the right checksum, as a newer program would write it.
        let body = text.split_once(",\"sha256\"").unwrap().0.replace(from, to);
        let digest = backup_core::Digest::of(body.as_bytes());
        destination.insert(header.as_str(), format!("{body},\"sha256\":\"{digest}\"}}\n"));
        let error = open(&destination, &archive, &OpenOptions::default()).await;
        assert_eq!(error.class(), ErrorClass::Unsupported, "{error}");
        assert!(error.chain().contains(said), "{}", error.chain());
        let listed = list_archives(&destination, None, None).await.unwrap();
        assert!(matches!(&listed[0].status, ArchiveStatus::Unreadable(why) if why.contains(said)), "{listed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_never_completed_is_not_opened() {
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source(), &destination)).await;
    destination.remove(&object(&archive, "manifest.json"));
    let error = open(&destination, &archive, &OpenOptions::default()).await;
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
    let target = MemoryTarget::default();
    let restore = engine(&MemoryStore::new()).restore(restore_request(&destination, &archive, &target, None)).await;
    assert_eq!(restore.map(|_| ()).unwrap_err().class(), ErrorClass::NotFound);
    assert_eq!(list_archives(&destination, None, None).await.unwrap()[0].status, ArchiveStatus::Incomplete);
    assert_eq!(find_archive(&destination, "latest").await.unwrap_err().class(), ErrorClass::NotFound);
    let missing = "20200101T000000Z-00000000".parse().unwrap();
    assert_eq!(open(&destination, &missing, &OpenOptions::default()).await.class(), ErrorClass::NotFound);
    assert_eq!(delete_archive(&destination, None, &missing).await.unwrap_err().class(), ErrorClass::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_archive_in_the_place_of_a_known_one_is_noticed() {
    use backup_core::adapter::Store;
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle = engine(&store).backup(request(&source(), &destination)).await.unwrap();
    let archive = handle.archive().clone();
    complete(handle).await;
    let mut records = store.archives(&destination.identity()).await.unwrap();
    assert_eq!(records.len(), 1);
    records[0].manifest_sha256 = backup_core::Digest::of(b"another");
    // The same archive, as a store sees it that remembers another manifest.
    let other = MemoryStore::new();
    let forged = Forger { store: other.clone() };
    forged.remember(records.remove(0)).await;
    let target = MemoryTarget::default();
    let error = engine(&other).restore(restore_request(&destination, &archive, &target, None)).await;
    assert_eq!(error.map(|_| ()).unwrap_err().class(), ErrorClass::Corrupt);
    let listed = list_archives(&destination, Some(&other), None).await.unwrap();
    assert_eq!(listed[0].status, ArchiveStatus::Replaced);
    let listed = list_archives(&MemoryDestination::default(), Some(&other), None).await.unwrap();
    assert_eq!(listed[0].status, ArchiveStatus::Missing);
}

/// Makes a store remember an archive.
struct Forger {
    store: MemoryStore,
}

impl Forger {
    async fn remember(&self, record: backup_core::model::ArchiveRecord) {
        use backup_core::adapter::Store;
        use backup_core::model::*;
        let now = jiff::Timestamp::now();
        let new = NewOperation {
            id: OperationId::generate(now),
            kind: OperationKind::Backup,
            name: String::new(),
            source: record.source.clone(),
            destination: record.destination.clone(),
            archive: record.archive.clone(),
            spec: serde_json::Value::Null,
        };
        let id = self.store.create(new, None).await.unwrap().new.id;
        let holder = backup_core::engine::this_process();
        let request = ClaimRequest { holder, lease: std::time::Duration::from_secs(60), over: ClaimOver::Nobody };
        let fence = self.store.claim(&id, request).await.unwrap().fence;
        let event = backup_core::state::Event::Complete { warnings: 0 };
        let mut done = Transition::new(id, Guard::Fence(fence), event, LogRecord::info("done", ""));
        done.archive = Some(record);
        self.store.transition(done).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_destination_pauses_the_backup_until_there_is_room() {
    for (capacity, keys) in [(400_u64, None), (700_000, None), (2_000_000, None), (700_000, Some(key()))] {
        let (store, destination) = (MemoryStore::new(), MemoryDestination::default().with_capacity(capacity));
        let mut request = request(&source(), &destination);
        request.keys = keys.clone();
        let handle = engine(&store).backup(request).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        let outcome = wait(handle).await.unwrap();
        let Outcome::Paused { reason: PauseReason::NoSpace, message: Some(message), .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(message.contains("full"), "{message}");
        // Still full.
        let resume = || {
            let mut resume = resume_request(&id, &source(), Arc::new(destination.clone()));
            resume.keys = keys.clone();
            resume
        };
        let again = wait(engine(&store).resume_backup(resume()).await.unwrap()).await.unwrap();
        assert!(matches!(again, Outcome::Paused { reason: PauseReason::NoSpace, .. }), "{again:?}");
        destination.set_capacity(None);
        complete(engine(&store).resume_backup(resume()).await.unwrap()).await;
        assert_good(&destination, &archive, source(), keys).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_full_from_the_start_is_refused() {
    let destination = MemoryDestination::default().with_capacity(0);
    let store = MemoryStore::new();
    let error = engine(&store).backup(request(&source(), &destination)).await.map(|_| ()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::NoSpace, "{error}");
    use backup_core::adapter::Store;
    assert_eq!(store.query(&Default::default()).await.unwrap(), [], "nothing is left behind");
}

/// In a file system of its own, which the test mounts in a process of its own.
#[test]
fn a_full_disk_pauses_the_backup_until_there_is_room() {
    const INSIDE: &str = "BACKUP_TEST_SMALL_DISK";
    let Some(disk) = std::env::var_os(INSIDE) else {
        let disk = tempfile::tempdir().unwrap();
        let run = "mount -t tmpfs -o size=3m none \"$BACKUP_TEST_SMALL_DISK\" && exec \"$0\" --exact \
                   bad_input::a_full_disk_pauses_the_backup_until_there_is_room --nocapture";
        let output = std::process::Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", run])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, disk.path())
            .output()
            .expect("unshare (util-linux) is needed for a file system of its own");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
        return;
    };
    let disk = Path::new(&disk).to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let data = tempfile::tempdir().unwrap();
        for n in 0..8 {
            std::fs::write(data.path().join(format!("f{n}")), Blob::pattern(n, 1 << 20).bytes()).unwrap();
        }
        let root = data.path().to_owned();
        let source = Arc::new(LocalSource::new(LocalSourceConfig { root, ..LocalSourceConfig::default() }).unwrap());
        let destination = Arc::new(LocalDestination::new(disk.join("backups")).unwrap());
        let store = MemoryStore::new();
        let mut request = BackupRequest::new(source.clone(), destination.clone());
        request.options = small_volumes(Codec::Zstd);
        let handle = engine(&store).backup(request).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        let outcome = wait(handle).await.unwrap();
        assert!(matches!(outcome, Outcome::Paused { reason: PauseReason::NoSpace, .. }), "{outcome:?}");
        let grown = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk).status().unwrap();
        assert!(grown.success());
        let resumed = engine(&store).resume_backup(resume_request(&id, &source, destination.clone())).await.unwrap();
        assert_eq!(complete(resumed).await, 0);
        let back = tempfile::tempdir().unwrap();
        let target = Arc::new(LocalTarget::new(LocalTargetConfig::new(back.path().join("t"))).unwrap());
        let restore = engine(&store).restore(RestoreRequest::new(destination, archive, target)).await.unwrap();
        assert_eq!(complete(restore).await, 0);
        for n in 0..8 {
            assert_eq!(std::fs::read(back.path().join(format!("t/f{n}"))).unwrap(), Blob::pattern(n, 1 << 20).bytes());
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_inside_the_source_is_left_out_of_the_backup() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("file"), "content").unwrap();
    std::fs::create_dir(data.path().join("backups")).unwrap();
    std::fs::write(data.path().join("backups/older"), vec![7; 100_000]).unwrap();
    let root = data.path().to_owned();
    let source = Arc::new(LocalSource::new(LocalSourceConfig { root, ..LocalSourceConfig::default() }).unwrap());
    let destination = Arc::new(LocalDestination::new(data.path().join("backups")).unwrap());
    let store = MemoryStore::new();
    for _ in 0..2 {
        let request = BackupRequest::new(source.clone(), destination.clone());
        let handle = engine(&store).backup(request).await.unwrap();
        let archive = handle.archive().clone();
        complete(handle).await;
        let opened = Archive::open(destination.clone(), &archive, &OpenOptions::default()).await.unwrap();
        assert!(opened.manifest().totals.bytes < 100, "{:?}", opened.manifest().totals);
        assert_eq!(opened.manifest().totals.entries, 1, "the file alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_inside_the_destination_is_refused() {
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join("inside")).unwrap();
    for inside in ["", "inside"] {
        let root = data.path().join(inside);
        let source = Arc::new(LocalSource::new(LocalSourceConfig { root, ..LocalSourceConfig::default() }).unwrap());
        let destination = Arc::new(LocalDestination::new(data.path()).unwrap());
        let store = MemoryStore::new();
        let error = engine(&store).backup(BackupRequest::new(source, destination)).await.map(|_| ()).unwrap_err();
        assert!(error.class() == ErrorClass::Invalid && error.to_string().contains("inside"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_wants_the_places_of_the_start() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default().with_capacity(700_000));
    let handle = engine(&store).backup(request(&source(), &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
    destination.set_capacity(None);
    let other = Arc::new(MemorySource::new("another"));
    let wrong = [
        resume_request(&id, &other, Arc::new(destination.clone())),
        resume_request(&id, &source(), Arc::new(MemoryDestination::new("another"))),
    ];
    for wrong in wrong {
        let error = engine(&store).resume_backup(wrong).await.map(|_| ()).unwrap_err();
        assert!(error.class() == ErrorClass::Invalid && error.to_string().contains("another"), "{error}");
        assert!(matches!(operation(&store, &id).await.state, State::Paused { .. }), "it stays as it was");
    }
    let error = engine(&store).cancel(&id, &MemoryDestination::new("another")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    let as_restore = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(MemoryTarget::default()));
    assert_eq!(engine(&store).resume_restore(as_restore).await.map(|_| ()).unwrap_err().class(), ErrorClass::Invalid);
    let missing = "20200101T000000Z-00000000".parse().unwrap();
    let error = engine(&store).resume_backup(resume_request(&missing, &source(), Arc::new(destination.clone()))).await;
    assert_eq!(error.map(|_| ()).unwrap_err().class(), ErrorClass::NotFound);
    complete(
        engine(&store).resume_backup(resume_request(&id, &source(), Arc::new(destination.clone()))).await.unwrap(),
    )
    .await;
    assert_good(&destination, &archive, source(), None).await;
    let done = engine(&store).resume_backup(resume_request(&id, &source(), Arc::new(destination.clone()))).await;
    assert_eq!(done.map(|_| ()).unwrap_err().class(), ErrorClass::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_cannot_work_are_refused_before_anything_starts() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    for frame_size in [0, (64 << 10) - 1, (8 << 20) + 1] {
        let mut request = request(&source(), &destination);
        request.options.frame_size = frame_size;
        let error = engine(&store).backup(request).await.map(|_| ()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    }
    let small = Engine::with_options(
        Arc::new(store.clone()),
        EngineOptions { memory: (64 << 20) - 1, ..options() },
        Vec::new(),
    );
    assert_eq!(
        small.backup(request(&source(), &destination)).await.map(|_| ()).unwrap_err().class(),
        ErrorClass::Invalid
    );
    let archive = back_up(request(&source(), &destination)).await;
    let mut bad = restore_request(&destination, &archive, &MemoryTarget::default(), None);
    bad.options.selection.include = vec!["a[".into()];
    assert_eq!(engine(&store).restore(bad).await.map(|_| ()).unwrap_err().class(), ErrorClass::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_in_use_is_not_deleted() {
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default().with_capacity(700_000));
    let handle = engine(&store).backup(request(&source(), &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
    let error = delete_archive(&destination, Some(&store), &archive).await.unwrap_err();
    assert!(error.class() == ErrorClass::Conflict && error.to_string().contains(id.as_str()), "{error}");
    engine(&store).cancel(&id, &destination).await.unwrap();
    assert_eq!(destination.names(), Vec::<String>::new());
    destination.set_capacity(None);
    let handle = engine(&store).backup(request(&source(), &destination)).await.unwrap();
    let archive = handle.archive().clone();
    complete(handle).await;
    assert!(delete_archive(&destination, Some(&store), &archive).await.unwrap() > 3);
    assert_eq!(destination.names(), Vec::<String>::new());
    assert_eq!(list_archives(&destination, Some(&store), None).await.unwrap(), []);
}
