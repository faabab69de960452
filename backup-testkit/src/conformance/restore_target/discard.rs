//! Cases about a restore that is given up.

use super::fixture::{TargetFixture, TargetPlace};
use super::restore::{Ending, absent, check, reader, write};
use super::sample::{Sample, plan};
use crate::conformance::Outcome;
use crate::conformance::suite::{ensure, given, polled, refused};
use backup_core::adapter::{EntryProgress, RestorePlan, RestoreTarget, Written};
use backup_core::{Error, ErrorClass};
use std::time::Duration;

/// Nothing is staged.
async fn clean(place: &dyn TargetPlace) -> Outcome {
    let staged = given(place.staged().await?, "the fixture cannot see staged leftovers")?;
    ensure!(staged.is_empty(), "left behind: {staged:?}");
    Ok(())
}

/// Begins the large entry, and leaves it shortly before its end.
async fn begin(target: &dyn RestoreTarget, plan: &RestorePlan, large: &Sample) -> Outcome {
    target.prepare(plan).await?;
    let progress = EntryProgress::default();
    let broken = Ending::Error(large.entry.size - 1, Error::transient("broken off"));
    let answer = target.write_large(plan, &large.entry, reader(&large.content, &progress, broken), &progress).await;
    refused(answer, &[ErrorClass::Transient], "a write whose content broke off")?;
    target.sync().await?;
    Ok(())
}

pub(super) async fn discard_leaves_nothing_staged(fixture: &dyn TargetFixture) -> Outcome {
    let large = given(fixture.samples().large, "the fixture has no large entry")?;
    let place = fixture.place().await?;
    let mut plan = plan([&large]);
    begin(&*place.target(), &plan, &large).await?;
    // Somebody who knows of nothing but the plan, and did not prepare it.
    plan.resumed = true;
    plan.attempt += 1;
    place.again().await?.discard(&plan).await?;
    clean(&*place).await?;
    absent(&*place, large.name()).await
}

pub(super) async fn a_dropped_write_leaves_nothing_behind_a_discard(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let large = given(samples.large, "the fixture has no large entry")?;
    for polls in 1..16 {
        let place = fixture.place().await?;
        let target = place.target();
        let mut all = samples.small.clone();
        all.push(large.clone());
        let plan = plan(&all);
        target.prepare(&plan).await?;
        let progress = EntryProgress::default();
        let content = reader(&large.content, &progress, Ending::Stall(large.entry.size));
        let writing = target.write_large(&plan, &large.entry, content, &progress);
        let batch = samples.small.iter().map(Sample::small).collect();
        drop(polled(async { futures::join!(writing, target.write_small(&plan, batch)) }, polls).await);
        target.discard(&plan).await?;
        clean(&*place).await?;
        // Nor does anything come later.
        tokio::time::sleep(Duration::from_millis(2)).await;
        clean(&*place).await?;
        absent(&*place, large.name()).await?;
    }
    Ok(())
}

pub(super) async fn discard_keeps_what_is_published_and_adds_nothing(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let target = place.target();
    let plan = plan(&samples.small);
    target.prepare(&plan).await?;
    let answers = write(&*target, &plan, &samples.small).await?;
    let (mut published, mut deferred) = (Vec::new(), Vec::new());
    for (sample, written) in samples.small.iter().zip(answers) {
        if written == Written::Deferred { deferred.push(sample) } else { published.push(sample.clone()) }
    }
    // Another restore at the same place is not touched.
    let others = match &samples.large {
        Some(large) => {
            let other = RestorePlan { tag: "20260101T000000Z-0000000d".into(), ..plan.clone() };
            begin(&*target, &other, large).await?;
            place.staged().await?
        }
        None => None,
    };
    target.discard(&plan).await?;
    if others.is_some() {
        ensure!(place.staged().await? == others, "something of another restore was removed");
    }
    check(&*place, &published, &samples.small, false).await?;
    for sample in deferred {
        absent(&*place, sample.name()).await?;
    }
    Ok(())
}

pub(super) async fn a_place_that_was_never_touched_stays_empty(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let target = place.target();
    target.discard(&plan(&samples.small)).await?;
    ensure!(target.is_empty().await?, "a discard put something there");
    Ok(())
}

pub(super) async fn discard_can_be_repeated(fixture: &dyn TargetFixture) -> Outcome {
    let large = given(fixture.samples().large, "the fixture has no large entry")?;
    let place = fixture.place().await?;
    let (target, plan) = (place.target(), plan([&large]));
    begin(&*target, &plan, &large).await?;
    for _ in 0..2 {
        target.discard(&plan).await?;
        clean(&*place).await?;
    }
    place.again().await?.discard(&plan).await?;
    // The same restore may be begun anew.
    target.prepare(&plan).await?;
    let progress = EntryProgress::default();
    let content = reader(&large.content, &progress, Ending::Whole);
    target.write_large(&plan, &large.entry, content, &progress).await.flatten()?;
    target.finish(&plan).await?;
    check(&*place, &[large], &[], false).await
}
