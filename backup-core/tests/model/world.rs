//! The world in which the steps happen, and what must hold in it.

use super::data::{Contents, Picture, archived, picture};
use super::late::LateDestination;
use super::steps::{End, Run, Scripts, Step, hangs, is_passing, removing};
use super::watch::WatchedStore;
use backup_core::adapter::{Destination, Granularity, Store};
use backup_core::archive::{Codec, Compression, KeyFileProvider, KeyProvider, ObjectNames, generate_key_file};
use backup_core::engine::{
    Archive, BackupOptions, BackupRequest, CancelRestore, Engine, EngineOptions, Limits, OpenOptions, OperationHandle,
    Outcome, RestoreRequest, ResumeBackup, ResumeRestore, SweepOptions, TakeOver, VerifyMode, delete_archive, sweep,
};
use backup_core::model::{
    ArchiveId, Holder, ObjectName, Operation, OperationId, OperationKind, OperationQuery, Progress,
};
use backup_core::retry::RetryPolicy;
use backup_core::state::State;
use backup_core::{Error, ErrorClass, Result};
use backup_testkit::doubles::{ManualClock, MemoryDestination, MemorySource, MemoryTarget};
use backup_testkit::faulty::{FaultyDestination, FaultySource, FaultyStore, FaultyTarget, Script};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Virtual time after which something that should end counts as stuck.
const STUCK: Duration = Duration::from_secs(3600);

/// An operation that some step began.
struct Job {
    id: OperationId,
    archive: ArchiveId,
    task: Task,
    /// Claims by workers that are dead, paused or done are void; those of workers that were left running may be at work yet.
    zombies: usize,
    /// Puts of dead workers may still arrive.
    late: bool,
    /// No worker of it ever met a fault.
    calm: bool,
}

enum Task {
    Backup { picture: Picture, sealed: bool },
    Restore { target: MemoryTarget, slices: Granularity, expected: Contents, sealed: bool },
}

/// A worker that was left running.
struct Left {
    job: usize,
    attempt: u64,
    scripts: Scripts,
    handle: OperationHandle,
}

pub(crate) struct World {
    clock: ManualClock,
    destination: MemoryDestination,
    store: WatchedStore,
    keys: Arc<dyn KeyProvider>,
    jobs: Vec<Job>,
    left: Vec<Left>,
    targets: usize,
    /// Archives that were deleted or swept, at least in part, or whose backup was cancelled.
    doomed: BTreeSet<ArchiveId>,
    /// Archives that were deleted although complete, at least in part.
    deleted: BTreeSet<ArchiveId>,
    /// Objects as they were after the step before.
    seen: BTreeMap<ObjectName, Bytes>,
    /// Contents of archives that were found sound, in slices.
    sound: BTreeMap<ArchiveId, Contents>,
}

