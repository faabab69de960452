//! The strictness of the doubles: what they refuse, what they lose, and the trouble that they can be told to make.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use backup_core::adapter::{
    Content, Destination, Granularity, Payload, ReadContext, RestorePlan, RestoreTarget, Source, SourceEvent,
};
use backup_core::budget::ByteBudget;
use backup_core::model::{Identity, ObjectName};
use backup_core::{Digest, ErrorClass};
use backup_testkit::conformance::restore_target::{Sample, plan};
use backup_testkit::doubles::{
    Blob, Damage, ManualClock, MemoryDestination, MemorySource, MemoryTarget, OnResume, Synthetic, Trouble, TroubleAt,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(1 << 20),
        limit: Default::default(),
        stop: Default::default(),
        excluded: Arc::new([]),
    }
}

async fn read(source: &MemorySource, entry: &str, size: u64) -> Result<Vec<u8>, ErrorClass> {
    let opened = source.read(&entry.into(), None, 0..size, &context()).await.map_err(|e| e.class())?;
    let pieces: Vec<Bytes> = opened.content.try_collect().await.map_err(|e| e.class())?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn a_destination_can_be_damaged_dated_and_set_back() {
    let clock = ManualClock::default();
    let destination = MemoryDestination::default().with_clock(clock.clone());
    destination.put(&name("a"), Payload::from(vec![0, 1, 2, 3])).await.unwrap();
    clock.advance(Duration::from_secs(3600));
    destination.put(&name("b"), Payload::from(vec![9])).await.unwrap();
    let dates: Vec<_> = destination.list(None).map_ok(|info| info.modified).try_collect().await.unwrap();
    assert_eq!((dates[1] - dates[0]).total(jiff::Unit::Second).unwrap(), 3600.0);

    let before = destination.snapshot();
    assert!(destination.corrupt(&name("a"), Damage::Flip { at: -1, mask: 1 }));
    assert_eq!(destination.bytes(&name("a")).unwrap(), [0, 1, 2, 2].as_slice());
    assert!(destination.corrupt(&name("a"), Damage::Truncate { to: 2 }));
    assert!(!destination.corrupt(&name("a"), Damage::Truncate { to: 9 }), "nothing changed");
    assert!(destination.corrupt(&name("a"), Damage::Extend { by: 1 }));
    assert!(destination.swap(&name("a"), &name("b")));
    assert_eq!(destination.bytes(&name("b")).unwrap(), [0, 1, 0].as_slice());
    assert!(destination.remove(&name("b")) && !destination.remove(&name("b")));
    assert_eq!(before.bytes(&name("a")).unwrap(), [0, 1, 2, 3].as_slice());
    destination.restore(&before);
    assert_eq!(destination.objects(), before.objects());
}

#[tokio::test]
async fn a_source_makes_trouble_at_the_read_that_was_planned() {
    let source = MemorySource::new("s").stored("a", Blob::pattern(1, 100_000)).file("inline", "x");
    let (old, new) = (Blob::pattern(1, 100_000).bytes(), Blob::pattern(2, 100_000).bytes());
    assert!(!source.at_read("inline", TroubleAt::read(1), Trouble::Vanish));
    assert!(source.at_read("a", TroubleAt { read: 2, after: 50_000 }, Trouble::Change(Blob::pattern(2, 100_000))));
    assert_eq!(read(&source, "a", 100_000).await.unwrap(), old);
    let torn = read(&source, "a", 100_000).await.unwrap();
    assert!(torn != old && torn != new && torn[..50_000] == old[..50_000] && torn[99_000..] == new[99_000..]);
    assert_eq!(read(&source, "a", 100_000).await.unwrap(), new);

    source.trouble_now("a", Trouble::KeepChanging);
    assert_ne!(read(&source, "a", 100_000).await, read(&source, "a", 100_000).await);
    source.at_read("a", TroubleAt::read(1), Trouble::Deny);
    assert_eq!(read(&source, "a", 100_000).await.unwrap_err(), ErrorClass::Permanent);
    source.trouble_now("a", Trouble::Vanish);
    assert_eq!(read(&source, "a", 100_000).await.unwrap_err(), ErrorClass::NotFound);
    assert_eq!(read(&source, "inline", 1).await.unwrap_err(), ErrorClass::Invalid);
    assert_eq!(read(&source, "b", 1).await.unwrap_err(), ErrorClass::NotFound);
}

#[tokio::test]
async fn a_read_beyond_the_listed_size_is_a_breach() {
    let source = MemorySource::new("s").stored("a", "12345");
    assert_eq!(read(&source, "a", 6).await.unwrap_err(), ErrorClass::Invalid);
    source.trouble_now("a", Trouble::Change("1".into()));
    assert_eq!(read(&source, "a", 5).await.unwrap(), b"1");
}

#[tokio::test]
async fn a_group_that_is_superseded_may_come_again_as_another() {
    let group = |texts: &[&str]| texts.iter().map(|text| Blob::from(*text)).collect::<Vec<_>>();
    let source =
        Arc::new(MemorySource::new("s").group("g", group(&["a", "b", "c"]), OnResume::SupersedeWith(group(&["x"]))));
    let run = async |after| {
        let events: Vec<_> = source.clone().events(after, context()).map(Result::unwrap).collect().await;
        let mut texts = Vec::new();
        let mut cursors = Vec::new();
        for event in events {
            match event {
                SourceEvent::Entry(entry) => {
                    let Content::Inline { bytes, .. } = entry.content else { panic!("not inline") };
                    texts.push(String::from_utf8(bytes.to_vec()).unwrap());
                    cursors.push(entry.cursor);
                }
                SourceEvent::Supersede { group } => texts.push(format!("!{group}")),
                SourceEvent::Warning(_) | SourceEvent::Facts(_) => {}
            }
        }
        (texts, cursors)
    };
    let (texts, cursors) = run(None).await;
    assert_eq!(texts, ["a", "b", "c"]);
    assert_eq!(run(Some(cursors[1].clone())).await.0, ["!g", "x"]);
    assert!(run(Some(cursors[2].clone())).await.0.is_empty());
}

#[tokio::test]
async fn a_synthetic_source_finds_its_entries_again() {
    let source = Arc::new(MemorySource::synthetic("s", Synthetic { entries: 1_000_000, size: 10, inline: false }));
    assert_eq!(source.estimate().await.unwrap().bytes, Some(10_000_000));
    let listed: Vec<_> = source.clone().events(None, context()).take(2).try_collect().await.unwrap();
    let SourceEvent::Entry(entry) = &listed[1] else { panic!("no entry") };
    assert_eq!(read(&source, entry.name.as_str().unwrap(), 10).await.unwrap(), Blob::pattern(1, 10).bytes());
    assert_eq!(read(&source, "d0001000/f000001000000", 10).await.unwrap_err(), ErrorClass::NotFound);
    assert_eq!(source.identity(), Identity::new("memory", "s"));
}

async fn prepared(granularity: Granularity, samples: &[Sample]) -> (MemoryTarget, RestorePlan) {
    let (target, plan) = (MemoryTarget::default().with_granularity(granularity), plan(samples));
    target.prepare(&plan).await.unwrap();
    (target, plan)
}

async fn write(target: &MemoryTarget, plan: &RestorePlan, sample: &Sample) -> Result<(), ErrorClass> {
    let answers = target.write_small(plan, vec![sample.small()]).await.map_err(|e| e.class())?;
    answers.into_iter().next().unwrap().map(drop).map_err(|e| e.class())
}

#[tokio::test]
async fn a_target_refuses_what_was_not_verified_and_what_was_not_prepared() {
    let good = Sample::file("a", "content");
    let (target, plan) = prepared(Granularity::Slice, std::slice::from_ref(&good)).await;
    let mut bad = good.clone();
    bad.entry.sha256 = Some(Digest::of(b"other"));
    assert_eq!(write(&target, &plan, &bad).await.unwrap_err(), ErrorClass::Invalid);
    bad.entry.sha256 = None;
    assert_eq!(write(&target, &plan, &bad).await.unwrap_err(), ErrorClass::Invalid);
    assert!(target.items().is_empty());
    assert_eq!(target.breaches().len(), 2);
    write(&target, &plan, &good).await.unwrap();
    target.finish(&plan).await.unwrap();
    assert_eq!(write(&target, &plan, &good).await.unwrap_err(), ErrorClass::Invalid);
    assert_eq!(MemoryTarget::default().write_small(&plan, vec![]).await.unwrap_err().class(), ErrorClass::Invalid);
}

#[tokio::test]
async fn a_target_refuses_slices_out_of_order_two_at_a_time_or_alone_of_a_whole() {
    let mut slices = Sample::slices("g", vec!["1".into(), "2".into(), "3".into()]);
    (0..3).for_each(|n| slices[n].entry.ordinal = n as u64);
    let (target, plan) = prepared(Granularity::OrderedSlices, &slices).await;
    write(&target, &plan, &slices[0]).await.unwrap();
    write(&target, &plan, &slices[2]).await.unwrap();
    assert_eq!(write(&target, &plan, &slices[1]).await.unwrap_err(), ErrorClass::Invalid);
    write(&target, &plan, &slices[0]).await.unwrap();
    assert_eq!(target.breaches().len(), 1);

    let (target, plan) = prepared(Granularity::OrderedSlices, &slices).await;
    let (first, second) = futures::join!(write(&target, &plan, &slices[0]), write(&target, &plan, &slices[1]));
    assert!(first.is_ok() && second == Err(ErrorClass::Invalid));
    write(&target, &plan, &slices[1]).await.unwrap();

    let (target, plan) = prepared(Granularity::Whole, &slices).await;
    assert_eq!(write(&target, &plan, &slices[0]).await.unwrap_err(), ErrorClass::Invalid);
}

#[tokio::test]
async fn a_crash_loses_what_was_not_synced() {
    let samples = [Sample::file("a", "1"), Sample::file("b", "2"), Sample::file("a", "3")];
    let (target, mut plan) = prepared(Granularity::Slice, &samples).await;
    write(&target, &plan, &samples[0]).await.unwrap();
    target.sync().await.unwrap();
    write(&target, &plan, &samples[1]).await.unwrap();
    plan.overwrite = true;
    write(&target, &plan, &samples[2]).await.unwrap();
    assert_eq!(target.content("a").unwrap(), "3");
    target.crash();
    assert_eq!((target.content("a").unwrap(), target.content("b")), (Bytes::from("1"), None));
    assert_eq!(write(&target, &plan, &samples[1]).await.unwrap_err(), ErrorClass::Invalid);
}
