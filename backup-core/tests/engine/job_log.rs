//! The job log loses nothing but debug records, whatever ends an attempt.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::adapter::Store;
use backup_core::engine::{Engine, Outcome};
use backup_core::memory::MemoryStore;
use backup_core::model::{LogLevel, LogQuery, OperationId};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource, MemoryTarget};
use backup_testkit::faulty::{Fault, FaultySource, FaultyStore, FaultyTarget, Rule, Script, When};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn source() -> Arc<MemorySource> {
    let source = MemorySource::new("s").file("a", "a").warning("w", "skipped: a socket");
    Arc::new(source.stored("large", Blob::pattern(1, 30 * MIB)).file("z", "z"))
}

fn slow(source: &Arc<MemorySource>) -> Arc<FaultySource> {
    let delay = Fault::Delay(Duration::from_millis(200));
    FaultySource::new(source.clone(), Script::new().rule(Rule::new(Method::Read, When::Always, delay)))
}

/// An engine whose store takes no log records until the script is cleared.
fn without_log(store: &MemoryStore) -> (Engine, Script) {
    let refuse = Rule::new(Method::AppendLog, When::Always, Fault::Fail(ErrorClass::Transient));
    let script = Script::new().rule(refuse);
    let faulty = FaultyStore::new(Arc::new(store.clone()), script.clone());
    (Engine::with_options(faulty, options(), Vec::new()), script)
}

/// How many records have this in their texts.
async fn told(store: &MemoryStore, id: &OperationId, text: &str) -> usize {
    let page = store.page_log(id, &LogQuery::default()).await.unwrap();
    page.records.iter().filter(|stored| stored.record.message.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_cancelled_still_writes_its_log() {
    let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
    let (engine_, script) = without_log(&store);
    let handle = engine_.backup(request(&slow(&source), &destination)).await.unwrap();
    let id = handle.id().clone();
    until("records wait", || !script.fired().is_empty()).await;
    engine(&store).cancel_backup(&id, &Arc::new(destination.clone())).await.unwrap();
    assert_eq!(told(&store, &id, "backing up").await, 0);
    let end = tokio::spawn(wait(handle));
    // The store comes back when the worker has heard of the cancel.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    script.clear();
    assert_eq!(end.await.unwrap().unwrap(), Outcome::Cancelled);
    assert_eq!(told(&store, &id, "backing up").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_taken_over_still_writes_its_log() {
    let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
    let (engine_, script) = without_log(&store);
    let handle = engine_.backup(request(&slow(&source), &destination)).await.unwrap();
    let id = handle.id().clone();
    until("records wait", || !script.fired().is_empty()).await;
    let resume = resume_request(&id, &source, Arc::new(destination.clone()));
    complete(engine(&store).resume_backup(resume).await.unwrap()).await;
    assert_eq!(told(&store, &id, "backing up").await, 1, "that of the successor");
    let end = tokio::spawn(wait(handle));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    script.clear();
    assert_eq!(end.await.unwrap().unwrap_err().class(), ErrorClass::Conflict);
    assert_eq!(told(&store, &id, "backing up").await, 2);
}

/// A store that never comes back does not keep a worker whose operation was cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn last_words_end_after_a_while() {
    let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
    let (engine_, _script) = without_log(&store);
    let handle = engine_.backup(request(&slow(&source), &destination)).await.unwrap();
    engine(&store).cancel_backup(handle.id(), &Arc::new(destination.clone())).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(15), wait(handle)).await.unwrap();
    assert_eq!(end.unwrap(), Outcome::Cancelled);
}

/// Whoever goes on from a checkpoint behind a warning does not warn again.
#[tokio::test(flavor = "multi_thread")]
async fn no_checkpoint_of_a_backup_is_ahead_of_the_log() {
    let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
    let (engine_, script) = without_log(&store);
    let handle = engine_.backup(request(&source, &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("volumes are stored", || objects(&destination, &archive).len() > 3 && !script.fired().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The process is killed.
    drop(handle);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(told(&store, &id, "skipped").await, 0);
    let resume = resume_request(&id, &source, Arc::new(destination.clone()));
    assert_eq!(complete(engine(&store).resume_backup(resume).await.unwrap()).await, 1);
    assert_eq!(told(&store, &id, "skipped").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_checkpoint_of_a_restore_is_ahead_of_the_log() {
    let source = Arc::new(MemorySource::new("s").file("a", "a").stored("large", Blob::pattern(1, 30 * MIB)));
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let archive = back_up(request(&source, &destination)).await;
    let target = MemoryTarget::default().warning_of("a");
    let stall = Rule::new(Method::WriteLarge, When::Always, Fault::Stall { after: 5 * MIB });
    let (engine_, script) = without_log(&store);
    let mut request = restore_request(&destination, &archive, &target, None);
    request.target = FaultyTarget::new(Arc::new(target.clone()), Script::new().rule(stall));
    let handle = engine_.restore(request).await.unwrap();
    let id = handle.id().clone();
    until("it stands in the large entry", || !target.staged().is_empty() && !script.fired().is_empty()).await;
    // Longer than the pause between two checkpoints.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    drop(handle);
    let resume = resume_restore_request(&id, Arc::new(destination.clone()), Arc::new(target.clone()));
    let outcome = wait(engine(&store).resume_restore(resume).await.unwrap()).await.unwrap();
    let Outcome::Completed { warnings, .. } = outcome else { panic!("{outcome:?}") };
    let query = LogQuery { min_level: LogLevel::Warning, ..LogQuery::default() };
    let logged = store.page_log(&id, &query).await.unwrap().records.len();
    assert_eq!(warnings, logged as u64, "a checkpoint counts what the log does not tell");
}
