//! The second step of a commit: whoever comes after puts the same manifest and clears up.
#![allow(clippy::unwrap_used, reason = "a test")]

use backup_core::ErrorClass;
use backup_core::engine::{BackupRequest, Engine, Outcome, ResumeBackup};
use backup_core::local::LocalDestination;
use backup_core::memory::MemoryStore;
use backup_testkit::Method;
use backup_testkit::doubles::MemorySource;
use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
use std::sync::Arc;

#[tokio::test]
async fn what_a_killed_manifest_put_left_staged_is_gone_when_the_archive_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("source").file("a", "1"));
    let refuse = Rule::new(Method::Put, When::Nth(1), Fault::Fail(ErrorClass::Permanent)).about("manifest.json");
    let local = Arc::new(LocalDestination::new(dir.path()).unwrap());
    let destination = FaultyDestination::new(local, Script::new().rule(refuse));
    let engine = Engine::new(Arc::new(MemoryStore::new()));

    let handle = engine.backup(BackupRequest::new(source.clone(), destination.clone())).await.unwrap();
    let (operation, archive) = (handle.id().clone(), dir.path().join(handle.archive().as_str()));
    assert_eq!(handle.wait().await.unwrap_err().class(), ErrorClass::Permanent);
    assert!(archive.join("volumes.txt").exists() && !archive.join("manifest.json").exists());

    let staged = archive.join(".backup-tmp-left-by-a-killed-process");
    std::fs::write(&staged, "half a mani").unwrap();
    let resume = ResumeBackup {
        operation,
        source,
        destination,
        keys: None,
        limits: Default::default(),
        take_over: Default::default(),
    };
    let outcome = engine.resume_backup(resume).await.unwrap().wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { warnings: 0, .. }), "{outcome:?}");
    assert!(archive.join("manifest.json").exists() && !staged.exists());
}
