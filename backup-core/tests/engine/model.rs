//! Random sequences of all that can happen to operations, with adapters that fail at random. Whatever happens:
//!
//! 1. An archive is complete if and only if it has a manifest and no `swept.json`; the manifest names only durable objects.
//! 2. Objects are written once and never changed, and no name is used for two contents.
//! 3. A checkpoint names only durable objects and comes from the newest claim.
//! 4. What a target has is what the source had.
//!
//! At the end every operation can be brought to an end, and each complete archive is sound and restores to what the source holds.
//!
//! `BACKUP_MODEL_SECONDS` makes it run longer, `BACKUP_MODEL_SEED` lets it try other sequences.

use crate::common::*;
use async_trait::async_trait;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload, Source, Store};
use backup_core::archive::Codec;
use backup_core::engine::{
    Archive, ArchiveStatus, BackupRequest, Engine, OpenOptions, OperationHandle, Outcome, SweepOptions, VerifyMode,
    delete_archive, list_archives, sweep,
};
use backup_core::memory::MemoryStore;
use backup_core::model::*;
use backup_core::state::{Event, State};
use backup_core::{Digest, ErrorClass, Result};
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource, MemoryTarget};
use backup_testkit::faulty::{FaultyDestination, FaultySource, FaultyStore, FaultyTarget, Script};
use futures::stream::BoxStream;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What happens.
#[derive(Clone, Debug)]
enum Action {
    Backup {
        faults: u64,
        stop: Stop,
    },
    Restore {
        which: usize,
        faults: u64,
        stop: Stop,
    },
    Resume {
        which: usize,
        faults: u64,
        stop: Stop,
    },
    /// Two workers at once.
    ResumeTwice {
        which: usize,
        faults: u64,
    },
    Cancel {
        which: usize,
    },
    /// By somebody who knows the store, or not.
    Delete {
        which: usize,
        knows_the_store: bool,
    },
    Sweep {
        old_only: bool,
    },
}

/// How an attempt ends, unless it ends by itself before.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Never,
    Pause { after_ms: u64 },
    Crash { after_ms: u64 },
    Cancel { after_ms: u64 },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let stop = || {
        prop_oneof![
            2 => Just(Stop::Never),
            2 => (0..120_u64).prop_map(|after_ms| Stop::Pause { after_ms }),
            3 => (0..120_u64).prop_map(|after_ms| Stop::Crash { after_ms }),
            1 => (0..120_u64).prop_map(|after_ms| Stop::Cancel { after_ms }),
        ]
    };
    let which = 0..6_usize;
    let action = prop_oneof![
        4 => (any::<u64>(), stop()).prop_map(|(faults, stop)| Action::Backup { faults, stop }),
        3 => (which.clone(), any::<u64>(), stop())
            .prop_map(|(which, faults, stop)| Action::Restore { which, faults, stop }),
        6 => (which.clone(), any::<u64>(), stop())
            .prop_map(|(which, faults, stop)| Action::Resume { which, faults, stop }),
        1 => (which.clone(), any::<u64>()).prop_map(|(which, faults)| Action::ResumeTwice { which, faults }),
        1 => which.clone().prop_map(|which| Action::Cancel { which }),
        1 => (which, any::<bool>()).prop_map(|(which, knows_the_store)| Action::Delete { which, knows_the_store }),
        1 => any::<bool>().prop_map(|old_only| Action::Sweep { old_only }),
    ];
    proptest::collection::vec(action, 1..12)
}

/// A destination that holds its callers to invariants 1 and 2.
#[derive(Debug)]
struct WatchedDestination {
    inner: MemoryDestination,
    ever: Mutex<HashMap<ObjectName, Digest>>,
    breaches: Mutex<Vec<String>>,
}

impl WatchedDestination {
    fn breach(&self, text: String) {
        self.breaches.lock().unwrap().push(text);
    }
}

