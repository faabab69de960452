//! The suite of restore targets: kept by the double, and failed by adapters that break a promise.

use async_trait::async_trait;
use backup_core::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Warning, Written,
};
use backup_core::model::{Entry, EntryKind, EntryName, Identity};
use backup_core::{ErrorClass, Result};
use backup_testkit::Method;
use backup_testkit::conformance::restore_target::{
    CASES, Sample, Samples, SeenItem, TargetFixture, TargetPlace, run_all,
};
use backup_testkit::doubles::{Blob, MemoryTarget, Names};
use backup_testkit::faulty::{Fault, FaultyTarget, Rule, Script, When};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How the fixture wraps the double.
type Wrap = fn(Arc<dyn RestoreTarget>) -> Arc<dyn RestoreTarget>;

struct Memory {
    places: AtomicU64,
    names: Names,
    granularity: Granularity,
    wrap: Wrap,
}

struct Place {
    memory: MemoryTarget,
    wrap: Wrap,
}

impl Memory {
    fn new(names: Names, granularity: Granularity, wrap: Wrap) -> Self {
        Self { places: AtomicU64::new(0), names, granularity, wrap }
    }

    fn make(&self) -> Place {
        let name = format!("place-{}", self.places.fetch_add(1, Ordering::Relaxed));
        let memory = MemoryTarget::new(&name).with_names(self.names).with_granularity(self.granularity);
        Place { memory, wrap: self.wrap }
    }
}

#[async_trait]
impl TargetFixture for Memory {
    async fn place(&self) -> Result<Box<dyn TargetPlace>> {
        Ok(Box::new(self.make()))
    }

    fn samples(&self) -> Samples {
        let group =
            |name, first| Sample::slices(name, (first..first + 4).map(|n| Blob::pattern(n, 999 * n).bytes()).collect());
        let files = match self.names {
            Names::Paths => Samples::files(),
            Names::Keys => Samples::keys(),
        };
        Samples { groups: vec![group("shop", 1), group("users", 5)], ..files }
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn RestoreTarget>>> {
        let refused = Rule::any(When::Always, Fault::Fail(ErrorClass::Unauthorized));
        Ok(Some(FaultyTarget::new(self.make().target(), Script::new().rule(refused))))
    }
}

#[async_trait]
impl TargetPlace for Place {
    fn target(&self) -> Arc<dyn RestoreTarget> {
        (self.wrap)(Arc::new(self.memory.clone()))
    }

    async fn again(&self) -> Result<Arc<dyn RestoreTarget>> {
        Ok(self.target())
    }

    async fn look(&self, name: &EntryName) -> Result<Option<SeenItem>> {
        Ok(self.memory.items().remove(name).map(|item| match item.kind {
            EntryKind::Directory => SeenItem::Directory,
            EntryKind::Symlink { target } => SeenItem::Symlink(target),
            _ => SeenItem::Content(item.content),
        }))
    }

    fn secrets(&self) -> Vec<String> {
        vec!["not a secret of this one".into()]
    }

    async fn staged(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(self.memory.staged()))
    }

    async fn escaped(&self) -> Result<Option<Vec<String>>> {
        let outside = |name: &String| {
            ["..", "/", "out/", "inside/"].iter().any(|start| name.starts_with(start)) || name.contains("/../")
        };
        Ok(Some(self.memory.items().keys().map(EntryName::to_string).filter(outside).collect()))
    }

    async fn spoil(&self, name: &EntryName) -> Result<bool> {
        let Some(mut item) = self.memory.items().remove(name) else { return Ok(false) };
        let mut bytes = item.content.to_vec();
        bytes[0] ^= 1;
        item.content = Bytes::from(bytes);
        self.memory.insert(&name.to_string(), item);
        Ok(true)
    }

