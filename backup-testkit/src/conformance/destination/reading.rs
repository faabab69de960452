//! Cases about getting and looking.

use super::fixture::{DestinationFixture, DestinationPlace};
use super::place::ready;
use crate::conformance::suite::{bytes, collect, ensure, given, refused};
use crate::conformance::{Outcome, Stop};
use backup_core::adapter::{Destination, Payload};
use backup_core::model::ObjectName;
use backup_core::{ErrorClass, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

const SIZE: usize = 300_000;

async fn object(place: &dyn DestinationPlace) -> Outcome<(Arc<dyn Destination>, ObjectName, Bytes)> {
    let (destination, name, body) = (place.destination(), ObjectName::new("read/a")?, bytes(1, SIZE));
    destination.put(&name, Payload::from(body.clone())).await?;
    Ok((destination, name, body))
}

/// What comes, with the error now or in the stream.
async fn get(destination: &dyn Destination, name: &ObjectName, range: Option<Range<u64>>) -> Result<Vec<u8>> {
    collect(destination.get(name, range).await?).await
}

pub(super) async fn ranges_are_exact(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let (destination, name, body) = object(&*place).await?;
    let size = SIZE as u64;
    ensure!(get(&*destination, &name, None).await? == body, "the whole object is not what was put");
    for range in [0..size, 0..1, 1..2, size - 1..size, 0..65_536, 65_535..65_537, 100_001..299_999, 1..size] {
        let part = get(&*destination, &name, Some(range.clone())).await?;
        let expected = &body[range.start as usize..range.end as usize];
        ensure!(part == expected, "{range:?} delivered {} other or wrongly many bytes", part.len());
    }
    Ok(())
}

pub(super) async fn an_absent_object_is_not_found(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let (destination, name, _) = object(&*place).await?;
    for absent in ["read/b", "read", "other/place", "read/a/b"] {
        let absent = ObjectName::new(absent)?;
        for range in [None, Some(0..10)] {
            refused(get(&*destination, &absent, range).await, &[ErrorClass::NotFound], "get of an absent object")?;
        }
    }
    destination.delete(&name).await?;
    refused(get(&*destination, &name, None).await, &[ErrorClass::NotFound], "get of a deleted object")
}

pub(super) async fn a_range_beyond_the_end_is_corrupt(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let (destination, name, _) = object(&*place).await?;
    let size = SIZE as u64;
    for range in [0..size + 1, size - 1..size + 1, size..size + 1, size + 10..size + 20, 0..10 * size] {
        let part = get(&*destination, &name, Some(range.clone())).await;
        refused(part, &[ErrorClass::Corrupt], &format!("get of {range:?} of {size} bytes"))?;
    }
    Ok(())
}

pub(super) async fn an_empty_range_delivers_nothing(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let (destination, name, _) = object(&*place).await?;
    for at in [0, 1, 65_536, SIZE as u64] {
        let part = get(&*destination, &name, Some(at..at)).await?;
        ensure!(part.is_empty(), "the empty range at {at} delivered {} bytes", part.len());
    }
    Ok(())
}

pub(super) async fn a_broken_connection_is_an_error(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(given(fixture.breaking().await?, "the fixture has no connection that breaks off")?).await?;
    let (destination, name, _) = object(&*place).await?;
    for range in [None, Some(0..SIZE as u64)] {
        if let Ok(part) = get(&*destination, &name, range).await {
            let text = format!("{} bytes came without an error over a connection that broke off", part.len());
            return Err(Stop::Failed(text));
        }
    }
    Ok(())
}

pub(super) async fn stat_tells_what_is_there(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let absent = ObjectName::new("read/b")?;
    ensure!(destination.stat(&absent).await?.is_none(), "something is there in an empty place");
    let (destination, name, _) = object(&*place).await?;
    for handle in [&destination, &place.again().await?] {
        let info = given(handle.stat(&name).await?, "")
            .map_err(|_| Stop::Failed("nothing is there right after the put".to_owned()))?;
        ensure!(info.size == SIZE as u64 && info.name == name, "{info:?} of an object of {SIZE} bytes");
    }
    for absent in [absent, ObjectName::new("read")?] {
        ensure!(destination.stat(&absent).await?.is_none(), "{absent} is no object");
    }
    Ok(())
}
