//! Restore: `index → plan → fetch frames → unseal → decompress → check digests → write`, concurrently and resumable.

mod cancel;
mod checkpoint;
mod cut;
mod large;
mod ledger;
mod left;
mod plan;
mod small;

pub(super) use cancel::cancel;
pub(super) use cut::contents;
pub(super) use large::content;
pub(super) use plan::Plan;
use plan::{Losses, Planned};

use super::archive::Archive;
use super::backup::{has_content, same_place};
use super::fetch::{Decoded, Fetcher};
use super::handle::AbortOnDrop;
use super::selection::Chosen;
use super::session::{self, Session, no_such};
use super::{
    Claimed, Engine, Limits, OperationHandle, Outcome, RestoreOptions, RestoreRequest, RestoreWork, ResumeRestore,
    for_any_worker,
};
use crate::adapter::{
    Granularity, MismatchKind, PlanEntries, RestorePlan, RestoreTarget, SavedProgress, SmallEntry, SourceFacts, Wanted,
};
use crate::model::{
    ArchiveId, Claim, Entry, EntryKind, EntryName, GroupName, Identity, LogRecord, NewOperation, Operation,
    OperationId, OperationKind, Phase,
};
use crate::retry::Retrying;
use crate::state::{Event, State};
use crate::{Error, ErrorClass, Result};
use async_trait::async_trait;
use bytes::Bytes;
use checkpoint::{Body, Head, RestoreCheckpoint, Tally};
use futures::StreamExt;
use futures::stream::BoxStream;
use large::LargeWriter;
use ledger::Ledger;
use small::SmallWriter;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Content up to this length is held in memory and written in batches; longer content is streamed.
const LARGE: u64 = 16 << 20;
/// So many planned entries wait for their content; the index is read on when there are fewer. They come by the index piece, up to some
/// 20,000 at once, of which another one may be on its way, and take about a KiB each with names and metadata; no memory budget counts
/// them. With 50,000 of them a restore of small files went beyond the 256 MiB that it should keep within.
const WAITING: usize = 16_000;
/// Large entries at once.
const PARALLEL_LARGE: usize = 2;
/// The shortest time between two checkpoints; more when making the target durable takes long.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(2);

/// A restore that is about to be created.
struct Prepared {
    new: NewOperation,
    first: RestoreCheckpoint,
    archive: Archive,
    target: Arc<dyn RestoreTarget>,
    limits: Limits,
}

pub(super) async fn start(engine: &Engine, request: RestoreRequest) -> Result<OperationHandle> {
    let Prepared { new, first, archive, target, limits } = prepare(engine, request).await?;
    let session = Session::create(engine, new, &first.encode(archive.inner.key.as_ref())?).await?;
    Ok(spawn(engine, session, archive, target, limits, first, false))
}

pub(super) async fn create(engine: &Engine, request: RestoreRequest) -> Result<Operation> {
    let Prepared { new, first, archive, .. } = prepare(engine, request).await?;
    for_any_worker(&new)?;
    session::create(engine, new, &first.encode(archive.inner.key.as_ref())?).await
}

async fn prepare(engine: &Engine, request: RestoreRequest) -> Result<Prepared> {
    let RestoreRequest { destination, archive: id, target, open, options, limits, name, spec, connections, created_by } =
        request;
    engine.options.check()?;
    Chosen::new(&options.selection)?;
    let archive = Archive::open_with(destination.clone(), &id, &open, engine.options.retry).await?;
    let place = destination.identity();
    let known = engine.store.archives(&place).await?;
    if known.iter().any(|k| k.record.archive == id && k.record.manifest_sha256 != archive.manifest_sha256()) {
        let text = "its manifest is not the one that was written: somebody has put another archive in its place";
        return Err(Error::corrupt(text).on(&id));
    }
    let target: Arc<dyn RestoreTarget> = Retrying::new(target, engine.options.retry);
    not_among_archives(&place, &target.identity())?;
    target.check().await.map_err(|e| e.context(format!("the target {} cannot be used", target.identity())))?;
    let first = RestoreCheckpoint::first(id.clone(), archive.manifest_sha256(), options);
    let new = NewOperation {
        id: OperationId::generate(jiff::Timestamp::now()),
        kind: OperationKind::Restore,
        name,
        source: place,
        destination: target.identity(),
        archive: id,
        spec,
        connections,
        created_by,
    };
    Ok(Prepared { new, first, archive, target, limits })
}

