//! Cases about a target as a whole, before anything is written.

use super::fixture::TargetFixture;
use super::restore::{Ending, check, reader, restore, write};
use super::sample::plan;
use crate::conformance::Outcome;
use crate::conformance::suite::{ensure, given, refused, without_secret};
use backup_core::adapter::EntryProgress;
use backup_core::model::EntryKind;
use backup_core::{Error, ErrorClass};

pub(super) async fn the_identity_is_always_the_same(fixture: &dyn TargetFixture) -> Outcome {
    let place = fixture.place().await?;
    let (first, second) = (place.target(), place.again().await?);
    let identity = first.identity();
    ensure!(identity == first.identity() && identity == second.identity(), "two identities of one place");
    let elsewhere = fixture.place().await?.target().identity();
    ensure!(identity != elsewhere, "{identity} stands for two places");
    Ok(())
}

pub(super) async fn identity_and_debug_carry_no_secret(fixture: &dyn TargetFixture) -> Outcome {
    let place = fixture.place().await?;
    let target = place.target();
    let identity = target.identity();
    without_secret(&place.secrets(), &[identity.to_string(), format!("{identity:?}"), format!("{target:?}")])
}

pub(super) async fn the_granularity_is_always_the_same(fixture: &dyn TargetFixture) -> Outcome {
    let place = fixture.place().await?;
    let (first, second) = (place.target(), place.again().await?);
    for kind in [EntryKind::File, EntryKind::Directory, EntryKind::Slice] {
        let granularity = first.granularity(&kind);
        ensure!(first.granularity(&kind) == granularity && second.granularity(&kind) == granularity, "{kind:?}");
    }
    Ok(())
}

pub(super) async fn after_a_check_a_new_place_is_still_empty_and_works(fixture: &dyn TargetFixture) -> Outcome {
    let place = fixture.place().await?;
    let target = place.target();
    target.check().await?;
    ensure!(target.is_empty().await?, "the check wrote something");
    if let Some(staged) = place.staged().await? {
        ensure!(staged.is_empty(), "the check left {staged:?}");
    }
    restore(&*target, &fixture.samples()).await?;
    target.check().await?;
    Ok(())
}

pub(super) async fn wrong_credentials_are_unauthorized(fixture: &dyn TargetFixture) -> Outcome {
    let target = given(fixture.unauthorized().await?, "the fixture has no target with wrong credentials")?;
    refused(target.check().await, &[ErrorClass::Unauthorized], "a check with wrong credentials")
}

pub(super) async fn a_new_place_is_empty_and_a_restored_one_is_not(fixture: &dyn TargetFixture) -> Outcome {
    let place = fixture.place().await?;
    ensure!(place.target().is_empty().await?, "a new place is not empty");
    restore(&*place.target(), &fixture.samples()).await?;
    ensure!(!place.target().is_empty().await?, "a place is empty after a restore");
    ensure!(!place.again().await?.is_empty().await?, "a place is empty for another process");
    Ok(())
}

pub(super) async fn staged_leftovers_do_not_count(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let large = given(samples.large, "the fixture has no large entry")?;
    // A name without a parent, so that nothing but the staged content is made.
    let mut large = large;
    large.entry.name = "single".into();
    let place = fixture.place().await?;
    let target = place.target();
    let plan = plan([&large]);
    target.prepare(&plan).await?;
    let progress = EntryProgress::default();
    let broken = Ending::Error(large.entry.size / 2, Error::transient("broken off"));
    let answer = target.write_large(&plan, &large.entry, reader(&large.content, &progress, broken), &progress).await;
    refused(answer, &[ErrorClass::Transient], "a write whose content broke off")?;
    ensure!(target.is_empty().await?, "a staged leftover counts");
    Ok(())
}

pub(super) async fn prepare_makes_a_place_ready_and_writes_no_entry(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let target = place.target();
    let plan = plan(&samples.small);
    target.prepare(&plan).await?;
    ensure!(target.is_empty().await?, "an entry was written");
    write(&*target, &plan, &samples.small).await?;
    target.finish(&plan).await?;
    check(&*place, &samples.small, &samples.small, false).await
}

pub(super) async fn prepare_can_be_repeated(fixture: &dyn TargetFixture) -> Outcome {
    let samples = fixture.samples();
    let place = fixture.place().await?;
    let mut plan = plan(&samples.small);
    place.target().prepare(&plan).await?;
    place.target().prepare(&plan).await?;
    write(&*place.target(), &plan, &samples.small).await?;
    plan.resumed = true;
    let again = place.again().await?;
    again.prepare(&plan).await?;
    again.finish(&plan).await?;
    check(&*place, &samples.small, &samples.small, false).await
}
