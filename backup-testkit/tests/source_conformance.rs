//! The suite of sources: kept by the double, and failed by adapters that break a promise.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use async_trait::async_trait;
use backup_core::adapter::{Cursor, Estimate, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version};
use backup_core::model::{EntryName, Identity};
use backup_core::{ErrorClass, Result};
use backup_testkit::Method;
use backup_testkit::conformance::source::{
    CASES, Disturbance, KnownItem, SourceFixture, SourcePart, SourcePlace, run_all,
};
use backup_testkit::doubles::{Blob, MemorySource, OnChange, OnResume, Synthetic, Trouble};
use backup_testkit::faulty::{Fault, FaultySource, Rule, Script, When};
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the fixture wraps the double.
type Wrap = fn(Arc<dyn Source>) -> Arc<dyn Source>;

struct Memory {
    places: AtomicU64,
    on_change: OnChange,
    wrap: Wrap,
}

struct Place {
    memory: Arc<MemorySource>,
    script: Script,
    wrap: Wrap,
    items: Vec<KnownItem>,
}

impl Memory {
    fn new(on_change: OnChange, wrap: Wrap) -> Self {
        Self { places: AtomicU64::new(0), on_change, wrap }
    }

    fn make(&self) -> Place {
        let name = format!("place-{}", self.places.fetch_add(1, Ordering::Relaxed));
        let slices = || -> Vec<Blob> { (0..4).map(|n| Blob::pattern(n, 1000 * n)).collect() };
        let whole = slices().iter().map(Blob::bytes).collect::<Vec<_>>().concat();
        let memory = MemorySource::new(&name)
            .with_on_change(self.on_change)
            .directory("docs")
            .file("docs/empty", "")
            .file("docs/small", "small")
            .symlink("link", "docs/small")
            .group("shop.orders", slices(), OnResume::Continue)
            .warning("socket", "skipped: a socket")
            .stored("large", Blob::pattern(9, 300_000))
            .stored("stored-empty", "")
            .group("dump", slices(), OnResume::Supersede)
            .file("z", vec![7; 5000]);
        let items = vec![
            KnownItem::directory("docs"),
            KnownItem::file("docs/empty", ""),
            KnownItem::file("docs/small", "small"),
            KnownItem::symlink("link", "docs/small"),
            KnownItem::group("shop.orders", whole.clone()),
            KnownItem::skipped("socket"),
            KnownItem::file("large", Blob::pattern(9, 300_000).bytes()),
            KnownItem::file("stored-empty", ""),
            KnownItem::group("dump", whole),
            KnownItem::file("z", vec![7; 5000]),
        ];
        Place { memory: Arc::new(memory), script: Script::new(), wrap: self.wrap, items }
    }
}

#[async_trait]
impl SourceFixture for Memory {
    async fn place(&self) -> Result<Box<dyn SourcePlace>> {
        Ok(Box::new(self.make()))
    }

    async fn many(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        let synthetic = Synthetic { entries: 20_000, size: 10, inline: true };
        let items = (0..20_000).map(|n| {
            let entry = synthetic.make(n);
            KnownItem::Entry { name: entry.name, kind: entry.kind, content: Some(Blob::pattern(n, 10).bytes()) }
        });
        let memory = Arc::new(MemorySource::synthetic("many", synthetic));
        Ok(Some(Box::new(Place { memory, script: Script::new(), wrap: self.wrap, items: items.collect() })))
    }

    async fn missing(&self) -> Result<Option<Arc<dyn Source>>> {
        let place = self.make();
        place.script.add(Rule::any(When::Always, Fault::Fail(ErrorClass::NotFound)));
        Ok(Some(place.source()))
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn Source>>> {
        let place = self.make();
        place.script.add(Rule::any(When::Always, Fault::Fail(ErrorClass::Unauthorized)));
        Ok(Some(place.source()))
    }

    async fn breaking(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        let place = self.make();
        let broken = Fault::Break { after: 77_777, class: ErrorClass::Transient };
        place.script.add(Rule::new(Method::Read, When::Always, broken));
        Ok(Some(Box::new(place)))
    }
}

#[async_trait]
impl SourcePlace for Place {
    fn source(&self) -> Arc<dyn Source> {
        (self.wrap)(FaultySource::new(self.memory.clone(), self.script.clone()))
    }

    async fn again(&self) -> Result<Arc<dyn Source>> {
        Ok(self.source())
    }

    fn items(&self) -> Vec<KnownItem> {
        self.items.clone()
    }

    fn secrets(&self) -> Vec<String> {
        vec!["not a secret of this one".into()]
    }

    fn part(&self) -> Option<SourcePart> {
        let identity = Identity::new("memory", format!("{}/docs", self.memory.identity().location));
        Some(SourcePart { identity, names: vec!["docs".into(), "docs/empty".into(), "docs/small".into()] })
    }

