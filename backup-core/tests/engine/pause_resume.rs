//! Pauses and crashes: what is read again, and that the result is the same.

use crate::common::*;
use async_trait::async_trait;
use backup_core::adapter::{
    Cursor, Destination, Estimate, Granularity, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version,
};
use backup_core::archive::Codec;
use backup_core::engine::{BackupOptions, BackupRequest, Engine, EngineOptions, Outcome};
use backup_core::memory::MemoryStore;
use backup_core::model::{EntryName, Identity, LogQuery};
use backup_core::state::{PauseReason, State};
use backup_core::{ErrorClass, Result};
use backup_testkit::Method;
use backup_testkit::doubles::{
    Blob, MemoryContent, MemoryDestination, MemoryEntry, MemorySource, MemoryTarget, OnChange, Trouble, TroubleAt,
};
use backup_testkit::faulty::{Fault, FaultyDestination, FaultySource, FaultyStore, FaultyTarget, Rule, Script, When};
use backup_testkit::record::{Recorder, RecordingDestination, RecordingSource};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn mixed() -> Arc<MemorySource> {
    let mut source = MemorySource::new("mixed").directory("d");
    for n in 0..10 {
        source = source.file(&format!("d/inline{n}"), Blob::pattern(n, 3000));
    }
    source = source.stored("d/large1", Blob::pattern(100, 13 * MIB));
    for n in 10..20 {
        source = source
            .file(&format!("d/inline{n}"), Blob::pattern(n, 3000))
            .stored(&format!("d/s{n}"), Blob::pattern(n, 100_000));
    }
    source = source.stored("d/medium", Blob::pattern(101, 3 * MIB)).stored("d/large2", Blob::pattern(102, 9 * MIB));
    let slices = (0..12).map(|n| Blob::pattern(200 + n, 200_000)).collect();
    let link = backup_core::model::EntryKind::HardLink { target: "d/medium".into() };
    let link = MemoryEntry::new("d/z", link, MemoryContent::Stored(Blob::pattern(101, 3 * MIB)));
    Arc::new(source.slices("shop.orders", slices).entry(link))
}

fn is_large(name: &str) -> bool {
    name.contains("large")
}

fn slow_and_recorded(source: &Arc<MemorySource>, recorder: &Recorder) -> Arc<RecordingSource> {
    let delay = Fault::Delay(Duration::from_millis(2));
    let slow = FaultySource::new(source.clone(), Script::new().rule(Rule::new(Method::Read, When::Always, delay)));
    RecordingSource::new(slow, recorder.clone())
}

