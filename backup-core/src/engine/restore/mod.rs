//! Restore: `index → plan → fetch frames → unseal → decompress → check digests → write`, concurrently and resumable.

mod begin;
mod cancel;
mod checkpoint;
mod cut;
mod large;
mod ledger;
mod left;
mod plan;
mod small;
mod splitter;
mod target_plan;

pub(super) use begin::{create, go_on, resume, start};
pub(super) use cancel::cancel;
pub(super) use cut::contents;
pub(super) use large::content;
pub(super) use plan::Plan;

use super::archive::Archive;
use super::fetch::{Decoded, Fetcher};
use super::selection::Chosen;
use super::session::Session;
use super::{Engine, Limits, Outcome, RestoreOptions};
use crate::adapter::{RestorePlan, RestoreTarget};
use crate::model::{LogRecord, Phase};
use crate::state::Event;
use crate::{Error, ErrorClass, Result};
use checkpoint::{Body, RestoreCheckpoint, Tally};
use futures::StreamExt;
use futures::stream::BoxStream;
use large::LargeWriter;
use ledger::Ledger;
use plan::{Losses, Planned};
use small::SmallWriter;
use splitter::{Ended, PARALLEL_LARGE, Splitter, is_large};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use target_plan::TargetPlan;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// So many planned entries wait for their content; the index is read on when there are fewer. They come by the index piece, up to some
/// 20,000 at once, of which another one may be on its way, and take about a KiB each with names and metadata; no memory budget counts
/// them. With 50,000 of them a restore of small files went beyond the 256 MiB that it should keep within.
const WAITING: usize = 16_000;
/// The shortest time between two checkpoints; more when making the target durable takes long.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(2);

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

    async fn transfer(&self, job: &Job) -> Result<Ended> {
        let Job { options, from, ledger, plan, restore_plan, .. } = job;
        let memory = self.engine.options.memory;
        let threads = self.engine.options.threads.max(1);
        let fetcher = |share, parallel| Fetcher::new(self.archive.clone(), share, self.limits.read.clone(), parallel);
        let (entries_out, mut entries) = mpsc::channel(1);
        let target = self.target.clone();
        let chunks = plan.clone().chunks(*from, move |entry| !is_large(&*target, entry), entries_out);
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
