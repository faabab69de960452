//! Each kind of fault, as the caller of a faulty adapter meets it.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use backup_core::adapter::{
    ByteStream, ContentReader, Destination, EntryProgress, Payload, PlanEntries, ReadContext, RestorePlan,
    RestoreTarget, Source, SourceEvent,
};
use backup_core::budget::ByteBudget;
use backup_core::model::{Entry, EntryKind, Metadata, Naming, ObjectName};
use backup_core::{Digest, Error, ErrorClass, Result, Sha256};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource, MemoryTarget};
use backup_testkit::faulty::{Fault, FaultyDestination, FaultySource, FaultyTarget, Rule, Script, When};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;

const TRANSIENT: ErrorClass = ErrorClass::Transient;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn once(method: Method, fault: Fault) -> Script {
    Script::new().rule(Rule::new(method, When::Nth(1), fault))
}

fn destination(script: &Script) -> (MemoryDestination, Arc<FaultyDestination>) {
    let memory = MemoryDestination::default().with_piece(10);
    (memory.clone(), FaultyDestination::new(Arc::new(memory), script.clone()))
}

/// All that comes, and the error at the end if there is one.
async fn collect(mut stream: ByteStream) -> (Vec<u8>, Option<Error>) {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(1 << 20),
        limit: Default::default(),
        stop: Default::default(),
        excluded: Arc::new([]),
    }
}

#[tokio::test]
async fn a_failed_call_has_no_effect() {
    let script = once(Method::Put, Fault::Fail(ErrorClass::NoSpace));
    let (memory, faulty) = destination(&script);
    let error = faulty.put(&name("a"), Payload::from(vec![1])).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NoSpace);
    assert!(memory.objects().is_empty());
    faulty.put(&name("a"), Payload::from(vec![1])).await.unwrap();
    assert_eq!(script.fired().len(), 1);
}

#[tokio::test]
async fn a_lost_reply_comes_after_the_effect() {
    let (memory, faulty) = destination(&once(Method::Put, Fault::LostReply(TRANSIENT)));
    faulty.put(&name("a"), Payload::from(vec![1])).await.unwrap_err();
    assert_eq!(memory.bytes(&name("a")).unwrap(), Bytes::from_static(&[1]));
}

#[tokio::test]
async fn a_body_breaks_off_ends_early_or_is_flipped_at_the_very_byte() {
    for after in [0, 5, 10, 15, 30] {
        let script = Script::new()
            .rule(Rule::new(Method::Get, When::Nth(1), Fault::Break { after, class: TRANSIENT }))
            .rule(Rule::new(Method::Get, When::Nth(2), Fault::Short { after }))
            .rule(Rule::new(Method::Get, When::Nth(3), Fault::Flip { at: after }));
        let (memory, faulty) = destination(&script);
        let whole: Vec<u8> = (0..30).collect();
        memory.insert("a", whole.clone());
        let first = &whole[..after as usize];

        let (bytes, error) = collect(faulty.get(&name("a"), None).await.unwrap()).await;
        assert_eq!((bytes.as_slice(), error.unwrap().class()), (first, TRANSIENT));
        let (bytes, error) = collect(faulty.get(&name("a"), None).await.unwrap()).await;
        assert!(bytes == first && error.is_none(), "{after}");
        let (bytes, error) = collect(faulty.get(&name("a"), None).await.unwrap()).await;
        let differ = bytes.iter().zip(&whole).filter(|(a, b)| a != b).count();
        assert!(bytes.len() == 30 && differ == usize::from(after < 30) && error.is_none(), "{after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_passes_and_a_hang_or_stall_does_not() {
    let script = once(Method::Stat, Fault::Delay(Duration::from_secs(3)))
        .rule(Rule::new(Method::Stat, When::Nth(2), Fault::Hang))
        .rule(Rule::new(Method::Get, When::Always, Fault::Stall { after: 12 }));
    let (memory, faulty) = destination(&script);
    memory.insert("a", vec![7; 30]);
    let start = tokio::time::Instant::now();
    faulty.stat(&name("a")).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    tokio::time::timeout(Duration::from_secs(3600), faulty.stat(&name("a"))).await.unwrap_err();
    let mut body = faulty.get(&name("a"), None).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap().len(), 10);
    assert_eq!(body.next().await.unwrap().unwrap().len(), 2);
    tokio::time::timeout(Duration::from_secs(3600), body.next()).await.unwrap_err();
}

#[tokio::test]
async fn listings_and_events_break_off_or_end_after_so_many_items() {
    let script = once(Method::List, Fault::Break { after: 2, class: TRANSIENT })
        .rule(Rule::new(Method::List, When::Nth(2), Fault::Short { after: 1 }))
        .rule(Rule::new(Method::ListRoots, When::Nth(1), Fault::Fail(ErrorClass::Unauthorized)));
    let (memory, faulty) = destination(&script);
    ["a", "b", "c"].iter().for_each(|name| memory.insert(name, vec![]));
    let items: Vec<_> = faulty.list(None).collect().await;
    assert!(items.len() == 3 && items[2].is_err());
    assert_eq!(faulty.list(None).collect::<Vec<_>>().await.len(), 1);
    let roots: Vec<_> = faulty.list_roots().collect().await;
    assert_eq!(roots[0].as_ref().unwrap_err().class(), ErrorClass::Unauthorized);

    let source = MemorySource::new("s").file("a", "1").file("b", "2");
    let script = once(Method::Events, Fault::Break { after: 1, class: TRANSIENT });
    let events: Vec<Result<SourceEvent>> =
        FaultySource::new(Arc::new(source), script).events(None, context()).collect().await;
    assert!(events.len() == 2 && events[0].is_ok() && events[1].is_err());
}

#[tokio::test]
async fn a_rule_is_about_the_thing_that_it_names() {
    let source = MemorySource::new("s").stored("large", Blob::pattern(1, 100_000)).stored("other", "x");
    let script =
        Script::new().rule(Rule::new(Method::Read, When::Always, Fault::Short { after: 70_000 }).about("large"));
    let faulty = FaultySource::new(Arc::new(source), script);
    let opened = faulty.read(&"large".into(), None, 0..100_000, &context()).await.unwrap();
    assert_eq!(collect(opened.content).await.0.len(), 70_000);
    let opened = faulty.read(&"other".into(), None, 0..1, &context()).await.unwrap();
    assert_eq!(collect(opened.content).await.0, b"x");
}

#[derive(Debug)]
struct NoEntries;

impl PlanEntries for NoEntries {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        futures::stream::empty().boxed()
    }
}