/// Pauses each time that so many more entries and ranges have been read, until the backup is complete.
async fn with_pauses(source: &Arc<MemorySource>, step: u64) -> (Recorder, MemoryDestination, u64) {
    let (store, destination, recorder) = (MemoryStore::new(), MemoryDestination::default(), Recorder::new());
    let counted = slow_and_recorded(source, &recorder);
    let seen = || recorder.entries().len() as u64 + recorder.count(Method::Read).calls;
    let mut pauses = 0;
    let mut handle = engine(&store).backup(request(&counted, &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    loop {
        let next = seen() + step;
        let progress = handle.progress();
        until("it has read some more", || seen() >= next || progress.has_changed().is_err()).await;
        handle.pause();
        match wait(handle).await.unwrap() {
            Outcome::Completed { warnings, .. } => {
                assert_eq!(warnings, 0);
                break;
            }
            Outcome::Paused { reason, resume_at, message } => {
                assert_eq!((reason, resume_at, message), (PauseReason::Requested, None, None));
                assert!(!operation(&store, &id).await.lease_running);
            }
            other => panic!("{other:?}"),
        }
        pauses += 1;
        let resume = resume_request(&id, &counted, Arc::new(destination.clone()));
        handle = engine(&store).resume_backup(resume).await.unwrap();
    }
    assert_good(&destination, &archive, source.clone(), None).await;
    (recorder, destination, pauses)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_makes_nothing_read_twice() {
    let source = mixed();
    for step in [1, 2, 3, 5, 8, 13, 21, 34] {
        let (recorder, _, pauses) = with_pauses(&source, step).await;
        assert!(recorder.is_complete() && pauses > 0);
        for (name, bytes) in recorder.read_twice() {
            // A large entry that was listed but not begun is listed again; nothing of it had been read.
            assert!(bytes == 0 && is_large(&name), "step {step}: {bytes} bytes of {name} were read twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_inside_of_a_large_entry_and_goes_on_there() {
    let source = Arc::new(MemorySource::new("s").stored("large", Blob::pattern(1, 41 * MIB)).file("a", "a"));
    let (recorder, destination, pauses) = with_pauses(&source, 2).await;
    assert!(pauses >= 3, "{pauses}");
    assert_eq!(recorder.bytes_read("large"), 41 * MIB);
    assert!(destination.objects().len() > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_backup_goes_on_with_its_key_and_waits_for_it_without() {
    let source = Arc::new(MemorySource::new("s").stored("large", Blob::pattern(1, 9 * MIB)).file("a", "a"));
    let (store, destination, keys) = (MemoryStore::new(), MemoryDestination::default(), key());
    let counted = slow_and_recorded(&source, &Recorder::new());
    let mut request = request(&counted, &destination);
    request.keys = Some(keys.clone());
    let handle = engine(&store).backup(request).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    handle.pause();
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
    for wrong in [None, Some(key())] {
        let mut resume = resume_request(&id, &source, Arc::new(destination.clone()));
        resume.keys = wrong;
        let outcome = wait(engine(&store).resume_backup(resume).await.unwrap()).await.unwrap();
        assert!(matches!(outcome, Outcome::Paused { reason: PauseReason::KeyNeeded, .. }), "{outcome:?}");
    }
    let mut resume = resume_request(&id, &source, Arc::new(destination.clone()));
    resume.keys = Some(keys.clone());
    complete(engine(&store).resume_backup(resume).await.unwrap()).await;
    assert_good(&destination, &archive, source, Some(keys)).await;
}

/// One put hangs for ever, which stops everything behind it; then the process dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_makes_only_what_was_in_flight_read_again() {
    let mut source = MemorySource::new("s");
    for n in 0..4 {
        source =
            source.stored(&format!("l{n}"), Blob::pattern(n, 25 * MIB)).file(&format!("i{n}"), Blob::pattern(n, 1000));
    }
    let source = Arc::new(source);
    for nth in [1, 20, 60] {
        let (store, destination, recorder) = (MemoryStore::new(), MemoryDestination::default(), Recorder::new());
        let script = Script::new().rule(Rule::new(Method::Put, When::Nth(nth), Fault::Hang).about("/data/"));
        let counted = RecordingSource::new(source.clone(), recorder.clone());
        let hanging = FaultyDestination::new(Arc::new(destination.clone()), script.clone());
        let mut request = BackupRequest::new(counted.clone(), hanging);
        request.options = BackupOptions { volume_size: Some(MIB), ..small_volumes(Codec::None) };
        let handle = engine(&store).backup(request).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        until("the put hangs", || !script.fired().is_empty()).await;
        // As long as anything still moves; on a busy machine that may pause for a while.
        let (mut before, mut still) = (0, 0);
        while still < 8 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = recorder.count(Method::Read).bytes;
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        drop(handle);
        // Volumes on their way, the one being filled, frames, and four ranges of 4 MiB read ahead.
        let in_flight = 45 * MIB;
        assert!(before <= nth * MIB + in_flight, "{before} bytes were read with {nth} volumes stored");
        let resume = resume_request(&id, &counted, Arc::new(destination.clone()));
        complete(engine(&store).resume_backup(resume).await.unwrap()).await;
        let again: u64 = recorder.read_twice().iter().map(|(_, bytes)| bytes).sum();
        assert!(again <= in_flight, "{again} bytes were read again");
        // Four volumes are put at once, in any order; what lies behind the one that hangs does not count, though it may be there.
        assert!(
            again + (nth - 1) * MIB <= before + 4 * MIB,
            "what is durable was read again: {again} of {before} bytes"
        );
        assert_good(&destination, &archive, source.clone(), None).await;
    }
}

/// The process dies at each call of each adapter in turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_survives_death_at_any_call() {
    let source = Arc::new(
        MemorySource::new("s")
            .directory("d")
            .file("d/a", "a")
            .stored("d/b", Blob::pattern(1, 900_000))
            .slices("g", vec![Blob::pattern(2, 300_000), "x".into()])
            .stored("d/large", Blob::pattern(3, 5 * MIB)),
    );
    for lost_reply in [false, true] {
        let mut finished = 0;
        for nth in 1.. {
            let script = Script::new();
            if lost_reply {
                script.add(Rule::any(When::Nth(nth), Fault::LostReply(ErrorClass::Permanent)));
            }
            script.add(Rule::any(When::From(nth), Fault::Hang));
            let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
            let dying =
                Engine::with_options(FaultyStore::new(Arc::new(store.clone()), script.clone()), options(), Vec::new());
            let request = BackupRequest {
                destination: FaultyDestination::new(Arc::new(destination.clone()), script.clone()),
                source: FaultySource::new(source.clone(), script.clone()),
                ..request(&source, &destination)
            };
            let work = async {
                let handle = dying.backup(request).await?;
                let ids = (handle.id().clone(), handle.archive().clone());
                Ok::<_, backup_core::Error>((ids, handle.wait().await))
            };
            let ended = tokio::time::timeout(Duration::from_millis(150), work).await;
            if matches!(ended, Ok(Ok((_, Ok(Outcome::Completed { .. }))))) && script.fired().is_empty() {
                finished = nth;
                break;
            }
            drop(ended);
            use backup_core::adapter::Store;
            let operations = store.query(&Default::default()).await.unwrap();
            // It died before the operation was created: then nothing is at the destination.
            let Some(operation) = operations.first() else {
                assert_eq!(destination.names(), Vec::<String>::new());
                continue;
            };
            if !operation.state.is_final() {
                let resume = resume_request(&operation.new.id, &source, Arc::new(destination.clone()));
                complete(engine(&store).resume_backup(resume).await.unwrap()).await;
            }
            assert_good(&destination, &operation.new.archive, source.clone(), None).await;
            // What earlier attempts left behind is gone.
            let volumes = destination.names().iter().filter(|name| name.contains("/data/")).count();
            let listed = destination
                .objects()
                .iter()
                .find(|(name, _)| name.as_str().ends_with("volumes.txt"))
                .map(|(_, b)| b.clone());
            assert_eq!(volumes, listed.unwrap().iter().filter(|b| **b == b'\n').count());
        }
        assert!(finished > 30, "only {finished} calls");
    }
}

// On one thread, so that a task that is dropped does nothing any more.
#[tokio::test]
async fn a_restore_survives_death_at_any_call() {
    let source = Arc::new(
        MemorySource::new("s")
            .directory("d")
            .file("d/a", "a")
            .stored("d/b", Blob::pattern(1, 900_000))
            .slices("g", vec![Blob::pattern(2, 300_000), "x".into(), Blob::pattern(4, 5000)])
            .stored("d/large", Blob::pattern(3, 17 * MIB)),
    );
    let destination = MemoryDestination::default();
    let mut request = request(&source, &destination);
    request.options.volume_size = Some(4 * MIB);
    request.options.frame_size = 1 << 20;
    let archive = back_up(request).await;
    for granularity in [Granularity::Slice, Granularity::Whole] {
        let mut finished = 0;
        for nth in (1..).step_by(2) {
            let script = Script::new().rule(Rule::any(When::From(nth), Fault::Hang));
            let store = MemoryStore::new();
            let target = MemoryTarget::default().with_granularity(granularity).with_record_every(3 * MIB);
            let dying =
                Engine::with_options(FaultyStore::new(Arc::new(store.clone()), script.clone()), options(), Vec::new());
            let mut request = restore_request(&destination, &archive, &target, None);
            request.target = FaultyTarget::new(Arc::new(target.clone()), script.clone());
            request.destination = FaultyDestination::new(Arc::new(destination.clone()), script.clone());
            let work = async { dying.restore(request).await?.wait().await };
            let ended = tokio::time::timeout(Duration::from_millis(400), work).await;
            if matches!(ended, Ok(Ok(Outcome::Completed { .. }))) {
                finished = nth;
                break;
            }
            use backup_core::adapter::Store;
            let operations = store.query(&Default::default()).await.unwrap();
            let Some(operation) = operations.first() else { continue };
            // Not only the process dies, but the machine. A task that was dropped may still be in its last turn.
            tokio::time::sleep(Duration::from_millis(20)).await;
            target.crash();
            let resume =
                resume_restore_request(&operation.new.id, Arc::new(destination.clone()), Arc::new(target.clone()));
            if !operation.state.is_final() {
                assert_eq!(complete(engine(&store).resume_restore(resume).await.unwrap()).await, 0);
            }
            assert_clean(&target);
            if granularity == Granularity::Slice {
                assert_same(&items_at(&target), &items_of(source.clone()).await);
            } else {
                assert_eq!(target.content("g"), source.group_content("g"));
                assert_eq!(target.content("d/large"), source.content("d/large"));
            }
        }
        assert!(finished > 15, "only {finished} calls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_in_the_middle_of_a_large_entry() {
    let source = Arc::new(MemorySource::new("s").stored("large", Blob::pattern(1, 40 * MIB)).file("a", "a"));
    let destination = MemoryDestination::default();
    let mut request = request(&source, &destination);
    request.options.volume_size = Some(2 * MIB);
    request.options.frame_size = 1 << 20;
    let archive = back_up(request).await;
    let recorder = Recorder::new();
    let delay = Fault::Delay(Duration::from_millis(30));
    let slow = Script::new().rule(Rule::new(Method::Get, When::Always, delay).about("/data/"));
    let slow = FaultyDestination::new(Arc::new(destination.clone()), slow);
    let counted: Arc<dyn Destination> = RecordingDestination::new(slow, recorder.clone());
    let read =
        || recorder.calls_of(Method::Get).iter().filter(|c| c.subject.contains("/data/")).map(|c| c.bytes).sum::<u64>();
    for crash in [false, true] {
        recorder.clear();
        let (store, target) = (MemoryStore::new(), MemoryTarget::default().with_record_every(MIB));
        let mut request = restore_request(&destination, &archive, &target, None);
        request.destination = counted.clone();
        let mut handle = engine(&store).restore(request).await.unwrap();
        let id = handle.id().clone();
        let mut stops = 0;
        loop {
            let next = read() + 12 * MIB;
            let progress = handle.progress();
            until("it has read some more", || read() >= next || progress.has_changed().is_err()).await;
            if crash {
                drop(handle);
                // Its tasks end at their next step, not at once as those of a dead process.
                tokio::time::sleep(Duration::from_millis(100)).await;
                target.crash();
            } else {
                handle.pause();
                match wait(handle).await.unwrap() {
                    Outcome::Completed { .. } => break,
                    Outcome::Paused { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            stops += 1;
            let resume = resume_restore_request(&id, counted.clone(), Arc::new(target.clone()));
            handle = engine(&store).resume_restore(resume).await.unwrap();
            if crash {
                assert_eq!(complete(handle).await, 0);
                break;
            }
        }
        assert!(stops > 0);
        assert_clean(&target);
        assert_same(&items_at(&target), &items_of(source.clone()).await);
        if !crash {
            assert!(stops >= 2, "{stops}");
            // What was fetched but not yet recorded is fetched again: some chunks a pause.
            let most = 40 * MIB + stops * 12 * MIB;
            assert!(read() <= most, "{} bytes were read with {stops} pauses", read());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_entry_that_changed_during_a_pause_is_read_afresh() {
    for on_change in [OnChange::Error, OnChange::Report] {
        let source = Arc::new(
            MemorySource::new("s").with_on_change(on_change).stored("large", Blob::pattern(1, 30 * MIB)).file("a", "a"),
        );
        let (store, destination, recorder) = (MemoryStore::new(), MemoryDestination::default(), Recorder::new());
        let counted = slow_and_recorded(&source, &recorder);
        let handle = engine(&store).backup(request(&counted, &destination)).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        until("the entry is begun", || recorder.count(Method::Read).calls >= 2).await;
        handle.pause();
        assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
        source.trouble_now("large", Trouble::Change(Blob::pattern(2, 25 * MIB)));
        let resume = resume_request(&id, &source, Arc::new(destination.clone()));
        assert_eq!(complete(engine(&store).resume_backup(resume).await.unwrap()).await, 0, "{on_change:?}");
        assert_good(&destination, &archive, source, None).await;
    }
}

/// A large entry that has to be read again must not keep a pause waiting until its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_wait_for_a_large_entry_that_is_read_again() {
    let source = Arc::new(MemorySource::new("s").stored("large", Blob::pattern(1, 60 * MIB)).file("a", "a"));
    source.at_read("large", TroubleAt::read(1), Trouble::Change(Blob::pattern(2, 60 * MIB)));
    let (store, destination, recorder) = (MemoryStore::new(), MemoryDestination::default(), Recorder::new());
    let counted = slow_and_recorded(&source, &recorder);
    let handle = engine(&store).backup(request(&counted, &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("it is read again", || recorder.count(Method::Read).bytes > 9 * MIB).await;
    handle.pause();
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
    assert!(recorder.count(Method::Read).bytes < 45 * MIB);
    let resume = resume_request(&id, &counted, Arc::new(destination.clone()));
    assert_eq!(complete(engine(&store).resume_backup(resume).await.unwrap()).await, 0);
    assert_good(&destination, &archive, source, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_counted_once_however_often_the_backup_is_paused() {
    let source = Arc::new(
        MemorySource::new("s")
            .file("a", "a")
            .warning("w1", "skipped: a socket")
            .warning("w2", "skipped: a device")
            .stored("large", Blob::pattern(1, 13 * MIB))
            .warning("w3", "skipped: a pipe"),
    );
    let (store, destination, recorder) = (MemoryStore::new(), MemoryDestination::default(), Recorder::new());
    let counted = slow_and_recorded(&source, &recorder);
    // The pause is there before anything is read, and then behind the warnings.
    let mut handle = engine(&store).backup(request(&counted, &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    let mut warnings = None;
    for stop in [2, 3, 4, 5, 6, 7, 8] {
        let seen = recorder.entries().len() as u64 + recorder.count(Method::Read).calls;
        let progress = handle.progress();
        until("it moves", || {
            let now = recorder.entries().len() as u64 + recorder.count(Method::Read).calls;
            now > seen || stop == 2 || progress.has_changed().is_err()
        })
        .await;
        handle.pause();
        if let Outcome::Completed { warnings: count, .. } = wait(handle).await.unwrap() {
            warnings = Some(count);
            break;
        }
        let resume = resume_request(&id, &counted, Arc::new(destination.clone()));
        handle = engine(&store).resume_backup(resume).await.unwrap();
    }
    let text = untar(&destination, &archive).await;
    let text = String::from_utf8(text[backup_core::archive::WARNINGS_FILE].clone()).unwrap();
    assert_eq!(warnings, Some(3), "{text}");
    assert_eq!(text.matches("skipped").count(), 3, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_the_store_pauses_the_worker() {
    let source = Arc::new(MemorySource::new("s").stored("large", Blob::pattern(1, 60 * MIB)));
    let delay = Fault::Delay(Duration::from_millis(200));
    let slow = FaultySource::new(source.clone(), Script::new().rule(Rule::new(Method::Read, When::Always, delay)));
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle = engine(&store).backup(request(&slow, &destination)).await.unwrap();
    let id = handle.id().clone();
    // Another process on the same store.
    engine(&store).request_pause(&id).await.unwrap();
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { reason: PauseReason::Requested, .. }));
    let error = engine(&store).request_pause(&id).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert!(matches!(operation(&store, &id).await.state, State::Paused { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_in_the_job_log() {
    use backup_core::adapter::Store;
    let source = mixed();
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle =
        Engine::with_options(Arc::new(store.clone()), EngineOptions { retry: quick(), ..options() }, Vec::new())
            .backup(request(&source, &destination))
            .await
            .unwrap();
    let id = handle.id().clone();
    complete(handle).await;
    let page = store.page_log(&id, &LogQuery { limit: 1000, ..LogQuery::default() }).await.unwrap();
    let steps: Vec<_> = page.records.iter().map(|r| r.record.step.as_str()).collect();
    for step in ["created", "claim", "connect", "checkpoint", "commit", "done"] {
        assert!(steps.contains(&step), "{step} is not in {steps:?}");
    }
    assert_eq!(steps.last(), Some(&"done"));
}

/// Slices of several groups take turns in the archive; one of the groups is done when the restore stops, the other is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_restore_does_not_begin_a_finished_group_in_its_middle() {
    let mut source = MemorySource::new("s");
    for n in 0..12 {
        let group = if n % 2 == 0 { "first" } else { "second" };
        let content = MemoryContent::Inline(format!("slice {n} ").as_str().into());
        let mut slice = MemoryEntry::new(&format!("{group}/{n}"), backup_core::model::EntryKind::Slice, content);
        slice.group = Some(backup_core::model::GroupName(group.into()));
        source = source.entry(slice);
    }
    let destination = MemoryDestination::default();
    let archive = back_up(request(&Arc::new(source), &destination)).await;
    let (store, target) = (MemoryStore::new(), MemoryTarget::default().with_granularity(Granularity::Whole));
    let script = Script::new().rule(Rule::new(Method::WriteLarge, When::Always, Fault::Hang).about("second"));
    let mut request = restore_request(&destination, &archive, &target, None);
    request.target = FaultyTarget::new(Arc::new(target.clone()), script);
    request.options.overwrite = true;
    let handle = engine(&store).restore(request).await.unwrap();
    let id = handle.id().clone();
    until("the first group is done", || target.content("first").is_some()).await;
    handle.pause();
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
    let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
    assert_eq!(complete(engine(&store).resume_restore(resume).await.unwrap()).await, 0);
    assert_clean(&target);
    assert_eq!(target.content("first").unwrap(), "slice 0 slice 2 slice 4 slice 6 slice 8 slice 10 ");
    assert_eq!(target.content("second").unwrap(), "slice 1 slice 3 slice 5 slice 7 slice 9 slice 11 ");
}

/// An entry without padding in the tar stream, longer than one range, of a source that is asked at its end whether it has changed.
fn without_padding() -> Arc<MemorySource> {
    Arc::new(MemorySource::new("s").stored("large", Blob::pattern(1, 5 * MIB)).stored("next", Blob::pattern(2, 1000)))
}

/// The third read of the large entry: behind its last byte.
fn look(fault: Fault) -> Rule {
    Rule::new(Method::Read, When::Nth(3), fault).about("large")
}

/// Nothing comes behind its first entry until there is a pause.
#[derive(Debug)]
struct WaitsForAPause(Arc<dyn Source>);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Source for WaitsForAPause {
    fn identity(&self) -> Identity {
        self.0.identity()
    }
    fn properties(&self) -> SourceProperties {
        self.0.properties()
    }
    async fn check(&self) -> Result<()> {
        self.0.check().await
    }
    async fn estimate(&self) -> Result<Estimate> {
        self.0.estimate().await
    }
    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let stop = ctx.stop.clone();
        self.0
            .clone()
            .events(after, ctx)
            .take(1)
            .chain(stop.cancelled_owned().into_stream().filter_map(async |()| None))
            .boxed()
    }
    async fn read(
        &self,
        entry: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        self.0.read(entry, version, range, ctx).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_entry_is_never_a_frame_of_its_own() {
    let source = without_padding();
    for volume_age in [Duration::from_secs(900), Duration::from_secs(1)] {
        // So long that what has been read is sent off meanwhile.
        let script = Script::new().rule(look(Fault::Delay(Duration::from_millis(1500))));
        let slow = Arc::new(WaitsForAPause(FaultySource::new(source.clone(), script.clone())));
        let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
        let mut request = request(&slow, &destination);
        request.options.volume_age = volume_age;
        let handle = engine(&store).backup(request).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        until("its end is looked at", || !script.fired().is_empty()).await;
        handle.pause();
        assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
        let resume = resume_request(&id, &source, Arc::new(destination.clone()));
        assert_eq!(complete(engine(&store).resume_backup(resume).await.unwrap()).await, 0);
        assert_good(&destination, &archive, source.clone(), None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_broke_off_before_the_end_of_an_entry_goes_on_there() {
    let source = without_padding();
    let script = Script::new().rule(look(Fault::Fail(ErrorClass::Unauthorized)));
    let broken = FaultySource::new(source.clone(), script);
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle = engine(&store).backup(request(&broken, &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));

    // All of its content is stored, and for a while nothing comes behind it; then there is a pause, and then it goes on.
    for pause in [true, false] {
        let script =
            Script::new().rule(Rule::new(Method::Events, When::Always, Fault::Delay(Duration::from_millis(1500))));
        let slow = FaultySource::new(source.clone(), script.clone());
        let resume = resume_request(&id, &slow, Arc::new(destination.clone()));
        let handle = engine(&store).resume_backup(resume).await.unwrap();
        if pause {
            until("it goes on", || !script.fired().is_empty()).await;
            handle.pause();
            assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
        } else {
            assert_eq!(complete(handle).await, 0);
        }
    }
    assert_good(&destination, &archive, source, None).await;
}
