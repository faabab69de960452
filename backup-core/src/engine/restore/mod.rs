//! Restore: `index → plan → fetch frames → unseal → decompress → check digests → write`, concurrently and resumable.

mod checkpoint;
mod large;
mod ledger;
mod plan;
mod small;

pub(super) use large::content;
pub(super) use plan::Plan;

use super::archive::Archive;
use super::backup::{has_content, same_place};
use super::fetch::{Decoded, Fetcher};
use super::handle::AbortOnDrop;
use super::selection::Chosen;
use super::session::{Session, no_such};
use super::{Engine, Limits, OpenOptions, OperationHandle, Outcome, RestoreRequest, ResumeRestore};
use crate::adapter::{Granularity, RestorePlan, RestoreTarget};
use crate::model::{Entry, EntryKind, GroupName, LogRecord, NewOperation, OperationId, OperationKind, Phase};
use crate::retry::Retrying;
use crate::state::{Event, State};
use crate::{Error, ErrorClass, Result};
use bytes::Bytes;
use checkpoint::RestoreCheckpoint;
use futures::StreamExt;
use futures::stream::BoxStream;
use large::LargeWriter;
use ledger::{Account, Ledger};
use small::SmallWriter;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Content up to this length is held in memory and written in batches; longer content is streamed.
const LARGE: u64 = 16 << 20;
/// Large entries at once.
const PARALLEL_LARGE: usize = 2;
/// The shortest time between two checkpoints; more when making the target durable takes long.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn start(engine: &Engine, request: RestoreRequest) -> Result<OperationHandle> {
    let RestoreRequest { destination, archive: id, target, open, options, limits, name, spec } = request;
    Chosen::new(&options.selection)?;
    let archive = Archive::open(destination.clone(), &id, &open).await?;
    let place = destination.identity();
    let known = engine.store.archives(&place).await?;
    if known.iter().any(|r| r.archive == id && r.manifest_sha256 != archive.manifest_sha256()) {
        let text = "its manifest is not the one that was written: somebody has put another archive in its place";
        return Err(Error::corrupt(text).on(&id));
    }
    target.check().await.map_err(|e| e.context(format!("the target {} cannot be used", target.identity())))?;
    let first = RestoreCheckpoint {
        version: 1,
        archive: id.clone(),
        manifest_sha256: archive.manifest_sha256(),
        options,
        done: 0,
        large: Vec::new(),
        groups: Vec::new(),
        warnings: 0,
        left: Vec::new(),
    };
    let op = OperationId::generate(jiff::Timestamp::now());
    let new = NewOperation {
        id: op.clone(),
        kind: OperationKind::Restore,
        name,
        source: place,
        destination: target.identity(),
        archive: id,
        spec,
    };
    engine.store.create(new, Some(&first.encode()?)).await?;
    let (session, _) = Session::claim(engine, &op, super::TakeOver::WhenFree).await?;
    Ok(spawn(engine, session, archive, target, limits, first, false))
}

pub(super) async fn resume(engine: &Engine, request: ResumeRestore) -> Result<OperationHandle> {
    let ResumeRestore { operation: id, destination, target, open, limits, take_over } = request;
    let operation = engine.store.get(&id).await?.ok_or_else(|| no_such(&id))?;
    if operation.new.kind != OperationKind::Restore {
        return Err(Error::invalid("it is not a restore").on(format!("operation {id}")));
    }
    same_place("archive place", &operation.new.source, &destination.identity())?;
    same_place("target", &operation.new.destination, &target.identity())?;
    let (session, claim) = Session::claim(engine, &id, take_over).await?;
    let opened = async {
        let saved = claim.checkpoint.as_ref().ok_or_else(|| Error::corrupt("the operation has no checkpoint"))?;
        let saved = RestoreCheckpoint::decode(saved)?;
        let archive = Archive::open(destination, &saved.archive, &OpenOptions { ..open }).await?;
        if archive.manifest_sha256() != saved.manifest_sha256 {
            return Err(Error::corrupt("the archive is not the one that the restore began with").on(archive.id()));
        }
        Ok((archive, saved))
    };
    match opened.await {
        Ok((archive, saved)) => Ok(spawn(engine, session, archive, target, limits, saved, true)),
        Err(error) => {
            let (archive, progress, pause) = (operation.new.archive, session.meter.subscribe(), session.pause.clone());
            let key_needed = error.class() == ErrorClass::Unauthorized && claim.operation.state == State::Running;
            let work = async move {
                if key_needed { session.key_needed(error).await } else { session.broke_off(error).await }
            };
            Ok(OperationHandle { id, archive, progress, pause, task: AbortOnDrop(tokio::spawn(work)) })
        }
    }
}

