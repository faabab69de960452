//! Restores that meet trouble: what is left out, what makes them fail, and what a resume makes good.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::engine::{Outcome, Selection};
use backup_core::local::{LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::model::{EntryKind, Metadata};
use backup_testkit::Method;
use backup_testkit::doubles::{
    Blob, MemoryContent, MemoryDestination, MemoryEntry, MemorySource, MemoryTarget, Restored,
};
use backup_testkit::faulty::{Fault, FaultyDestination, FaultyTarget, Rule, Script, When};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn other() -> Restored {
    Restored { kind: EntryKind::File, mtime: None, metadata: Metadata::default(), content: "other".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_entries_may_be_left_out_and_damage_among_the_others_is_still_found() {
    let names: Vec<String> = (0..1500).map(|n| format!("f{n:04}")).collect();
    let source = names.iter().fold(MemorySource::new("s"), |source, name| source.file(name, name.as_str()));
    let source = Arc::new(source.stored("z", Blob::pattern(1, 3 * MIB)));
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    for damage in [false, true] {
        let target = MemoryTarget::default();
        names.iter().for_each(|name| target.insert(name, other()));
        let script = Script::new().rule(Rule::new(Method::Finish, When::First(1), Fault::Fail(ErrorClass::Permanent)));
        let store = MemoryStore::new();
        let mut request = restore_request(&destination, &archive, &target, None);
        request.target = FaultyTarget::new(Arc::new(target.clone()), script);
        let handle = engine(&store).restore(request).await.unwrap();
        let id = handle.id().clone();
        wait(handle).await.unwrap_err();
        if damage {
            target.insert("z", other());
        }
        // Another process knows them from the checkpoint.
        let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
        let ended = wait(engine(&store).resume_restore(resume).await.unwrap()).await;
        match ended {
            Ok(Outcome::Completed { warnings, progress }) if !damage => {
                assert_eq!((warnings, progress.warnings, progress.entries), (1500, 1500, 1));
            }
            Err(e) if damage => {
                assert_eq!(e.class(), ErrorClass::Corrupt);
                assert!(e.to_string().contains(" 1 entries"), "{e}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Batches are written several at once; a directory and what lies in it may come in two of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_of_a_directory_is_replaced_before_anything_is_written_below_it() {
    let source = (0..70).fold(MemorySource::new("s"), |source, n| source.file(&format!("a{n:02}"), "a"));
    let source = source.directory("d").file("d/x", "x");
    let source = Arc::new(source);
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(place.path(), place.path().join("d")).unwrap();
    let target = LocalTarget::new(LocalTargetConfig::new(place.path())).unwrap();
    let late = Fault::Delay(std::time::Duration::from_millis(300));
    // The batch that brings the directory.
    let script = Script::new().rule(Rule::new(Method::WriteSmall, When::Always, late).about("a00"));
    let mut request = restore_request(&destination, &archive, &MemoryTarget::default(), None);
    request.target = FaultyTarget::new(Arc::new(target), script);
    request.options.overwrite = true;
    assert_eq!(complete(engine(&MemoryStore::new()).restore(request).await.unwrap()).await, 0);
    assert!(place.path().join("d").symlink_metadata().unwrap().is_dir());
    assert_eq!(std::fs::read(place.path().join("d/x")).unwrap(), b"x");
    assert!(!place.path().join("x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_in_trouble_as_a_whole_fails_the_restore_and_a_resume_writes_what_is_missing() {
    let source = Arc::new(MemorySource::new("s").file("a", "a").stored("large", Blob::pattern(1, 17 * MIB)));
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    for class in [ErrorClass::Permanent, ErrorClass::NotFound, ErrorClass::Unsupported, ErrorClass::Conflict] {
        let target = MemoryTarget::default();
        let script = Script::new().rule(Rule::new(Method::WriteLarge, When::First(1), Fault::Fail(class)));
        let store = MemoryStore::new();
        let mut request = restore_request(&destination, &archive, &target, None);
        request.target = FaultyTarget::new(Arc::new(target.clone()), script);
        let handle = engine(&store).restore(request).await.unwrap();
        let id = handle.id().clone();
        assert_eq!(wait(handle).await.unwrap_err().class(), class);
        let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
        assert_eq!(complete(engine(&store).resume_restore(resume).await.unwrap()).await, 0);
        assert_same(&items_at(&target), &items_of(source.clone()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_that_is_chosen_alone_comes_with_its_content() {
    let link = |name: &str, target: &str| {
        MemoryEntry::new(name, EntryKind::HardLink { target: target.into() }, MemoryContent::None)
    };
    let content = Blob::pattern(1, 300_000);
    let source = MemorySource::new("s")
        .stored("a/first", content.clone())
        .file("a/small", "small")
        .file("b/other", "other")
        .entry(link("b/second", "a/first"))
        .entry(link("b/third", "b/other"))
        .entry(link("b/tiny", "a/small"))
        .file("c", "c");
    let source = Arc::new(source);
    let destination = MemoryDestination::default();
    let mut request = request(&source, &destination);
    request.options.volume_size = Some(256 << 10);
    request.options.frame_size = 64 << 10;
    let archive = back_up(request).await;
    let target = MemoryTarget::default();
    let mut request = restore_request(&destination, &archive, &target, None);
    request.options.selection = Selection { include: vec!["b".into()], ..Selection::default() };
    let handle = engine(&MemoryStore::new()).restore(request).await.unwrap();
    assert_eq!(complete(handle).await, 0);
    assert_clean(&target);
    assert_eq!(target.content("b/second").unwrap(), content.bytes());
    assert_eq!(target.content("b/tiny").unwrap(), "small");
    let kinds: Vec<_> = target.items().into_iter().map(|(name, item)| (name.to_string(), item.kind)).collect();
    let third = EntryKind::HardLink { target: "b/other".into() };
    let file = |name: &str| (name.to_owned(), EntryKind::File);
    assert_eq!(kinds, [file("b/other"), file("b/second"), ("b/third".to_owned(), third), file("b/tiny")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_wait_for_large_entries_that_are_being_written() {
    let source = ["a", "b", "c", "d"]
        .iter()
        .fold(MemorySource::new("s"), |source, name| source.stored(name, Blob::pattern(1, 17 * MIB)));
    let source = Arc::new(source);
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let script = Script::new().rule(Rule::new(Method::WriteLarge, When::First(2), Fault::Hang));
    let (store, target) = (MemoryStore::new(), MemoryTarget::default());
    let mut request = restore_request(&destination, &archive, &target, None);
    request.target = FaultyTarget::new(Arc::new(target.clone()), script);
    let handle = engine(&store).restore(request).await.unwrap();
    let id = handle.id().clone();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    handle.pause();
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
    let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
    assert_eq!(complete(engine(&store).resume_restore(resume).await.unwrap()).await, 0);
    assert_same(&items_at(&target), &items_of(source).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_the_reading_back_and_a_resume_does_it_again() {
    let source = Arc::new(MemorySource::new("s").file("a", "a"));
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let script = Script::new().rule(Rule::new(Method::Verify, When::First(1), Fault::Hang));
    let (store, target) = (MemoryStore::new(), MemoryTarget::default());
    let mut request = restore_request(&destination, &archive, &target, None);
    request.target = FaultyTarget::new(Arc::new(target.clone()), script);
    let handle = engine(&store).restore(request).await.unwrap();
    let id = handle.id().clone();
    until("it is written", || target.content("a").is_some()).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    handle.pause();
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
    target.insert("a", other());
    let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
    let error = wait(engine(&store).resume_restore(resume).await.unwrap()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_gone_for_a_while_leaves_no_large_entry_out() {
    let source = Arc::new(MemorySource::new("s").file("a", "a").stored("large", Blob::pattern(1, 17 * MIB)));
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let gone = Fault::Fail(ErrorClass::NotFound);
    let script = Script::new().rule(Rule::new(Method::Get, When::Always, gone).about("/data/"));
    let (store, target) = (MemoryStore::new(), MemoryTarget::default());
    let mut request = restore_request(&destination, &archive, &target, None);
    request.destination = FaultyDestination::new(Arc::new(destination.clone()), script);
    let handle = engine(&store).restore(request).await.unwrap();
    let id = handle.id().clone();
    wait(handle).await.unwrap_err();
    let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
    assert_eq!(complete(engine(&store).resume_restore(resume).await.unwrap()).await, 0);
    assert_same(&items_at(&target), &items_of(source).await);
}