/// A worker's adapters, failing by its scripts.
struct Worker {
    engine: Engine,
    scripts: Scripts,
    destination: Arc<dyn Destination>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::default();
        let keys = KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap();
        Self {
            destination: MemoryDestination::default().with_clock(clock.clone()),
            clock,
            store: WatchedStore::default(),
            keys: Arc::new(keys),
            jobs: Vec::new(),
            left: Vec::new(),
            targets: 0,
            doomed: BTreeSet::new(),
            deleted: BTreeSet::new(),
            seen: BTreeMap::new(),
            sound: BTreeMap::new(),
        }
    }

    fn worker(&self, run: &Run) -> Worker {
        let scripts = Scripts::of(run);
        let holder = Holder { boot: "elsewhere".into(), host: "host".into(), pid: run.holder, started: 1 };
        let retry =
            RetryPolicy { initial: Duration::from_millis(1), max: Duration::from_millis(5), ..RetryPolicy::default() };
        let options = EngineOptions { memory: 64 << 20, holder, retry, threads: 2, ..EngineOptions::default() };
        let store = FaultyStore::new(Arc::new(self.store.clone()), scripts.store.clone());
        let destination: Arc<dyn Destination> = match run.late {
            Some(seed) => LateDestination::new(self.destination.clone(), seed),
            None => Arc::new(self.destination.clone()),
        };
        Worker {
            engine: Engine::with_options(store, options, Vec::new()),
            destination: FaultyDestination::new(destination, scripts.destination.clone()),
            scripts,
        }
    }

    fn open(&self, sealed: bool) -> OpenOptions {
        OpenOptions { keys: sealed.then(|| self.keys.clone()), ..OpenOptions::default() }
    }

    async fn operation(&self, job: usize) -> Operation {
        self.store.inner.get(&self.jobs[job].id).await.unwrap().unwrap()
    }

    /// Operations that are in the store and not yet known.
    async fn new_operations(&self) -> Vec<Operation> {
        let all = self.store.inner.query(&OperationQuery { limit: Some(1000), ..Default::default() }).await.unwrap();
        all.into_iter().filter(|o| !self.jobs.iter().any(|job| job.id == o.new.id)).collect()
    }

    pub(crate) async fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::Backup { seed, twist, sealed, zstd, volume, run } => {
                let picture = picture(seed, twist);
                let worker = self.worker(&run);
                let codec = if zstd { Codec::Zstd } else { Codec::None };
                let options = BackupOptions {
                    compression: Compression::new(codec, None).unwrap(),
                    volume_size: Some(volume),
                    frame_size: 64 << 10,
                    ..BackupOptions::default()
                };
                let source = FaultySource::new(picture.source.clone(), worker.scripts.source.clone());
                let keys = sealed.then(|| self.keys.clone());
                let request = BackupRequest { options, keys, ..BackupRequest::new(source, worker.destination.clone()) };
                let engine = worker.engine.clone();
                let started = begin(&worker.scripts, async move { engine.backup(request).await }).await;
                let task = Task::Backup { picture, sealed };
                self.adopt(task, started, worker, &run).await;
            }
            Step::Restore { archive, slices, run } => {
                let Some(job) = self.backup(archive) else { return };
                let Task::Backup { sealed, .. } = self.jobs[job].task else { unreachable!() };
                let id = self.jobs[job].archive.clone();
                let Ok(opened) = Archive::open(Arc::new(self.destination.snapshot()), &id, &self.open(sealed)).await
                else {
                    return;
                };
                let expected = archived(&opened, slices).await.unwrap();
                self.targets += 1;
                let target = MemoryTarget::new(&format!("target-{}", self.targets)).with_granularity(slices);
                let worker = self.worker(&run);
                let faulty = FaultyTarget::new(Arc::new(target.clone()), worker.scripts.target.clone());
                let request = RestoreRequest {
                    open: self.open(sealed),
                    ..RestoreRequest::new(worker.destination.clone(), id, faulty)
                };
                let engine = worker.engine.clone();
                let started = begin(&worker.scripts, async move { engine.restore(request).await }).await;
                let task = Task::Restore { target, slices, expected, sealed };
                self.adopt(task, started, worker, &run).await;
            }
            Step::Resume { operation, now, run } => {
                if !self.jobs.is_empty() {
                    let job = operation % self.jobs.len();
                    self.resume(job, now, &run).await;
                }
            }
            Step::RequestPause { operation } => {
                if self.jobs.is_empty() {
                    return;
                }
                let id = self.jobs[operation % self.jobs.len()].id.clone();
                let engine = Engine::new(Arc::new(self.store.clone()));
                let before = self.store.inner.get(&id).await.unwrap().unwrap();
                match engine.request_pause(&id).await {
                    Ok(_) => assert_eq!(before.state, State::Running),
                    Err(e) => assert!(e.class() == ErrorClass::Conflict && before.state != State::Running, "{e:?}"),
                }
            }
            Step::Cancel { operation, faults, dies } => {
                if !self.jobs.is_empty() {
                    self.cancel(operation % self.jobs.len(), faults, dies).await;
                }
            }
            Step::Delete { archive, faults, dies } => {
                if let Some(job) = self.backup(archive) {
                    self.delete(job, faults, dies).await;
                }
            }
            Step::Sweep { min_age, faults, dies } => self.sweep(min_age, faults, dies).await,
            Step::Advance { store, destination } => {
                self.store.inner.advance(Duration::from_secs(store));
                self.clock.advance(Duration::from_secs(destination));
            }
        }
    }

    /// One of the backups so far.
    fn backup(&self, number: usize) -> Option<usize> {
        let backups: Vec<usize> =
            (0..self.jobs.len()).filter(|n| matches!(self.jobs[*n].task, Task::Backup { .. })).collect();
        (!backups.is_empty()).then(|| backups[number % backups.len()])
    }

    /// Takes a new operation into the account, whether or not its caller has heard of it.
    async fn adopt(&mut self, task: Task, started: Option<Result<OperationHandle>>, worker: Worker, run: &Run) {
        let mut new = self.new_operations().await;
        let faults = worker.scripts.met_faults();
        assert!(new.len() <= 1, "one step made several operations: {new:?}");
        if let Some(Err(error)) = &started {
            assert!(faults, "could not be started without a fault: {error:?}");
        }
        let Some(operation) = new.pop() else {
            assert!(!matches!(started, Some(Ok(_))), "a handle without an operation");
            return;
        };
        let Operation { new, .. } = operation;
        self.jobs.push(Job { id: new.id, archive: new.archive, task, zombies: 0, late: false, calm: true });
        let job = self.jobs.len() - 1;
        self.drive(job, started, worker, run).await;
    }

    async fn resume(&mut self, job: usize, now: bool, run: &Run) {
        let before = self.operation(job).await;
        let others = self.left.iter().any(|left| left.job == job);
        if let Task::Restore { slices, .. } = &self.jobs[job].task
            && *slices != Granularity::Slice
            && others
        {
            // Two writers of one ordered group are what a target may refuse.
            self.left.retain(|left| left.job != job);
            turns(50).await;
        }
        if !now && before.lease_running {
            self.store.inner.advance(Duration::from_secs(61));
        }
        let take_over = if now { TakeOver::Now } else { TakeOver::WhenFree };
        let worker = self.worker(run);
        let operation = before.new.id.clone();
        let (engine, destination, limits) = (worker.engine.clone(), worker.destination.clone(), Limits::default());
        let started = match &self.jobs[job].task {
            Task::Backup { picture, sealed } => {
                let source: Arc<MemorySource> = picture.source.clone();
                let source = FaultySource::new(source, worker.scripts.source.clone());
                let keys = sealed.then(|| self.keys.clone());
                let request = ResumeBackup { operation, source, destination, keys, limits, take_over };
                begin(&worker.scripts, async move { engine.resume_backup(request).await }).await
            }
            Task::Restore { target, sealed, .. } => {
                let target = FaultyTarget::new(Arc::new(target.clone()), worker.scripts.target.clone());
                let open = self.open(*sealed);
                let keep_going = false;
                let request = ResumeRestore { operation, destination, target, open, limits, take_over, keep_going };
                begin(&worker.scripts, async move { engine.resume_restore(request).await }).await
            }
        };
        if let Some(Err(error)) = &started {
            let ended = before.state.is_final() || self.operation(job).await.state.is_final();
            assert!(ended || worker.scripts.met_faults(), "could not be resumed without a fault: {error:?}");
            if before.state.is_final() {
                return;
            }
        }
        self.drive(job, started, worker, run).await;
    }

    /// Follows a worker to where the run ends.
    async fn drive(&mut self, job: usize, started: Option<Result<OperationHandle>>, worker: Worker, run: &Run) {
        let scripts = worker.scripts.clone();
        let Some(Ok(handle)) = started else {
            self.jobs[job].calm = false;
            self.jobs[job].late |= run.late.is_some();
            turns(50).await;
            return;
        };
        self.jobs[job].late |= run.late.is_some();
        let attempt = self.operation(job).await.attempt;
        let result = match run.end {
            End::Leave => {
                self.left.push(Left { job, attempt, scripts, handle });
                self.jobs[job].zombies += 1;
                return;
            }
            End::Wait => Some(finished(handle).await),
            End::Pause(after) => {
                turns(after).await;
                handle.pause();
                Some(finished(handle).await)
            }
            End::HandOver(after) => {
                turns(after).await;
                handle.hand_over();
                Some(finished(handle).await)
            }
            End::Drop(after) => {
                turns(after).await;
                drop(handle);
                None
            }
            End::Hang { .. } => {
                tokio::select! {
                    biased;
                    result = tokio::time::timeout(STUCK, handle.wait()) => Some(result.expect("the operation is stuck")),
                    () = scripts.hung() => None,
                }
            }
        };
        // Let go of everything that the worker held.
        turns(50).await;
        match result {
            Some(result) => self.ended(job, attempt, &scripts, result).await,
            None => {
                if let (true, Task::Restore { target, .. }) = (run.power, &self.jobs[job].task)
                    && !self.left.iter().any(|left| left.job == job)
                {
                    target.crash();
                }
            }
        }
        self.jobs[job].calm &= !scripts.met_faults();
    }

    /// What a worker says at its end must be so in the store, and failures must have a reason.
    async fn ended(&mut self, job: usize, attempt: u64, scripts: &Scripts, result: Result<Outcome>) {
        let operation = self.operation(job).await;
        let newest = operation.attempt == attempt;
        let doomed = self.doomed.contains(&operation.new.archive);
        match result {
            Ok(Outcome::Completed { warnings, .. }) => {
                assert_eq!(operation.state, State::Completed { warnings });
            }
            Ok(Outcome::Paused { reason, message, .. }) => {
                if newest {
                    assert_eq!(operation.state.name(), "paused", "{reason:?} {message:?}");
                }
                assert!(message.is_none() || scripts.met_faults(), "paused by itself: {reason:?} {message:?}");
            }
            Ok(Outcome::HandedOver) => {
                if newest {
                    assert_eq!(operation.state, State::Pending);
                }
            }
            Ok(Outcome::Cancelled) => assert_eq!(operation.state, State::Cancelled),
            Ok(other) => panic!("{other:?}"),
            // A pause that was asked for while its lease had run out.
            Err(error) if error.class() == ErrorClass::Conflict && operation.state.name() == "paused" => {}
            Err(error) if scripts.met_faults() || doomed => {
                if newest {
                    assert!(!matches!(operation.state, State::Paused { .. }), "{error:?} in {:?}", operation.state);
                }
            }
            Err(error) => {
                assert!(!newest, "failed without a reason: {error:?}; the operation is {:?}", operation.state);
                assert_ne!(operation.state, State::Cancelled, "a cancelled worker did not say so: {error:?}");
                // The target may say it first: whoever took the restore over has finished it.
                let finished = error.class() == ErrorClass::Invalid && error.to_string().contains("or is finished");
                let finished = finished && operation.new.kind == OperationKind::Restore;
                assert!(finished || error.class() == ErrorClass::Conflict, "{error:?}");
            }
        }
    }

    async fn cancel(&mut self, job: usize, faults: Option<u64>, dies: Option<u8>) {
        let script = removing(faults, dies);
        let faulty = FaultyDestination::new(Arc::new(self.destination.clone()), script.clone());
        let engine = Engine::new(Arc::new(self.store.clone()));
        let (id, archive) = (self.jobs[job].id.clone(), self.jobs[job].archive.clone());
        let before = self.operation(job).await;
        let done = match &self.jobs[job].task {
            Task::Backup { .. } => unless_hung(&script, engine.cancel_backup(&id, &faulty)).await,
            Task::Restore { target, sealed, .. } => {
                let (target, open) = (Arc::new(target.clone()), self.open(*sealed));
                let request = CancelRestore { operation: id, destination: faulty, target, open };
                unless_hung(&script, engine.cancel_restore(request)).await
            }
        };
        let after = self.operation(job).await;
        if after.state == State::Cancelled && after.new.kind == OperationKind::Backup {
            self.doomed.insert(archive.clone());
        }
        match done {
            Some(Ok(operation)) => {
                assert_eq!(operation.state, State::Cancelled);
                // An archive whose manifest had been put before the operation failed is complete, and stays.
                let stays = self.is_complete(&self.jobs[job]);
                if operation.new.kind == OperationKind::Backup && !self.may_write(job) && !stays {
                    assert_eq!(self.names_of(&archive), Vec::<String>::new(), "cancel left something behind");
                }
                if let Task::Restore { target, .. } = &self.jobs[job].task
                    && !self.may_write(job)
                {
                    assert_eq!(target.staged(), Vec::<String>::new(), "cancel left something staged");
                }
            }
            Some(Err(error)) => {
                let refused = matches!(before.state, State::Committing | State::Completed { .. });
                // The archive of a restore may be gone, and with it the names under which something is staged.
                let restore = before.new.kind == OperationKind::Restore && !self.is_complete(&self.jobs[job]);
                let passing = is_passing(error.class()) && !script.fired().is_empty();
                let passing = passing || self.in_the_way(job, &error) || restore;
                assert!(refused || passing, "cancel of {:?} failed: {error:?}", before.state);
            }
            None => {}
        }
    }

    /// Whether somebody who does not know it yet may still write.
    fn may_write(&self, job: usize) -> bool {
        self.jobs[job].late || self.left.iter().any(|left| left.job == job)
    }

    /// Whether a put of a worker that does not know that it has lost its claim keeps staged names from being removed.
    fn in_the_way(&self, job: usize, error: &Error) -> bool {
        self.may_write(job) && error.class() == ErrorClass::Invalid && error.to_string().contains("put is under way")
    }

    fn names_of(&self, archive: &ArchiveId) -> Vec<String> {
        let root = format!("{archive}/");
        self.destination.names().into_iter().filter(|name| name.starts_with(&root)).collect()
    }

    /// Restores from an archive that are at work, or are to go on.
    async fn readers(&self, archive: &ArchiveId) -> Vec<OperationId> {
        let mut readers = Vec::new();
        for job in 0..self.jobs.len() {
            let Operation { new, state, .. } = self.operation(job).await;
            if new.archive == *archive && new.kind == OperationKind::Restore && goes_on(&state) {
                readers.push(new.id);
            }
        }
        readers
    }

    async fn delete(&mut self, job: usize, faults: Option<u64>, dies: Option<u8>) {
        let script = removing(faults, dies);
        let faulty = FaultyDestination::new(Arc::new(self.destination.clone()), script.clone());
        let archive = self.jobs[job].archive.clone();
        let before = self.operation(job).await;
        let was_there = !self.names_of(&archive).is_empty();
        let readers = self.readers(&archive).await;
        let names = self.names_of(&archive);
        let done = unless_hung(&script, delete_archive(&faulty, Some(&self.store), &archive)).await;
        // A backup that is left to itself may have completed just before the delete looked at it.
        let ended = self.operation(job).await.state.is_final();
        let left = self.names_of(&archive);
        if ended && (left != names || left.is_empty()) {
            self.doomed.insert(archive.clone());
            self.deleted.insert(archive.clone());
        }
        match done {
            Some(Ok(_)) => {
                let after = self.readers(&archive).await;
                let still: Vec<_> = readers.iter().filter(|reader| after.contains(reader)).collect();
                assert!(ended && still.is_empty(), "deleted while {:?}, read by {still:?}", before.state);
                if !self.may_write(job) {
                    assert_eq!(self.names_of(&archive), Vec::<String>::new(), "delete left something behind");
                }
            }
            Some(Err(error)) => {
                let refused = !before.state.is_final() || !readers.is_empty() || !was_there;
                let passing = is_passing(error.class()) && !script.fired().is_empty();
                let passing = passing || self.in_the_way(job, &error);
                assert!(refused || passing, "delete failed: {error:?}");
            }
            None => {}
        }
    }

    async fn sweep(&mut self, min_age: u64, faults: Option<u64>, dies: Option<u8>) {
        let script = removing(faults, dies);
        let faulty = FaultyDestination::new(Arc::new(self.destination.clone()), script.clone());
        // A backup that is not complete now may lose everything.
        for job in &self.jobs {
            if matches!(job.task, Task::Backup { .. }) && !self.is_complete(job) {
                self.doomed.insert(job.archive.clone());
            }
        }
        let options = SweepOptions { min_age: Duration::from_secs(min_age), dry_run: false };
        match unless_hung(&script, sweep(&faulty, &options)).await {
            Some(Err(error)) => {
                let passing = is_passing(error.class()) && !script.fired().is_empty();
                let in_the_way = (0..self.jobs.len()).any(|job| self.in_the_way(job, &error));
                assert!(passing || in_the_way, "sweep failed: {error:?}");
            }
            Some(Ok(report)) => {
                for id in &report.swept {
                    let at_work = (0..self.jobs.len()).any(|n| self.jobs[n].archive == *id && self.may_write(n));
                    assert!(at_work || self.names_of(id).is_empty(), "sweep left {:?}", self.names_of(id));
                }
            }
            None => {}
        }
    }

    fn object_names(&self, job: &Job) -> ObjectNames {
        let sealed = match job.task {
            Task::Backup { sealed, .. } | Task::Restore { sealed, .. } => sealed,
        };
        ObjectNames::new(job.archive.clone(), Codec::None, sealed)
    }

    /// Whether the archive counts as complete.
    fn is_complete(&self, job: &Job) -> bool {
        let names = self.object_names(job);
        is_complete(&self.destination, &names)
    }

    /// What must hold at any time.
    pub(crate) async fn check(&mut self, when: &str) {
        assert_eq!(self.store.breaches(), Vec::<String>::new(), "{when}");
        let frozen = self.destination.snapshot();
        // Nobody else runs between these looks at the store and at the destination.
        let mut operations = Vec::new();
        for n in 0..self.jobs.len() {
            operations.push(self.operation(n).await);
        }
        let objects = frozen.objects();
        for (name, bytes) in &objects {
            if let Some(before) = self.seen.get(name)
                && !name.as_str().ends_with("/swept.json")
            {
                assert!(before == bytes, "{when}: {name} was changed");
            }
        }
        for name in self.seen.keys().filter(|name| !objects.contains_key(*name)) {
            let job = self.jobs.iter().position(|job| {
                matches!(job.task, Task::Backup { .. }) && name.as_str().starts_with(job.archive.as_str())
            });
            let job = job.expect("an archive of a known backup");
            let newest = operations[job].attempt;
            let left_over = ObjectNames::parse_attempt(name).is_some_and(|written| written.attempt < newest);
            let doomed = self.doomed.contains(&self.jobs[job].archive);
            assert!(doomed || left_over, "{when}: {name} has vanished");
        }
        self.seen = objects;
        for (n, operation) in operations.into_iter().enumerate() {
            let job = &self.jobs[n];
            match &job.task {
                Task::Backup { picture, sealed } => {
                    let names = self.object_names(job);
                    let complete = is_complete(&frozen, &names);
                    if let State::Completed { warnings } = operation.state {
                        let deleted = self.deleted.contains(&job.archive);
                        assert!(
                            complete || deleted,
                            "{when}: {} is completed, its archive has only {:#?}",
                            job.id,
                            self.names_of(&job.archive)
                        );
                        assert!(
                            warnings == 0 || picture.twisted.is_some() || !job.calm,
                            "{when}: {warnings} warnings without a reason"
                        );
                    }
                    if complete {
                        let contents = sound(&frozen, &job.archive, self.open(*sealed), when, &self.sound).await;
                        if let Some(contents) = contents {
                            same_as_source(&contents, picture, when);
                            self.sound.insert(job.archive.clone(), contents);
                        }
                    }
                }
                Task::Restore { target, expected, .. } => {
                    for (name, item) in target.items() {
                        let right = expected.get(&name).unwrap_or_else(|| panic!("{when}: {name} is in no archive"));
                        assert!(item.content == right, "{when}: {name} is not what the archive has");
                    }
                    if let State::Completed { warnings } = operation.state {
                        let missing: Vec<_> =
                            expected.keys().filter(|name| !target.items().contains_key(name)).collect();
                        assert!(missing.is_empty(), "{when}: {missing:?} is not restored, with {warnings} warnings");
                        assert_eq!(warnings, 0, "{when}: warnings of a restore");
                        assert_eq!(target.staged(), Vec::<String>::new(), "{when}");
                    }
                    let breaches: Vec<_> =
                        target.breaches().into_iter().filter(|_| self.jobs[n].zombies == 0).collect();
                    assert_eq!(breaches, Vec::<String>::new(), "{when}");
                }
            }
        }
    }

    /// The faults stop, and everything is brought to an end: completed, or cancelled where a bit of `cancel` says so.
    pub(crate) async fn settle(&mut self, cancel: u8) {
        for left in &self.left {
            left.scripts.clear();
        }
        for left in std::mem::take(&mut self.left) {
            let result = finished(left.handle).await;
            self.ended(left.job, left.attempt, &left.scripts, result).await;
            self.jobs[left.job].calm &= !left.scripts.met_faults();
        }
        // What was sent arrives.
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.jobs.iter_mut().for_each(|job| job.late = false);
        self.check("after the workers have ended").await;
        let calm = Run { holder: 7, faults: None, store_faults: None, late: None, end: End::Wait, power: false };
        for n in 0..self.jobs.len() {
            let state = self.operation(n).await.state;
            if state.is_final() {
                continue;
            }
            let doomed = self.doomed.contains(&self.jobs[n].archive);
            if cancel & (1 << (n % 8)) == 0 || state == State::Committing {
                self.resume(n, false, &calm).await;
                self.check("after the last resume").await;
                let state = self.operation(n).await.state;
                assert!(doomed || matches!(state, State::Completed { .. }), "it cannot be completed: {state:?}");
            }
            if !self.operation(n).await.state.is_final() {
                self.cancel(n, None, None).await;
                assert_eq!(self.operation(n).await.state, State::Cancelled);
            }
        }
        self.check("when all has ended").await;
        self.restore_all().await;
        self.clear_up().await;
    }

    /// Every complete archive can be restored.
    async fn restore_all(&self) {
        let engine = Engine::new(Arc::new(self.store.clone()));
        for job in self.jobs.iter().filter(|job| matches!(job.task, Task::Backup { .. }) && self.is_complete(job)) {
            let Task::Backup { sealed, .. } = job.task else { unreachable!() };
            let target = MemoryTarget::new("last");
            let destination: Arc<dyn Destination> = Arc::new(self.destination.clone());
            let request = RestoreRequest {
                open: self.open(sealed),
                ..RestoreRequest::new(destination, job.archive.clone(), Arc::new(target.clone()))
            };
            let outcome = finished(engine.restore(request).await.unwrap()).await.unwrap();
            assert!(matches!(outcome, Outcome::Completed { warnings: 0, .. }), "{outcome:?}");
            let restored: Contents = target.items().into_iter().map(|(name, item)| (name, item.content)).collect();
            assert!(restored == self.sound[&job.archive], "restored otherwise than archived");
            assert_eq!(target.breaches(), Vec::<String>::new());
        }
    }

    /// A sweep and deletes leave nothing at all.
    async fn clear_up(&mut self) {
        for _ in 0..2 {
            self.clock.advance(Duration::from_secs(7200));
            sweep(
                &Arc::new(self.destination.clone()),
                &SweepOptions { min_age: Duration::from_secs(3600), dry_run: false },
            )
            .await
            .unwrap();
        }
        let complete: Vec<ArchiveId> =
            self.jobs.iter().filter(|job| self.is_complete(job)).map(|job| job.archive.clone()).collect();
        for name in self.destination.names() {
            let archive = complete.iter().any(|id| name.starts_with(id.as_str()));
            assert!(archive, "{name} is left after a sweep");
        }
        assert_eq!(self.destination.staged(), Vec::<String>::new(), "staged names in complete archives");
        for id in complete {
            match delete_archive(&Arc::new(self.destination.clone()), Some(&self.store), &id).await {
                Ok(_) => {}
                // Twice in the list, by a backup and a restore.
                Err(error) => assert_eq!(error.class(), ErrorClass::NotFound, "{error:?}"),
            }
        }
        assert_eq!(self.destination.names(), Vec::<String>::new(), "after everything was deleted");
    }
}

