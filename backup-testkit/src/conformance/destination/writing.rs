//! Cases about putting and removing.

use super::fixture::DestinationFixture;
use super::place::ready;
use crate::conformance::suite::{bytes, collect, ensure, given, polled, refused};
use crate::conformance::{Outcome, Stop};
use backup_core::ErrorClass;
use backup_core::adapter::{Destination, Payload};
use backup_core::limit::RateLimit;
use backup_core::model::{ObjectName, STAGE_PREFIX};
use bytes::Bytes;
use futures::TryStreamExt;
use std::num::NonZeroU64;
use std::time::Duration;

/// The whole object; `None` when it is absent.
pub(super) async fn whole(destination: &dyn Destination, name: &ObjectName) -> Outcome<Option<Vec<u8>>> {
    let got = match destination.get(name, None).await {
        Ok(stream) => collect(stream).await,
        Err(error) => Err(error),
    };
    match got {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.class() == ErrorClass::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn listed(destination: &dyn Destination) -> Outcome<Vec<(ObjectName, u64)>> {
    let objects: Vec<_> = destination.list(None).map_ok(|info| (info.name, info.size)).try_collect().await?;
    Ok(objects)
}

pub(super) async fn what_was_put_is_visible_to_everybody(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let (destination, again) = (place.destination(), place.again().await?);
    let pieces = vec![bytes(1, 1 << 20), Bytes::new(), bytes(2, 1), bytes(3, (1 << 20) + 7)];
    let expected = pieces.concat();
    let name = ObjectName::new("20260101T000000Z-00000000/data/00000000-1x00000000.tar.zst")?;
    destination.put(&name, Payload::new(pieces)).await?;
    for handle in [&destination, &again] {
        ensure!(whole(&**handle, &name).await?.as_ref() == Some(&expected), "get does not find what was put");
        ensure!(handle.stat(&name).await?.is_some_and(|i| i.size == expected.len() as u64), "stat does not find it");
        ensure!(listed(&**handle).await? == [(name.clone(), expected.len() as u64)], "list does not find it");
    }
    Ok(())
}

pub(super) async fn equal_bytes_again_are_success(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let name = ObjectName::new("equal/a")?;
    place.destination().put(&name, Payload::from(bytes(1, 100_000))).await?;
    // The same bytes in other pieces, from another process.
    let all = bytes(1, 100_000);
    place.again().await?.put(&name, Payload::new(vec![all.slice(..7), all.slice(7..)])).await?;
    ensure!(whole(&*place.destination(), &name).await?.is_some_and(|found| found == all), "the object changed");
    Ok(())
}

pub(super) async fn different_bytes_are_a_conflict_and_change_nothing(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let name = ObjectName::new("different/a")?;
    let old = bytes(1, 10_000);
    destination.put(&name, Payload::from(old.clone())).await?;
    let mut last_byte = old.to_vec();
    last_byte[9_999] ^= 1;
    for other in [last_byte.into(), bytes(1, 9_999), bytes(1, 10_001), Bytes::new()] {
        let put = destination.put(&name, Payload::from(other)).await;
        refused(put, &[ErrorClass::Conflict], "a put of different bytes")?;
        ensure!(whole(&*destination, &name).await?.is_some_and(|found| found == old), "the old bytes are lost");
    }
    Ok(())
}

pub(super) async fn a_dropped_put_leaves_the_whole_object_or_none(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let body = bytes(1, 300_000);
    for polls in 1..12 {
        let name = ObjectName::new(format!("dropped/{polls}"))?;
        let done = polled(destination.put(&name, Payload::from(body.clone())), polls).await.transpose()?;
        // What goes on in the background may still bring the object, but never a part of it.
        for _ in 0..5 {
            let found = whole(&*destination, &name).await?;
            ensure!(found.as_ref().is_none_or(|found| *found == body), "a part of the object after {polls} polls");
            ensure!(done.is_none() || found.is_some(), "a put that succeeded is not there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        destination.put(&name, Payload::from(body.clone())).await?;
    }
    let mut names: Vec<_> = listed(&*destination).await?;
    names.retain(|(_, size)| *size != body.len() as u64);
    ensure!(names.is_empty(), "listed besides the objects: {names:?}");
    Ok(())
}

pub(super) async fn of_puts_at_once_one_wins_whole(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let handles = [place.destination(), place.again().await?];
    for round in 0..5 {
        let name = ObjectName::new(format!("race/{round}"))?;
        let bodies: Vec<Bytes> = (0..6).map(|n| bytes(n / 2, 200_000)).collect();
        let mut puts = Vec::new();
        for (n, body) in bodies.iter().enumerate() {
            puts.push(handles[n % 2].put(&name, Payload::from(body.clone())));
        }
        let answers = futures::future::join_all(puts).await;
        let found = whole(&*handles[0], &name).await?;
        for (body, answer) in bodies.iter().zip(answers) {
            let won = found.as_deref() == Some(body);
            match answer {
                Ok(()) => ensure!(won, "a put succeeded, but other bytes are there"),
                failed => {
                    ensure!(!won, "a put of the bytes that are there failed: {failed:?}");
                    refused(failed, &[ErrorClass::Conflict], "a put that came too late")?;
                }
            }
        }
        ensure!(found.is_some_and(|found| bodies.contains(&found.into())), "none of the objects is there as a whole");
    }
    Ok(())
}

pub(super) async fn a_full_place_is_no_space_and_leaves_nothing(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(given(fixture.nearly_full().await?, "the fixture has no nearly full place")?).await?;
    let destination = place.destination();
    let name = ObjectName::new("full/a")?;
    let put = destination.put(&name, Payload::from(bytes(1, 8 << 20))).await;
    refused(put, &[ErrorClass::NoSpace], "a put of 8 MiB into a place with room for 1 MiB")?;
    ensure!(destination.stat(&name).await?.is_none(), "a part of the object is there");
    destination.put(&name, Payload::from(bytes(1, 1000))).await?;
    Ok(())
}

pub(super) async fn an_empty_payload_is_an_empty_object(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    for (n, payload) in [Payload::default(), Payload::from(Vec::new())].into_iter().enumerate() {
        let name = ObjectName::new(format!("empty/{n}"))?;
        destination.put(&name, payload).await?;
        ensure!(destination.stat(&name).await?.is_some_and(|info| info.size == 0), "stat does not find 0 bytes");
        ensure!(whole(&*destination, &name).await?.is_some_and(|found| found.is_empty()), "get does not find it");
    }
    Ok(())
}

pub(super) async fn a_put_is_no_faster_than_its_payload_allows(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let name = ObjectName::new("paced/a")?;
    let body = bytes(1, 300_000);
    let limit = RateLimit::new(NonZeroU64::new(1000));
    let mut put = destination.put(&name, Payload::from(body.clone()).paced(limit.clone()));
    // It would take five minutes.
    if let Ok(done) = tokio::time::timeout(Duration::from_millis(500), &mut put).await {
        done?;
        return Err(Stop::Failed(
            "a put of 300,000 bytes at 1,000 bytes a second was done within half a second".into(),
        ));
    }
    ensure!(destination.stat(&name).await?.is_none(), "a part of the object is there");
    limit.set(None);
    put.await?;
    ensure!(whole(&*destination, &name).await?.is_some_and(|found| found == body), "the object is not what was put");
    Ok(())
}

pub(super) async fn an_absent_object_can_be_deleted(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    destination.delete(&ObjectName::new("absent/a")?).await?;
    destination.put(&ObjectName::new("absent/b")?, Payload::from(bytes(1, 1))).await?;
    destination.delete(&ObjectName::new("absent/a")?).await?;
    ensure!(destination.stat(&ObjectName::new("absent/b")?).await?.is_some(), "another object was removed");
    Ok(())
}

pub(super) async fn what_was_deleted_is_gone_for_everybody(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let (destination, again) = (place.destination(), place.again().await?);
    let (gone, stays) = (ObjectName::new("deleted/a/b")?, ObjectName::new("deleted/a/c")?);
    for name in [&gone, &stays] {
        destination.put(name, Payload::from(bytes(1, 100))).await?;
    }
    destination.delete(&gone).await?;
    for handle in [&destination, &again] {
        ensure!(whole(&**handle, &gone).await?.is_none(), "get finds it");
        ensure!(handle.stat(&gone).await?.is_none(), "stat finds it");
        ensure!(listed(&**handle).await? == [(stays.clone(), 100)], "list finds it, or lost another");
    }
    // The name is free again.
    destination.put(&gone, Payload::from(bytes(2, 50))).await?;
    destination.delete(&gone).await?;
    destination.delete(&gone).await?;
    Ok(())
}

/// Puts so many objects `many/…`, and one beside them, `many-stays`.
async fn many(destination: &dyn Destination, count: usize) -> Result<(Vec<ObjectName>, ObjectName), Stop> {
    let names: Vec<ObjectName> =
        (0..count).map(|n| ObjectName::new(format!("many/{n:04}"))).collect::<backup_core::Result<_>>()?;
    let stays = ObjectName::new("many-stays")?;
    for name in names.iter().chain([&stays]) {
        destination.put(name, Payload::from(bytes(1, 10))).await?;
    }
    Ok((names, stays))
}

pub(super) async fn many_that_were_deleted_are_gone_and_no_others(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let (destination, again) = (place.destination(), place.again().await?);
    let (mut names, stays) = many(&*destination, 20).await?;
    // One that is gone already, one that never was, one twice.
    destination.delete(&names[3]).await?;
    names.extend([ObjectName::new("many/absent")?, names[5].clone()]);
    for handle in [&destination, &again] {
        handle.delete_many(&names).await?;
        ensure!(listed(&**handle).await? == [(stays.clone(), 10)], "list finds one of them, or lost another");
        for name in &names {
            ensure!(handle.stat(name).await?.is_none(), "stat finds {name}");
        }
    }
    destination.delete_many(&[]).await?;
    ensure!(listed(&*destination).await? == [(stays.clone(), 10)], "no names, and something was removed");
    Ok(())
}

pub(super) async fn a_deletion_of_many_that_was_dropped_goes_on(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let (names, stays) = many(&*destination, 20).await?;
    {
        let mut call = std::pin::pin!(destination.delete_many(&names));
        // It may be done at once, which is fine.
        let _ = futures::poll!(&mut call);
    }
    destination.delete_many(&names).await?;
    ensure!(listed(&*destination).await? == [(stays.clone(), 10)], "list finds one of them, or lost another");
    Ok(())
}

pub(super) async fn staged_leftovers_are_removed_below_the_prefix_only(fixture: &dyn DestinationFixture) -> Outcome {
    const SKIP: Stop = Stop::Skipped("the fixture cannot plant and see staged leftovers");
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let (a, aa) = (ObjectName::new("a/data/x")?, ObjectName::new("aa/x")?);
    for name in [&a, &aa] {
        destination.put(name, Payload::from(bytes(1, 100))).await?;
    }
    let ours = [format!("a/{STAGE_PREFIX}1"), format!("a/data/{STAGE_PREFIX}2")];
    let others = [format!("aa/{STAGE_PREFIX}3"), format!("{STAGE_PREFIX}4")];
    for path in ours.iter().chain(&others) {
        if !place.plant(path, bytes(1, 10)).await? {
            return Err(SKIP);
        }
    }
    // Nothing staged there, and nothing there at all.
    destination.remove_staged(&ObjectName::new("b")?).await?;
    destination.remove_staged(&ObjectName::new("a")?).await?;
    let paths = place.paths().await?.ok_or(SKIP)?;
    for path in &ours {
        ensure!(!paths.contains(path), "{path} is still there");
    }
    for path in &others {
        ensure!(paths.contains(path), "{path} is not below the prefix and was removed");
    }
    for name in [&a, &aa] {
        ensure!(destination.stat(name).await?.is_some(), "the object {name} was removed");
    }
    Ok(())
}
