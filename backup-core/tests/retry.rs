//! The retry wrapper over adapters that fail by a script. The clock is paused, so that waits take no time but can be measured.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use async_trait::async_trait;
use backup_core::adapter::{
    ByteStream, Cursor, Destination, Payload, PlanEntries, ReadContext, RestorePlan, RestoreTarget, SmallEntry, Source,
    SourceEvent, Written,
};
use backup_core::budget::ByteBudget;
use backup_core::model::{Entry, EntryKind, Metadata, Naming, ObjectName};
use backup_core::retry::{Backoff, RetryPolicy, Retrying};
use backup_core::{Digest, Error, ErrorClass, Result};
use backup_testkit::Method;
use backup_testkit::doubles::{
    Blob, MemoryDestination, MemorySource, MemoryTarget, OnChange, OnResume, Trouble, TroubleAt,
};
use backup_testkit::faulty::{Fault, FaultyDestination, FaultySource, FaultyTarget, Rule, Script, When};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const TRANSIENT: ErrorClass = ErrorClass::Transient;
const FAIL: Fault = Fault::Fail(TRANSIENT);

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn attempts(n: u32) -> RetryPolicy {
    RetryPolicy { attempts: NonZeroU32::new(n).unwrap(), ..RetryPolicy::default() }
}

fn destination(script: &Script, n: u32) -> (MemoryDestination, Arc<Retrying<dyn Destination>>) {
    let memory = MemoryDestination::default().with_piece(100);
    let faulty: Arc<dyn Destination> = FaultyDestination::new(Arc::new(memory.clone()), script.clone());
    (memory, Retrying::new(faulty, attempts(n)))
}

fn source(memory: MemorySource, script: &Script, n: u32) -> Arc<Retrying<dyn Source>> {
    let faulty: Arc<dyn Source> = FaultySource::new(Arc::new(memory), script.clone());
    Retrying::new(faulty, attempts(n))
}

fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(1 << 20),
        limit: Default::default(),
        stop: Default::default(),
        excluded: Arc::new([]),
    }
}