    async fn lose(&self, name: &EntryName) -> Result<bool> {
        Ok(self.memory.remove(&name.to_string()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_double_keeps_every_promise() {
    for granularity in [Granularity::Slice, Granularity::OrderedSlices, Granularity::Whole] {
        let passed = run_all(&Memory::new(Names::Paths, granularity, |target| target)).await.assert_passed(&[]);
        assert_eq!(passed, CASES.len());
    }
    let skipped = [
        "hostile_names_are_refused_and_the_rest_is_written",
        "trouble_with_one_entry_is_a_warning",
        "each_warning_is_given_once",
    ];
    let passed = run_all(&Memory::new(Names::Keys, Granularity::Slice, |target| target)).await.assert_passed(&skipped);
    assert_eq!(passed, CASES.len() - 3);
}

async fn failures(wrap: Wrap) -> Vec<&'static str> {
    let report = run_all(&Memory::new(Names::Paths, Granularity::Slice, wrap)).await;
    assert_eq!(report.passed.len() + report.failed.len() + report.skipped.len(), CASES.len());
    report.failures()
}

/// One promise broken at a time.
#[derive(Debug)]
struct Careless(Arc<dyn RestoreTarget>, Sin, Mutex<Vec<Warning>>);

fn careless(target: Arc<dyn RestoreTarget>, sin: Sin) -> Arc<dyn RestoreTarget> {
    Arc::new(Careless(target, sin, Mutex::default()))
}

impl Careless {
    /// Warnings that were given out already.
    fn given(&self) -> std::sync::MutexGuard<'_, Vec<Warning>> {
        self.2.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sin {
    HidesConflicts,
    IgnoresTheDigest,
    NeverFinishes,
    VerifiesNothing,
    StopsAtTrouble,
    ReplacesTheReadersError,
    WarnsTwice,
    NeverDiscards,
    FinishesInstead,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RestoreTarget for Careless {
    fn identity(&self) -> Identity {
        self.0.identity()
    }
    fn granularity(&self, kind: &EntryKind) -> Granularity {
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
        let mut answers = self.0.write_small(plan, batch).await?;
        for answer in &mut answers {
            let class = answer.as_ref().err().map(|error| error.class());
            match self.1 {
                Sin::HidesConflicts if class == Some(ErrorClass::Conflict) => *answer = Ok(Written::AlreadyThere),
                Sin::StopsAtTrouble if class.is_some() => return Err(backup_core::Error::permanent("trouble")),
                _ => {}
            }
        }
        Ok(answers)
    }
    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        mut content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>> {
        match self.1 {
            Sin::IgnoresTheDigest => {
                let hash = progress.saved().map(|saved| saved.hash).unwrap_or_default();
                let stream = async_stream::try_stream! {
                    while let Some(bytes) = content.next().await? {
                        yield bytes;
                    }
                };
                let unchecked = ContentReader::new(stream.boxed(), hash, None, None);
                self.0.write_large(plan, entry, unchecked, progress).await
            }
            Sin::ReplacesTheReadersError => {
                let answer = self.0.write_large(plan, entry, content, progress).await;
                answer.map_err(|error| backup_core::Error::permanent("cannot write").because(error))
            }
            _ => self.0.write_large(plan, entry, content, progress).await,
        }
    }
    async fn sync(&self) -> Result<()> {
        self.0.sync().await
    }
    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        match self.1 {
            Sin::NeverFinishes => Ok(Vec::new()),
            Sin::WarnsTwice => {
                let warnings = self.0.finish(plan).await?;
                self.given().extend(warnings.clone());
                Ok(warnings)
            }
            _ => self.0.finish(plan).await,
        }
    }
    fn take_warnings(&self) -> Vec<Warning> {
        let mut warnings = self.0.take_warnings();
        warnings.append(&mut self.given());
        warnings
    }
    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        match self.1 {
            Sin::NeverDiscards => Ok(()),
            // It takes everything for its own.
            Sin::FinishesInstead => self.0.finish(plan).await.map(|_| ()),
            _ => self.0.discard(plan).await,
        }
    }
    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        if self.1 == Sin::VerifiesNothing { Ok(VerifyReport::default()) } else { self.0.verify(plan).await }
    }
}

#[tokio::test(start_paused = true)]
async fn careless_adapters_are_caught() {
    let caught: [(Wrap, &[&str]); 9] = [
        (|target| careless(target, Sin::HidesConflicts), &["another_item_is_a_conflict_and_stays"]),
        (|target| careless(target, Sin::IgnoresTheDigest), &["a_wrong_digest_or_length_is_not_published"]),
        (
            |target| careless(target, Sin::NeverFinishes),
            &["each_entry_is_answered_in_order", "finish_leaves_nothing_staged", "trouble_with_one_entry_is_a_warning"],
        ),
        (
            |target| careless(target, Sin::VerifiesNothing),
            &["what_was_restored_verifies", "what_is_missing_or_differs_is_a_mismatch"],
        ),
        (
            |target| careless(target, Sin::StopsAtTrouble),
            &["another_item_is_a_conflict_and_stays", "hostile_names_are_refused_and_the_rest_is_written"],
        ),
        (
            |target| careless(target, Sin::ReplacesTheReadersError),
            &[
                "an_error_of_the_reader_comes_back_and_nothing_is_published",
                "a_resumed_entry_is_as_without_interruption",
            ],
        ),
        (|target| careless(target, Sin::WarnsTwice), &["each_warning_is_given_once"]),
        (
            |target| careless(target, Sin::NeverDiscards),
            &[
                "discard_leaves_nothing_staged",
                "a_dropped_write_leaves_nothing_behind_a_discard",
                "discard_can_be_repeated",
            ],
        ),
        (|target| careless(target, Sin::FinishesInstead), &["discard_keeps_what_is_published_and_adds_nothing"]),
    ];
    for (wrap, caught) in caught {
        let failures = failures(wrap).await;
        for caught in caught {
            assert!(failures.contains(caught), "{caught}: {failures:?}");
        }
    }
    let lost: Wrap = |target| {
        FaultyTarget::new(
            target,
            Script::new().rule(Rule::new(Method::WriteSmall, When::Every(2), Fault::LostReply(ErrorClass::NoSpace))),
        )
    };
    assert!(failures(lost).await.contains(&"missing_parents_are_made"));
}

/// The double that takes names as keys, given to the suite as one of paths.
struct Open(Memory);

#[async_trait]
impl TargetFixture for Open {
    async fn place(&self) -> Result<Box<dyn TargetPlace>> {
        self.0.place().await
    }
    fn samples(&self) -> Samples {
        Samples::files()
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_lets_names_go_anywhere_is_caught() {
    let report = run_all(&Open(Memory::new(Names::Keys, Granularity::Slice, |target| target))).await;
    assert_eq!(report.failures(), ["hostile_names_are_refused_and_the_rest_is_written"]);
}
