//! Cases about the stream of events.

use super::fixture::{Disturbance, KnownItem, SourceFixture};
use super::run::{Run, context};
use crate::conformance::suite::{ensure, given, refused};
use crate::conformance::{Outcome, Stop};
use backup_core::ErrorClass;
use backup_core::adapter::{Content, Cursor, MAX_CURSOR, MAX_INLINE, ReadContext, SourceEvent};
use backup_core::budget::ByteBudget;
use bytes::Bytes;
use futures::StreamExt;
use std::time::Duration;

/// In how many places a run is cut; all of them when there are no more.
const CUTS: usize = 12;

pub(super) async fn every_item_is_delivered_once(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    Run::whole(&place.source()).await?.check(&place.items())
}

pub(super) async fn two_runs_deliver_in_one_order(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let first = Run::whole(&place.source()).await?.names();
    let second = Run::whole(&place.again().await?).await?.names();
    ensure!(first == second, "first {first:?}, then {second:?}");
    Ok(())
}

pub(super) async fn another_process_goes_on_behind_any_cursor(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let whole = Run::whole(&place.source()).await?;
    let last = whole.entries.len().saturating_sub(1);
    let mut cuts: Vec<usize> = (0..CUTS).map(|n| n * last / (CUTS - 1)).collect();
    cuts.dedup();
    for cut in cuts {
        let mut run = whole.clone();
        let after = run.entries.get(cut).map(|seen| seen.cursor.clone());
        run.entries.truncate(cut + 1);
        run.go_on(&place.again().await?, after, &context()).await?;
        let at = |stop| match stop {
            Stop::Failed(text) => Stop::Failed(format!("after the cursor of entry {cut}: {text}")),
            skipped => skipped,
        };
        run.check(&place.items()).map_err(at)?;
        // Without a superseded group nothing but the entries behind the cursor follows.
        let same = run.superseded || run.names() == whole.names();
        ensure!(same, "after the cursor of entry {cut} another order: {:?}", run.names());
    }
    Ok(())
}

pub(super) async fn cursors_are_short(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    for seen in Run::whole(&place.source()).await?.entries {
        let length = seen.cursor.0.len();
        ensure!(length <= MAX_CURSOR, "the cursor of {} has {length} bytes", seen.name);
    }
    Ok(())
}

pub(super) async fn a_foreign_cursor_is_invalid(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    for foreign in [&b""[..], b"?", b"not a cursor", b"{\"v\":999}", &[0xff; 200]] {
        let cursor = Cursor(Bytes::from_static(foreign));
        let first = place.source().events(Some(cursor), context()).next().await;
        let first = first.unwrap_or(Ok(SourceEvent::Facts(Default::default())));
        refused(
            first,
            &[ErrorClass::Invalid],
            &format!("a run after the cursor {:?}", foreign.escape_ascii().to_string()),
        )?;
    }
    Ok(())
}

pub(super) async fn inline_content_is_short_and_occupies_the_budget(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let ctx = context();
    let mut events = place.source().events(None, ctx.clone());
    let (mut held, mut bytes_held) = (Vec::new(), 0);
    while let Some(event) = events.next().await.transpose()? {
        let SourceEvent::Entry(entry) = event else { continue };
        let Content::Inline { bytes, .. } = &entry.content else { continue };
        ensure!(bytes.len() <= MAX_INLINE, "{}: {} bytes inline", entry.name, bytes.len());
        bytes_held += bytes.len() as u64;
        held.push(entry);
        let taken = ctx.budget.total() - ctx.budget.available();
        ensure!(taken >= bytes_held, "{bytes_held} bytes are held inline, {taken} are taken from the budget");
    }
    given((bytes_held > 0).then_some(()), "the fixture has no inline content")?;
    drop(events);
    drop(held);
    given_back(&ctx.budget).await
}

