//! A resume while a disk is not mounted: nothing is written where the disk of the destination should be, and what is not where the
//! disk of the source should be is not taken for gone. Nor is a restore begun anew beside the disk that it was begun on.
#![allow(clippy::unwrap_used, reason = "a test")]

use backup_core::ErrorClass;
use backup_core::adapter::RestoreTarget;
use backup_core::engine::{
    Archive, BackupOptions, BackupRequest, Engine, OpenOptions, Outcome, RestoreRequest, ResumeBackup, ResumeRestore,
    Selection,
};
use backup_core::local::{LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, OperationId};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource};
use backup_testkit::faulty::{Fault, FaultyDestination, FaultyTarget, Rule, Script, When};
use futures::TryStreamExt;
use std::sync::Arc;

/// Breaks a backup off at a put, takes the disk away, resumes, brings it back and resumes again.
async fn taken_away(at: Rule, mount_point: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (dir.path().join("disk"), dir.path().join("elsewhere"));
    let source = Arc::new(MemorySource::new("source").stored("a", Blob::pattern(1, 3 << 20)));
    let local = Arc::new(LocalDestination::new(&root).unwrap());
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let mut request = BackupRequest::new(source.clone(), FaultyDestination::new(local.clone(), Script::new().rule(at)));
    request.options = BackupOptions { volume_size: Some(256 << 10), frame_size: 64 << 10, ..BackupOptions::default() };
    let handle = engine.backup(request).await.unwrap();
    let operation = handle.id().clone();
    assert_eq!(handle.wait().await.unwrap_err().class(), ErrorClass::Permanent);

    std::fs::rename(&root, &elsewhere).unwrap();
    if mount_point {
        std::fs::create_dir(&root).unwrap();
    }
    let resume = || ResumeBackup {
        operation: operation.clone(),
        source: source.clone(),
        destination: local.clone(),
        keys: None,
        limits: Default::default(),
        take_over: Default::default(),
    };
    let error = engine.resume_backup(resume()).await.unwrap().wait().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert!(error.to_string().contains("is the disk mounted?"), "{error}");
    assert_eq!(root.exists(), mount_point);
    assert!(!mount_point || root.read_dir().unwrap().next().is_none(), "nothing was written there");

    if mount_point {
        std::fs::remove_dir(&root).unwrap();
    }
    std::fs::rename(&elsewhere, &root).unwrap();
    let outcome = engine.resume_backup(resume()).await.unwrap().wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { warnings: 0, .. }), "{outcome:?}");
}

/// Fails the put of an object. Of a volume it goes by the number, since several are put at once, in any order: all before it are then
/// durable and in the checkpoint.
fn put(name: &str) -> Rule {
    Rule::new(Method::Put, When::Always, Fault::Fail(ErrorClass::Permanent)).about(name)
}

fn put_of_volume(number: u32) -> Rule {
    put(&format!("/data/{number:08}-"))
}

#[tokio::test]
async fn a_resume_does_not_make_the_root_of_a_disk_that_is_not_mounted() {
    taken_away(put_of_volume(4), false).await;
    taken_away(put("manifest.json"), false).await;
}

#[tokio::test]
async fn a_resume_writes_nothing_into_an_empty_mount_point() {
    taken_away(put_of_volume(4), true).await;
    taken_away(put("manifest.json"), true).await;
}

/// A tree on a disk, and a backup of it that broke off at a put.
struct BrokenOff {
    dir: tempfile::TempDir,
    engine: Engine,
    destination: Arc<MemoryDestination>,
    operation: OperationId,
    archive: ArchiveId,
}

impl BrokenOff {
    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("disk")
    }

    async fn new(files: &[(&str, u64)], volume: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("disk");
        for (n, (name, size)) in (0..).zip(files) {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, Blob::pattern(n, *size).bytes()).unwrap();
        }
        let destination = Arc::new(MemoryDestination::default());
        let engine = Engine::new(Arc::new(MemoryStore::new()));
        let faulty = FaultyDestination::new(destination.clone(), Script::new().rule(put_of_volume(volume)));
        let mut request = BackupRequest::new(source(&root), faulty);
        request.options =
            BackupOptions { volume_size: Some(256 << 10), frame_size: 64 << 10, ..BackupOptions::default() };
        let handle = engine.backup(request).await.unwrap();
        let (operation, archive) = (handle.id().clone(), handle.archive().clone());
        assert_eq!(handle.wait().await.unwrap_err().class(), ErrorClass::Permanent);
        Self { dir, engine, destination, operation, archive }
    }

    async fn resume(&self) -> backup_core::Result<Outcome> {
        let request = ResumeBackup {
            operation: self.operation.clone(),
            source: source(&self.root()),
            destination: self.destination.clone(),
            keys: None,
            limits: Default::default(),
            take_over: Default::default(),
        };
        self.engine.resume_backup(request).await.unwrap().wait().await
    }

    async fn names(&self) -> Vec<String> {
        let archive = Archive::open(self.destination.clone(), &self.archive, &OpenOptions::default()).await.unwrap();
        let entries: Vec<_> = archive.entries(&Selection::default()).unwrap().try_collect().await.unwrap();
        entries.iter().map(|entry| entry.name.to_string()).collect()
    }
}

fn source(root: &std::path::Path) -> Arc<LocalSource> {
    Arc::new(LocalSource::new(LocalSourceConfig { root: root.into(), ..Default::default() }).unwrap())
}