async fn collect(mut stream: ByteStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await.transpose()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn calls(script: &Script, method: Method) -> usize {
    script.fired().iter().filter(|fired| fired.method == method).count()
}

#[tokio::test(start_paused = true)]
async fn a_passing_error_is_tried_again_and_another_is_not() {
    let script = Script::new().rule(Rule::new(Method::Stat, When::First(2), FAIL)).rule(Rule::new(
        Method::Delete,
        When::Always,
        Fault::Fail(ErrorClass::Permanent),
    ));
    let (memory, retrying) = destination(&script, 3);
    memory.insert("a", vec![1]);
    assert_eq!(retrying.stat(&name("a")).await.unwrap().unwrap().size, 1);
    let error = retrying.delete(&name("a")).await.unwrap_err();
    assert_eq!(calls(&script, Method::Delete), 1);
    assert!(!error.to_string().contains("times"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_last_error_comes_back_and_says_how_often_it_was_tried() {
    let script = Script::new().rule(Rule::new(Method::Put, When::First(2), FAIL)).rule(Rule::new(
        Method::Put,
        When::Always,
        Fault::Fail(ErrorClass::Throttled { after: None }),
    ));
    let (_, retrying) = destination(&script, 3);
    let error = retrying.put(&name("a"), Payload::default()).await.unwrap_err();
    assert_eq!(calls(&script, Method::Put), 3);
    assert_eq!(error.class(), ErrorClass::Throttled { after: None });
    assert!(error.to_string().contains("3 times"), "{error}");
    assert_eq!(error.chain().matches("times").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_says_how_long_to_wait_is_obeyed_within_reason() {
    let ask = |seconds| Fault::Fail(ErrorClass::Throttled { after: Some(Duration::from_secs(seconds)) });
    let script = Script::new().rule(Rule::new(Method::Stat, When::Nth(1), ask(100))).rule(Rule::new(
        Method::Put,
        When::Nth(1),
        ask(86_400),
    ));
    let (_, retrying) = destination(&script, 3);
    let start = Instant::now();
    retrying.stat(&name("a")).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 100);
    let error = retrying.put(&name("a"), Payload::default()).await.unwrap_err();
    assert!(matches!(error.class(), ErrorClass::Throttled { after: Some(_) }));
    assert_eq!(start.elapsed().as_secs(), 100);
}

#[derive(Debug, Default)]
struct Recorded(Mutex<Vec<Duration>>);

#[async_trait]
impl Backoff for Recorded {
    async fn sleep(&self, pause: Duration) {
        self.0.lock().unwrap().push(pause);
    }
    fn random(&self) -> f64 {
        0.5
    }
}

#[tokio::test]
async fn clock_and_chance_are_injected() {
    let script = Script::new().rule(Rule::new(Method::Check, When::Always, FAIL));
    let faulty: Arc<dyn Destination> = FaultyDestination::new(Arc::new(MemoryDestination::default()), script);
    let policy = RetryPolicy { initial: Duration::from_secs(4), max: Duration::from_secs(10), ..attempts(5) };
    let backoff = Arc::new(Recorded::default());
    Retrying::with_backoff(faulty, policy, backoff.clone()).check().await.unwrap_err();
    let pauses: Vec<u64> = backoff.0.lock().unwrap().iter().map(|pause| pause.as_millis() as u64).collect();
    assert_eq!(pauses, [3000, 6000, 7500, 7500]);
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_reply_was_lost_succeeds_on_the_repeat() {
    let script = Script::new().rule(Rule::new(Method::Put, When::First(2), Fault::LostReply(TRANSIENT)));
    let (memory, retrying) = destination(&script, 3);
    retrying.put(&name("a"), Payload::from(vec![1, 2])).await.unwrap();
    assert_eq!(memory.bytes(&name("a")).unwrap(), Bytes::from_static(&[1, 2]));
    let error = retrying.put(&name("a"), Payload::from(vec![3])).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_range_is_exact_wherever_and_however_the_stream_broke_off() {
    let whole = Blob::pattern(1, 1000).bytes();
    for after in [0, 1, 99, 100, 101, 399, 400] {
        for fault in [Fault::Break { after, class: TRANSIENT }, Fault::Short { after }, Fault::LostReply(TRANSIENT)] {
            let script = Script::new().rule(Rule::new(Method::Get, When::First(2), fault));
            let (memory, retrying) = destination(&script, 3);
            memory.insert("a", whole.clone());
            let start = Instant::now();
            let bytes = collect(retrying.get(&name("a"), Some(300..700)).await.unwrap()).await.unwrap();
            assert!(bytes == whole[300..700], "{fault:?}");
            let complete =
                matches!(fault, Fault::LostReply(_) | Fault::Break { after: 400, .. } | Fault::Short { after: 400 });
            assert_eq!(
                start.elapsed().is_zero(),
                complete,
                "{fault:?}: an error behind the last byte needs no other try"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_object_goes_on_at_the_size_that_stat_tells() {
    let whole = Blob::pattern(1, 1000).bytes();
    for after in [0, 1, 500, 1000] {
        let script = Script::new()
            .rule(Rule::new(Method::Get, When::First(2), Fault::Break { after, class: TRANSIENT }))
            .rule(Rule::new(Method::Stat, When::Nth(1), FAIL));
        let (memory, retrying) = destination(&script, 4);
        memory.insert("a", whole.clone());
        let bytes = collect(retrying.get(&name("a"), None).await.unwrap()).await.unwrap();
        assert!(bytes == whole, "{after}");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_arrive_renew_the_attempts_and_none_exhaust_them() {
    let whole = Blob::pattern(1, 1000).bytes();
    let script = Script::new().rule(Rule::new(Method::Get, When::Always, Fault::Break { after: 10, class: TRANSIENT }));
    let (memory, retrying) = destination(&script, 2);
    memory.insert("a", whole.clone());
    assert_eq!(collect(retrying.get(&name("a"), Some(0..1000)).await.unwrap()).await.unwrap(), whole);
    assert_eq!(calls(&script, Method::Get), 100);

    let script = Script::new().rule(Rule::new(Method::Get, When::Always, Fault::Short { after: 0 }));
    let (memory, retrying) = destination(&script, 4);
    memory.insert("a", whole);
    let error = collect(retrying.get(&name("a"), Some(0..1000)).await.unwrap()).await.unwrap_err();
    assert_eq!(calls(&script, Method::Get), 4);
    assert!(error.to_string().contains("4 times") && error.chain().contains("ended at byte 0"), "{}", error.chain());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_ends_a_stream_at_once() {
    let corrupt = Fault::Break { after: 10, class: ErrorClass::Corrupt };
    let script = Script::new().rule(Rule::new(Method::Get, When::Nth(1), corrupt));
    let (memory, retrying) = destination(&script, 4);
    memory.insert("a", vec![0; 100]);
    let error = collect(retrying.get(&name("a"), Some(0..100)).await.unwrap()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt);
    // An object that is gone is gone.
    let script = Script::new().rule(Rule::new(Method::Get, When::Nth(1), Fault::Break { after: 10, class: TRANSIENT }));
    let (memory, retrying) = destination(&script, 4);
    memory.insert("a", vec![0; 100]);
    let stream = retrying.get(&name("a"), None).await.unwrap();
    memory.remove(&name("a"));
    assert_eq!(collect(stream).await.unwrap_err().class(), ErrorClass::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_repeated_only_before_its_first_item() {
    let script = Script::new().rule(Rule::new(Method::List, When::First(2), FAIL)).rule(Rule::new(
        Method::List,
        When::Nth(2),
        Fault::Break { after: 1, class: TRANSIENT },
    ));
    let (memory, retrying) = destination(&script, 4);
    ["a", "b"].iter().for_each(|name| memory.insert(name, vec![]));
    let items: Vec<_> = retrying.list(None).collect().await;
    assert!(items.len() == 2 && items.iter().all(Result::is_ok));
    script.clear();
    script.add(Rule::new(Method::List, When::Nth(1), Fault::Break { after: 1, class: TRANSIENT }));
    let items: Vec<_> = retrying.list(None).collect().await;
    assert!(items.len() == 2 && items[0].is_ok() && items[1].is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_waits_changes_nothing() {
    let script = Script::new().rule(Rule::new(Method::Put, When::Nth(1), FAIL));
    let (memory, retrying) = destination(&script, 3);
    let object = name("a");
    let waiting = tokio::time::timeout(Duration::from_millis(1), retrying.put(&object, Payload::from(vec![1])));
    assert!(waiting.await.is_err());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(memory.objects().is_empty() && memory.staged().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_read_on_where_it_broke_off() {
    let whole = Blob::pattern(9, 200_000).bytes();
    for after in [0, 1, 61_441, 100_000, 150_000] {
        for fault in [Fault::Break { after, class: TRANSIENT }, Fault::Short { after }] {
            let script = Script::new().rule(Rule::new(Method::Read, When::First(2), fault));
            let retrying = source(MemorySource::new("s").stored("a", whole.clone()), &script, 3);
            let opened = retrying.read(&"a".into(), None, 50_000..200_000, &context()).await.unwrap();
            assert!(collect(opened.content).await.unwrap() == whole[50_000..], "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_versions_of_an_entry_are_never_joined() {
    for on_change in [OnChange::Error, OnChange::Report] {
        let memory = MemorySource::new("s").stored("a", Blob::pattern(1, 200_000)).with_on_change(on_change);
        memory.at_read("a", TroubleAt::read(2), Trouble::Change(Blob::pattern(2, 200_000)));
        let broken = Fault::Break { after: 100_000, class: TRANSIENT };
        let script = Script::new().rule(Rule::new(Method::Read, When::Nth(1), broken));
        let retrying = source(memory, &script, 3);
        let opened = retrying.read(&"a".into(), None, 0..200_000, &context()).await.unwrap();
        assert_eq!(collect(opened.content).await.unwrap_err().class(), ErrorClass::Changed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_shorter_when_it_was_opened_ends_where_it_ends() {
    let memory = MemorySource::new("s").stored("a", Blob::pattern(1, 1000)).with_on_change(OnChange::Report);
    memory.trouble_now("a", Trouble::Change(Blob::pattern(1, 300)));
    let retrying = source(memory, &Script::new(), 3);
    let start = Instant::now();
    let opened = retrying.read(&"a".into(), None, 100..1000, &context()).await.unwrap();
    assert_eq!(opened.size, 300);
    assert_eq!(collect(opened.content).await.unwrap().len(), 200);
    assert!(start.elapsed().is_zero(), "taken for a broken connection");
}

/// Names of the entries, `!group` for a superseded group.
async fn names(mut events: BoxStream<'static, Result<SourceEvent>>) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(event) = events.next().await {
        match event.unwrap() {
            SourceEvent::Entry(entry) => names.push(entry.name.to_string()),
            SourceEvent::Supersede { group } => names.push(format!("!{group}")),
            SourceEvent::Warning(_) | SourceEvent::Facts(_) => {}
        }
    }
    names
}

#[tokio::test(start_paused = true)]
async fn events_go_on_behind_the_last_entry() {
    let memory = || (0..20).fold(MemorySource::new("s"), |source, n| source.file(&format!("f{n:02}"), "x"));
    let expected = names(Arc::new(memory()).events(None, context())).await;
    // Each stream delivers two entries; some deliver none.
    let script = Script::new().rule(Rule::new(Method::Events, When::Every(4), FAIL)).rule(Rule::new(
        Method::Events,
        When::Always,
        Fault::Break { after: 2, class: TRANSIENT },
    ));
    assert_eq!(names(source(memory(), &script, 3).events(None, context())).await, expected);
    assert!(calls(&script, Method::Events) > 10);

    let grouped = MemorySource::new("s").group("g", vec!["1".into(), "2".into()], OnResume::Supersede);
    let script =
        Script::new().rule(Rule::new(Method::Events, When::Nth(1), Fault::Break { after: 1, class: TRANSIENT }));
    let seen = names(source(grouped, &script, 3).events(None, context())).await;
    assert_eq!(seen, ["g/000000.bin", "!g", "g/000000.bin", "g/000001.bin"]);
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_go_on_end_in_the_last_error_and_a_pause_ends_the_wait() {
    let script = Script::new().rule(Rule::new(Method::Events, When::Always, FAIL));
    let retrying = source(MemorySource::new("s").file("a", "x"), &script, 4);
    let events: Vec<_> = retrying.clone().events(None, context()).collect().await;
    assert_eq!(events.len(), 1);
    assert!(events[0].as_ref().unwrap_err().to_string().contains("4 times"));

    let ctx = context();
    let events = retrying.events(None, ctx.clone());
    ctx.stop.cancel();
    assert_eq!(events.count().await, 0);

    let retrying = source(MemorySource::new("s"), &Script::new(), 4);
    let events: Vec<_> = retrying.events(Some(Cursor(Bytes::from_static(b"?"))), context()).collect().await;
    assert_eq!(events[0].as_ref().unwrap_err().class(), ErrorClass::Invalid);
}

#[derive(Debug)]
struct NoEntries;

impl PlanEntries for NoEntries {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        futures::stream::empty().boxed()
    }
}

fn plan() -> RestorePlan {
    RestorePlan {
        tag: "t".into(),
        attempt: 1,
        resumed: false,
        overwrite: false,
        naming: Naming::Paths,
        entries: Arc::new(NoEntries),
    }
}

fn small(name: &str, text: &'static str) -> SmallEntry {
    let content = Bytes::from_static(text.as_bytes());
    let entry = Entry {
        name: name.into(),
        kind: EntryKind::File,
        size: content.len() as u64,
        mtime: None,
        metadata: Metadata::default(),
        sha256: Some(Digest::of(&content)),
        offset: 0,
        ordinal: 0,
        group: None,
        inconsistent: false,
        superseded: false,
    };
    SmallEntry { entry, content }
}

#[tokio::test(start_paused = true)]
async fn a_batch_comes_again_after_an_error_or_a_lost_reply() {
    let memory = MemoryTarget::default();
    let script = Script::new()
        .rule(Rule::new(Method::Prepare, When::Nth(1), Fault::LostReply(TRANSIENT)))
        .rule(Rule::new(Method::WriteSmall, When::Nth(1), FAIL))
        .rule(Rule::new(Method::WriteSmall, When::Nth(2), Fault::LostReply(TRANSIENT)));
    let faulty: Arc<dyn RestoreTarget> = FaultyTarget::new(Arc::new(memory.clone()), script);
    let retrying = Retrying::new(faulty, attempts(3));
    retrying.prepare(&plan()).await.unwrap();
    let answers = retrying.write_small(&plan(), vec![small("a", "1"), small("b", "2")]).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Written::AlreadyThere))));
    assert_eq!(memory.content("b").unwrap(), "2");
    assert!(memory.breaches().is_empty());
}

/// Answers per entry: `busy-N` fails the first N times, `bad` for good.
#[derive(Debug)]
struct Moody(MemoryTarget, Mutex<std::collections::HashMap<String, u32>>, Mutex<Vec<usize>>);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RestoreTarget for Moody {
    fn identity(&self) -> backup_core::model::Identity {
        self.0.identity()
    }
    fn granularity(&self, kind: &EntryKind) -> backup_core::adapter::Granularity {
        self.0.granularity(kind)
    }
    async fn check(&self) -> Result<()> {
        self.0.check().await
    }
    async fn is_empty(&self) -> Result<bool> {
        self.0.is_empty().await
    }
    async fn prepare(&self, plan: &RestorePlan) -> Result<()> {
        self.0.prepare(plan).await
    }
    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        self.2.lock().unwrap().push(batch.len());
        let mut answers = Vec::new();
        for small in batch {
            let name = small.entry.name.to_string();
            if name == "bad" {
                answers.push(Err(Error::invalid("never")));
                continue;
            }
            if let Some(failures) = name.strip_prefix("busy-") {
                let failures: u32 = failures.parse().unwrap();
                let tried = {
                    let mut tried = self.1.lock().unwrap();
                    let tried = tried.entry(name.clone()).or_default();
                    *tried += 1;
                    *tried
                };
                if tried <= failures {
                    answers.push(Err(Error::transient("busy")));
                    continue;
                }
            }
            answers.extend(self.0.write_small(plan, vec![small]).await?);
        }
        Ok(answers)
    }
    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        content: backup_core::adapter::ContentReader,
        progress: &backup_core::adapter::EntryProgress,
    ) -> Result<Result<Written>> {
        self.0.write_large(plan, entry, content, progress).await
    }
    async fn sync(&self) -> Result<()> {
        self.0.sync().await
    }
    fn take_warnings(&self) -> Vec<backup_core::adapter::Warning> {
        self.0.take_warnings()
    }
    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<backup_core::adapter::Warning>> {
        self.0.finish(plan).await
    }
    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        self.0.discard(plan).await
    }
    async fn verify(&self, plan: &RestorePlan) -> Result<backup_core::adapter::VerifyReport> {
        self.0.verify(plan).await
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_entries_that_failed_come_again_and_answers_stay_in_order() {
    let moody = Arc::new(Moody(MemoryTarget::default(), Mutex::default(), Mutex::default()));
    let retrying: Arc<Retrying<dyn RestoreTarget>> = Retrying::new(moody.clone(), attempts(3));
    retrying.prepare(&plan()).await.unwrap();
    let batch = vec![small("busy-9", "1"), small("a", "2"), small("busy-2", "3"), small("bad", "4"), small("b", "5")];
    let answers = retrying.write_small(&plan(), batch).await.unwrap();
    let failed = answers[0].as_ref().unwrap_err();
    assert!(failed.class() == TRANSIENT && failed.to_string().contains("3 times"), "{failed}");
    assert!(matches!(answers[1], Ok(Written::Created)) && matches!(answers[2], Ok(Written::Created)));
    assert_eq!(answers[3].as_ref().unwrap_err().class(), ErrorClass::Invalid);
    assert!(matches!(answers[4], Ok(Written::Created)) && answers.len() == 5);
    // The first call answered two entries, and the third one: each time the count starts anew.
    assert_eq!(*moody.2.lock().unwrap(), [5, 2, 2, 1, 1]);
}