/// The whole budget is free again, at once or when work in the background has seen that it is no longer wanted.
async fn given_back(budget: &ByteBudget) -> Outcome {
    for _ in 0..200 {
        if budget.available() == budget.total() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let missing = budget.total() - budget.available();
    Err(Stop::Failed(format!("{missing} bytes of the budget are still taken two seconds later")))
}

pub(super) async fn the_smallest_budget_is_enough(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let ctx = ReadContext { budget: ByteBudget::new(1), ..context() };
    let mut run = Run::default();
    run.go_on(&place.source(), None, &ctx).await?;
    run.check(&place.items())
}

pub(super) async fn a_stop_ends_the_stream_and_loses_nothing(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let source = place.source();
    for entries in [0, 1, 3] {
        let (ctx, reading) = (context(), context());
        let mut run = Run::default();
        let mut events = source.clone().events(None, ctx.clone());
        let mut stopped = false;
        loop {
            if run.entries.len() >= entries && !std::mem::replace(&mut stopped, true) {
                ctx.stop.cancel();
            }
            let Some(event) = events.next().await.transpose()? else { break };
            run.take(&source, event, &reading).await?;
        }
        let after = run.entries.last().map(|seen| seen.cursor.clone());
        run.go_on(&place.again().await?, after, &context()).await?;
        run.check(&place.items())?;
    }
    Ok(())
}

pub(super) async fn a_stop_ends_a_long_stream_soon(fixture: &dyn SourceFixture) -> Outcome {
    let place = given(fixture.many().await?, "the fixture has no place with many items")?;
    let ctx = context();
    let mut events = place.source().events(None, ctx.clone());
    let mut delivered = 0;
    while let Some(event) = events.next().await.transpose()? {
        ctx.stop.cancel();
        delivered += usize::from(matches!(event, SourceEvent::Entry(_)));
    }
    let all = place.items().len();
    ensure!(delivered < all / 2, "{delivered} of {all} items were delivered after a stop at the first");
    Ok(())
}

pub(super) async fn an_item_that_may_not_be_read_does_not_end_the_run(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let source = place.source();
    let mut denied = None;
    for item in place.items() {
        if let KnownItem::Entry { name, content: Some(_), .. } = item
            && place.disturb(&name, Disturbance::Deny).await?
        {
            denied = Some(name);
            break;
        }
    }
    let name = given(denied, "the fixture cannot deny an item")?;
    let (mut named, mut others) = (false, 0);
    let mut events = source.clone().events(None, context());
    while let Some(event) = events.next().await.transpose()? {
        match event {
            SourceEvent::Entry(entry) if entry.name == name => {
                named = true;
                let Content::Stored { size, version } = entry.content else { continue };
                let read = source.read(&name, version.as_ref(), 0..size, &context()).await;
                refused(read, &[ErrorClass::Permanent, ErrorClass::Unauthorized], "read of an item that is denied")?;
            }
            SourceEvent::Entry(_) => others += 1,
            SourceEvent::Warning(warning) => named |= warning.name.as_ref() == Some(&name),
            SourceEvent::Supersede { .. } | SourceEvent::Facts(_) => {}
        }
    }
    ensure!(named, "{name} was neither delivered nor named in a warning");
    ensure!(others > 0, "the other items are missing");
    Ok(())
}

pub(super) async fn an_excluded_place_is_left_out(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    let part = given(place.part(), "the fixture names no place inside its source")?;
    let source = place.source();
    let ctx = ReadContext { excluded: [part.identity].into(), ..context() };
    let mut run = Run::default();
    run.go_on(&source, None, &ctx).await?;
    run.check_without(&place.items(), &part.names)?;
    // Also behind a cursor.
    let mut run = Run::whole(&source).await?;
    let after = run.entries.first().map(|seen| seen.cursor.clone());
    run.entries.truncate(1);
    run.entries.retain(|seen| !part.names.contains(&seen.name));
    run.go_on(&source, after, &ctx).await?;
    run.check_without(&place.items(), &part.names)
}

pub(super) async fn a_dropped_stream_gives_its_memory_back(fixture: &dyn SourceFixture) -> Outcome {
    let place = fixture.place().await?;
    for taken in [0, 1, 2] {
        let ctx = context();
        let events = place.source().events(None, ctx.clone());
        let first: Vec<_> = events.take(taken).collect().await;
        for event in first {
            event?;
        }
        given_back(&ctx.budget).await?;
        // Somebody who waits for memory lets go of it too.
        let ctx = ReadContext { budget: ByteBudget::new(1024), ..context() };
        let all = ctx.budget.take(1024).await;
        let mut events = place.source().events(None, ctx.clone());
        let waited = tokio::time::timeout(Duration::from_millis(50), async { while events.next().await.is_some() {} });
        drop(waited.await);
        drop(events);
        drop(all);
        given_back(&ctx.budget).await?;
    }
    Ok(())
}