#[async_trait]
impl Destination for WatchedDestination {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }
    fn properties(&self) -> DestinationProperties {
        self.inner.properties()
    }
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }
    async fn now(&self) -> Result<jiff::Timestamp> {
        self.inner.now().await
    }
    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        let digest = body.digest();
        self.inner.put(name, body).await?;
        // A mark of a sweep is made anew each time.
        if !name.as_str().ends_with("swept.json") {
            let before = self.ever.lock().unwrap().insert(name.clone(), digest);
            if before.is_some_and(|before| before != digest) {
                self.breach(format!("{name} was put with another content before"));
            }
        }
        if let Some((archive, "manifest.json")) = name.as_str().split_once('/') {
            let snapshot = self.inner.snapshot();
            match verify(&snapshot, &archive.parse().unwrap(), None, VerifyMode::Quick).await {
                Ok(found) if found.is_sound() => {}
                // A worker that was stopped finds only now that its archive is gone.
                Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => {
                    let header = ObjectName::new(format!("{archive}/header.json")).unwrap();
                    let swept = ObjectName::new(format!("{archive}/swept.json")).unwrap();
                    if snapshot.bytes(&header).is_some() && snapshot.bytes(&swept).is_none() {
                        self.breach(format!("a manifest in {archive}, which cannot be opened: {error}"));
                    }
                }
                other => self.breach(format!("a manifest that names what is not there: {other:?}")),
            }
        }
        Ok(())
    }
    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.inner.get(name, range).await
    }
    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.inner.stat(name).await
    }
    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        self.inner.list(prefix)
    }
    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        self.inner.list_roots()
    }
    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.inner.delete(name).await
    }
    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        self.inner.remove_staged(prefix).await
    }
    async fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space().await
    }
}

/// A store that holds its callers to invariant 3.
#[derive(Debug)]
struct WatchedStore {
    inner: MemoryStore,
    destination: Arc<WatchedDestination>,
    /// Archives that somebody removes objects of, so that nothing can be said of what is there.
    removed: Mutex<Vec<ArchiveId>>,
}

impl WatchedStore {
    /// Looks into a checkpoint that has just been saved: see the engine for its layout.
    fn look_into(&self, checkpoint: &Checkpoint) {
        let bytes = &checkpoint.0;
        let Some(rest) = bytes.strip_prefix(b"BKUPCKP1") else { return };
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let head: serde_json::Value = serde_json::from_slice(&rest[4..4 + length]).unwrap();
        let mut json = String::new();
        zstd::stream::read::Decoder::new(&rest[4 + length..]).unwrap().read_to_string(&mut json).unwrap();
        let body: serde_json::Value = serde_json::from_str(&json).unwrap();
        let archive: ArchiveId = head["archive"].as_str().unwrap().parse().unwrap();
        if self.removed.lock().unwrap().contains(&archive) {
            return;
        }
        let names = self.destination.inner.names();
        let mut number = 0;
        for run in body["volumes"].as_array().unwrap() {
            for _ in 0..run["count"].as_u64().unwrap() {
                let (attempt, nonce) = (run["attempt"].as_u64().unwrap(), run["nonce"].as_u64().unwrap());
                let start = format!("{archive}/data/{number:08}-{attempt}x{nonce:08x}.");
                if !names.iter().any(|name| name.starts_with(&start)) {
                    self.destination.breach(format!("a checkpoint names {start}, which is not there"));
                }
                number += 1;
            }
        }
        for piece in body["pieces"].as_array().unwrap() {
            let name = format!("{archive}/{}", piece["record"]["name"].as_str().unwrap());
            if !names.contains(&name) {
                self.destination.breach(format!("a checkpoint names {name}, which is not there"));
            }
        }
    }
}

#[async_trait]
impl Store for WatchedStore {
    async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        self.inner.create(new, checkpoint).await
    }
    async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        self.inner.get(id).await
    }
    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        self.inner.query(query).await
    }
    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim> {
        self.inner.claim(id, request).await
    }
    async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        self.inner.renew(fence, lease, progress).await
    }
    async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        self.inner.save_checkpoint(fence, checkpoint).await?;
        let newest = self.inner.get(&fence.operation).await?.unwrap();
        if newest.attempt < fence.attempt {
            self.destination.breach(format!("attempt {} saved over {}", fence.attempt, newest.attempt));
        }
        self.look_into(checkpoint);
        Ok(())
    }
    async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        self.inner.checkpoint(id).await
    }
    async fn transition(&self, transition: Transition) -> Result<Operation> {
        let (checkpoint, event) = (transition.checkpoint.clone(), transition.event.clone());
        let after = self.inner.transition(transition).await?;
        if event == Event::Cancel {
            self.removed.lock().unwrap().push(after.new.archive.clone());
        }
        if let Some(checkpoint) = checkpoint {
            self.look_into(&checkpoint);
        }
        Ok(after)
    }
    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        self.inner.request(id, request).await
    }
    async fn append_log(&self, id: &OperationId, records: &[LogRecord]) -> Result<()> {
        self.inner.append_log(id, records).await
    }
    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        self.inner.page_log(id, query).await
    }
    async fn archives(&self, destination: &Identity) -> Result<Vec<ArchiveRecord>> {
        self.inner.archives(destination).await
    }
    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        self.inner.forget_archive(destination, archive).await
    }
}