fn spawn(
    engine: &Engine,
    session: Arc<Session>,
    archive: Archive,
    target: Arc<dyn RestoreTarget>,
    limits: Limits,
    start: RestoreCheckpoint,
    resumed: bool,
) -> OperationHandle {
    let (id, archive_id) = (session.fence().operation.clone(), archive.id().clone());
    let (progress, pause) = (session.meter.subscribe(), session.pause.clone());
    let target: Arc<dyn RestoreTarget> = Retrying::new(target, engine.options.retry);
    let attempt = Attempt { engine: engine.clone(), session, archive, target, limits, resumed };
    let task = AbortOnDrop(tokio::spawn(attempt.run(start)));
    OperationHandle { id, archive: archive_id, progress, pause, task }
}

/// One attempt at a restore.
#[derive(Debug)]
struct Attempt {
    engine: Engine,
    session: Arc<Session>,
    archive: Archive,
    target: Arc<dyn RestoreTarget>,
    limits: Limits,
    resumed: bool,
}

/// How the transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Complete,
    Paused,
}

impl Attempt {
    async fn run(self, start: RestoreCheckpoint) -> Result<Outcome> {
        let session = self.session.clone();
        match session.hold(Box::pin(self.work(start))).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => match session.settled().await {
                Some(outcome) => Ok(outcome),
                None => session.broke_off(error).await,
            },
        }
    }

    async fn work(&self, mut saved: RestoreCheckpoint) -> Result<Outcome> {
        let session = &self.session;
        let chosen = Arc::new(Chosen::new(&saved.options.selection)?);
        let plan = Plan { archive: self.archive.clone(), chosen: chosen.clone() };
        let restore_plan = RestorePlan {
            tag: session.fence().operation.to_string(),
            attempt: session.fence().attempt,
            resumed: self.resumed,
            overwrite: saved.options.overwrite,
            entries: Arc::new(plan.clone()),
        };
        let text = format!("restoring {} to {}", self.archive.id(), self.target.identity());
        session.log(LogRecord::info("connect", text));
        self.target.check().await?;
        self.target.prepare(&restore_plan).await?;
        let totals = self.archive.manifest().totals;
        session.meter.update(|p| {
            p.phase = Phase::Transferring;
            p.warnings = saved.warnings;
            if chosen.is_all() {
                p.entries_total = Some(totals.entries);
                p.bytes_total = Some(totals.bytes);
            }
        });
        let account = Account {
            done: saved.done,
            large: std::mem::take(&mut saved.large),
            groups: std::mem::take(&mut saved.groups),
            left: std::mem::take(&mut saved.left),
            warnings: saved.warnings,
        };
        let ledger = Ledger::new(session.clone(), account);
        let ended = {
            let transfer = Box::pin(self.transfer(&plan, &restore_plan, &ledger, saved.done));
            let keep_account = Box::pin(self.keep_account(&saved, &ledger));
            tokio::select! {
                ended = transfer => ended?,
                broken = keep_account => return Err(broken),
            }
        };
        self.save(&saved, &ledger).await?;
        if ended == Ended::Paused {
            return session.paused().await;
        }
        session.meter.phase(Phase::Finishing);
        for warning in self.target.finish(&restore_plan).await? {
            ledger.warn(warning.name.as_ref(), &warning.message);
            session.log_pressure().await?;
        }
        if !saved.options.skip_verify {
            self.verify(&restore_plan, &ledger).await?;
        }
        let warnings = ledger.account().warnings;
        session.meter.phase(Phase::Done);
        let progress = session.meter.snapshot();
        let log =
            LogRecord::info("done", format!("{} entries are restored", progress.entries)).with(serde_json::json!({
                "entries": progress.entries,
                "bytes": progress.bytes,
                "warnings": warnings,
            }));
        session.transition(Event::Complete { warnings }, log, |_| {}).await?;
        Ok(Outcome::Completed { warnings, progress })
    }

    /// Reads the target back. What was left out with a warning is no damage; anything else that differs is.
    async fn verify(&self, plan: &RestorePlan, ledger: &Ledger) -> Result<()> {
        let session = &self.session;
        session.meter.phase(Phase::Verifying);
        session.log(LogRecord::info("verify", "reading the restored data back"));
        let report = self.target.verify(plan).await?;
        let known = report.mismatches.iter().filter(|m| ledger.may_have_left(&m.name)).count() as u64;
        for mismatch in &report.mismatches {
            let text = format!("{}: {}", mismatch.name, mismatch.message);
            session.log(LogRecord::warning("verify", text));
        }
        if report.mismatch_count > known {
            let text = format!(
                "reading back found {} entries that are not as the archive has them; the first ones are in the job log",
                report.mismatch_count - known
            );
            return Err(Error::corrupt(text));
        }
        let text = format!(
            "{} entries with {} bytes are as the archive has them",
            report.entries - known.min(report.entries),
            report.bytes
        );
        session.log(LogRecord::info("verify", text));
        Ok(())
    }

    /// Saves checkpoints now and then; returns only when that fails.
    async fn keep_account(&self, saved: &RestoreCheckpoint, ledger: &Ledger) -> Error {
        let mut pause = CHECKPOINT_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let start = Instant::now();
            if let Err(error) = self.save(saved, ledger).await {
                return error;
            }
            // At most a tenth of the time goes into making the target durable.
            pause = CHECKPOINT_PAUSE.max(start.elapsed() * 10);
        }
    }

    async fn save(&self, saved: &RestoreCheckpoint, ledger: &Ledger) -> Result<()> {
        let account = ledger.account();
        self.target.sync().await?;
        let Account { done, large, groups, left, warnings } = account;
        let checkpoint = RestoreCheckpoint { done, large, groups, left, warnings, ..saved.clone() };
        self.session.save(&checkpoint.encode()?).await?;
        self.session.log_pressure().await
    }

    fn is_large(target: &dyn RestoreTarget, entry: &Entry) -> bool {
        has_content(&entry.kind) && (entry.size > LARGE || Self::is_whole(target, entry))
    }

    fn is_whole(target: &dyn RestoreTarget, entry: &Entry) -> bool {
        entry.kind == EntryKind::Slice && entry.group.is_some() && target.granularity(&entry.kind) == Granularity::Whole
    }

    async fn transfer(
        &self,
        plan: &Plan,
        restore_plan: &RestorePlan,
        ledger: &Arc<Ledger>,
        from: u64,
    ) -> Result<Ended> {
        let memory = self.engine.options.memory;
        let threads = self.engine.options.threads.max(1);
        let fetcher = |share, parallel| Fetcher::new(self.archive.clone(), share, self.limits.read.clone(), parallel);
        let (entries_out, mut entries) = mpsc::channel(1);
        let target = self.target.clone();
        let chunks = plan.clone().chunks(from, move |entry| !Self::is_large(&*target, entry), entries_out);
        let mut decoded = fetcher(memory / 2, threads + 1).run(chunks);
        let small = SmallWriter::new(
            self.target.clone(),
            restore_plan.clone(),
            ledger.clone(),
            self.limits.write.clone(),
            threads * 2,
        );
        let large = LargeWriter {
            target: self.target.clone(),
            plan: restore_plan.clone(),
            ledger: ledger.clone(),
            fetcher: fetcher(memory / 4 / PARALLEL_LARGE as u64, 2),
            limit: self.limits.write.clone(),
        };
        let mut splitter = Splitter {
            plan: plan.clone(),
            target: self.target.clone(),
            ledger: ledger.clone(),
            small,
            large,
            running: VecDeque::new(),
            groups: ledger.account().groups.into_iter().collect(),
            queue: VecDeque::new(),
        };
        let ended = self.feed(&mut splitter, &mut entries, &mut decoded).await;
        if !matches!(ended, Ok(Ended::Complete)) {
            // Whoever goes on must not meet a writer of this attempt that is still at work.
            splitter.stop().await;
        }
        ended
    }

    async fn feed(
        &self,
        splitter: &mut Splitter,
        entries: &mut mpsc::Receiver<Vec<Entry>>,
        decoded: &mut BoxStream<'static, Result<Decoded>>,
    ) -> Result<Ended> {
        let pause = self.session.pause.clone();
        let mut more_frames = true;
        loop {
            tokio::select! {
                biased;
                () = pause.cancelled() => {
                    splitter.small.drain().await?;
                    return Ok(Ended::Paused);
                }
                batch = entries.recv() => match batch {
                    Some(batch) => {
                        splitter.queue.extend(batch);
                        splitter.advance(None).await?;
                    }
                    // The plan has ended; frames of its last part may still come.
                    None => break,
                },
                frames = decoded.next(), if more_frames => match frames {
                    Some(frames) => splitter.frames(frames?).await?,
                    None => more_frames = false,
                },
            }
        }
        while let Some(frames) = decoded.next().await {
            if pause.is_cancelled() {
                splitter.small.drain().await?;
                return Ok(Ended::Paused);
            }
            splitter.frames(frames?).await?;
        }
        splitter.finish(&pause).await
    }
}

