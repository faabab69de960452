//! Cases about a source as a whole.

use super::fixture::SourceFixture;
use super::run::Run;
use crate::conformance::Outcome;
use crate::conformance::suite::{ensure, given, refused, without_secret};
use backup_core::ErrorClass;

pub(super) async fn the_identity_is_always_the_same(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let (first, second) = (place.source(), place.again().await?);
    let identity = first.identity();
    ensure!(identity == first.identity() && identity == second.identity(), "two identities of one place");
    let elsewhere = fixture.place().await?.source().identity();
    ensure!(identity != elsewhere, "{identity} stands for two places");
    Ok(())
}

pub(super) async fn identity_and_debug_carry_no_secret(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let source = place.source();
    let identity = source.identity();
    without_secret(&place.secrets(), &[identity.to_string(), format!("{identity:?}"), format!("{source:?}")])
}

pub(super) async fn parallel_reads_are_at_least_one(fixture: &dyn SourceFixture) -> Outcome {
    let properties = fixture.place().await?.source().properties();
    ensure!(properties.parallel_reads >= 1, "{properties:?}");
    Ok(())
}

pub(super) async fn after_a_check_listing_works(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let source = place.source();
    source.check().await?;
    let run = Run::whole(&source).await?;
    ensure!(run.entries.len() + run.warned.len() >= 4, "the fixture's place has fewer than four items");
    Ok(())
}

pub(super) async fn a_missing_place_is_not_found(fixture: &dyn SourceFixture) -> Outcome {
    let source = given(fixture.missing().await?, "the fixture has no missing place")?;
    refused(source.check().await, &[ErrorClass::NotFound], "a check of a missing place")
}

pub(super) async fn wrong_credentials_are_unauthorized(fixture: &dyn SourceFixture) -> Outcome {
    let source = given(fixture.unauthorized().await?, "the fixture has no source with wrong credentials")?;
    refused(source.check().await, &[ErrorClass::Unauthorized], "a check with wrong credentials")
}

pub(super) async fn an_estimate_is_given_or_unknown(fixture: &dyn SourceFixture) -> Outcome {
    fixture.place().await?.source().estimate().await?;
    Ok(())
}