#[tokio::test]
async fn a_large_write_breaks_off_and_goes_on_from_its_progress() {
    let memory = MemoryTarget::default().with_record_every(10_000);
    let broken = Fault::Break { after: 25_000, class: TRANSIENT };
    let script = Script::new().rule(Rule::new(Method::WriteLarge, When::First(2), broken));
    let target = FaultyTarget::new(Arc::new(memory.clone()), script);
    let plan = RestorePlan {
        tag: "t".into(),
        attempt: 1,
        resumed: false,
        overwrite: false,
        naming: Naming::Paths,
        entries: Arc::new(NoEntries),
    };
    target.prepare(&plan).await.unwrap();
    let whole = Blob::pattern(3, 100_000).bytes();
    let entry = Entry {
        name: "large".into(),
        kind: EntryKind::File,
        size: 100_000,
        mtime: None,
        metadata: Metadata::default(),
        sha256: Some(Digest::of(&whole)),
        offset: 0,
        ordinal: 0,
        group: None,
        inconsistent: false,
        superseded: false,
    };
    let progress = EntryProgress::default();
    for expected in [20_000, 40_000] {
        let error = target.write_large(&plan, &entry, content(&whole, &progress), &progress).await.unwrap_err();
        assert_eq!(error.class(), TRANSIENT);
        assert_eq!(progress.saved().unwrap().offset, expected);
        assert!(memory.items().is_empty());
    }
    target.write_large(&plan, &entry, content(&whole, &progress), &progress).await.unwrap().unwrap();
    assert_eq!(memory.content("large").unwrap(), whole);
}

fn content(whole: &Bytes, progress: &EntryProgress) -> ContentReader {
    let hash = progress.saved().map_or_else(Sha256::new, |saved| saved.hash);
    let rest = whole.slice(hash.length() as usize..);
    let pieces: Vec<Result<Bytes>> = rest.chunks(5000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let stream = futures::stream::iter(pieces).boxed();
    ContentReader::new(stream, hash, Some(whole.len() as u64), Some(Digest::of(whole)))
}

#[tokio::test]
async fn a_dropped_put_leaves_nothing_the_object_or_a_staged_name() {
    let memory = MemoryDestination::default();
    let object = name("x/a");
    let put = || memory.put(&object, Payload::from(vec![1]));
    assert!(put().now_or_never().is_none());
    assert!(memory.objects().is_empty());
    assert_eq!(memory.staged().len(), 1);
    assert_eq!(memory.list(None).count().await, 0);
    {
        let mut under_way = std::pin::pin!(put());
        assert!(futures::poll!(&mut under_way).is_pending());
        assert_eq!(memory.remove_staged(&name("x")).await.unwrap_err().class(), ErrorClass::Invalid);
        under_way.await.unwrap();
    }
    memory.remove_staged(&name("x")).await.unwrap();
    assert!(memory.staged().is_empty());
    assert_eq!(memory.objects().len(), 1);
}