struct World {
    store: Arc<WatchedStore>,
    destination: Arc<WatchedDestination>,
    source: Arc<MemorySource>,
    expected: Items,
    targets: HashMap<OperationId, MemoryTarget>,
    /// What a delete or sweep took away although an operation may want it.
    taken: Vec<ArchiveId>,
}

fn source() -> Arc<MemorySource> {
    let mut source = MemorySource::new("s").directory("d").symlink("d/link", "f0");
    for n in 0..6 {
        source = source
            .file(&format!("d/f{n}"), Blob::pattern(n, 2_000))
            .stored(&format!("d/s{n}"), Blob::pattern(n, 150_000));
    }
    let slices = (0..4).map(|n| Blob::pattern(100 + n, 60_000)).collect();
    Arc::new(source.stored("large", Blob::pattern(50, 5 << 20)).slices("g.s", slices).file("z", "z"))
}

/// An attempt has ended, is paused, or has died.
type Ended = Option<Result<Outcome>>;

impl World {
    async fn new() -> Self {
        let destination = Arc::new(WatchedDestination {
            inner: MemoryDestination::default(),
            ever: Mutex::default(),
            breaches: Mutex::default(),
        });
        let store = Arc::new(WatchedStore {
            inner: MemoryStore::new(),
            destination: destination.clone(),
            removed: Mutex::default(),
        });
        let source = source();
        let expected = items_of(source.clone()).await;
        Self { store, destination, source, expected, targets: HashMap::new(), taken: Vec::new() }
    }

    fn memory(&self) -> &MemoryDestination {
        &self.destination.inner
    }

    /// An engine and adapters that fail at random; seed 0 never fails.
    fn worker(&self, seed: u64) -> (Engine, Arc<dyn Destination>, Arc<FaultySource>, Script) {
        let script = |n: u64| {
            if seed == 0 { Script::new() } else { Script::random(seed.wrapping_add(n), 0.02 * (seed % 4) as f64) }
        };
        let store =
            FaultyStore::new(self.store.clone(), if seed.is_multiple_of(3) { script(1) } else { Script::new() });
        let engine = Engine::with_options(store, options(), Vec::new());
        let destination = FaultyDestination::new(self.destination.clone(), script(2));
        (engine, destination, FaultySource::new(self.source.clone(), script(3)), script(4))
    }

    async fn operations(&self) -> Vec<Operation> {
        let mut operations = self.store.query(&OperationQuery::default()).await.unwrap();
        operations.reverse();
        operations
    }

    async fn choose(&self, which: usize, wanted: impl Fn(&Operation) -> bool) -> Option<Operation> {
        let fitting: Vec<_> = self.operations().await.into_iter().filter(wanted).collect();
        (!fitting.is_empty()).then(|| fitting[which % fitting.len()].clone())
    }

    async fn attend(&self, handle: OperationHandle, stop: Stop) -> Ended {
        let id = handle.id().clone();
        match stop {
            Stop::Never => Some(wait(handle).await),
            Stop::Pause { after_ms } => {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                handle.pause();
                Some(wait(handle).await)
            }
            Stop::Cancel { after_ms } => {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                let _ = engine_of(&self.store).cancel(&id, &*self.destination).await;
                Some(wait(handle).await)
            }
            Stop::Crash { after_ms } => {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                drop(handle);
                // Its tasks end at their next step, not at once as those of a dead process.
                tokio::time::sleep(Duration::from_millis(30)).await;
                if let Some(target) = self.targets.get(&id) {
                    target.crash();
                }
                None
            }
        }
    }

