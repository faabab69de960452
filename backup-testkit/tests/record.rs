//! What recorders say of the calls that went through them.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use backup_core::ErrorClass;
use backup_core::adapter::{Destination, Payload, ReadContext, Source};
use backup_core::budget::ByteBudget;
use backup_core::model::ObjectName;
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource};
use backup_testkit::record::{CallOutcome, Recorder, RecordingDestination, RecordingSource};
use futures::StreamExt;
use std::sync::Arc;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn destination() -> (MemoryDestination, Recorder, Arc<RecordingDestination>) {
    let (memory, recorder) = (MemoryDestination::default().with_piece(10), Recorder::new());
    (memory.clone(), recorder.clone(), RecordingDestination::new(Arc::new(memory), recorder))
}

#[tokio::test]
async fn calls_bytes_ranges_and_outcomes_are_kept() {
    let (_, recorder, destination) = destination();
    destination.put(&name("a"), Payload::from(vec![0; 100])).await.unwrap();
    destination.put(&name("a"), Payload::from(vec![1; 100])).await.unwrap_err();
    destination.get(&name("a"), Some(20..50)).await.unwrap().count().await;
    drop(destination.get(&name("a"), None).await.unwrap());
    let mut begun = destination.get(&name("a"), Some(60..90)).await.unwrap();
    begun.next().await;
    assert_eq!(recorder.count(Method::Get).running, 1);
    drop(begun);

    let put = recorder.count(Method::Put);
    assert_eq!((put.calls, put.failed, put.bytes), (2, 1, 200));
    let get = recorder.count(Method::Get);
    assert_eq!((get.calls, get.bytes, get.running, get.most_running), (3, 40, 0, 1));
    let seen: Vec<_> = recorder.calls().into_iter().map(|call| (call.range, call.bytes, call.outcome)).collect();
    assert_eq!(
        seen,
        [
            (None, 100, CallOutcome::Done),
            (None, 100, CallOutcome::Failed(ErrorClass::Conflict)),
            (Some(20..50), 30, CallOutcome::Done),
            (None, 0, CallOutcome::Dropped),
            (Some(60..90), 10, CallOutcome::Dropped),
        ]
    );
    assert_eq!(recorder.bytes_read("a"), 40);
    assert!(recorder.read_twice().is_empty());
}

#[tokio::test]
async fn what_was_read_twice_is_named_with_its_bytes() {
    let (memory, recorder, destination) = destination();
    memory.insert("a", vec![0; 100]);
    memory.insert("b", vec![0; 100]);
    for (object, range) in [("a", 0..50), ("a", 40..60), ("a", 10..20), ("a", 60..100), ("b", 50..100), ("b", 0..50)] {
        destination.get(&name(object), Some(range)).await.unwrap().count().await;
    }
    assert_eq!(recorder.read_twice(), [("a".to_owned(), 20)]);

    let recorder = Recorder::new();
    let memory = MemorySource::new("s").file("x", "1").stored("y", Blob::pattern(1, 100));
    let source = RecordingSource::new(Arc::new(memory), recorder.clone());
    let context = ReadContext {
        budget: ByteBudget::new(1 << 20),
        limit: Default::default(),
        stop: Default::default(),
        excluded: Arc::new([]),
    };
    source.clone().events(None, context.clone()).count().await;
    source.read(&"y".into(), None, 0..100, &context).await.unwrap().content.count().await;
    assert!(recorder.read_twice().is_empty());
    assert_eq!(recorder.count(Method::Events).bytes, 1);
    source.clone().events(None, context).count().await;
    assert_eq!(recorder.read_twice(), [("x".to_owned(), 0), ("y".to_owned(), 0)]);
}

#[tokio::test]
async fn what_there_is_no_room_for_is_counted_but_not_kept() {
    let recorder = Recorder::with_room(2);
    let destination = RecordingDestination::new(Arc::new(MemoryDestination::default()), recorder.clone());
    for _ in 0..3 {
        destination.stat(&name("a")).await.unwrap();
    }
    assert_eq!((recorder.count(Method::Stat).calls, recorder.calls().len()), (3, 2));
    assert!(!recorder.is_complete());
    recorder.clear();
    assert!(recorder.is_complete() && recorder.calls().is_empty());
}