/// Whether a restore runs, or is meant to.
fn goes_on(state: &State) -> bool {
    state.is_held() || matches!(state, State::Pending | State::Paused { .. })
}

/// Starts something; `None` when its process died in it, or waits for another worker for very long.
async fn begin(
    scripts: &Scripts,
    start: impl Future<Output = Result<OperationHandle>>,
) -> Option<Result<OperationHandle>> {
    tokio::select! {
        biased;
        started = tokio::time::timeout(Duration::from_secs(60), start) => started.ok(),
        () = scripts.hung() => None,
    }
}

async fn unless_hung<T>(script: &Script, call: impl Future<Output = T>) -> Option<T> {
    let hung = async {
        while !hangs(script) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        done = call => Some(done),
        () = hung => None,
    }
}

async fn finished(handle: OperationHandle) -> Result<Outcome> {
    tokio::time::timeout(STUCK, handle.wait()).await.expect("the operation is stuck")
}

/// Lets all other tasks run so many times.
async fn turns(n: u16) {
    for _ in 0..n {
        tokio::task::yield_now().await;
    }
}

/// Whether an archive counts as complete. A manifest that arrives after everything was removed completes nothing.
fn is_complete(place: &MemoryDestination, names: &ObjectNames) -> bool {
    let there = |name: ObjectName| place.bytes(&name).is_some();
    there(names.header()) && there(names.manifest()) && !there(names.swept())
}