    async fn resume(&self, operation: &Operation, seed: u64) -> Result<OperationHandle> {
        let (engine, destination, source, script) = self.worker(seed);
        let id = &operation.new.id;
        if operation.new.kind == OperationKind::Backup {
            engine.resume_backup(resume_request(id, &source, destination)).await
        } else {
            let target = FaultyTarget::new(Arc::new(self.target(id)), script);
            engine.resume_restore(resume_restore_request(id, destination, target)).await
        }
    }

    /// Whose creation got lost on the way has a target that nobody knows.
    fn target(&self, id: &OperationId) -> MemoryTarget {
        self.targets.get(id).cloned().unwrap_or_default()
    }

    async fn step(&mut self, action: Action) {
        match action {
            Action::Backup { faults, stop } => {
                let (engine, destination, source, _) = self.worker(faults);
                let mut request = BackupRequest::new(source, destination);
                request.options = small_volumes(Codec::Zstd);
                if let Ok(handle) = engine.backup(request).await {
                    let ended = self.attend(handle, stop).await;
                    self.check_outcome(ended);
                }
            }
            Action::Restore { which, faults, stop } => {
                let complete =
                    |o: &Operation| o.new.kind == OperationKind::Backup && matches!(o.state, State::Completed { .. });
                let Some(backup) = self.choose(which, complete).await else { return };
                let (engine, destination, _, script) = self.worker(faults);
                let target = MemoryTarget::default().with_record_every(1 << 20);
                let mut request = restore_request(self.memory(), &backup.new.archive, &target, None);
                request.destination = destination;
                request.target = FaultyTarget::new(Arc::new(target.clone()), script);
                if let Ok(handle) = engine.restore(request).await {
                    self.targets.insert(handle.id().clone(), target);
                    let ended = self.attend(handle, stop).await;
                    self.check_outcome(ended);
                }
            }
            Action::Resume { which, faults, stop } => {
                let Some(operation) = self.choose(which, |o| !o.state.is_final()).await else { return };
                if let Ok(handle) = self.resume(&operation, faults).await {
                    let ended = self.attend(handle, stop).await;
                    self.check_outcome(ended);
                }
            }
            Action::ResumeTwice { which, faults } => {
                let backup = |o: &Operation| !o.state.is_final() && o.new.kind == OperationKind::Backup;
                let Some(operation) = self.choose(which, backup).await else { return };
                let run = |seed| {
                    let (world, operation) = (&*self, &operation);
                    async move {
                        if let Ok(handle) = world.resume(operation, seed).await {
                            world.check_outcome(Some(wait(handle).await));
                        }
                    }
                };
                tokio::join!(run(faults), run(faults.wrapping_mul(7)));
            }
            Action::Cancel { which } => {
                let Some(operation) = self.choose(which, |_| true).await else { return };
                let cancelled = engine_of(&self.store).cancel(&operation.new.id, &*self.destination).await;
                if cancelled.is_ok() && operation.new.kind == OperationKind::Backup {
                    self.settled_cancel(&operation.new.archive).await;
                }
            }
            Action::Delete { which, knows_the_store } => {
                let Some(operation) = self.choose(which, |o| o.new.kind == OperationKind::Backup).await else { return };
                let archive = operation.new.archive;
                self.store.removed.lock().unwrap().push(archive.clone());
                let store: Option<&dyn Store> = if knows_the_store { Some(&*self.store) } else { None };
                if delete_archive(&*self.destination, store, &archive).await.is_ok() {
                    self.taken.push(archive.clone());
                    assert_eq!(objects(self.memory(), &archive), []);
                }
            }
            Action::Sweep { old_only } => {
                let options = if old_only {
                    SweepOptions::default()
                } else {
                    SweepOptions { min_age: Duration::ZERO, dry_run: false }
                };
                let ids: Vec<_> = self.operations().await.into_iter().map(|o| o.new.archive).collect();
                self.store.removed.lock().unwrap().extend(ids);
                let report = sweep(&*self.destination, &options).await.unwrap();
                assert!(report.swept.is_empty() || !old_only);
                self.taken.extend(report.swept);
            }
        }
    }