/// Hands entries and frames to whoever writes them.
#[derive(Debug)]
struct Splitter {
    plan: Plan,
    target: Arc<dyn RestoreTarget>,
    ledger: Arc<Ledger>,
    small: SmallWriter,
    large: LargeWriter,
    running: VecDeque<AbortOnDrop<Result<()>>>,
    /// Groups that are taken as a whole and have been begun.
    groups: HashSet<GroupName>,
    /// Entries whose content has not come yet, in order.
    queue: VecDeque<Entry>,
}

impl Splitter {
    async fn frames(&mut self, decoded: Decoded) -> Result<()> {
        self.advance(Some(&decoded)).await?;
        // What is written must not keep the memory of frames that are done with.
        self.small.flush().await
    }

    /// Deals with the entries at the front of the queue as far as their content is there.
    async fn advance(&mut self, decoded: Option<&Decoded>) -> Result<()> {
        let mut frames = decoded.map(|d| d.frames.iter()).into_iter().flatten();
        let mut frame = frames.next();
        while let Some(entry) = self.queue.front() {
            if Attempt::is_large(&*self.target, entry) {
                let Some(entry) = self.queue.pop_front() else { break };
                self.begin_large(entry).await?;
            } else if entry.size == 0 {
                let Some(entry) = self.queue.pop_front() else { break };
                self.small.add(entry, Bytes::new(), None).await?;
            } else {
                let Some(present) = frame else { break };
                match self.small.take(entry, present)? {
                    Some(content) => {
                        let Some(entry) = self.queue.pop_front() else { break };
                        self.small.add(entry, content, decoded).await?;
                    }
                    None => frame = frames.next(),
                }
            }
        }
        Ok(())
    }

