//! Restores a dump: checks it, writes it, completes it, reads it back.

use super::plan::Dump;
use backup_core::adapter::{
    MismatchKind, PlanEntries, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Wanted, Written,
};
use backup_core::model::{Entry, EntryName};
use backup_core::retry::{RetryPolicy, Retrying};
use backup_core::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use std::sync::{Arc, PoisonError};

/// A batch is written when it has so many bytes …
const BATCH_BYTES: usize = 2 << 20;
/// … or so many entries.
const BATCH_ENTRIES: usize = 256;
/// Batches at once.
const AT_ONCE: usize = 4;

/// How a dump is restored.
#[derive(Clone)]
pub struct DumpOptions {
    /// Which entries of [`Dump`] are restored; named as those of an archive.
    pub wanted: Wanted,
    /// Collections that are there are dropped first.
    pub overwrite: bool,
    /// Leave out reading the target back.
    pub skip_verify: bool,
    /// How failed calls are repeated.
    pub retry: RetryPolicy,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self { wanted: Arc::new(|_| true), overwrite: false, skip_verify: false, retry: RetryPolicy::default() }
    }
}

impl std::fmt::Debug for DumpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DumpOptions")
            .field("overwrite", &self.overwrite)
            .field("skip_verify", &self.skip_verify)
            .finish_non_exhaustive()
    }
}

/// What a restore of a dump gave.
#[derive(Debug, Default)]
pub struct DumpOutcome {
    /// Entries restored.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out or is not as it was.
    pub warnings: Vec<String>,
    /// What reading back gave, unless that was left out. What is known from warnings does not count as a mismatch.
    pub verified: Option<VerifyReport>,
}

/// Restores a dump. `progress` is told of each batch: entries and bytes. A restore that broke off goes on when it is repeated.
///
/// # Errors
/// When the target as a whole is in trouble or the dump cannot be read any more. Trouble of single entries is a warning of the outcome.
pub async fn restore_dump(
    dump: &Dump,
    target: Arc<dyn RestoreTarget>,
    options: DumpOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<DumpOutcome> {
    let DumpOptions { wanted, overwrite, skip_verify, retry } = options;
    let target: Arc<dyn RestoreTarget> = Retrying::new(target, retry);
    let chosen = dump.chosen(wanted.clone());
    let plan = RestorePlan { entries: chosen.clone(), ..dump.plan(overwrite, wanted) };
    target.check().await?;
    target.prepare(&plan).await?;
    let mut outcome = DumpOutcome::default();
    let note = |name: &EntryName, kind| {
        chosen.left.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), kind);
    };
    {
        let batches = batches(chosen.contents(Arc::new(|_: &Entry| true)));
        let mut written = batches
            .map_ok(|batch| {
                let (target, plan) = (target.clone(), plan.clone());
                async move {
                    let entries: Vec<(EntryName, u64)> =
                        batch.iter().map(|small| (small.entry.name.clone(), small.entry.size)).collect();
                    let answers = target.write_small(&plan, batch).await?;
                    if answers.len() != entries.len() {
                        return Err(Error::permanent("the target did not answer for each entry of a batch"));
                    }
                    Ok(entries.into_iter().zip(answers).collect::<Vec<_>>())
                }
            })
            .try_buffered(AT_ONCE);
        while let Some(answers) = written.try_next().await? {
            let answers: Vec<((EntryName, u64), Result<Written>)> = answers;
            let (mut entries, mut bytes) = (0, 0);
            for ((name, size), answer) in answers {
                match answer {
                    Ok(_) => (entries, bytes) = (entries + 1, bytes + size),
                    Err(error) if error.is_retryable() => return Err(error.on(name)),
                    Err(error) => {
                        outcome.warnings.push(format!("{name}: not restored: {}", error.chain()));
                        note(&name, MismatchKind::Content);
                    }
                }
            }
            outcome.entries += entries;
            outcome.bytes += bytes;
            progress(outcome.entries, outcome.bytes);
        }
    }
    target.sync().await?;
    for warning in target.finish(&plan).await? {
        let kind = if warning.left_out { MismatchKind::Content } else { MismatchKind::Metadata };
        match &warning.name {
            Some(name) => {
                note(name, kind);
                outcome.warnings.push(format!("{name}: {}", warning.message));
            }
            None => outcome.warnings.push(warning.message),
        }
    }
    if !skip_verify {
        outcome.verified = Some(target.verify(&plan).await?);
    }
    Ok(outcome)
}

fn batches(
    contents: futures::stream::BoxStream<'static, Result<SmallEntry>>,
) -> futures::stream::BoxStream<'static, Result<Vec<SmallEntry>>> {
    Box::pin(async_stream::try_stream! {
        let mut contents = contents;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(small) = contents.next().await {
            let small: SmallEntry = small?;
            bytes += small.content.len();
            batch.push(small);
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_ENTRIES {
                bytes = 0;
                yield std::mem::take(&mut batch);
            }
        }
        if !batch.is_empty() {
            yield batch;
        }
    })
}
