//! A source that breaks off.
#![allow(clippy::unwrap_used, reason = "a test")]

use backup_core::ErrorClass;
use backup_core::engine::{Archive, BackupRequest, Engine, OpenOptions, ResumeBackup, Selection};
use backup_core::memory::MemoryStore;
use backup_testkit::Method;
use backup_testkit::doubles::{MemoryDestination, MemorySource, OnResume};
use backup_testkit::faulty::{Fault, FaultySource, Rule, Script, When};
use futures::TryStreamExt;
use std::sync::Arc;

#[tokio::test]
async fn what_was_read_before_a_source_broke_off_is_kept_and_not_read_again() {
    // A resume inside of the group delivers other slices; one from before it would deliver the same again.
    let again = OnResume::SupersedeWith(vec!["second".into()]);
    let source = MemorySource::new("source").file("a", "1").group("group", vec!["first".into(), "x".into()], again);
    let fault = Fault::Break { after: 2, class: ErrorClass::Permanent };
    let script = Script::new().rule(Rule::new(Method::Events, When::Nth(1), fault));
    let source = FaultySource::new(Arc::new(source), script);
    let destination = Arc::new(MemoryDestination::default());
    let engine = Engine::new(Arc::new(MemoryStore::new()));

    let handle = engine.backup(BackupRequest::new(source.clone(), destination.clone())).await.unwrap();
    let (operation, id) = (handle.id().clone(), handle.archive().clone());
    assert_eq!(handle.wait().await.unwrap_err().class(), ErrorClass::Permanent);
    let resume = ResumeBackup {
        operation,
        source,
        destination: destination.clone(),
        keys: None,
        limits: Default::default(),
        take_over: Default::default(),
    };
    engine.resume_backup(resume).await.unwrap().wait().await.unwrap();

    let archive = Archive::open(destination, &id, &OpenOptions::default()).await.unwrap();
    assert_eq!(archive.manifest().totals.entries, 3, "a, the first slice, and the slice that came instead");
    let entries: Vec<_> = archive.entries(&Selection::default()).unwrap().try_collect().await.unwrap();
    let found: Vec<_> = entries.iter().map(|entry| (entry.name.to_string(), entry.size)).collect();
    assert_eq!(found, [("a".to_string(), 1), ("group/000000.bin".to_string(), 6)]);
}