    async fn disturb(&self, item: &EntryName, how: Disturbance) -> Result<bool> {
        let name = item.as_str().unwrap();
        let trouble = match how {
            Disturbance::Remove => Trouble::Vanish,
            Disturbance::Change(content) => Trouble::Change(content.into()),
            Disturbance::Shorten(to) => {
                let content = self.memory.content(name).unwrap();
                Trouble::Change(content.slice(..to as usize).into())
            }
            Disturbance::Deny => Trouble::Deny,
        };
        Ok(self.memory.trouble_now(name, trouble))
    }
}

#[tokio::test(start_paused = true)]
async fn the_double_keeps_every_promise() {
    for on_change in [OnChange::Error, OnChange::Report] {
        let passed = run_all(&Memory::new(on_change, |source| source)).await.assert_passed(&[]);
        assert_eq!(passed, CASES.len());
    }
}

async fn failures(wrap: Wrap) -> Vec<&'static str> {
    let report = run_all(&Memory::new(OnChange::Report, wrap)).await;
    assert_eq!(report.passed.len() + report.failed.len() + report.skipped.len(), CASES.len());
    report.failures()
}

#[tokio::test(start_paused = true)]
async fn adapters_with_broken_streams_are_caught() {
    let short = failures(|source| {
        FaultySource::new(
            source,
            Script::new().rule(Rule::new(Method::Read, When::Always, Fault::Short { after: 70_000 })),
        )
    });
    let short = short.await;
    for caught in ["every_item_is_delivered_once", "ranges_are_exact", "a_broken_connection_is_an_error"] {
        assert!(short.contains(&caught), "{caught}: {short:?}");
    }
    let early = failures(|source| {
        FaultySource::new(
            source,
            Script::new().rule(Rule::new(Method::Events, When::Always, Fault::Short { after: 9 })),
        )
    });
    assert!(early.await.contains(&"every_item_is_delivered_once"));
    let flipped = failures(|source| {
        FaultySource::new(source, Script::new().rule(Rule::new(Method::Read, When::Always, Fault::Flip { at: 0 })))
    });
    assert!(flipped.await.contains(&"ranges_are_exact"));
}

/// One promise broken at a time.
#[derive(Debug)]
struct Careless(Arc<dyn Source>, Sin);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sin {
    IgnoresCursors,
    IgnoresStops,
    IgnoresExclusions,
    IgnoresTheLimit,
    TakesNothingFromTheBudget,
    HidesChanges,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Source for Careless {
    fn identity(&self) -> Identity {
        self.0.identity()
    }
    fn properties(&self) -> SourceProperties {
        self.0.properties()
    }
    async fn check(&self) -> Result<()> {
        self.0.check().await
    }
    async fn estimate(&self) -> Result<Estimate> {
        self.0.estimate().await
    }
    fn events(self: Arc<Self>, after: Option<Cursor>, mut ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let after = after.filter(|_| self.1 != Sin::IgnoresCursors);
        match self.1 {
            Sin::IgnoresStops => ctx.stop = Default::default(),
            Sin::IgnoresExclusions => ctx.excluded = Arc::new([]),
            Sin::TakesNothingFromTheBudget => ctx.budget = backup_core::budget::ByteBudget::new(1 << 30),
            _ => {}
        }
        self.0.clone().events(after, ctx)
    }
    async fn read(
        &self,
        entry: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        let mut ctx = ctx.clone();
        if self.1 == Sin::IgnoresTheLimit {
            ctx.limit = Default::default();
        }
        let mut opened = self.0.read(entry, version, range, &ctx).await?;
        if self.1 == Sin::HidesChanges {
            opened.version = version.cloned();
        }
        Ok(opened)
    }
}

#[tokio::test(start_paused = true)]
async fn careless_adapters_are_caught() {
    let caught: [(Wrap, &[&str]); 6] = [
        (
            |source| Arc::new(Careless(source, Sin::IgnoresCursors)),
            &[
                "another_process_goes_on_behind_any_cursor",
                "a_foreign_cursor_is_invalid",
                "a_stop_ends_the_stream_and_loses_nothing",
            ],
        ),
        (|source| Arc::new(Careless(source, Sin::IgnoresStops)), &["a_stop_ends_a_long_stream_soon"]),
        (|source| Arc::new(Careless(source, Sin::IgnoresExclusions)), &["an_excluded_place_is_left_out"]),
        (|source| Arc::new(Careless(source, Sin::IgnoresTheLimit)), &["the_bandwidth_limit_is_kept"]),
        (
            |source| Arc::new(Careless(source, Sin::TakesNothingFromTheBudget)),
            &["inline_content_is_short_and_occupies_the_budget"],
        ),
        (|source| Arc::new(Careless(source, Sin::HidesChanges)), &["a_changed_item_is_told"]),
    ];
    for (wrap, caught) in caught {
        assert_eq!(failures(wrap).await, caught);
    }
}
