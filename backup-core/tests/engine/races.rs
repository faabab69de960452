//! Races between workers, sweeps and cancels. Each ends in one complete archive or in none, never in a complete one with holes.

use crate::common::*;
use backup_core::adapter::Destination;
use backup_core::engine::{
    Archive, ArchiveStatus, Engine, EngineOptions, OpenOptions, OperationHandle, Outcome, SweepOptions, TakeOver,
    list_archives, sweep,
};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, ObjectName, OperationId};
use backup_core::state::State;
use backup_core::{Error, ErrorClass, Result};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, ManualClock, MemoryDestination, MemorySource};
use backup_testkit::faulty::{Fault, FaultyDestination, FaultyStore, Rule, Script, When};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const NOW: SweepOptions = SweepOptions { min_age: Duration::ZERO, dry_run: false };

fn source() -> Arc<MemorySource> {
    let mut source = MemorySource::new("s").file("a", "a");
    for n in 0..4 {
        source = source.stored(&format!("f{n}"), Blob::pattern(n, 700_000));
    }
    Arc::new(source.stored("large", Blob::pattern(9, 6 * MIB)).file("z", "z"))
}

/// A store and a destination that workers share, each by wrappers of its own.
struct World {
    store: MemoryStore,
    destination: MemoryDestination,
    source: Arc<MemorySource>,
}

/// A worker whose calls can be made to fail, wait or hang.
struct Worker {
    engine: Engine,
    destination: Arc<dyn Destination>,
    script: Script,
}

impl World {
    fn new() -> Self {
        Self { store: MemoryStore::new(), destination: MemoryDestination::default(), source: source() }
    }

    fn worker(&self, script: Script) -> Worker {
        self.worker_with(script, options())
    }

    fn worker_with(&self, script: Script, options: EngineOptions) -> Worker {
        let store = FaultyStore::new(Arc::new(self.store.clone()), script.clone());
        let destination = FaultyDestination::new(Arc::new(self.destination.clone()), script.clone());
        Worker { engine: Engine::with_options(store, options, Vec::new()), destination, script }
    }

    /// A worker that does not hear of its lease any more: a process that is suspended, for the time of its fault.
    fn stopped(&self, rule: Rule) -> Worker {
        self.worker(Script::new().rule(rule).rule(Rule::new(Method::Renew, When::Always, Fault::Hang)))
    }

    async fn start(&self, worker: &Worker) -> OperationHandle {
        let mut request = request(&self.source, &self.destination);
        request.destination = worker.destination.clone();
        worker.engine.backup(request).await.unwrap()
    }

    async fn resume(&self, worker: &Worker, id: &OperationId, take_over: TakeOver) -> Result<OperationHandle> {
        let mut request = resume_request(id, &self.source, worker.destination.clone());
        request.take_over = take_over;
        worker.engine.resume_backup(request).await
    }

    /// An operation that is paused in its middle.
    async fn paused(&self) -> (OperationId, ArchiveId) {
        let delay = Fault::Delay(Duration::from_millis(5));
        let slow = self.worker(Script::new().rule(Rule::new(Method::Put, When::Always, delay).about("/data/")));
        let handle = self.start(&slow).await;
        let ids = (handle.id().clone(), handle.archive().clone());
        until("some volumes are there", || slow.script.fired().len() > 3).await;
        handle.pause();
        assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { .. }));
        ids
    }

    async fn state(&self, id: &OperationId) -> State {
        operation(&self.store, id).await.state
    }

    async fn assert_complete(&self, archive: &ArchiveId) {
        assert_holds(&self.destination, archive, self.source.clone(), None).await;
    }

    /// Nothing that could be taken for a complete archive.
    async fn assert_none(&self, archive: &ArchiveId) {
        let opened = Archive::open(Arc::new(self.destination.clone()), archive, &OpenOptions::default()).await;
        assert!(opened.is_err(), "{opened:?}");
        let listed = list_archives(&Arc::new(self.destination.clone()), None, None).await.unwrap();
        assert!(listed.iter().all(|a| a.id != *archive || a.status != ArchiveStatus::Complete), "{listed:?}");
    }

    /// One complete archive, or none and the operation can be ended by a cancel.
    async fn assert_whole_or_none(&self, id: &OperationId, archive: &ArchiveId) {
        match self.state(id).await {
            State::Completed { .. } => self.assert_complete(archive).await,
            State::Cancelled => self.assert_none(archive).await,
            _ => {
                self.assert_none(archive).await;
                engine(&self.store).cancel_backup(id, &Arc::new(self.destination.clone())).await.unwrap();
                assert_eq!(objects(&self.destination, archive), []);
            }
        }
    }
}