    async fn begin_large(&mut self, entry: Entry) -> Result<()> {
        let whole = Attempt::is_whole(&*self.target, &entry);
        if let Some(group) = entry.group.as_ref().filter(|_| whole)
            && !self.groups.insert(group.clone())
        {
            // Its group's writer reads it.
            self.ledger.handed_out(entry.ordinal + 1);
            return self.ledger.written(&entry, Ok(crate::adapter::Written::AlreadyThere));
        }
        while self.running.len() >= PARALLEL_LARGE {
            self.first_done().await?;
        }
        let work = self.ledger.begin(entry.ordinal);
        self.ledger.handed_out(entry.ordinal + 1);
        let writer = self.large.clone();
        let task = match entry.group.clone().filter(|_| whole) {
            Some(group) => tokio::spawn(writer.group(self.plan.clone(), entry, group, work)),
            None => tokio::spawn(writer.entry(entry, work)),
        };
        self.running.push_back(AbortOnDrop(task));
        Ok(())
    }

    async fn first_done(&mut self) -> Result<()> {
        let Some(task) = self.running.front_mut() else { return Ok(()) };
        // It stays in the queue while it runs, so that whoever stops the queue waits for it too.
        let done = task.join().await;
        self.running.pop_front();
        done
    }

    /// Stops everything that was begun.
    async fn stop(&mut self) {
        self.small.stop().await;
        for task in self.running.drain(..) {
            task.stop().await;
        }
    }

    /// Waits for everything that was begun.
    async fn finish(&mut self, pause: &tokio_util::sync::CancellationToken) -> Result<Ended> {
        if let Some(entry) = self.queue.front() {
            return Err(Error::corrupt("the index names content that no frame holds").on(&entry.name));
        }
        self.small.drain().await?;
        while !self.running.is_empty() {
            tokio::select! {
                // Large entries keep what they have recorded.
                () = pause.cancelled() => return Ok(Ended::Paused),
                done = self.first_done() => done?,
            }
        }
        Ok(Ended::Complete)
    }
}