/// Takes the source's disk away while the backup is broken off: instead there is an empty directory, or another disk.
async fn source_taken_away(files: &[(&str, u64)], volume: u32, other: &[&str]) {
    let broken = BrokenOff::new(files, volume).await;
    let (root, elsewhere) = (broken.root(), broken.dir.path().join("elsewhere"));
    std::fs::rename(&root, &elsewhere).unwrap();
    std::fs::create_dir(&root).unwrap();
    for name in other {
        std::fs::write(root.join(name), "of another disk").unwrap();
    }
    for _ in 0..2 {
        let error = broken.resume().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::NotFound);
        assert!(error.to_string().contains("another directory than before; is its disk mounted?"), "{error}");
    }
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::rename(&elsewhere, &root).unwrap();
    let outcome = broken.resume().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { warnings: 0, .. }), "{outcome:?}");
    let expected: Vec<_> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(broken.names().await, expected);
}

#[tokio::test]
async fn a_resume_does_not_take_the_rest_of_a_source_on_another_disk_for_gone() {
    let files: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"].into_iter().map(|name| (name, 300_000)).collect();
    source_taken_away(&files, 2, &[]).await;
    source_taken_away(&files, 2, &["x"]).await;
}

#[tokio::test]
async fn a_resume_inside_of_a_large_file_does_not_take_it_for_gone() {
    source_taken_away(&[("large", 9 << 20), ("small", 10)], 11, &[]).await;
}

#[tokio::test]
async fn a_tree_that_has_another_inode_since_its_disk_was_mounted_again_goes_on_with_a_warning() {
    let files: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"].into_iter().map(|name| (name, 300_000)).collect();
    let broken = BrokenOff::new(&files, 2).await;
    let (root, elsewhere) = (broken.root(), broken.dir.path().join("elsewhere"));
    std::fs::rename(&root, &elsewhere).unwrap();
    std::fs::create_dir(&root).unwrap();
    for (name, _) in &files {
        std::fs::rename(elsewhere.join(name), root.join(name)).unwrap();
    }
    let outcome = broken.resume().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { warnings: 1, .. }), "{outcome:?}");
    assert_eq!(broken.names().await.len(), files.len());
}

/// Restores to a disk below `dir`, breaks off by a rule, and gives what a resume needs.
async fn restore_broken_off(dir: &std::path::Path, rule: Rule, pause: bool) -> (Engine, impl Fn() -> ResumeRestore) {
    let mut source = MemorySource::new("source");
    for n in 0..2 {
        source = source.file(&format!("d/{n}"), "small").stored(&format!("large/{n}"), Blob::pattern(n, 17 << 20));
    }
    let destination = Arc::new(MemoryDestination::default());
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let handle = engine.backup(BackupRequest::new(Arc::new(source), destination.clone())).await.unwrap();
    let archive = handle.archive().clone();
    handle.wait().await.unwrap();
    let target = Arc::new(LocalTarget::new(LocalTargetConfig::new(dir.join("disk"))).unwrap());
    let script = Script::new().rule(rule);
    let faulty = FaultyTarget::new(target, script.clone());
    let handle = engine.restore(RestoreRequest::new(destination.clone(), archive, faulty)).await.unwrap();
    let operation = handle.id().clone();
    if pause {
        while script.fired().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        handle.pause();
    }
    let ended = handle.wait().await;
    assert_eq!(ended.is_ok(), pause, "{ended:?}");
    let root = dir.join("disk");
    let resume = move || ResumeRestore {
        operation: operation.clone(),
        destination: destination.clone(),
        target: Arc::new(LocalTarget::new(LocalTargetConfig::new(&root)).unwrap()) as Arc<dyn RestoreTarget>,
        open: OpenOptions::default(),
        limits: Default::default(),
        take_over: Default::default(),
        keep_going: false,
    };
    (engine, resume)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_does_not_go_on_where_the_disk_that_it_wrote_to_is_not_mounted() {
    let dir = tempfile::tempdir().unwrap();
    // The second of the large ones waits; something was written by then.
    let rule = Rule::new(Method::WriteLarge, When::Nth(2), Fault::Delay(std::time::Duration::from_millis(300)));
    let (engine, resume) = restore_broken_off(dir.path(), rule, true).await;
    let (root, elsewhere) = (dir.path().join("disk"), dir.path().join("elsewhere"));
    std::fs::rename(&root, &elsewhere).unwrap();
    for mount_point in [false, true] {
        if mount_point {
            std::fs::create_dir(&root).unwrap();
        }
        let error = engine.resume_restore(resume()).await.unwrap().wait().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::NotFound);
        assert!(error.to_string().contains("is the disk mounted?"), "{error}");
        assert_eq!(root.exists(), mount_point);
    }
    std::fs::remove_dir(&root).unwrap();
    std::fs::rename(&elsewhere, &root).unwrap();
    let outcome = engine.resume_restore(resume()).await.unwrap().wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { warnings: 0, .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_ended_before_its_target_was_prepared_prepares_it() {
    let dir = tempfile::tempdir().unwrap();
    let rule = Rule::new(Method::Prepare, When::Always, Fault::Fail(ErrorClass::Permanent));
    let (engine, resume) = restore_broken_off(dir.path(), rule, false).await;
    assert!(!dir.path().join("disk").exists());
    let outcome = engine.resume_restore(resume()).await.unwrap().wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { warnings: 0, .. }), "{outcome:?}");
    assert!(dir.path().join("disk/d/0").exists());
}
