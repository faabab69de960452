//! Workers: hand-over, orphans, limits, events.

use crate::common::{PASSWORD, Place, VaultAdapter, as_process, ring};
use backup_core::ErrorClass;
use backup_core::adapter::{LogSink, Store};
use backup_core::local::LocalAdapter;
use backup_core::model::{LogLevel, LogQuery, LogRecord, OperationId};
use backup_core::secrets::FileKeys;
use backup_core::service::{BackupService, NewBackup, NewConnection, ServiceEvent, WorkerOptions};
use backup_core::state::State;
use backup_testkit::Method;
use backup_testkit::faulty::{Fault, FaultyStore, Rule, Script, When};
use backup_testkit::record::{Recorder, RecordingStore};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const COMPLETED: State = State::Completed { warnings: 0 };

async fn until(service: &backup_core::service::BackupService, id: &OperationId, state: &str) {
    let start = Instant::now();
    while service.operation(id).await.unwrap().state.name() != state {
        assert!(start.elapsed() < Duration::from_secs(20), "the operation does not become {state}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_worker_that_shuts_down_hands_over() {
    let place = Place::new();
    place.large(8 << 20);
    let first = place.builder().engine(as_process(1)).build().unwrap();
    let (docs, disk) = place.connect(&first).await;
    let slow = NewBackup { limit_read: NonZeroU64::new(1 << 20), ..NewBackup::new(&docs, &disk) };
    let id = first.backup(slow).await.unwrap().new.id;
    until(&first, &id, "running").await;
    first.shutdown().await;
    assert_eq!(first.operation(&id).await.unwrap().state, State::Pending);
    let second = place.builder().engine(as_process(2)).build().unwrap();
    second.set_limits(&id, None, None);
    let done = second.wait(&id).await.unwrap();
    assert_eq!((done.state, done.attempt), (COMPLETED, 2));
    // After its shutdown a service still answers.
    assert_eq!(first.operation(&id).await.unwrap().state, COMPLETED);
}

#[tokio::test]
async fn dropping_the_last_handle_hands_over_too() {
    let place = Place::new();
    place.large(8 << 20);
    let first = place.builder().engine(as_process(1)).build().unwrap();
    let (docs, disk) = place.connect(&first).await;
    let slow = NewBackup { limit_read: NonZeroU64::new(1 << 20), ..NewBackup::new(&docs, &disk) };
    let id = first.backup(slow).await.unwrap().new.id;
    until(&first, &id, "running").await;
    let clone = first.clone();
    drop(first);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(clone.operation(&id).await.unwrap().state, State::Running);
    drop(clone);
    let watcher = place.builder().without_worker().build().unwrap();
    until(&watcher, &id, "pending").await;
}

#[tokio::test]
async fn what_a_worker_left_whose_lease_ran_out_is_continued_once() {
    let place = Place::new();
    let creator = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&creator).await;
    let id = creator.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    // A worker of another host that is never heard of again.
    let lost = place.builder().engine(as_process(1)).without_worker().build().unwrap();
    let handle = lost.run_now(&id, Default::default(), false).await.unwrap().unwrap();
    drop(handle);
    assert!(lost.run_now(&id, Default::default(), false).await.unwrap().is_none(), "its lease still runs");
    let worker = place.builder().engine(as_process(2)).build().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(worker.operation(&id).await.unwrap().attempt, 1, "the lease still runs");
    place.store.advance(Duration::from_secs(3));
    let done = worker.wait(&id).await.unwrap();
    assert_eq!((done.state, done.attempt), (COMPLETED, 2));
}

#[tokio::test]
async fn a_pause_reaches_a_worker_elsewhere_within_two_seconds() {
    let place = Place::new();
    place.large(8 << 20);
    let worker = place.builder().engine(as_process(1)).build().unwrap();
    let (docs, disk) = place.connect(&worker).await;
    let slow = NewBackup { limit_read: NonZeroU64::new(2 << 20), ..NewBackup::new(&docs, &disk) };
    let elsewhere = place.builder().without_worker().build().unwrap();
    let id = elsewhere.backup(slow).await.unwrap().new.id;
    until(&elsewhere, &id, "running").await;
    let mut events = worker.events();
    elsewhere.pause(&id).await.unwrap();
    let asked = Instant::now();
    loop {
        if place.store.get(&id).await.unwrap().unwrap().request.is_none() {
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "the pause is not seen to");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until(&elsewhere, &id, "paused").await;
    let ended = async { while !matches!(events.recv().await, Ok(ServiceEvent::Ended(ended)) if ended == id) {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
}

#[tokio::test]
async fn a_cancel_reaches_a_worker_elsewhere_within_two_seconds() {
    let place = Place::new();
    place.large(8 << 20);
    let worker = place.builder().engine(as_process(1)).build().unwrap();
    let (docs, disk) = place.connect(&worker).await;
    let slow = NewBackup { limit_read: NonZeroU64::new(1 << 20), ..NewBackup::new(&docs, &disk) };
    let elsewhere = place.builder().without_worker().build().unwrap();
    let id = elsewhere.backup(slow).await.unwrap().new.id;
    until(&elsewhere, &id, "running").await;
    let mut events = worker.events();
    let asked = Instant::now();
    elsewhere.cancel(&id).await.unwrap();
    let ended = async { while !matches!(events.recv().await, Ok(ServiceEvent::Ended(ended)) if ended == id) {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(elsewhere.archives(&disk).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_has_no_more_operations_at_once_than_allowed() {
    let place = Place::new();
    place.large(2 << 20);
    let options = WorkerOptions { parallel: 3, per_connection: 1, look_every: Duration::from_millis(20) };
    let service = place.builder().worker(options).build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let slow = NewBackup { limit_read: NonZeroU64::new(4 << 20), ..NewBackup::new(&docs, &disk) };
        ids.push(service.backup(slow).await.unwrap().new.id);
    }
    let mut most = 0;
    loop {
        let mut running = 0;
        let mut done = 0;
        for id in &ids {
            match service.operation(id).await.unwrap().state.name() {
                "running" | "committing" => running += 1,
                "completed" => done += 1,
                _ => {}
            }
        }
        most = most.max(running);
        if done == ids.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(most, 1);
}

#[tokio::test]
async fn an_idle_worker_asks_one_question_a_second() {
    let place = Place::new();
    let recorder = Recorder::new();
    let store = RecordingStore::new(Arc::new(place.store.clone()), recorder.clone());
    let worker = place.builder_on(store).worker(WorkerOptions::default()).build().unwrap();
    tokio::time::sleep(Duration::from_millis(3200)).await;
    worker.shutdown().await;
    assert!(recorder.count(Method::ClaimNext).calls <= 4, "{recorder:?}");
    // At the start, and every 15 seconds: for what dead processes of this host left, and for what it leaves to others.
    assert!(recorder.count(Method::Query).calls <= 2, "{recorder:?}");
    let all: u64 =
        [Method::Get, Method::Claim, Method::Renew, Method::Totals].map(|m| recorder.count(m).calls).iter().sum();
    assert_eq!(all, 0, "{recorder:?}");
}

/// The warnings in the log of an operation that nobody has begun.
async fn left(place: &Place, id: &OperationId) -> Vec<String> {
    let query = LogQuery { min_level: LogLevel::Warning, ..LogQuery::default() };
    let page = place.store.page_log(id, &query).await.unwrap();
    page.records.into_iter().map(|stored| stored.record.message).collect()
}

#[tokio::test]
async fn a_worker_leaves_what_it_cannot_run_to_others_and_says_so_once() {
    let place = Place::new();
    let creator = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&creator).await;
    let vault = NewConnection::new("vault", "vault", place.vault("docs", PASSWORD));
    let vault = creator.create_connection(vault).await.unwrap();
    let foreign = creator.backup(NewBackup::new(&vault.id, &disk)).await.unwrap().new.id;

    let options = WorkerOptions { look_every: Duration::from_millis(20), ..WorkerOptions::default() };
    let bare = |keys| BackupService::builder(Arc::new(place.store.clone())).keys(keys).adapter(LocalAdapter);
    let no_adapter = bare(place.ring.clone()).worker(options.clone()).engine(as_process(1)).build().unwrap();
    let no_key = bare(ring()).adapter(VaultAdapter).worker(options.clone()).engine(as_process(2)).build().unwrap();
    let no_keys = BackupService::builder(Arc::new(place.store.clone()))
        .keys(FileKeys::new("/no/such/keys"))
        .adapter(LocalAdapter)
        .adapter(VaultAdapter)
        .worker(options)
        .engine(as_process(3));
    let no_keys = no_keys.build().unwrap();
    // What is due behind it does not wait for it, whoever takes it.
    for _ in 0..3 {
        let own = creator.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
        let done = creator.wait(&own).await.unwrap();
        assert_eq!((done.state, done.attempt), (COMPLETED, 1));
    }
    let start = Instant::now();
    while left(&place, &foreign).await.len() < 3 {
        assert!(start.elapsed() < Duration::from_secs(20), "it is not said why it waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(900)).await;
    let told = left(&place, &foreign).await.join("\n");
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.contains("it is of kind vault; this program has adapters for local"), "{told}");
    assert_eq!(told.matches("under a key that is not among those given").count(), 2, "{told}");
    for (service, class) in [(&no_adapter, ErrorClass::Unsupported), (&no_key, ErrorClass::Unauthorized)] {
        let refused = service.run_now(&foreign, Default::default(), false).await.unwrap_err();
        assert_eq!(refused.class(), class, "{}", refused.chain());
    }
    let waits = creator.operation(&foreign).await.unwrap();
    assert_eq!((waits.state, waits.attempt), (State::Pending, 0));

    let able = place.builder().engine(as_process(4)).build().unwrap();
    let done = able.wait(&foreign).await.unwrap();
    assert_eq!((done.state, done.attempt), (COMPLETED, 1));
    for service in [no_adapter, no_key, no_keys] {
        service.shutdown().await;
    }
}

#[tokio::test]
async fn log_records_whose_answer_got_lost_are_not_doubled() {
    let place = Place::new();
    let rule = Rule::new(Method::AppendLog, When::Every(2), Fault::LostReply(ErrorClass::Transient));
    let script = Script::new().rule(rule);
    let kept = Arc::new(Kept::default());
    let faulty = FaultyStore::new(Arc::new(place.store.clone()), script.clone());
    let service = place.builder_on(faulty).log_sink(kept.clone()).build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    for _ in 0..2 {
        let id = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
        service.wait(&id).await.unwrap();
        let query = LogQuery { min_level: LogLevel::Debug, ..LogQuery::default() };
        let page = place.store.page_log(&id, &query).await.unwrap();
        let stored: Vec<_> = page.records.into_iter().map(|stored| stored.record.message).collect();
        let told: Vec<_> = kept.0.lock().unwrap().drain(..).map(|(_, record)| record.message).collect();
        // What created and claimed it stands in the store alone.
        assert_eq!(stored[2..], told);
    }
    assert!(!script.fired().is_empty());
}

#[derive(Debug, Default)]
struct Kept(Mutex<Vec<(OperationId, LogRecord)>>);

impl LogSink for Kept {
    fn record(&self, operation: &OperationId, record: &LogRecord) {
        self.0.lock().unwrap().push((operation.clone(), record.clone()));
    }
}

#[tokio::test]
async fn sinks_and_events_tell_what_the_store_is_told() {
    let place = Place::new();
    let kept = Arc::new(Kept::default());
    let service = place.builder().log_sink(kept.clone()).build().unwrap();
    let mut events = service.events();
    let (docs, disk) = place.connect(&service).await;
    let id = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    service.wait(&id).await.unwrap();
    let mut told = Vec::new();
    let mut started = 0;
    loop {
        match events.recv().await.unwrap() {
            ServiceEvent::Started(operation) => started += usize::from(operation.new.id == id),
            ServiceEvent::Log { operation, record } => told.push((operation, record)),
            ServiceEvent::Ended(ended) => {
                assert_eq!(ended, id);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(started, 1);
    assert_eq!(*kept.0.lock().unwrap(), told);
    let steps: Vec<&str> = told.iter().map(|(_, record)| record.step.as_str()).collect();
    assert!(steps.contains(&"connect") && steps.last() == Some(&"done"), "{steps:?}");
}

#[tokio::test]
async fn options_that_cannot_work_are_refused() {
    let place = Place::new();
    let with = |options| place.builder().worker(options).build();
    for options in [
        WorkerOptions { parallel: 0, ..WorkerOptions::default() },
        WorkerOptions { parallel: 257, ..WorkerOptions::default() },
        WorkerOptions { per_connection: 0, ..WorkerOptions::default() },
        WorkerOptions { look_every: Duration::ZERO, ..WorkerOptions::default() },
        // 192 MiB for four.
        WorkerOptions { parallel: 4, ..WorkerOptions::default() },
    ] {
        assert!(with(options.clone()).is_err(), "{options:?}");
    }
    with(WorkerOptions { parallel: 3, ..WorkerOptions::default() }).unwrap();
}

#[tokio::test]
async fn a_change_of_state_survives_a_passing_fault_of_the_store() {
    for event in ["commit", "complete", "handed over"] {
        for fault in [Fault::Fail(ErrorClass::Transient), Fault::LostReply(ErrorClass::Transient)] {
            let place = Place::new();
            place.large(4 << 20);
            let rule = Rule::new(Method::Transition, When::Nth(1), fault).about(event);
            let script = Script::new().rule(rule);
            let faulty = FaultyStore::new(Arc::new(place.store.clone()), script.clone());
            let first = place.builder_on(faulty).engine(as_process(1)).build().unwrap();
            let (docs, disk) = place.connect(&first).await;
            let slow = NewBackup { limit_read: NonZeroU64::new(8 << 20), ..NewBackup::new(&docs, &disk) };
            let id = first.backup(slow).await.unwrap().new.id;
            until(&first, &id, "running").await;
            if event == "handed over" {
                first.shutdown().await;
                assert_eq!(first.operation(&id).await.unwrap().state, State::Pending, "{event} {fault:?}");
            } else {
                let done = first.wait(&id).await.unwrap();
                assert_eq!((done.state, done.attempt), (COMPLETED, 1), "{event} {fault:?}");
            }
            assert_eq!(script.fired().len(), 1, "{event} {fault:?}");
        }
    }
}