    /// A cancelled backup has no archive, unless it had been completed before its end could be stored.
    async fn settled_cancel(&self, archive: &ArchiveId) {
        if Archive::open(Arc::new(self.memory().clone()), archive, &OpenOptions::default()).await.is_err() {
            assert!(objects(self.memory(), archive).is_empty());
        }
    }

    fn check_outcome(&self, ended: Ended) {
        // Trouble of the source, the destination or the target never costs an entry when it passes.
        if let Some(Ok(Outcome::Completed { warnings, .. })) = ended {
            assert_eq!(warnings, 0);
        }
    }

    async fn check(&self) {
        assert_eq!(*self.destination.breaches.lock().unwrap(), Vec::<String>::new());
        for archive in list_archives(self.memory(), None, None).await.unwrap() {
            if archive.status == ArchiveStatus::Complete {
                let found = verify(self.memory(), &archive.id, None, VerifyMode::Quick).await.unwrap();
                assert!(found.is_sound(), "{} {found:?}", archive.id);
            }
        }
        for operation in self.operations().await {
            let OperationKind::Restore = operation.new.kind else {
                if matches!(operation.state, State::Completed { .. }) && !self.taken.contains(&operation.new.archive) {
                    Archive::open(Arc::new(self.memory().clone()), &operation.new.archive, &OpenOptions::default())
                        .await
                        .unwrap();
                }
                continue;
            };
            let Some(target) = self.targets.get(&operation.new.id) else { continue };
            assert_eq!(target.breaches(), Vec::<String>::new());
            let found = items_at(target);
            for (name, item) in &found {
                assert_eq!(self.expected.get(name), Some(item), "{name}");
            }
            if matches!(operation.state, State::Completed { .. }) {
                assert_same(&found, &self.expected);
                assert_eq!(target.staged(), Vec::<String>::new());
            }
        }
    }

    /// Everything can be brought to an end, and what is complete is good.
    async fn end(&self) {
        for operation in self.operations().await {
            if operation.state.is_final() {
                continue;
            }
            let id = &operation.new.id;
            let ended = match self.resume(&operation, 0).await {
                Ok(handle) => wait(handle).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(Outcome::Completed { .. }) => self.check_outcome(Some(ended)),
                Err(_) if self.taken.contains(&operation.new.archive) => {
                    engine_of(&self.store).cancel(id, &*self.destination).await.unwrap();
                }
                other => panic!("{id} ({:?}) does not end: {other:?}", operation.state),
            }
        }
        self.check().await;
        for archive in list_archives(self.memory(), None, None).await.unwrap() {
            if archive.status == ArchiveStatus::Complete {
                assert_sound(self.memory(), &archive.id, None).await;
                let target = restore(self.memory(), &archive.id, None).await;
                assert_same(&items_at(&target), &self.expected);
            }
        }
        let source: Arc<dyn Source> = self.source.clone();
        assert_same(&items_of(source).await, &self.expected);
    }
}

fn engine_of(store: &Arc<WatchedStore>) -> Engine {
    Engine::with_options(store.clone(), options(), Vec::new())
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn random_sequences_of_everything_keep_the_invariants() {
    let (seconds, seed) = (env("BACKUP_MODEL_SECONDS", 30), env("BACKUP_MODEL_SEED", 1));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        cases: u32::MAX,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let start = Instant::now();
    let cases = std::cell::Cell::new(0);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let strategy = actions();
    while start.elapsed() < Duration::from_secs(seconds) {
        let one = ProptestConfig { cases: 1, ..runner.config().clone() };
        let mut turn = TestRunner::new_with_rng(one, runner.new_rng());
        let result = turn.run(&strategy, |sequence| {
            cases.set(cases.get() + 1);
            let run = async {
                let mut world = World::new().await;
                for action in sequence {
                    world.step(action).await;
                    world.check().await;
                }
                world.end().await;
            };
            let task = runtime.spawn(run);
            runtime.block_on(task).map_err(|e| TestCaseError::fail(e.to_string()))
        });
        if let Err(error) = result {
            panic!("seed {seed}, after {} sequences: {error}", cases.get());
        }
    }
    assert!(cases.get() > 3, "only {} sequences", cases.get());
    println!("{} sequences", cases.get());
}
