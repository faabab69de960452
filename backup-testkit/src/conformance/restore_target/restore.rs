//! Restoring samples, and looking at what came of it.

use super::fixture::{SeenItem, TargetPlace};
use super::sample::{Sample, Samples, plan};
use crate::conformance::suite::ensure;
use crate::conformance::{Outcome, Stop};
use backup_core::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, Written,
};
use backup_core::model::{EntryKind, EntryName};
use backup_core::{Digest, Error, Result, Sha256};
use bytes::Bytes;
use futures::StreamExt;

/// Pieces of this many bytes come out of a reader.
const PIECE: usize = 100_003;

/// How the content of a large entry comes.
pub(super) enum Ending {
    /// To its end.
    Whole,
    /// Up to an offset, then an error.
    Error(u64, Error),
    /// Up to an offset, then nothing more, and no end.
    Stall(u64),
}

/// A reader of content, from where the progress ends.
pub(super) fn reader(content: &Bytes, progress: &EntryProgress, ending: Ending) -> ContentReader {
    reader_expecting(content, progress, ending, content.len() as u64, Digest::of(content))
}

/// A reader that expects this length and digest.
pub(super) fn reader_expecting(
    content: &Bytes,
    progress: &EntryProgress,
    ending: Ending,
    size: u64,
    digest: Digest,
) -> ContentReader {
    let hash = progress.saved().map_or_else(Sha256::new, |saved| saved.hash);
    let start = hash.length() as usize;
    let end = match ending {
        Ending::Whole => content.len(),
        Ending::Error(at, _) | Ending::Stall(at) => at as usize,
    };
    let mut rest = content.slice(start.min(end)..end);
    let stream = async_stream::stream! {
        while !rest.is_empty() {
            tokio::task::yield_now().await;
            yield Ok(rest.split_to(PIECE.min(rest.len())));
        }
        match ending {
            Ending::Whole => {}
            Ending::Error(_, error) => yield Err(error),
            Ending::Stall(_) => std::future::pending().await,
        }
    };
    ContentReader::new(stream.boxed(), hash, Some(size), Some(digest))
}

/// Writes small entries, all of which must succeed.
pub(super) async fn write(target: &dyn RestoreTarget, plan: &RestorePlan, samples: &[Sample]) -> Outcome<Vec<Written>> {
    let answers = write_each(target, plan, samples).await?;
    let mut written = Vec::new();
    for (sample, answer) in samples.iter().zip(answers) {
        written.push(answer.map_err(|error| Stop::Failed(format!("{} was not written: {error:?}", sample.name())))?);
    }
    Ok(written)
}

/// Writes small entries; as many answers as entries.
pub(super) async fn write_each(
    target: &dyn RestoreTarget,
    plan: &RestorePlan,
    samples: &[Sample],
) -> Outcome<Vec<Result<Written>>> {
    let batch: Vec<SmallEntry> = samples.iter().map(Sample::small).collect();
    let answers = target.write_small(plan, batch).await?;
    ensure!(answers.len() == samples.len(), "{} answers for {} entries", answers.len(), samples.len());
    Ok(answers)
}

/// Everything of the samples that can be restored, in the plan's order, numbered.
pub(super) fn all(samples: &Samples) -> Vec<Sample> {
    let mut all: Vec<Sample> = samples.small.clone();
    all.extend(samples.large.clone());
    all.extend(samples.groups.iter().flatten().cloned());
    for (ordinal, sample) in all.iter_mut().enumerate() {
        sample.entry.ordinal = ordinal as u64;
    }
    all
}

/// Restores all samples, from prepare to finish.
pub(super) async fn restore(target: &dyn RestoreTarget, samples: &Samples) -> Outcome<RestorePlan> {
    let all = all(samples);
    let plan = plan(&all);
    target.prepare(&plan).await?;
    write(target, &plan, &all[..samples.small.len()]).await?;
    let rest = &all[samples.small.len()..];
    let (large, mut slices) = rest.split_at(usize::from(samples.large.is_some()));
    for sample in large {
        let progress = EntryProgress::default();
        let content = reader(&sample.content, &progress, Ending::Whole);
        target.write_large(&plan, &sample.entry, content, &progress).await.flatten()?;
    }
    for group in &samples.groups {
        let (group, others) = slices.split_at(group.len());
        slices = others;
        match (target.granularity(&EntryKind::Slice), group.first()) {
            (Granularity::Whole, Some(first)) => {
                let content = whole_group(group);
                let progress = EntryProgress::default();
                let content = reader(&content, &progress, Ending::Whole);
                target.write_large(&plan, &first.entry, content, &progress).await.flatten()?;
            }
            _ => {
                for slice in group {
                    write(target, &plan, std::slice::from_ref(slice)).await?;
                }
            }
        }
    }
    let warnings = target.finish(&plan).await?;
    ensure!(warnings.is_empty(), "warnings: {warnings:?}");
    Ok(plan)
}

pub(super) fn whole_group(group: &[Sample]) -> Bytes {
    group.iter().map(|slice| slice.content.clone()).collect::<Vec<_>>().concat().into()
}

/// What a sample looks like once it is there. A hard link looks as its target.
fn expected(sample: &Sample, samples: &[Sample]) -> SeenItem {
    match &sample.entry.kind {
        EntryKind::Directory => SeenItem::Directory,
        EntryKind::Symlink { target } => SeenItem::Symlink(target.clone()),
        EntryKind::HardLink { target } => {
            let target = samples.iter().find(|other| other.name() == target);
            SeenItem::Content(target.map(|target| target.content.clone()).unwrap_or_default())
        }
        _ => SeenItem::Content(sample.content.clone()),
    }
}

/// Each of `which` is there as a whole; with `or_absent`, or not there at all.
pub(super) async fn check(place: &dyn TargetPlace, which: &[Sample], all: &[Sample], or_absent: bool) -> Outcome {
    for sample in which {
        match place.look(sample.name()).await? {
            Some(found) => ensure!(found == expected(sample, all), "{} is there, but is another item", sample.name()),
            None => ensure!(or_absent, "{} is not there", sample.name()),
        }
    }
    Ok(())
}

/// Nothing stands under this name.
pub(super) async fn absent(place: &dyn TargetPlace, name: &EntryName) -> Outcome {
    ensure!(place.look(name).await?.is_none(), "{name} is there");
    Ok(())
}
