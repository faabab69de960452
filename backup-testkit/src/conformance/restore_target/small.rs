//! Cases about small entries.

use super::fixture::{TargetFixture, TargetPlace};
use super::restore::{check, write, write_each};
use super::sample::{Sample, Samples, plan};
use crate::conformance::suite::{ensure, given, polled, refused};
use crate::conformance::{Outcome, Stop};
use backup_core::ErrorClass;
use backup_core::adapter::{RestorePlan, RestoreTarget, Written};
use backup_core::model::EntryKind;
use std::sync::Arc;
use std::time::Duration;

async fn prepared(
    fixture: &dyn TargetFixture,
) -> Outcome<(Box<dyn TargetPlace>, Arc<dyn RestoreTarget>, Samples, RestorePlan)> {
    let (place, samples) = (fixture.place().await?, fixture.samples());
    let (target, plan) = (place.target(), plan(&samples.small));
    target.prepare(&plan).await?;
    Ok((place, target, samples, plan))
}

/// Entries that stand by themselves as soon as they are written.
fn at_once(samples: &[Sample]) -> Vec<Sample> {
    let link = |sample: &&Sample| matches!(sample.entry.kind, EntryKind::HardLink { .. });
    samples.iter().filter(|sample| !link(sample)).cloned().collect()
}

pub(super) async fn each_entry_is_answered_in_order(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, samples, plan) = prepared(fixture).await?;
    for (sample, written) in samples.small.iter().zip(write(&*target, &plan, &samples.small).await?) {
        let linked = matches!(sample.entry.kind, EntryKind::HardLink { .. });
        // A directory may have been made as somebody's parent before.
        let parent = sample.entry.kind == EntryKind::Directory && written == Written::AlreadyThere;
        let fits = written == Written::Created || parent || linked && written == Written::Deferred;
        ensure!(fits, "{} in an empty place is {written:?}", sample.name());
    }
    let now = at_once(&samples.small);
    check(&*place, &now, &samples.small, false).await?;
    ensure!(target.write_small(&plan, Vec::new()).await?.is_empty(), "answers to an empty batch");
    target.finish(&plan).await?;
    check(&*place, &samples.small, &samples.small, false).await
}

pub(super) async fn a_dropped_batch_leaves_whole_entries_or_none(fixture: &dyn TargetFixture) -> Outcome {
    for polls in 1..12 {
        let (place, target, samples, mut plan) = prepared(fixture).await?;
        let batch = samples.small.iter().map(Sample::small).collect();
        drop(polled(target.write_small(&plan, batch), polls).await);
        let now = at_once(&samples.small);
        // What goes on in the background may still bring entries, but never a part of one.
        for _ in 0..5 {
            check(&*place, &now, &samples.small, true).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        plan.resumed = true;
        plan.attempt += 1;
        let again = place.again().await?;
        again.prepare(&plan).await?;
        write(&*again, &plan, &samples.small).await?;
        again.finish(&plan).await?;
        check(&*place, &samples.small, &samples.small, false).await?;
    }
    Ok(())
}

pub(super) async fn the_same_item_is_already_there(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, samples, mut plan) = prepared(fixture).await?;
    write(&*target, &plan, &samples.small).await?;
    for overwrite in [false, true] {
        plan.overwrite = overwrite;
        let now = at_once(&samples.small);
        for (sample, written) in now.iter().zip(write(&*target, &plan, &now).await?) {
            ensure!(written == Written::AlreadyThere, "{} a second time is {written:?}", sample.name());
        }
        check(&*place, &now, &samples.small, false).await?;
    }
    Ok(())
}

pub(super) async fn another_item_is_a_conflict_and_stays(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, samples, plan) = prepared(fixture).await?;
    write(&*target, &plan, std::slice::from_ref(&samples.changed)).await?;
    let answers = write_each(&*target, &plan, &samples.small).await?;
    for (sample, answer) in samples.small.iter().zip(answers) {
        if sample.name() == samples.changed.name() {
            refused(answer, &[ErrorClass::Conflict], "an entry where another item is")?;
        } else {
            answer.map_err(|e| Stop::Failed(format!("{} failed beside a conflict: {e:?}", sample.name())))?;
        }
    }
    check(&*place, std::slice::from_ref(&samples.changed), &[], false).await?;
    let others: Vec<Sample> =
        at_once(&samples.small).into_iter().filter(|sample| sample.name() != samples.changed.name()).collect();
    check(&*place, &others, &samples.small, false).await
}