/// Refuses to restore over archives: into the very place that keeps them, or into one of them.
fn not_among_archives(archives: &Identity, target: &Identity) -> Result<()> {
    let Some(below) = archives.below(target) else { return Ok(()) };
    let first = below.split('/').next().unwrap_or_default();
    if !below.is_empty() && first.parse::<ArchiveId>().is_err() {
        return Ok(());
    }
    Err(Error::invalid(format!("archives are kept in the target {target}; choose another target")))
}

pub(super) async fn resume(engine: &Engine, request: ResumeRestore) -> Result<OperationHandle> {
    let ResumeRestore { operation: id, destination, target, open, limits, take_over, keep_going } = request;
    engine.options.check()?;
    let operation = engine.store.get(&id).await?.ok_or_else(|| no_such(&id))?;
    let work = RestoreWork { destination, target, open, limits, keep_going };
    fit(&work, &operation)?;
    let (session, claim) = Session::claim(engine, &id, take_over).await?;
    Ok(begin(engine, session, claim, work).await)
}

pub(super) async fn go_on(engine: &Engine, claimed: Claimed, work: RestoreWork) -> Result<OperationHandle> {
    let Claimed { session, claim } = claimed;
    match fit(&work, &claim.operation) {
        Ok(()) => Ok(begin(engine, session, claim, work).await),
        Err(error) => {
            session.broke_off(error).await?;
            Err(Error::conflict("the operation cannot be continued now")
                .on(format!("operation {}", claim.operation.new.id)))
        }
    }
}

/// Whether it is what the operation was started with.
fn fit(work: &RestoreWork, operation: &Operation) -> Result<()> {
    if operation.new.kind != OperationKind::Restore {
        return Err(Error::invalid("it is not a restore").on(format!("operation {}", operation.new.id)));
    }
    same_place("archive place", &operation.new.source, &work.destination.identity())?;
    same_place("target", &operation.new.destination, &work.target.identity())
}

