//! Cases about a destination as a whole.

use super::fixture::{DestinationFixture, DestinationPlace};
use crate::conformance::suite::{bytes, collect, ensure, given, refused, without_secret};
use crate::conformance::{Outcome, Stop};
use backup_core::adapter::Payload;
use backup_core::model::ObjectName;
use backup_core::{Error, ErrorClass};
use futures::TryStreamExt;
use jiff::SignedDuration;

/// A place as the engine works on it: after a check, which makes the root.
pub(super) async fn ready(place: Box<dyn DestinationPlace>) -> Outcome<Box<dyn DestinationPlace>> {
    place.destination().check().await?;
    Ok(place)
}

pub(super) async fn the_identity_is_always_the_same(fixture: &dyn DestinationFixture) -> Outcome {
    let place = fixture.place().await?;
    let (first, second) = (place.destination(), place.again().await?);
    let identity = first.identity();
    ensure!(identity == first.identity() && identity == second.identity(), "two identities of one place");
    let elsewhere = fixture.place().await?.destination().identity();
    ensure!(identity != elsewhere, "{identity} stands for two places");
    Ok(())
}

pub(super) async fn identity_and_debug_carry_no_secret(fixture: &dyn DestinationFixture) -> Outcome {
    let place = fixture.place().await?;
    let destination = place.destination();
    let identity = destination.identity();
    without_secret(&place.secrets(), &[identity.to_string(), format!("{identity:?}"), format!("{destination:?}")])
}

pub(super) async fn properties_are_at_least_one(fixture: &dyn DestinationFixture) -> Outcome {
    let properties = fixture.place().await?.destination().properties();
    ensure!(
        properties.max_object_size >= 1 && properties.preferred_volume_size >= 1 && properties.parallelism >= 1,
        "{properties:?}"
    );
    Ok(())
}

pub(super) async fn after_a_check_a_new_place_works(fixture: &dyn DestinationFixture) -> Outcome {
    let place = fixture.place().await?;
    let destination = place.destination();
    destination.check().await?;
    let name = ObjectName::new("checked/a")?;
    destination.put(&name, Payload::from(bytes(1, 1000))).await?;
    ensure!(collect(destination.get(&name, None).await?).await? == bytes(1, 1000), "other bytes came back");
    destination.delete(&name).await?;
    destination.check().await?;
    Ok(())
}

pub(super) async fn a_check_leaves_nothing_behind(fixture: &dyn DestinationFixture) -> Outcome {
    let place = fixture.place().await?;
    let destination = place.destination();
    destination.check().await?;
    let objects: Vec<_> = destination.list(None).try_collect().await?;
    let roots: Vec<String> = destination.list_roots().try_collect().await?;
    ensure!(objects.is_empty() && roots.is_empty(), "left behind: {objects:?} {roots:?}");
    if let Some(paths) = place.paths().await? {
        ensure!(paths.is_empty(), "left behind: {paths:?}");
    }
    Ok(())
}

pub(super) async fn wrong_credentials_are_unauthorized(fixture: &dyn DestinationFixture) -> Outcome {
    let destination = given(fixture.unauthorized().await?, "the fixture has no destination with wrong credentials")?;
    refused(destination.check().await, &[ErrorClass::Unauthorized], "a check with wrong credentials")
}

pub(super) async fn the_clock_is_not_behind_the_objects(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    for n in 0..3 {
        let name = ObjectName::new(format!("clock/{n}"))?;
        destination.put(&name, Payload::from(bytes(n, 10))).await?;
        let now = destination.now().await?;
        let info = destination.stat(&name).await?.ok_or_else(|| Error::not_found("an object just put"))?;
        let ahead = info.modified.duration_since(now);
        ensure!(ahead <= SignedDuration::from_secs(1), "the object is dated {ahead:?} after now()");
    }
    Ok(())
}

pub(super) async fn free_space_is_told_or_unknown(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let free = destination.free_space().await?;
    // A place where something can be put has room.
    if free == Some(0) {
        let put = destination.put(&ObjectName::new("free/a")?, Payload::from(bytes(1, 10))).await;
        return refused(put, &[ErrorClass::NoSpace], "a put where there is no free space")
            .map_err(|_| Stop::Failed("0 bytes are free, and yet something can be put".to_owned()));
    }
    Ok(())
}
