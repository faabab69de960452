//! What a worker cannot go on with, is not to begin, or leaves when it stops: others get it, and nothing fails by it.

use crate::common::{PASSWORD, Place, as_process};
use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::archive::{KeyFileProvider, KeyProvider, generate_key_file};
use backup_core::engine::EngineOptions;
use backup_core::local::LocalAdapter;
use backup_core::model::{
    ArchiveId, ClaimOver, ClaimRequest, ConnectionId, Fence, Guard, Identity, LogLevel, LogQuery, LogRecord,
    NewOperation, OperationConnections, OperationId, OperationKind, Request, Transition,
};
use backup_core::service::{BackupService, NewBackup, NewConnection, WorkerOptions};
use backup_core::state::{Event, PauseReason, State};
use backup_testkit::Method;
use backup_testkit::faulty::{Fault, FaultyStore, Rule, Script, When};
use futures::TryStreamExt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

const COMPLETED: State = State::Completed { warnings: 0 };

fn faulty(place: &Place, rule: Rule) -> (Arc<FaultyStore>, Script) {
    let script = Script::new().rule(rule);
    (FaultyStore::new(Arc::new(place.store.clone()), script.clone()), script)
}

/// Waits until something of an operation holds.
async fn until(place: &Place, id: &OperationId, what: &str, holds: impl Fn(&backup_core::model::Operation) -> bool) {
    let start = Instant::now();
    loop {
        let now = place.store.get(id).await.unwrap().unwrap();
        if holds(&now) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn warnings(place: &Place, id: &OperationId) -> Vec<String> {
    let query = LogQuery { min_level: LogLevel::Warning, ..LogQuery::default() };
    let page = place.store.page_log(id, &query).await.unwrap();
    page.records.into_iter().map(|stored| stored.record.message).collect()
}

fn key() -> Arc<dyn KeyProvider> {
    Arc::new(KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap())
}

/// An operation whose worker died between the two steps of its commit, with a pause that was asked for just before.
async fn committing(place: &Place, keys: Option<Arc<dyn KeyProvider>>) -> (OperationId, ConnectionId, ConnectionId) {
    let hold = |event: &str, fault| Rule::new(Method::Transition, When::Always, fault).about(event);
    let (store, script) = faulty(place, hold(" commit", Fault::Delay(Duration::from_millis(500))));
    script.add(hold(" complete", Fault::Hang));
    let mut builder = place.builder_on(store).engine(as_process(1)).without_worker();
    if let Some(keys) = keys {
        builder = builder.archive_keys(keys);
    }
    let service = builder.build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    let id = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    let handle = service.run_now(&id, Default::default(), false).await.unwrap().unwrap();
    while script.fired().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    place.store.request(&id, Request::Pause).await.unwrap();
    until(place, &id, "it is completing", |now| now.state == State::Committing).await;
    drop(handle);
    place.store.advance(Duration::from_secs(3));
    (id, docs, disk)
}

#[tokio::test]
async fn what_is_completing_does_not_pause_any_more() {
    let place = Place::new();
    let (id, ..) = committing(&place, None).await;
    // Its lease is renewed before its adapters are there.
    let (store, _) =
        faulty(&place, Rule::new(Method::Connection, When::Always, Fault::Delay(Duration::from_millis(800))));
    let worker = place.builder_on(store).engine(as_process(2)).build().unwrap();
    until(&place, &id, "it is completed", |now| now.state == COMPLETED).await;
    assert_eq!(worker.operation(&id).await.unwrap().attempt, 2);
}

#[tokio::test]
async fn a_worker_that_stops_while_it_prepares_to_complete_gives_the_operation_back() {
    let place = Place::new();
    let (id, ..) = committing(&place, None).await;
    let (store, script) = faulty(&place, Rule::new(Method::Connection, When::Always, Fault::Hang));
    let options = EngineOptions { lease: Duration::from_secs(600), ..as_process(2) };
    let first = place.builder_on(store).engine(options).build().unwrap();
    while script.fired().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.shutdown().await;
    let left = place.store.get(&id).await.unwrap().unwrap();
    assert_eq!((left.state, left.lease_running), (State::Committing, false));
    let done = place.builder().engine(as_process(3)).build().unwrap().wait(&id).await.unwrap();
    assert_eq!((done.state, done.attempt), (COMPLETED, 3));
}

#[tokio::test]
async fn a_worker_without_the_key_leaves_a_sealed_archive_to_be_completed_by_others() {
    for other_key in [false, true] {
        let place = Place::new();
        let keys = key();
        let (id, ..) = committing(&place, Some(keys.clone())).await;
        let mut builder = place.builder().engine(as_process(2));
        if other_key {
            builder = builder.archive_keys(key());
        }
        let plain = builder.build().unwrap();
        until(&place, &id, "it was tried twice", |now| now.attempt >= 3).await;
        until(&place, &id, "it is free again", |now| !now.lease_running).await;
        assert_eq!(place.store.get(&id).await.unwrap().unwrap().state, State::Committing);
        let told = warnings(&place, &id).await;
        assert!(told.iter().all(|text| text.contains("left to")) && !told.is_empty(), "{told:?}");
        assert!(other_key || told.len() == 1, "{told:?}");
        plain.shutdown().await;
        let able = place.builder().engine(as_process(3)).archive_keys(keys).build().unwrap();
        assert_eq!(able.wait(&id).await.unwrap().state, COMPLETED);
    }
}

#[tokio::test]
async fn what_a_newer_version_made_is_left_to_others() {
    let place = Place::new();
    let service = place.builder().engine(as_process(1)).build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    let now = jiff::Timestamp::now();
    let new = NewOperation {
        id: OperationId::generate(now),
        kind: OperationKind::Backup,
        name: String::new(),
        source: Identity::new("local", "/a"),
        destination: Identity::new("local", "/b"),
        archive: ArchiveId::generate(now),
        spec: serde_json::json!({ "service": "mirror", "options": null }),
        connections: Some(OperationConnections { source: docs.clone(), destination: disk.clone() }),
        created_by: String::new(),
    };
    let id = place.store.create(new, None).await.unwrap().new.id;
    until(&place, &id, "it was tried twice", |now| now.attempt >= 2).await;
    until(&place, &id, "it is free again", |now| !now.lease_running).await;
    let now = place.store.get(&id).await.unwrap().unwrap();
    assert!(matches!(now.state, State::Pending | State::Running), "{now:?}");
    let told = warnings(&place, &id).await;
    assert!(told.len() == 1 && told[0].contains("by a newer version"), "{told:?}");
    // What waits behind it goes on.
    let own = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    assert_eq!(service.wait(&own).await.unwrap().state, COMPLETED);
}

#[tokio::test]
async fn a_pause_that_cannot_be_seen_to_keeps_nothing_waiting() {
    let place = Place::new();
    let (store, _) =
        faulty(&place, Rule::new(Method::Transition, When::Always, Fault::Fail(ErrorClass::Permanent)).about(" pause"));
    let creator = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&creator).await;
    let orphan = creator.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    let mut dead = EngineOptions::default().holder;
    dead.started += 1;
    let claim = ClaimRequest { holder: dead, lease: Duration::from_secs(600), over: ClaimOver::Nobody };
    place.store.claim(&orphan, claim).await.unwrap();
    place.store.request(&orphan, Request::Pause).await.unwrap();
    let behind = creator.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    let options = WorkerOptions { look_every: Duration::from_secs(3600), ..WorkerOptions::default() };
    let worker = place.builder_on(store).engine(as_process(1)).worker(options).build().unwrap();
    // Soon: not only when the worker looks again after an error.
    let done = until(&place, &behind, "it is completed", |now| now.state == COMPLETED);
    tokio::time::timeout(Duration::from_secs(5), done).await.unwrap();
    drop(worker);
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_fails_nothing() {
    let place = Place::new();
    let creator = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&creator).await;
    let id = creator.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    let (store, script) =
        faulty(&place, Rule::new(Method::Connection, When::Always, Fault::Fail(ErrorClass::Transient)));
    let worker = place.builder_on(store).engine(as_process(1)).build().unwrap();
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(worker.operation(&id).await.unwrap().state, State::Running);
    script.clear();
    let done = worker.wait(&id).await.unwrap();
    assert_eq!((done.state, done.attempt), (COMPLETED, 1));
}

#[tokio::test]
async fn a_log_is_followed_through_a_resume() {
    let place = Place::new();
    let service = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    let id = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    pause(&place, &id).await;
    service.resume(&id).await.unwrap();
    let followed = tokio::spawn(service.follow_log(&id, LogQuery::default()).try_collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let worker = place.builder().engine(as_process(2)).build().unwrap();
    let steps: Vec<_> = followed.await.unwrap().unwrap().into_iter().map(|stored| stored.record.step).collect();
    assert_eq!(steps.last().map(String::as_str), Some("done"), "{steps:?}");
    drop(worker);
}

async fn pause(place: &Place, id: &OperationId) {
    let claim = ClaimRequest { holder: as_process(9).holder, lease: Duration::from_secs(60), over: ClaimOver::Nobody };
    let fence: Fence = place.store.claim(id, claim).await.unwrap().fence;
    let event = Event::Pause { reason: PauseReason::Requested, resume_at: None };
    let log = LogRecord::info("pause", "paused");
    place.store.transition(Transition::new(id.clone(), Guard::Fence(fence), event, log)).await.unwrap();
}

#[tokio::test]
async fn what_is_asked_to_go_on_is_told_of_once_too_whatever_fails_meanwhile() {
    let place = Place::new();
    let creator = place.builder().without_worker().build().unwrap();
    let (_, disk) = place.connect(&creator).await;
    let vault = NewConnection::new("vault", "vault", place.vault("docs", PASSWORD));
    let vault = creator.create_connection(vault).await.unwrap().id;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(creator.backup(NewBackup::new(&vault, &disk)).await.unwrap().new.id);
    }
    pause(&place, &ids[0]).await;
    creator.resume(&ids[0]).await.unwrap();
    // One that nobody asked to go on waits for nobody.
    pause(&place, &ids[1]).await;
    let (store, script) =
        faulty(&place, Rule::new(Method::AppendLog, When::Nth(2), Fault::Fail(ErrorClass::Permanent)));
    let options = WorkerOptions { look_every: Duration::from_millis(20), ..WorkerOptions::default() };
    let bare = BackupService::builder(store).keys(place.ring.clone()).adapter(LocalAdapter);
    let worker = bare.worker(options).engine(as_process(1)).build().unwrap();
    let start = Instant::now();
    while warnings(&place, &ids[0]).await.is_empty() || warnings(&place, &ids[2]).await.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "it is not said why it waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let told = [warnings(&place, &ids[0]).await, warnings(&place, &ids[1]).await, warnings(&place, &ids[2]).await];
    assert_eq!(told.each_ref().map(Vec::len), [1, 0, 1], "{told:?}");
    assert_eq!(script.fired().len(), 1);
    worker.shutdown().await;
}

#[tokio::test]
async fn whoever_asks_for_the_shutdown_waits_until_it_is_done() {
    let place = Place::new();
    place.large(8 << 20);
    let delay = Fault::Delay(Duration::from_millis(700));
    let (store, _) = faulty(&place, Rule::new(Method::Transition, When::Always, delay).about("handed over"));
    let worker = place.builder_on(store).engine(as_process(1)).build().unwrap();
    let (docs, disk) = place.connect(&worker).await;
    let slow = NewBackup { limit_read: NonZeroU64::new(1 << 20), ..NewBackup::new(&docs, &disk) };
    let id = worker.backup(slow).await.unwrap().new.id;
    until(&place, &id, "it runs", |now| now.state == State::Running).await;
    let first = tokio::spawn({
        let worker = worker.clone();
        async move { worker.shutdown().await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    worker.shutdown().await;
    assert_eq!(worker.operation(&id).await.unwrap().state, State::Pending);
    first.await.unwrap();
    // Nothing is left to wait for.
    worker.shutdown().await;
}