/// Opens and verifies an archive; its contents, unless they were looked at before.
async fn sound(
    place: &MemoryDestination,
    id: &ArchiveId,
    open: OpenOptions,
    when: &str,
    known: &BTreeMap<ArchiveId, Contents>,
) -> Option<Contents> {
    let archive = Archive::open(Arc::new(place.clone()), id, &open).await;
    let archive =
        archive.unwrap_or_else(|e| panic!("{when}: {id} cannot be opened: {e:?}; there is {:?}", place.names()));
    let new = !known.contains_key(id);
    let mode = if new { VerifyMode::Full } else { VerifyMode::Quick };
    let outcome = archive.verify(mode, &tokio::sync::watch::Sender::new(Progress::default())).await.unwrap();
    assert!(outcome.is_sound(), "{when}: {id} is not sound: {:?}", outcome.findings);
    if !new {
        return None;
    }
    Some(archived(&archive, Granularity::Slice).await.unwrap())
}

fn same_as_source(contents: &Contents, picture: &Picture, when: &str) {
    let names = |contents: &Contents| -> BTreeSet<_> {
        contents.keys().filter(|name| Some(*name) != picture.twisted.as_ref()).cloned().collect()
    };
    assert_eq!(names(contents), names(&picture.contents), "{when}: other entries than the source has");
    for name in names(contents) {
        assert!(contents[&name] == picture.contents[&name], "{when}: {name} is not what the source has");
    }
}
