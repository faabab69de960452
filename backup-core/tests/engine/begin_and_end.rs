//! How operations begin, are handed over and are cancelled: nothing is left behind that nobody knows of.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::adapter::{Destination, Store};
use backup_core::archive::KeyProvider;
use backup_core::engine::{
    CancelRestore, Engine, EngineOptions, Outcome, TakeOver, delete_archive, find_archive, list_archives,
};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, OperationId, Request};
use backup_core::state::{PauseReason, State};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource, MemoryTarget};
use backup_testkit::faulty::{Fault, FaultyDestination, FaultySource, FaultyStore, FaultyTarget, Rule, Script, When};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn source() -> Arc<MemorySource> {
    let source = MemorySource::new("s").file("a", "a").stored("large", Blob::pattern(1, 30 * MIB)).file("z", "z");
    Arc::new(source)
}

fn slow(source: &Arc<MemorySource>) -> Arc<FaultySource> {
    let delay = Fault::Delay(Duration::from_millis(50));
    FaultySource::new(source.clone(), Script::new().rule(Rule::new(Method::Read, When::Always, delay)))
}

fn failing(store: &MemoryStore, script: Script) -> Engine {
    Engine::with_options(FaultyStore::new(Arc::new(store.clone()), script), options(), Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_cannot_be_claimed_is_cancelled_or_named() {
    let source = source();
    for (claim, cancel, left) in [
        (Fault::Fail(ErrorClass::Permanent), None, "cancelled"),
        (Fault::LostReply(ErrorClass::Permanent), None, "cancelled"),
        (Fault::Fail(ErrorClass::Permanent), Some(Fault::Fail(ErrorClass::Transient)), "pending"),
    ] {
        let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
        let script = Script::new().rule(Rule::new(Method::Claim, When::Always, claim));
        if let Some(fault) = cancel {
            script.add(Rule::new(Method::Transition, When::Always, fault));
        }
        let error = failing(&store, script).backup(request(&source, &destination)).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
        let operations = store.query(&Default::default()).await.unwrap();
        assert_eq!((operations.len(), operations[0].state.name()), (1, left));
        assert_eq!(destination.names(), Vec::<String>::new());
        let id = operations[0].new.id.clone();
        if left == "cancelled" {
            assert!(error.to_string().contains("was cancelled"), "{error}");
        } else {
            let text = error.to_string();
            assert!(text.contains(id.as_str()) && text.contains("resume it, or cancel it"), "{text}");
            complete(engine(&store).resume_backup(resume_request(&id, &source, Arc::new(destination))).await.unwrap())
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_the_creation_makes_no_second_operation() {
    let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
    let lost = Rule::new(Method::Create, When::Always, Fault::LostReply(ErrorClass::Transient));
    let handle = failing(&store, Script::new().rule(lost)).backup(request(&source, &destination)).await.unwrap();
    complete(handle).await;
    assert_eq!(store.query(&Default::default()).await.unwrap().len(), 1);
    let fails = Rule::new(Method::Create, When::Always, Fault::Fail(ErrorClass::Permanent));
    let error = failing(&store, Script::new().rule(fails)).backup(request(&source, &destination)).await.unwrap_err();
    assert_eq!((error.class(), error.to_string().contains("cancel")), (ErrorClass::Permanent, false), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_cannot_work_are_refused_before_anything_is_there() {
    let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
    let archive = back_up(request(&source, &destination)).await;
    let before = destination.names();
    let zero = EngineOptions { lease: Duration::ZERO, ..options() };
    let odd = Engine::with_options(Arc::new(store.clone()), zero, Vec::new());
    let target = MemoryTarget::default();
    let mut bad = request(&source, &destination);
    bad.options.volume_age = Duration::MAX;
    for error in [
        odd.backup(request(&source, &destination)).await.unwrap_err(),
        odd.restore(restore_request(&destination, &archive, &target, None)).await.unwrap_err(),
        engine(&store).backup(bad).await.unwrap_err(),
    ] {
        assert_eq!(error.class(), ErrorClass::Invalid);
    }
    assert_eq!((destination.names(), store.query(&Default::default()).await.unwrap().len()), (before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_handed_over_waits_for_any_worker_and_reads_nothing_twice() {
    let source = source();
    let recorder = backup_testkit::record::Recorder::new();
    let counted = backup_testkit::record::RecordingSource::new(slow(&source), recorder.clone());
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle = engine(&store).backup(request(&counted, &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("it reads", || recorder.count(Method::Read).calls > 1).await;
    handle.hand_over();
    assert_eq!(wait(handle).await.unwrap(), Outcome::HandedOver);
    let now = operation(&store, &id).await;
    assert_eq!((now.state.name(), now.lease_running), ("pending", false));
    let mut resume = resume_request(&id, &counted, Arc::new(destination.clone()));
    // Without waiting for a lease, and without taking over.
    resume.take_over = TakeOver::WhenFree;
    complete(engine(&store).resume_backup(resume).await.unwrap()).await;
    assert!(recorder.read_twice().iter().all(|(_, bytes)| *bytes == 0), "{:?}", recorder.read_twice());
    assert_good(&destination, &archive, source, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_handed_over_too_and_a_wish_to_pause_goes_first() {
    let (destination, source) = (MemoryDestination::default(), source());
    let archive = back_up(request(&source, &destination)).await;
    for pause in [false, true] {
        let (store, target) = (MemoryStore::new(), MemoryTarget::default());
        let (script, id, handle) = begun(&store, &destination, &archive, &target, None).await;
        if pause {
            store.request(&id, Request::Pause).await.unwrap();
        }
        handle.hand_over();
        script.clear();
        let expected = if pause {
            Outcome::Paused { reason: PauseReason::Requested, resume_at: None, message: None }
        } else {
            Outcome::HandedOver
        };
        assert_eq!(wait(handle).await.unwrap(), expected);
        let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
        assert_eq!(complete(engine(&store).resume_restore(resume).await.unwrap()).await, 0);
        assert_same(&items_at(&target), &items_of(source.clone()).await);
    }
}

/// A restore that has written something, and stands in the middle of its large entry.
async fn begun(
    store: &MemoryStore,
    destination: &MemoryDestination,
    archive: &ArchiveId,
    target: &MemoryTarget,
    keys: Option<Arc<dyn KeyProvider>>,
) -> (Script, OperationId, backup_core::engine::OperationHandle) {
    let stall = Fault::Stall { after: 5 * MIB };
    let script = Script::new().rule(Rule::new(Method::WriteLarge, When::Always, stall));
    let mut request = restore_request(destination, archive, target, keys);
    request.target = FaultyTarget::new(Arc::new(target.clone()), script.clone());
    let handle = engine(store).restore(request).await.unwrap();
    let id = handle.id().clone();
    until("something is there and something is staged", || !target.items().is_empty() && !target.staged().is_empty())
        .await;
    (script, id, handle)
}

fn cancel_of(id: &OperationId, destination: &MemoryDestination, target: &MemoryTarget) -> CancelRestore {
    CancelRestore {
        operation: id.clone(),
        destination: Arc::new(destination.clone()),
        target: Arc::new(target.clone()),
        open: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_restore_leaves_nothing_staged_and_what_it_restored() {
    let (destination, source) = (MemoryDestination::default(), source());
    let archive = back_up(request(&source, &destination)).await;
    // With a worker at work, after its pause, and after its death.
    for worker in ["alive", "paused", "dead"] {
        let (store, target) = (MemoryStore::new(), MemoryTarget::default());
        let (_, id, handle) = begun(&store, &destination, &archive, &target, None).await;
        let mut alive = None;
        match worker {
            "alive" => alive = Some(handle),
            "paused" => {
                handle.pause();
                wait(handle).await.unwrap();
            }
            _ => drop(handle),
        }
        assert_eq!(target.staged().len(), 1, "{worker}");
        engine(&store).cancel_restore(cancel_of(&id, &destination, &target)).await.unwrap();
        if let Some(handle) = alive {
            assert_eq!(wait(handle).await.unwrap(), Outcome::Cancelled);
        }
        assert_eq!(operation(&store, &id).await.state, State::Cancelled);
        assert_clean(&target);
        assert_eq!(target.content("a").unwrap(), "a");
        assert!(target.content("large").is_none());
        // Again, and as a backup.
        engine(&store).cancel_restore(cancel_of(&id, &destination, &target)).await.unwrap();
        let error = engine(&store).cancel_backup(&id, &Arc::new(destination.clone())).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
    }
}

/// The worker itself cleans up, also when whoever cancelled could not.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_cancelled_removes_what_it_staged() {
    let (destination, source) = (MemoryDestination::default(), source());
    let archive = back_up(request(&source, &destination)).await;
    let (store, target) = (MemoryStore::new(), MemoryTarget::default());
    let (_, id, handle) = begun(&store, &destination, &archive, &target, None).await;
    let mut cancel = cancel_of(&id, &destination, &target);
    let broken = Script::new().rule(Rule::new(Method::Discard, When::Always, Fault::Fail(ErrorClass::Permanent)));
    cancel.target = FaultyTarget::new(Arc::new(target.clone()), broken);
    let error = engine(&store).cancel_restore(cancel).await.unwrap_err();
    assert!(error.to_string().contains("is cancelled, but"), "{error}");
    assert_eq!(wait(handle).await.unwrap(), Outcome::Cancelled);
    assert_clean(&target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_could_not_clean_up_is_repeated() {
    let (destination, source, keys) = (MemoryDestination::default(), source(), key());
    let mut sealed = request(&source, &destination);
    sealed.keys = Some(keys.clone());
    let archive = back_up(sealed).await;
    let (store, target) = (MemoryStore::new(), MemoryTarget::default());
    let (_, id, handle) = begun(&store, &destination, &archive, &target, Some(keys.clone())).await;
    drop(handle);
    let elsewhere = cancel_of(&id, &destination, &MemoryTarget::new("elsewhere"));
    assert_eq!(engine(&store).cancel_restore(elsewhere).await.unwrap_err().class(), ErrorClass::Invalid);
    assert_ne!(operation(&store, &id).await.state, State::Cancelled);
    // Nobody knows without the key where something may be staged.
    let error = engine(&store).cancel_restore(cancel_of(&id, &destination, &target)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized);
    assert_eq!((operation(&store, &id).await.state, target.staged().len()), (State::Cancelled, 1));
    let mut with_key = cancel_of(&id, &destination, &target);
    with_key.open = opening(Some(keys));
    engine(&store).cancel_restore(with_key).await.unwrap();
    assert_clean(&target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_a_backup_goes_on_where_the_one_before_broke_off() {
    let source = source();
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle = engine(&store).backup(request(&slow(&source), &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("some volumes are there", || objects(&destination, &archive).len() > 4).await;
    handle.pause();
    wait(handle).await.unwrap();
    let script = Script::new().rule(Rule::new(Method::Delete, When::From(4), Fault::Fail(ErrorClass::Permanent)));
    let broken = FaultyDestination::new(Arc::new(destination.clone()), script);
    engine(&store).cancel_backup(&id, &broken).await.unwrap_err();
    assert_eq!(operation(&store, &id).await.state, State::Cancelled);
    assert_ne!(objects(&destination, &archive), []);
    // A fault that passes is not even seen.
    let passing = Script::new().rule(Rule::new(Method::Delete, When::First(2), Fault::Fail(ErrorClass::Transient)));
    let shaky = FaultyDestination::new(Arc::new(destination.clone()), passing);
    engine(&store).cancel_backup(&id, &shaky).await.unwrap();
    assert_eq!(objects(&destination, &archive), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_not_seen_outside_of_operations_either() {
    let (destination, source) = (MemoryDestination::default(), source());
    let archive = back_up(request(&source, &destination)).await;
    let shaky = |method| {
        let fault = Rule::new(method, When::Nth(1), Fault::Fail(ErrorClass::Transient));
        FaultyDestination::new(Arc::new(destination.clone()), Script::new().rule(fault))
    };
    for method in [Method::ListRoots, Method::Get, Method::Stat] {
        assert_eq!(list_archives(&shaky(method), None, None).await.unwrap().len(), 1, "{method:?}");
        assert_eq!(find_archive(&shaky(method), "latest").await.unwrap(), archive, "{method:?}");
    }
    delete_archive(&shaky(Method::Delete), None, &archive).await.unwrap();
    assert_eq!(destination.names(), Vec::<String>::new());
}

/// A target warns of what it cannot put back; a pause must not lose that, and a resume must not tell it twice.
#[tokio::test(flavor = "multi_thread")]
async fn warnings_of_the_target_outlive_its_process() {
    let (destination, source) = (MemoryDestination::default(), source());
    let archive = back_up(request(&source, &destination)).await;
    for skip_verify in [false, true] {
        let store = MemoryStore::new();
        let target = MemoryTarget::default().warning_of("a").warning_of("z");
        let stall = Fault::Stall { after: 5 * MIB };
        let script = Script::new().rule(Rule::new(Method::WriteLarge, When::Always, stall));
        let mut request = restore_request(&destination, &archive, &target, None);
        request.options.skip_verify = skip_verify;
        request.target = FaultyTarget::new(Arc::new(target.clone()), script);
        let handle = engine(&store).restore(request).await.unwrap();
        let id = handle.id().clone();
        until("it stands in the large entry", || !target.staged().is_empty()).await;
        handle.pause();
        wait(handle).await.unwrap();
        // The warnings that the first process had not given out are lost with it.
        backup_core::adapter::RestoreTarget::take_warnings(&target);
        let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
        match wait(engine(&store).resume_restore(resume).await.unwrap()).await.unwrap() {
            Outcome::Completed { warnings, progress } => assert_eq!((warnings, progress.warnings), (2, 2)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_archives_begun_in_one_second_the_last_one_is_the_latest() {
    let (destination, source) = (MemoryDestination::default(), Arc::new(MemorySource::new("s").file("a", "a")));
    let place: Arc<dyn Destination> = Arc::new(destination.clone());
    let mut made = Vec::new();
    for n in 0..12 {
        let mut request = request(&source, &destination);
        request.name = ["even", "odd"][n % 2].into();
        made.push(back_up(request).await);
        assert_eq!(find_archive(&place, "latest").await.unwrap(), made[n]);
    }
    assert_eq!(find_archive(&place, "even").await.unwrap(), made[10]);
    assert_eq!(find_archive(&place, "odd").await.unwrap(), made[11]);
    let listed: Vec<_> = list_archives(&place, None, None).await.unwrap().into_iter().map(|a| a.id).collect();
    assert_eq!(listed, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_found_although_several_ids_begin_so_and_latest_is_no_name() {
    let (destination, source) = (MemoryDestination::default(), Arc::new(MemorySource::new("s").file("a", "a")));
    let place: Arc<dyn Destination> = Arc::new(destination.clone());
    let named = |name: &str| {
        let mut request = request(&source, &destination);
        request.name = name.into();
        request
    };
    let mut archives = Vec::new();
    for name in ["2", "other"] {
        archives.push(back_up(named(name)).await);
    }
    assert_eq!(find_archive(&place, "2").await.unwrap(), archives[0]);
    for id in &archives {
        assert_eq!(find_archive(&place, id.as_str()).await.unwrap(), *id);
    }
    // All of them begin so, and none is named so.
    let error = find_archive(&place, &archives[0].as_str()[..4]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    assert!(archives.iter().all(|id| error.to_string().contains(id.as_str())), "{error}");
    assert_eq!(find_archive(&place, "").await.unwrap_err().class(), ErrorClass::Invalid);
    let (error, objects) =
        (engine(&MemoryStore::new()).backup(named("latest")).await.unwrap_err(), destination.names());
    assert_eq!(error.class(), ErrorClass::Invalid);
    assert_eq!(list_archives(&place, None, None).await.unwrap().len(), 2, "{objects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_archive_is_gone_is_cancelled_and_says_what_may_be_left() {
    let (destination, source) = (MemoryDestination::default(), source());
    let archive = back_up(request(&source, &destination)).await;
    let (store, target) = (MemoryStore::new(), MemoryTarget::default());
    let (_, id, handle) = begun(&store, &destination, &archive, &target, None).await;
    drop(handle);
    delete_archive(&Arc::new(destination.clone()), None, &archive).await.unwrap();
    let error = engine(&store).cancel_restore(cancel_of(&id, &destination, &target)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert!(error.to_string().contains(&format!(".backup-tmp-{id}")), "{error}");
    assert_eq!(operation(&store, &id).await.state, State::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_in_the_making_is_not_deleted_however_many_operations_came_after() {
    let (destination, source) = (MemoryDestination::default(), source());
    let store = MemoryStore::new();
    let handle = engine(&store).backup(request(&slow(&source), &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("some volumes are there", || objects(&destination, &archive).len() > 2).await;
    handle.pause();
    wait(handle).await.unwrap();
    let like = operation(&store, &id).await.new;
    for n in 0..10_050 {
        let later = format!("29990101T000000Z-{n:08x}").parse().unwrap();
        let other = backup_core::model::ArchiveId::generate(jiff::Timestamp::now());
        let new = backup_core::model::NewOperation { id: later, archive: other, ..like.clone() };
        store.create(new, None).await.unwrap();
    }
    let error = delete_archive(&Arc::new(destination.clone()), Some(&store), &archive).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert!(error.to_string().contains(id.as_str()), "{error}");
    assert_ne!(objects(&destination, &archive), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_means_one_archive_by_its_id_and_another_by_its_name_is_refused() {
    let (destination, source) = (MemoryDestination::default(), Arc::new(MemorySource::new("s").file("a", "a")));
    let place: Arc<dyn Destination> = Arc::new(destination.clone());
    let first = back_up(request(&source, &destination)).await;
    let beginning = first.as_str()[..first.as_str().len() - 1].to_owned();
    assert_eq!(find_archive(&place, &beginning).await.unwrap(), first);
    let mut archives = Vec::new();
    for name in [beginning.as_str(), first.as_str()] {
        let mut request = request(&source, &destination);
        request.name = name.into();
        archives.push(back_up(request).await);
    }
    let error = find_archive(&place, &beginning).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    assert!(
        error.to_string().contains(archives[0].as_str()) && error.to_string().contains("use the whole id"),
        "{error}"
    );
    assert_eq!(find_archive(&place, first.as_str()).await.unwrap(), first, "a whole id is no beginning");
}