/// Begins an attempt under a claim, from the last checkpoint.
async fn begin(engine: &Engine, session: Arc<Session>, claim: Claim, work: RestoreWork) -> OperationHandle {
    let RestoreWork { destination, target, open, limits, keep_going } = work;
    let opened = async {
        let saved = claim.checkpoint.as_ref().ok_or_else(|| Error::corrupt("the operation has no checkpoint"))?;
        let head = RestoreCheckpoint::decode_head(saved)?;
        let archive = Archive::open_with(destination, &head.archive, &open, engine.options.retry).await?;
        same_archive(&archive, &head)?;
        let mut saved = RestoreCheckpoint::decode(saved, archive.inner.key.as_ref())?;
        saved.body.options.keep_going |= keep_going;
        Ok::<_, Error>((archive, saved))
    };
    match session.before_work(opened).await {
        Ok(None) => {
            let of = session.clone();
            OperationHandle::of(&of, claim.operation.new.archive, async move { session.paused().await })
        }
        Ok(Some((archive, saved))) => {
            let target = Retrying::new(target, engine.options.retry);
            // Nobody has prepared the target yet when this is the first attempt.
            spawn(engine, session, archive, target, limits, saved, claim.fence.attempt > 1)
        }
        Err(error) => {
            let of = session.clone();
            let key_needed = error.class() == ErrorClass::Unauthorized && claim.operation.state == State::Running;
            let work = async move {
                if key_needed { session.key_needed(error).await } else { session.broke_off(error).await }
            };
            OperationHandle::of(&of, claim.operation.new.archive, work)
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
    let (of, id) = (session.clone(), archive.id().clone());
    let attempt = Attempt { engine: engine.clone(), session, archive, target, limits, resumed };
    OperationHandle::of(&of, id, attempt.run(start))
}

fn same_archive(archive: &Archive, head: &Head) -> Result<()> {
    if archive.manifest_sha256() == head.manifest_sha256 {
        return Ok(());
    }
    Err(Error::corrupt("the archive is not the one that the restore began with").on(archive.id()))
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

/// What an attempt works on.
#[derive(Debug)]
struct Job {
    /// The checkpoint with which it began, without its account: that is the ledger's.
    saved: RestoreCheckpoint,
    options: RestoreOptions,
    /// Entries before this ordinal are done.
    from: u64,
    /// Their figures.
    tally: Tally,
    ledger: Arc<Ledger>,
    plan: Plan,
    restore_plan: RestorePlan,
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
        let job = match self.job(start) {
            Ok(job) => job,
            Err(error) => return session.broke_off(error).await,
        };
        let error = match session.hold(Box::pin(self.work(&job))).await {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        session.writers_stopped().await;
        match session.settled().await {
            Some(outcome) => {
                if outcome == Outcome::Cancelled
                    && let Err(error) = self.target.discard(&job.restore_plan).await
                {
                    let text = "staged leftovers of the cancelled restore may remain; cancelling again removes them";
                    tracing::warn!(error = %error.chain(), text);
                }
                Ok(outcome)
            }
            None => session.broke_off(error).await,
        }
    }

    fn job(&self, mut saved: RestoreCheckpoint) -> Result<Job> {
        let written = saved.body.written();
        let account = std::mem::take(&mut saved.body.account);
        let (options, from) = (saved.body.options.clone(), account.done);
        let tally = account.tally;
        let ledger = Ledger::new(self.session.clone(), account)?;
        let plan = Plan {
            archive: self.archive.clone(),
            chosen: Arc::new(Chosen::new(&options.selection)?),
            limit: self.limits.read.clone(),
            losses: options.keep_going.then(|| ledger.clone() as Arc<dyn Losses>),
        };
        let restore_plan = RestorePlan {
            tag: self.session.fence().operation.to_string(),
            attempt: self.session.fence().attempt,
            resumed: self.resumed,
            overwrite: options.overwrite,
            naming: self.archive.header().naming,
            entries: Arc::new(TargetPlan {
                plan: plan.clone(),
                ledger: ledger.clone(),
                memory: self.engine.options.memory / 4,
                written,
            }),
        };
        Ok(Job { saved, options, from, tally, ledger, plan, restore_plan })
    }

    async fn work(&self, job: &Job) -> Result<Outcome> {
        let session = &self.session;
        let Job { saved, options, tally, ledger, plan, restore_plan, .. } = job;
        let text = format!("restoring {} to {}", self.archive.id(), self.target.identity());
        session.log(LogRecord::info("connect", text));
        self.target.check().await?;
        self.target.prepare(restore_plan).await?;
        let totals = self.archive.manifest().totals;
        session.meter.update(|p| {
            p.phase = Phase::Transferring;
            // What was counted behind the checkpoint is done and counted again.
            (p.entries, p.bytes, p.warnings) = (tally.entries, tally.bytes, ledger.warnings());
            if plan.chosen.is_all() {
                p.entries_total = Some(totals.entries);
                p.bytes_total = Some(totals.bytes);
            }
        });
        let ended = {
            let transfer = Box::pin(self.transfer(job));
            let keep_account = Box::pin(self.keep_account(saved, ledger));
            tokio::select! {
                ended = transfer => ended.map_err(|e| self.damaged(e, options))?,
                broken = keep_account => return Err(broken),
            }
        };
        self.save(saved, ledger).await?;
        if ended == Ended::Paused || session.pause.is_cancelled() {
            return session.paused().await;
        }
        session.meter.phase(Phase::Finishing);
        for warning in self.target.finish(restore_plan).await? {
            ledger.finished_with(&warning);
            session.log_pressure().await?;
        }
        if !options.skip_verify {
            tokio::select! {
                biased;
                // Whoever resumes comes here at once, for all is written.
                () = session.pause.cancelled() => return session.paused().await,
                verified = self.verify(restore_plan, ledger) => verified?,
            }
        }
        let warnings = ledger.warnings();
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

    /// Says of damage what can be done about it.
    fn damaged(&self, error: Error, options: &RestoreOptions) -> Error {
        if options.keep_going || error.class() != ErrorClass::Corrupt {
            return error;
        }
        error.context(
            "the archive is damaged; with the option to keep going, everything that is intact is restored, and what is lost is named",
        )
    }

    /// Reads the target back. What was left out with a warning is no damage, and other metadata is a warning; other content
    /// is damage.
    async fn verify(&self, plan: &RestorePlan, ledger: &Ledger) -> Result<()> {
        let session = &self.session;
        session.meter.phase(Phase::Verifying);
        session.log(LogRecord::info("verify", "reading the restored data back"));
        let report = self.target.verify(plan).await?;
        for mismatch in &report.mismatches {
            let text = format!("{}: {}", mismatch.name, mismatch.message);
            session.log(LogRecord::warning("verify", text));
        }
        let (content, metadata) = (report.mismatch_count, report.metadata_count);
        if metadata > 0 {
            let text = format!(
                "{metadata} entries have other metadata than in the archive; the first ones are in the job log"
            );
            ledger.warn("verify", metadata, &text);
        }
        if content > 0 && !ledger.has_left_out_more() {
            let text = format!(
                "reading back found {content} entries that are not as the archive has them; the first ones are in the job log"
            );
            return Err(Error::corrupt(text));
        }
        if content > 0 {
            let text = format!(
                "{content} entries are not as the archive has them. So many entries were left out that not all of their names \
                 are known any more, so these may be among them, or may be damage of the target: compare the first ones, \
                 which are in the job log, with the warnings before"
            );
            ledger.warn("verify", content, &text);
        }
        let differ = content.saturating_add(metadata).saturating_add(report.known_count);
        let (entries, bytes) = (report.entries.saturating_sub(differ), report.bytes);
        let noun = if entries == 1 { "entry is" } else { "entries are" };
        let text = format!("{entries} {noun} as the archive has them; {bytes} bytes were read back");
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
        for warning in self.target.take_warnings() {
            ledger.noted(&warning);
        }
        let account = ledger.account();
        self.target.sync().await?;
        let RestoreCheckpoint { head, body } = saved.clone();
        let checkpoint = RestoreCheckpoint { head, body: Body { account, prepared: true, ..body } };
        self.session.save(&checkpoint.encode(self.archive.inner.key.as_ref())?).await?;
        self.session.log_pressure().await
    }

    fn is_large(target: &dyn RestoreTarget, entry: &Entry) -> bool {
        has_content(&entry.kind) && (entry.size > LARGE || Self::is_whole(target, entry))
    }

    fn is_whole(target: &dyn RestoreTarget, entry: &Entry) -> bool {
        entry.kind == EntryKind::Slice && entry.group.is_some() && target.granularity(&entry.kind) == Granularity::Whole
    }

    async fn transfer(&self, job: &Job) -> Result<Ended> {
        let Job { options, from, ledger, plan, restore_plan, .. } = job;
        let memory = self.engine.options.memory;
        let threads = self.engine.options.threads.max(1);
        let fetcher = |share, parallel| Fetcher::new(self.archive.clone(), share, self.limits.read.clone(), parallel);
        let (entries_out, mut entries) = mpsc::channel(1);
        let target = self.target.clone();
        let chunks = plan.clone().chunks(*from, move |entry| !Self::is_large(&*target, entry), entries_out);
        let salvage = Fetcher { salvage: options.keep_going, ..fetcher(memory / 2, threads + 1) };
        let mut decoded = salvage.run(chunks);
        let small = SmallWriter::new(
            self.target.clone(),
            restore_plan.clone(),
            ledger.clone(),
            self.limits.write.clone(),
            threads * 2,
            options.keep_going,
        );
        let large = LargeWriter {
            target: self.target.clone(),
            plan: restore_plan.clone(),
            ledger: ledger.clone(),
            fetcher: fetcher(memory / 4 / PARALLEL_LARGE as u64, 2),
            limit: self.limits.write.clone(),
            keep_going: options.keep_going,
        };
        let mut splitter = Splitter {
            plan: plan.clone(),
            target: self.target.clone(),
            ledger: ledger.clone(),
            small,
            large,
            running: VecDeque::new(),
            groups: ledger.groups().into_iter().collect(),
            queue: VecDeque::new(),
            pause: self.session.pause.clone(),
            keep_going: options.keep_going,
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
        entries: &mut mpsc::Receiver<Vec<Planned>>,
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
                // When no frames come any more, nothing but the rest of the plan can follow.
                batch = entries.recv(), if splitter.queue.len() < WAITING || !more_frames => match batch {
                    Some(batch) => {
                        splitter.queue.extend(batch);
                        splitter.advance(None).await?;
                    }
                    // The plan has ended; frames of its last part may still come.
                    None => break,
                },
                frames = decoded.next(), if more_frames => match frames {
                    Some(frames) => {
                        // Their entries have been sent before they came out, but perhaps only just now.
                        while let Ok(batch) = entries.try_recv() {
                            splitter.queue.extend(batch);
                        }
                        splitter.frames(frames?).await?;
                    }
                    None => more_frames = false,
                },
            }
        }
        while more_frames && !pause.is_cancelled() {
            tokio::select! {
                () = pause.cancelled() => {}
                frames = decoded.next() => match frames {
                    Some(frames) => splitter.frames(frames?).await?,
                    None => more_frames = false,
                },
            }
        }
        if pause.is_cancelled() {
            splitter.small.drain().await?;
            return Ok(Ended::Paused);
        }
        splitter.finish().await
    }
}

/// The plan as the target sees it.
#[derive(Debug)]
struct TargetPlan {
    plan: Plan,
    ledger: Arc<Ledger>,
    /// Bytes that contents read beside the restore may occupy.
    memory: u64,
    /// What earlier attempts have written.
    written: Option<u64>,
}

#[async_trait]
impl PlanEntries for TargetPlan {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        self.plan.clone().restored()
    }

    async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        self.plan.find(name).await
    }

    fn contents(&self, wanted: Wanted) -> BoxStream<'static, Result<SmallEntry>> {
        let fetcher = Fetcher::new(self.plan.archive.clone(), self.memory, self.plan.limit.clone(), 2);
        contents(self.plan.clone(), fetcher, wanted)
    }

    fn selects(&self, name: &EntryName) -> bool {
        self.plan.chosen.contains_name(name)
    }

    fn facts(&self) -> SourceFacts {
        let manifest = self.plan.archive.manifest();
        SourceFacts { consistency: manifest.consistency.clone(), group_digests: manifest.group_digests.clone() }
    }

    fn known_to_differ(&self, name: &EntryName) -> Option<MismatchKind> {
        self.ledger.known_to_differ(name)
    }

    fn written(&self) -> Option<u64> {
        self.written
    }

    fn unfinished(&self) -> Vec<SavedProgress> {
        self.ledger.unfinished()
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
    queue: VecDeque<Planned>,
    pause: CancellationToken,
    /// Leave out what is damaged.
    keep_going: bool,
}

impl Splitter {
    async fn frames(&mut self, decoded: Decoded) -> Result<()> {
        self.advance(Some(&decoded)).await?;
        if let Some(why) = &decoded.lost {
            // What of this chunk's content was not there comes no more.
            self.lose_before(decoded.chunk.raw_end(), why).await?;
        }
        // What is written must not keep the memory of frames that are done with.
        self.small.flush().await
    }

    /// Leaves out the entries at the front of the queue that lack content before this place in the raw stream.
    async fn lose_before(&mut self, raw: u64, why: &str) -> Result<()> {
        while let Some(Planned { entry, .. }) = self.queue.pop_front_if(|planned| {
            let waits = !planned.apart && planned.entry.size > 0 && !Attempt::is_large(&*self.target, &planned.entry);
            waits && self.small.front.next_of(&planned.entry) < raw
        }) {
            self.small.lost(&entry, why).await?;
            self.advance(None).await?;
        }
        Ok(())
    }

    /// Deals with the entries at the front of the queue as far as their content is there.
    async fn advance(&mut self, decoded: Option<&Decoded>) -> Result<()> {
        let mut frames = decoded.map(|d| d.frames.iter()).into_iter().flatten();
        let mut frame = frames.next();
        while let Some(Planned { entry, apart, lost }) = self.queue.front() {
            if *lost {
                let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                self.small
                    .lost(&entry, "the part of the archive's index that says where its content is, is damaged")
                    .await?;
            } else if Attempt::is_large(&*self.target, entry) || (*apart && entry.size > 0) {
                if !self.begin_large().await? {
                    return Ok(());
                }
            } else if entry.size == 0 {
                let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                self.small.add(entry, Bytes::new(), None).await?;
            } else {
                let Some(present) = frame else { break };
                if self.keep_going && self.small.front.next_of(entry) < present.start {
                    let why = decoded.and_then(|decoded| decoded.lost.as_deref());
                    let why = why.unwrap_or("its content is not where the index says").to_owned();
                    let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                    self.small.lost(&entry, &why).await?;
                    continue;
                }
                match self.small.front.take(entry, present)? {
                    Some(content) => {
                        let Some(Planned { entry, .. }) = self.queue.pop_front() else { break };
                        self.small.add(entry, content, decoded).await?;
                    }
                    None => frame = frames.next(),
                }
            }
        }
        Ok(())
    }

    /// Begins the entry at the front of the queue when there is room; `false` when a pause came before.
    async fn begin_large(&mut self) -> Result<bool> {
        // What comes before is written before: a private directory is not made with other rights on the way to the entry, and a
        // symbolic link is there to be met. Also, each work is of consecutive entries so, and figures are those of whole works.
        self.small.drain().await?;
        let Some(Planned { entry, apart, lost }) = self.queue.pop_front() else { return Ok(true) };
        let whole = Attempt::is_whole(&*self.target, &entry);
        if let Some(group) = entry.group.as_ref().filter(|_| whole)
            && !self.groups.insert(group.clone())
        {
            // Its group's writer reads it.
            self.ledger.handed_out(entry.ordinal + 1);
            return Ok(true);
        }
        let pause = self.pause.clone();
        while self.running.len() >= PARALLEL_LARGE {
            tokio::select! {
                biased;
                () = pause.cancelled() => {
                    self.queue.push_front(Planned { entry, apart, lost });
                    return Ok(false);
                }
                done = self.first_done() => done?,
            }
        }
        let work = self.ledger.begin(entry.ordinal);
        self.ledger.handed_out(entry.ordinal + 1);
        let writer = self.large.clone();
        let task = match entry.group.clone().filter(|_| whole) {
            Some(group) => self.ledger.spawn(writer.group(self.plan.clone(), entry, group, work)),
            None => self.ledger.spawn(writer.entry(entry, work)),
        };
        self.running.push_back(task);
        Ok(true)
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
    async fn finish(&mut self) -> Result<Ended> {
        let pause = self.pause.clone();
        if self.keep_going {
            self.lose_before(u64::MAX, "its content is not where the index says").await?;
            if !self.queue.is_empty() {
                return Ok(Ended::Paused); // Nothing else keeps an entry there.
            }
        } else if let Some(Planned { entry, .. }) = self.queue.front() {
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