pub(super) async fn another_item_is_replaced_when_the_plan_says_so(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, samples, mut plan) = prepared(fixture).await?;
    write(&*target, &plan, std::slice::from_ref(&samples.changed)).await?;
    plan.overwrite = true;
    for (sample, written) in samples.small.iter().zip(write(&*target, &plan, &samples.small).await?) {
        let replaced = written == Written::Replaced;
        ensure!(replaced == (sample.name() == samples.changed.name()), "{} is {written:?}", sample.name());
    }
    target.finish(&plan).await?;
    check(&*place, &samples.small, &samples.small, false).await
}

pub(super) async fn missing_parents_are_made(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, samples, plan) = prepared(fixture).await?;
    // The last entry first: parents come after their children, or not at all.
    let mut turned = at_once(&samples.small);
    turned.reverse();
    for sample in &turned {
        write(&*target, &plan, std::slice::from_ref(sample)).await?;
    }
    check(&*place, &turned, &samples.small, false).await
}

pub(super) async fn hostile_names_are_refused_and_the_rest_is_written(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, samples, plan) = prepared(fixture).await?;
    given((!samples.hostile.is_empty()).then_some(()), "the target has no hostile names")?;
    let escaped = given(place.escaped().await?, "the fixture cannot see what was written outside")?;
    ensure!(escaped.is_empty(), "before anything is written there is outside: {escaped:?}");
    write(&*target, &plan, &at_once(&samples.small)).await?;
    // One by one, and all in one batch with an entry that is in order.
    let mut links = Vec::new();
    for sample in &samples.hostile {
        let answer = write_each(&*target, &plan, std::slice::from_ref(sample)).await?.into_iter().next();
        match (answer, &sample.entry.kind) {
            // A link that points anywhere is restored as it is: it is only never gone through.
            (Some(Ok(_)), EntryKind::Symlink { .. }) => links.push(sample.clone()),
            (Some(answer), _) => refused(answer, &[ErrorClass::Invalid], &format!("writing {}", sample.name()))?,
            (None, _) => {}
        }
        let outside = place.escaped().await?.unwrap_or_default();
        ensure!(outside.is_empty(), "{} wrote outside: {outside:?}", sample.name());
    }
    let mut batch: Vec<Sample> = samples
        .hostile
        .iter()
        .filter(|sample| !links.iter().any(|link| link.name() == sample.name()))
        .cloned()
        .collect();
    let good = Sample::new("in order", EntryKind::File, "x");
    batch.insert(batch.len() / 2, good.clone());
    for (sample, answer) in batch.iter().zip(write_each(&*target, &plan, &batch).await?) {
        if sample.name() == good.name() {
            answer?;
        } else {
            refused(answer, &[ErrorClass::Invalid], &format!("writing {} in a batch", sample.name()))?;
        }
    }
    let outside = place.escaped().await?.unwrap_or_default();
    ensure!(outside.is_empty(), "outside was written: {outside:?}");
    check(&*place, &[good], &[], false).await?;
    check(&*place, &at_once(&samples.small), &samples.small, false).await
}

pub(super) async fn a_batch_can_be_repeated_in_another_process(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, samples, mut plan) = prepared(fixture).await?;
    write(&*target, &plan, &samples.small).await?;
    plan.resumed = true;
    plan.attempt += 1;
    let again = place.again().await?;
    again.prepare(&plan).await?;
    for (sample, written) in samples.small.iter().zip(write(&*again, &plan, &samples.small).await?) {
        let fits = matches!(written, Written::AlreadyThere | Written::Deferred);
        ensure!(fits, "{} in another process is {written:?}", sample.name());
    }
    let warnings = again.finish(&plan).await?;
    ensure!(warnings.is_empty(), "warnings: {warnings:?}");
    check(&*place, &samples.small, &samples.small, false).await
}
