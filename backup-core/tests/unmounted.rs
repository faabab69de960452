//! A resume onto a disk that is not mounted: nothing is written where the disk should be.
#![allow(clippy::unwrap_used, reason = "a test")]

use backup_core::ErrorClass;
use backup_core::engine::{BackupOptions, BackupRequest, Engine, Outcome, ResumeBackup};
use backup_core::local::LocalDestination;
use backup_core::memory::MemoryStore;
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, MemorySource};
use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
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

fn put(about: &str, nth: u64) -> Rule {
    Rule::new(Method::Put, When::Nth(nth), Fault::Fail(ErrorClass::Permanent)).about(about)
}

#[tokio::test]
async fn a_resume_does_not_make_the_root_of_a_disk_that_is_not_mounted() {
    taken_away(put("/data/", 5), false).await;
    taken_away(put("manifest.json", 1), false).await;
}

#[tokio::test]
async fn a_resume_writes_nothing_into_an_empty_mount_point() {
    taken_away(put("/data/", 5), true).await;
    taken_away(put("manifest.json", 1), true).await;
}