fn put(about: &str, fault: Fault) -> Rule {
    Rule::new(Method::Put, When::Nth(1), fault).about(about)
}

const A_WHILE: Fault = Fault::Delay(Duration::from_millis(1500));

fn failed(outcome: Result<Outcome>) -> Error {
    match outcome {
        Err(error) => error,
        Ok(outcome) => panic!("{outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_before_the_manifest_finds_that_the_archive_was_swept() {
    let world = World::new();
    let worker = world.worker(Script::new().rule(put("manifest.json", A_WHILE)));
    let handle = world.start(&worker).await;
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("the manifest is about to be put", || !worker.script.fired().is_empty()).await;
    // A host with another store; it sweeps to the very end, its mark included.
    let report = sweep(&Arc::new(world.destination.clone()), &NOW).await.unwrap();
    assert_eq!(report.swept, std::slice::from_ref(&archive));
    assert_eq!(world.destination.names(), Vec::<String>::new());
    let error = failed(wait(handle).await);
    assert!(error.to_string().contains("swept"), "{error}");
    world.assert_none(&archive).await;
    // The manifest that lies there alone goes with the cancel, or with the next sweep.
    let copy = world.destination.snapshot();
    engine(&world.store).cancel_backup(&id, &Arc::new(world.destination.clone())).await.unwrap();
    assert!(matches!(world.state(&id).await, State::Cancelled));
    world.assert_none(&archive).await;
    assert_eq!(sweep(&Arc::new(copy.clone()), &NOW).await.unwrap().swept.len(), 1);
    assert_eq!(copy.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_before_the_manifest_finds_a_sweep_at_work() {
    for deletes in [false, true] {
        let world = World::new();
        let worker = world.worker(Script::new().rule(put("manifest.json", A_WHILE)));
        let handle = world.start(&worker).await;
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        until("the manifest is about to be put", || !worker.script.fired().is_empty()).await;
        // The sweep dies right after its mark, or after its first deletions.
        let nth = if deletes { 5 } else { 1 };
        let script = Script::new().rule(Rule::new(Method::Delete, When::From(nth), Fault::Hang));
        let dying = FaultyDestination::new(Arc::new(world.destination.clone()), script);
        assert!(tokio::time::timeout(Duration::from_millis(300), sweep(&dying, &NOW)).await.is_err());
        let error = failed(wait(handle).await);
        assert!(error.to_string().contains("swept"), "{error}");
        world.assert_none(&archive).await;
        engine(&world.store).cancel_backup(&id, &Arc::new(world.destination.clone())).await.unwrap();
        assert_eq!(objects(&world.destination, &archive), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_before_the_manifest_does_no_harm_when_its_successor_has_completed() {
    let world = World::new();
    let worker = world.stopped(put("manifest.json", A_WHILE));
    let handle = world.start(&worker).await;
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("the manifest is about to be put", || worker.script.fired().iter().any(|f| f.method == Method::Put)).await;
    let successor = world.worker(Script::new());
    complete(world.resume(&successor, &id, TakeOver::Now).await.unwrap()).await;
    // Complete archives are not swept.
    assert_eq!(sweep(&Arc::new(world.destination.clone()), &NOW).await.unwrap().swept, []);
    assert_eq!(failed(wait(handle).await).class(), ErrorClass::Conflict);
    assert!(matches!(world.state(&id).await, State::Completed { .. }));
    world.assert_complete(&archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_before_the_commit_wins() {
    let world = World::new();
    let hold = Rule::new(Method::Transition, When::Nth(1), Fault::Delay(Duration::from_millis(800))).about(" commit");
    let worker = world.worker(Script::new().rule(hold));
    let handle = world.start(&worker).await;
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("it is about to commit", || !worker.script.fired().is_empty()).await;
    engine(&world.store).cancel_backup(&id, &Arc::new(world.destination.clone())).await.unwrap();
    assert_eq!(wait(handle).await.unwrap(), Outcome::Cancelled);
    assert_eq!(world.state(&id).await, State::Cancelled);
    world.assert_none(&archive).await;
    assert_eq!(world.destination.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_after_the_commit_is_told_that_it_is_too_late() {
    let world = World::new();
    let worker = world.worker(Script::new().rule(put("manifest.json", A_WHILE)));
    let handle = world.start(&worker).await;
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("the manifest is about to be put", || !worker.script.fired().is_empty()).await;
    let error = engine(&world.store).cancel_backup(&id, &Arc::new(world.destination.clone())).await.unwrap_err();
    assert!(error.class() == ErrorClass::Conflict && error.to_string().contains("already completing"), "{error}");
    complete(handle).await;
    world.assert_complete(&archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_after_a_failed_commit_that_goes_on_is_too_late_as_well() {
    let world = World::new();
    let worker = world.worker(Script::new().rule(put("manifest.json", Fault::Fail(ErrorClass::NoSpace))));
    let handle = world.start(&worker).await;
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    assert_eq!(failed(wait(handle).await).class(), ErrorClass::NoSpace);
    assert!(
        matches!(world.state(&id).await, State::Failed { .. }),
        "completing cannot pause, but must not keep its lease"
    );
    let worker = world.worker(Script::new().rule(put("manifest.json", A_WHILE)));
    let handle = world.resume(&worker, &id, TakeOver::WhenFree).await.unwrap();
    until("the manifest is about to be put", || !worker.script.fired().is_empty()).await;
    let error = engine(&world.store).cancel_backup(&id, &Arc::new(world.destination.clone())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    complete(handle).await;
    world.assert_complete(&archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_any_moment_leaves_a_whole_archive_or_nothing() {
    let mut ends = [0, 0];
    for n in 0..40 {
        let world = World::new();
        let worker = world.worker(Script::new());
        let handle = world.start(&worker).await;
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        tokio::time::sleep(Duration::from_millis(n * 5)).await;
        let cancelled = engine(&world.store).cancel_backup(&id, &Arc::new(world.destination.clone())).await;
        let outcome = wait(handle).await.unwrap();
        match outcome {
            Outcome::Cancelled => {
                assert!(cancelled.is_ok());
                ends[0] += 1;
                assert_eq!(objects(&world.destination, &archive), [], "after {n}");
            }
            Outcome::Completed { .. } => {
                assert_eq!(cancelled.unwrap_err().class(), ErrorClass::Conflict);
                ends[1] += 1;
            }
            other => panic!("{other:?}"),
        }
        world.assert_whole_or_none(&id, &archive).await;
    }
    assert!(ends[0] > 0, "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_backup_that_another_host_swept_fails_cleanly() {
    let world = World::new();
    let (id, archive) = world.paused().await;
    // Thirty days are the default: a pause of a day is safe.
    assert_eq!(sweep(&Arc::new(world.destination.clone()), &SweepOptions::default()).await.unwrap().kept.len(), 1);
    let report = sweep(&Arc::new(world.destination.clone()), &NOW).await.unwrap();
    assert_eq!(report.swept.len(), 1);
    let error = failed(wait(world.resume(&world.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap()).await);
    assert!(error.to_string().contains("swept"), "{error}");
    assert_eq!(world.destination.names(), Vec::<String>::new(), "nothing is written into a swept archive");
    world.assert_whole_or_none(&id, &archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_while_the_backup_goes_on_makes_it_fail_or_is_too_late() {
    for n in 0..30 {
        let world = World::new();
        let (id, archive) = world.paused().await;
        let handle = world.resume(&world.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap();
        tokio::time::sleep(Duration::from_millis(n * 6)).await;
        let report = sweep(&Arc::new(world.destination.clone()), &NOW).await.unwrap();
        let outcome = wait(handle).await;
        match &outcome {
            Ok(Outcome::Completed { .. }) => assert_eq!(report.swept, [], "after {n}"),
            Err(_) => {}
            other => panic!("{other:?}"),
        }
        // A mark that was taken away again lets the operation go on.
        if outcome.is_err() && report.swept.is_empty() {
            complete(world.resume(&world.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap()).await;
        }
        world.assert_whole_or_none(&id, &archive).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_creation_and_the_claim_leaves_an_operation_that_goes_on() {
    let world = World::new();
    let worker = world.worker(Script::new().rule(Rule::new(Method::Claim, When::Always, Fault::Hang)));
    let started = tokio::time::timeout(Duration::from_millis(200), async { world.start(&worker).await.id().clone() });
    assert!(started.await.is_err());
    use backup_core::adapter::Store;
    let operation = world.store.query(&Default::default()).await.unwrap().remove(0);
    assert_eq!(operation.state, State::Pending);
    let worker = world.worker(Script::new());
    complete(world.resume(&worker, &operation.new.id, TakeOver::WhenFree).await.unwrap()).await;
    world.assert_complete(&operation.new.archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_header_and_the_first_checkpoint_puts_the_same_header_again() {
    for keys in [None, Some(key())] {
        let world = World::new();
        let worker = world.worker(Script::new().rule(put("/data/", Fault::Hang)));
        let mut request = request(&world.source, &world.destination);
        request.destination = worker.destination.clone();
        request.keys = keys.clone();
        let handle = worker.engine.backup(request).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        until("a volume is about to be put", || !worker.script.fired().is_empty()).await;
        drop(handle);
        // Its tasks end at their next step, not at once as those of a dead process.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let header = ObjectName::new(format!("{archive}/header.json")).unwrap();
        let before = world.destination.bytes(&header).unwrap();
        let mut resume = resume_request(&id, &world.source, Arc::new(world.destination.clone()));
        resume.keys = keys.clone();
        complete(engine(&world.store).resume_backup(resume).await.unwrap()).await;
        assert_eq!(world.destination.bytes(&header).unwrap(), before);
        assert_good(&world.destination, &archive, world.source.clone(), keys).await;
    }
}

/// The lease is over on the store's clock; the worker was stopped with a put on its way, and its successor takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_after_its_lease_changes_nothing() {
    for (about, nth) in [("/data/", 3), ("/data/", 9), ("/index/", 1), ("volumes.txt", 1), ("header.json", 1)] {
        let world = World::new();
        let rule = Rule::new(Method::Put, When::Nth(nth), A_WHILE).about(about);
        let script = Script::new().rule(rule).rule(Rule::new(Method::Renew, When::Always, Fault::Hang));
        let short = EngineOptions { lease: Duration::from_secs(1), ..options() };
        let stopped = world.worker_with(script, short);
        let handle = world.start(&stopped).await;
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        until("it is stopped", || stopped.script.fired().iter().any(|f| f.method == Method::Put)).await;
        world.store.advance(Duration::from_secs(2));
        let successor = world.worker(Script::new());
        complete(world.resume(&successor, &id, TakeOver::WhenFree).await.unwrap()).await;
        let error = failed(wait(handle).await);
        assert_eq!(error.class(), ErrorClass::Conflict, "{about} {error}");
        assert!(matches!(world.state(&id).await, State::Completed { .. }));
        world.assert_complete(&archive).await;
    }
}

/// The same with a worker that believes in its lease: the store refuses its checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_taken_over_cannot_save_a_checkpoint() {
    let world = World::new();
    let stopped = world.stopped(Rule::new(Method::Put, When::Nth(3), A_WHILE).about("/data/"));
    let handle = world.start(&stopped).await;
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    until("it is stopped", || stopped.script.fired().iter().any(|f| f.method == Method::Put)).await;
    // The successor is half-way when the first one wakes.
    let slow = Rule::new(Method::Put, When::Always, Fault::Delay(Duration::from_millis(150))).about("/data/");
    let successor = world.resume(&world.worker(Script::new().rule(slow)), &id, TakeOver::Now).await.unwrap();
    assert_eq!(failed(wait(handle).await).class(), ErrorClass::Conflict);
    complete(successor).await;
    world.assert_complete(&archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_store_cannot_spoil_an_archive_that_is_complete() {
    let world = World::new();
    let (id, archive) = world.paused().await;
    let copy = World { store: world.store.snapshot(), destination: world.destination.clone(), source: source() };
    complete(world.resume(&world.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap()).await;
    let error = failed(wait(copy.resume(&copy.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap()).await);
    assert!(error.class() == ErrorClass::Conflict && error.to_string().contains("copy"), "{error}");
    world.assert_complete(&archive).await;
    // Neither can a cancel there remove it.
    engine(&copy.store).cancel_backup(&id, &Arc::new(copy.destination.clone())).await.unwrap();
    world.assert_complete(&archive).await;
}

/// Two stores that were one go on with the same operation at once; each of them is the slower one at each step in turn.
#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_a_store_make_one_archive() {
    for older in [false, true] {
        for about in ["/data/", "/index/", "volumes.txt", "manifest.json"] {
            let world = World::new();
            let (id, archive) = world.paused().await;
            let copy =
                World { store: world.store.snapshot(), destination: world.destination.clone(), source: source() };
            if older {
                // The copy has seen more attempts, so that the other one's objects look like leftovers to it.
                for _ in 0..3 {
                    let hang = Rule::new(Method::Put, When::Always, Fault::Hang).about("/data/");
                    let died = copy.resume(&copy.worker(Script::new().rule(hang)), &id, TakeOver::Now).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    drop(died);
                }
            }
            let slow = world.worker(Script::new().rule(put(about, A_WHILE)));
            let first = world.resume(&slow, &id, TakeOver::WhenFree).await.unwrap();
            let progress = first.progress();
            until("it waits", || !slow.script.fired().is_empty() || progress.has_changed().is_err()).await;
            assert!(!slow.script.fired().is_empty(), "{about} {older}: {:?}", wait(first).await);
            let second = copy.resume(&copy.worker(Script::new()), &id, TakeOver::Now).await;
            let second = match second {
                Ok(handle) => wait(handle).await,
                Err(error) => Err(error),
            };
            let first = wait(first).await;
            let done = [&first, &second].iter().filter(|o| matches!(o, Ok(Outcome::Completed { .. }))).count();
            assert!(done <= 1, "{about}: {first:?} {second:?}");
            // Whoever failed may try again, in vain or not.
            for world in [&world, &copy] {
                if !world.state(&id).await.is_final() {
                    let again = world.resume(&world.worker(Script::new()), &id, TakeOver::Now).await.unwrap();
                    let _ = wait(again).await;
                }
            }
            let states = [world.state(&id).await, copy.state(&id).await];
            let completed = states.iter().filter(|s| matches!(s, State::Completed { .. })).count();
            assert_eq!(completed, 1, "{about}: {states:?} {first:?} {second:?}");
            world.assert_complete(&archive).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_resume_at_once_one_works_and_the_other_waits() {
    let world = World::new();
    let (id, archive) = world.paused().await;
    let (a, b) = (world.worker(Script::new()), world.worker(Script::new()));
    let run = |worker: Worker| {
        let (world, id) = (&world, &id);
        async move { wait(world.resume(&worker, id, TakeOver::WhenFree).await?).await }
    };
    let (a, b) = tokio::join!(run(a), run(b));
    let done = [&a, &b].iter().filter(|o| matches!(o, Ok(Outcome::Completed { .. }))).count();
    assert_eq!(done, 1, "{a:?} {b:?}");
    let lost = [a, b].into_iter().find_map(Result::err).unwrap();
    assert_eq!(lost.class(), ErrorClass::Conflict);
    world.assert_complete(&archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_take_over_from_each_other_make_one_archive() {
    for _ in 0..10 {
        let world = World::new();
        let (id, archive) = world.paused().await;
        let run = |delay| {
            let (world, id) = (&world, &id);
            let worker = world.worker(Script::new());
            async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                wait(world.resume(&worker, id, TakeOver::Now).await?).await
            }
        };
        let (a, b, c) = tokio::join!(run(0), run(0), run(15));
        for outcome in [&a, &b, &c] {
            match outcome {
                Ok(Outcome::Completed { .. }) => {}
                Err(error) if error.class() == ErrorClass::Conflict => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(world.state(&id).await, State::Completed { .. }), "{a:?} {b:?} {c:?}");
        world.assert_complete(&archive).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_change_of_state_may_get_lost() {
    for event in ["commit", "complete", "pause"] {
        let world = World::new();
        let lost = Rule::new(Method::Transition, When::Nth(1), Fault::LostReply(ErrorClass::Transient));
        let worker = world.worker(Script::new().rule(lost.about(&format!(" {event}"))));
        let handle = world.start(&worker).await;
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        if event == "pause" {
            handle.pause();
        }
        match (event, wait(handle).await) {
            ("pause", outcome) => assert!(matches!(outcome, Ok(Outcome::Paused { .. })), "{outcome:?}"),
            (_, outcome) => assert!(matches!(outcome, Ok(Outcome::Completed { .. })), "{outcome:?}"),
        }
        if !world.state(&id).await.is_final() {
            complete(world.resume(&world.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap()).await;
        }
        world.assert_complete(&archive).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_clock_jumps_gives_at_most_one_archive() {
    for jump in [-86_400_i64, 365 * 86_400] {
        let clock = ManualClock::default();
        let now = clock.clone();
        let world = World {
            store: MemoryStore::with_clock(Arc::new(move || backup_testkit::doubles::Clock::now(&now))),
            destination: MemoryDestination::default().with_clock(clock.clone()),
            source: source(),
        };
        let slow = Rule::new(Method::Put, When::Always, Fault::Delay(Duration::from_millis(100))).about("/data/");
        let worker = world.worker(Script::new().rule(slow));
        let handle = world.start(&worker).await;
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        until("some volumes are there", || worker.script.fired().len() > 3).await;
        let jumped = backup_testkit::doubles::Clock::now(&clock) + jiff::SignedDuration::from_secs(jump);
        clock.set(jumped);
        let other = world.worker(Script::new());
        let second = async { wait(world.resume(&other, &id, TakeOver::WhenFree).await?).await };
        let (first, second) = tokio::join!(wait(handle), second);
        for outcome in [&first, &second] {
            match outcome {
                Ok(Outcome::Completed { .. }) => {}
                Err(error) if error.class() == ErrorClass::Conflict => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(world.state(&id).await, State::Completed { .. }), "{first:?} {second:?}");
        world.assert_complete(&archive).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_goes_by_the_destinations_clock_and_spares_what_it_dates_in_the_future() {
    let clock = ManualClock::default();
    let day = Duration::from_secs(86_400);
    let world = World { destination: MemoryDestination::default().with_clock(clock.clone()), ..World::new() };
    let (id, archive) = world.paused().await;
    clock.advance(29 * day);
    assert_eq!(sweep(&Arc::new(world.destination.clone()), &SweepOptions::default()).await.unwrap().swept, []);
    // The clock is set back by a year: what is there seems to come from the future.
    let now = backup_testkit::doubles::Clock::now(&clock);
    clock.set(now - jiff::SignedDuration::from_hours(24 * 400));
    assert_eq!(sweep(&Arc::new(world.destination.clone()), &SweepOptions::default()).await.unwrap().swept, []);
    clock.set(now);
    complete(world.resume(&world.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap()).await;
    clock.advance(400 * day);
    assert_eq!(sweep(&Arc::new(world.destination.clone()), &SweepOptions::default()).await.unwrap().swept, []);
    world.assert_complete(&archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sweeps_at_once_do_not_hinder_each_other_for_ever() {
    let world = World::new();
    let (_, archive) = world.paused().await;
    let destination = Arc::new(world.destination.clone());
    let (a, b) = tokio::join!(sweep(&destination, &NOW), sweep(&destination, &NOW));
    let swept = a.unwrap().swept.len() + b.unwrap().swept.len();
    assert!(swept >= 1);
    world.assert_none(&archive).await;
}

/// What the engine does to objects: each is put once, and only objects of earlier attempts are removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_removes_only_what_earlier_attempts_left_behind() {
    let world = World::new();
    let (id, archive) = world.paused().await;
    let mut strange = Vec::new();
    for kind in ["data", "index"] {
        let ending = if kind == "data" { "tar.zst" } else { "jsonl.zst" };
        for attempt in [1, 2, 3, 9] {
            let name = format!("{archive}/{kind}/00000000-{attempt}x00000000.{ending}");
            world.destination.insert(&name, "left over");
            strange.push(name);
        }
    }
    complete(world.resume(&world.worker(Script::new()), &id, TakeOver::WhenFree).await.unwrap()).await;
    let names = world.destination.names();
    let left: Vec<_> = strange.iter().filter(|name| names.contains(name)).collect();
    // The resume was attempt 2.
    assert_eq!(left.len(), 6, "{left:?}");
    assert!(left.iter().all(|name| !name.contains("-1x")));
    world.assert_complete(&archive).await;
}
