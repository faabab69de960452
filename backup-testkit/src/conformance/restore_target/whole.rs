//! Cases about sync, finish and verify.

use super::fixture::{SeenItem, TargetFixture};
use super::restore::{Ending, all, check, reader, restore, whole_group, write};
use super::sample::plan;
use crate::conformance::Outcome;
use crate::conformance::suite::{ensure, given, refused};
use backup_core::adapter::{EntryProgress, Granularity};
use backup_core::model::{EntryKind, EntryName};
use backup_core::{Error, ErrorClass};

pub(super) async fn sync_runs_beside_writes(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let target = place.target();
    let plan = plan(&samples.small);
    target.prepare(&plan).await?;
    target.sync().await?;
    let writing = write(&*target, &plan, &samples.small);
    let (written, first, second) = futures::join!(writing, target.sync(), target.sync());
    written?;
    first?;
    second?;
    target.sync().await?;
    target.finish(&plan).await?;
    check(&*place, &samples.small, &samples.small, false).await
}

pub(super) async fn finish_can_be_repeated(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let plan = restore(&*place.target(), &samples).await?;
    for target in [place.target(), place.again().await?] {
        let warnings = target.finish(&plan).await?;
        ensure!(warnings.is_empty(), "warnings of a repeated finish: {warnings:?}");
    }
    check(&*place, &samples.small, &samples.small, false).await?;
    let report = place.target().verify(&plan).await?;
    ensure!(report.mismatch_count == 0, "after a repeated finish: {:?}", report.mismatches);
    Ok(())
}

pub(super) async fn finish_leaves_nothing_staged(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let large = given(samples.large.clone(), "the fixture has no large entry")?;
    let place = fixture.place().await?;
    given(place.staged().await?, "the fixture cannot see staged leftovers")?;
    let target = place.target();
    let all = all(&samples);
    let mut plan = plan(&all);
    target.prepare(&plan).await?;
    for _ in 0..2 {
        let progress = EntryProgress::default();
        let broken = Ending::Error(large.entry.size / 2, Error::transient("broken off"));
        let answer = target.write_large(&plan, &large.entry, reader(&large.content, &progress, broken), &progress);
        refused(answer.await, &[ErrorClass::Transient], "a write whose content broke off")?;
    }
    // Another process finishes, without knowing of the broken writes.
    plan.resumed = true;
    let again = place.again().await?;
    again.prepare(&plan).await?;
    write(&*again, &plan, &all[..samples.small.len()]).await?;
    again.finish(&plan).await?;
    let staged = place.staged().await?.unwrap_or_default();
    ensure!(staged.is_empty(), "left behind: {staged:?}");
    check(&*place, &samples.small, &samples.small, false).await
}

pub(super) async fn no_warnings_before_anything_is_written(fixture: &dyn TargetFixture) -> Outcome {
    let warnings = fixture.place().await?.target().take_warnings();
    ensure!(warnings.is_empty(), "a new place warns of {warnings:?}");
    Ok(())
}

pub(super) async fn each_warning_is_given_once(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let bad = given(samples.unfinishable, "the fixture has no entry that cannot be completed")?;
    let target = fixture.place().await?;
    let target = target.target();
    let mut all = samples.small.clone();
    all.push(bad);
    let plan = plan(&all);
    target.prepare(&plan).await?;
    write(&*target, &plan, &all).await?;
    let mut warnings = target.take_warnings();
    warnings.extend(target.finish(&plan).await?);
    warnings.extend(target.take_warnings());
    ensure!(warnings.len() == 1, "of one entry in trouble there are the warnings {warnings:?}");
    Ok(())
}

pub(super) async fn trouble_with_one_entry_is_a_warning(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let bad = given(samples.unfinishable, "the fixture has no entry that cannot be completed")?;
    let place = fixture.place().await?;
    let target = place.target();
    let mut all = samples.small.clone();
    all.push(bad.clone());
    let plan = plan(&all);
    target.prepare(&plan).await?;
    write(&*target, &plan, &all).await?;
    let warnings = target.finish(&plan).await?;
    let named = warnings.iter().any(|warning| warning.name.as_ref() == Some(bad.name()));
    ensure!(named && warnings.len() == 1, "the warnings about {}: {warnings:?}", bad.name());
    check(&*place, &samples.small, &samples.small, false).await
}

pub(super) async fn what_was_restored_verifies(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let plan = restore(&*place.target(), &samples).await?;
    let all = all(&samples);
    let whole = place.target().granularity(&EntryKind::Slice) == Granularity::Whole;
    let single: Vec<_> = all.iter().filter(|s| !(whole && s.entry.kind == EntryKind::Slice)).cloned().collect();
    check(&*place, &single, &all, false).await?;
    for (group, slices) in samples.groups.iter().filter_map(|g| Some((g.first()?.entry.group.clone()?, g))) {
        if whole {
            let found = place.look(&EntryName::from(&*group.0)).await?;
            ensure!(found == Some(SeenItem::Content(whole_group(slices))), "group {group} is not there as a whole");
        }
    }
    for target in [place.target(), place.again().await?] {
        let report = target.verify(&plan).await?;
        ensure!(report.mismatch_count == 0, "mismatches: {:?}", report.mismatches);
        ensure!(report.entries == all.len() as u64, "{} of {} entries were compared", report.entries, all.len());
        let with_content = |sample: &&super::Sample| sample.entry.sha256.is_some();
        let bytes: u64 = all.iter().filter(with_content).map(|sample| sample.entry.size).sum();
        ensure!(report.bytes >= bytes, "{} of {bytes} bytes were read back", report.bytes);
    }
    Ok(())
}

pub(super) async fn what_is_missing_or_differs_is_a_mismatch(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let target = place.target();
    let plan = restore(&*target, &samples).await?;
    let mut wrong = Vec::new();
    // A hard link shares its content with its target, and so its trouble.
    let linked =
        |name| samples.small.iter().any(|s| matches!(&s.entry.kind, EntryKind::HardLink { target } if target == name));
    let whole = target.granularity(&EntryKind::Slice) == Granularity::Whole;
    for (turn, sample) in all(&samples).iter().enumerate() {
        let in_whole = whole && sample.entry.kind == EntryKind::Slice;
        if sample.entry.sha256.is_none() || sample.content.is_empty() || linked(sample.name()) || in_whole {
            continue;
        }
        let done = if turn % 2 == 0 { place.spoil(sample.name()).await? } else { place.lose(sample.name()).await? };
        given(done.then_some(()), "the fixture cannot damage what was restored")?;
        wrong.push(sample.name().clone());
        let report = target.verify(&plan).await?;
        let mut found: Vec<_> = report.mismatches.iter().map(|mismatch| mismatch.name.clone()).collect();
        found.retain(|name| wrong.contains(name));
        found.dedup();
        ensure!(found.len() == wrong.len(), "of {wrong:?} only {found:?} are mismatches");
        ensure!(report.mismatch_count >= wrong.len() as u64, "{} mismatches are counted", report.mismatch_count);
    }
    ensure!(wrong.len() >= 2, "the fixture has too few items with content");
    Ok(())
}
