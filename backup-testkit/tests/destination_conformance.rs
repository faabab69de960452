//! The suite of destinations: kept by the double, and failed by adapters that break a promise.

use async_trait::async_trait;
use backup_core::adapter::Destination;
use backup_core::{ErrorClass, Result};
use backup_testkit::Method;
use backup_testkit::conformance::destination::{CASES, DestinationFixture, DestinationPlace, run_all};
use backup_testkit::doubles::MemoryDestination;
use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Places in memory, behind a fault.
struct Memory {
    places: AtomicU64,
    rules: Vec<Rule>,
}

struct Place {
    memory: MemoryDestination,
    /// Shared by all handles, so that it counts the calls of all.
    script: Script,
}

impl Memory {
    fn new(rules: Vec<Rule>) -> Self {
        Self { places: AtomicU64::new(0), rules }
    }

    fn make(&self, change: impl FnOnce(MemoryDestination) -> MemoryDestination, more: Option<Rule>) -> Place {
        let name = format!("place-{}", self.places.fetch_add(1, Ordering::Relaxed));
        let memory = change(MemoryDestination::new(&name)).with_piece(10_000);
        Place { memory, script: self.rules.iter().cloned().chain(more).fold(Script::new(), Script::rule) }
    }
}

impl Place {
    fn faulty(&self) -> Arc<dyn Destination> {
        FaultyDestination::new(Arc::new(self.memory.clone()), self.script.clone())
    }
}

#[async_trait]
impl DestinationFixture for Memory {
    async fn place(&self) -> Result<Box<dyn DestinationPlace>> {
        Ok(Box::new(self.make(|memory| memory, None)))
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn Destination>>> {
        let refused = Rule::any(When::Always, Fault::Fail(ErrorClass::Unauthorized));
        Ok(Some(self.make(|memory| memory, Some(refused)).faulty()))
    }

    async fn nearly_full(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        Ok(Some(Box::new(self.make(|memory| memory.with_capacity(1 << 20), None))))
    }

    async fn breaking(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        let broken = Fault::Break { after: 77_777, class: ErrorClass::Transient };
        Ok(Some(Box::new(self.make(|memory| memory, Some(Rule::new(Method::Get, When::Always, broken))))))
    }
}

#[async_trait]
impl DestinationPlace for Place {
    fn destination(&self) -> Arc<dyn Destination> {
        self.faulty()
    }

    async fn again(&self) -> Result<Arc<dyn Destination>> {
        Ok(self.faulty())
    }

    fn secrets(&self) -> Vec<String> {
        vec!["not a secret of this one".into()]
    }

    async fn plant(&self, path: &str, bytes: Bytes) -> Result<bool> {
        self.memory.insert(path, bytes);
        Ok(true)
    }

    async fn paths(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(self.memory.names()))
    }
}

#[tokio::test]
async fn the_double_keeps_every_promise() {
    let passed = run_all(&Memory::new(vec![])).await.assert_passed(&[]);
    assert_eq!(passed, CASES.len());
}

/// The failures of an adapter with a fault.
async fn failures(rule: Rule) -> Vec<&'static str> {
    let report = run_all(&Memory::new(vec![rule])).await;
    assert_eq!(report.passed.len() + report.failed.len() + report.skipped.len(), CASES.len());
    report.failures()
}

#[tokio::test]
async fn broken_adapters_are_caught() {
    let short = |after| Rule::new(Method::Get, When::Always, Fault::Short { after });
    for (rule, caught) in [
        (short(100_000), "ranges_are_exact"),
        // One byte of many, and only where the connection breaks.
        (short(299_999), "ranges_are_exact"),
        (short(77_776), "a_broken_connection_is_an_error"),
        (Rule::new(Method::Get, When::Every(3), Fault::Flip { at: 5 }), "ranges_are_exact"),
        (Rule::new(Method::List, When::Always, Fault::Short { after: 100 }), "each_object_is_listed_once"),
        (Rule::new(Method::ListRoots, When::Always, Fault::Short { after: 0 }), "each_root_is_listed_once"),
        (
            Rule::new(Method::Put, When::Nth(2), Fault::Fail(ErrorClass::Conflict)).about("equal"),
            "equal_bytes_again_are_success",
        ),
        (Rule::new(Method::Delete, When::Nth(1), Fault::Fail(ErrorClass::NotFound)), "an_absent_object_can_be_deleted"),
        (
            Rule::new(Method::Put, When::Always, Fault::LostReply(ErrorClass::NoSpace)),
            "after_a_check_a_new_place_works",
        ),
        (
            Rule::new(Method::Now, When::Always, Fault::Fail(ErrorClass::Transient)),
            "the_clock_is_not_behind_the_objects",
        ),
    ] {
        let failures = failures(rule.clone()).await;
        assert!(failures.contains(&caught), "{rule:?}: {failures:?}");
    }
}
