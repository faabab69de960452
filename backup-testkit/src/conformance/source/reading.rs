//! Cases about reading the content of an entry.

use super::fixture::{Disturbance, SourceFixture, SourcePlace};
use super::run::{Listed, context, stored};
use crate::conformance::suite::{bytes, collect, ensure, given, refused};
use crate::conformance::{Outcome, Stop};
use backup_core::adapter::{ReadContext, Source};
use backup_core::limit::RateLimit;
use backup_core::{Error, ErrorClass, Result};
use std::num::NonZeroU64;
use std::ops::Range;
use tokio::time::Instant;

/// The bytes of a range; an error may come now or in the stream.
async fn read(source: &dyn Source, listed: &Listed, range: Range<u64>, ctx: &ReadContext) -> Result<Vec<u8>> {
    collect(source.read(&listed.name, listed.version.as_ref(), range, ctx).await?.content).await
}

async fn disturb(place: &dyn SourcePlace, listed: &Listed, how: Disturbance) -> Outcome {
    let done = place.disturb(&listed.name, how).await?;
    given(done.then_some(()), "the fixture cannot do this to an item")
}

pub(super) async fn an_empty_range_delivers_nothing(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let listed = stored(&*place, 0).await?;
    for at in [0, listed.size / 2, listed.size] {
        let part = read(&*place.source(), &listed, at..at, &context()).await?;
        ensure!(part.is_empty(), "the empty range at {at} delivered {} bytes", part.len());
    }
    Ok(())
}

pub(super) async fn ranges_are_exact(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let listed = stored(&*place, 100_000).await?;
    let size = listed.size;
    ensure!(size == listed.content.len() as u64, "{} is listed with {size} bytes", listed.name);
    for range in [0..size, 0..1, 1..2, size - 1..size, 0..65_536, 65_535..65_537, 12_345..98_765, 1..size] {
        let part = read(&*place.source(), &listed, range.clone(), &context()).await?;
        let expected = &listed.content[range.start as usize..range.end as usize];
        ensure!(part == expected, "{range:?} delivered {} other or wrongly many bytes", part.len());
        let opened = place.source().read(&listed.name, None, range, &context()).await?;
        ensure!(opened.size == size, "opened with {} bytes instead of {size}", opened.size);
    }
    Ok(())
}

pub(super) async fn an_item_that_became_shorter_delivers_what_is_left(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let mut listed = stored(&*place, 1000).await?;
    let left = listed.size / 3;
    disturb(&*place, &listed, Disturbance::Shorten(left)).await?;
    for version in [listed.version.take(), None] {
        listed.version = version;
        match read(&*place.source(), &listed, 0..listed.size, &context()).await {
            Ok(part) => ensure!(
                part == listed.content[..left as usize],
                "{} bytes were delivered of an item that has {left} left",
                part.len()
            ),
            failed => refused(failed, &[ErrorClass::Changed], "read of an item that became shorter")?,
        }
    }
    Ok(())
}

pub(super) async fn a_broken_connection_is_an_error(fixture: &dyn SourceFixture) -> Outcome {
    let place = given(fixture.breaking().await?, "the fixture has no connection that breaks off")?;
    let listed = stored(&*place, 100_000).await?;
    match read(&*place.source(), &listed, 0..listed.size, &context()).await {
        Ok(part) => {
            let text = format!("{} bytes came without an error over a connection that broke off", part.len());
            Err(Stop::Failed(text))
        }
        Err(_) => Ok(()),
    }
}

pub(super) async fn a_removed_item_is_not_found(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let listed = stored(&*place, 0).await?;
    disturb(&*place, &listed, Disturbance::Remove).await?;
    let answer = read(&*place.source(), &listed, 0..listed.size, &context()).await;
    refused(answer, &[ErrorClass::NotFound], "read of an item that is gone")
}

pub(super) async fn a_denied_item_is_permanent_or_unauthorized(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let listed = stored(&*place, 0).await?;
    disturb(&*place, &listed, Disturbance::Deny).await?;
    let answer = read(&*place.source(), &listed, 0..listed.size, &context()).await;
    refused(answer, &[ErrorClass::Permanent, ErrorClass::Unauthorized], "read of an item that may not be read")
}

pub(super) async fn a_changed_item_is_told(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let listed = stored(&*place, 1).await?;
    let version = given(listed.version.clone(), "the adapter lists no versions")?;
    let unchanged = place.source().read(&listed.name, Some(&version), 0..listed.size, &context()).await?;
    let same = unchanged.version.is_none_or(|now| now == version);
    ensure!(same, "an item that did not change has another version when it is opened");
    let other = bytes(4711, listed.content.len());
    disturb(&*place, &listed, Disturbance::Change(other)).await?;
    match place.source().read(&listed.name, Some(&version), 0..listed.size, &context()).await {
        Ok(opened) => {
            let now = opened.version.ok_or_else(|| Error::changed("opened without a version"))?;
            ensure!(now != version, "an item that changed is opened as the same version");
            Ok(())
        }
        failed => refused(failed, &[ErrorClass::Changed], "read of an item that changed"),
    }
}

pub(super) async fn the_bandwidth_limit_is_kept(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let listed = stored(&*place, 100_000).await?;
    // Three quarters of a second, of which a quarter may be a burst.
    let rate = NonZeroU64::new(listed.size * 4 / 3);
    let ctx = ReadContext { limit: RateLimit::new(rate), ..context() };
    let start = Instant::now();
    read(&*place.source(), &listed, 0..listed.size, &ctx).await?;
    let took = start.elapsed();
    ensure!(took.as_millis() >= 400, "read in {took:?} at a limit that needs half a second");
    Ok(())
}
