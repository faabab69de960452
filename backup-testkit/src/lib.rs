//! What tests of adapters, and of programs built on them, need: conformance suites, fault injection, in-memory doubles and
//! recorders for the traits of `backup-core`. A dev-dependency.
//!
//! | module | what it is for |
//! |---|---|
//! | [`conformance`] | shows that an adapter keeps every promise of its trait |
//! | [`faulty`] | makes any adapter fail, hang or lie at a chosen call |
//! | [`doubles`] | adapters in memory that are stricter than any real service, and can be damaged |
//! | [`record`] | counts and remembers calls, e.g. to show that nothing is read twice |
//! | `gdrive` (feature `gdrive`) | Google Drive in this process, strict, with faults by a script |
//! | `s3` (feature `s3`) | an S3 server in this process, strict, with faults by a script |
//!
//! The wrappers take and give trait objects, so that they can be stacked: a recorder around retries around faults around a double.
//!
//! # How to test your adapter
//! Write a fixture: it makes an empty place for each case, and opens it a second time as another process would. What else
//! a suite can use (planted names, a full disk, wrong credentials, a connection that breaks off) are methods with a default;
//! without it the case is skipped, and the test has to name it, so that nothing is skipped unseen. For a destination:
//!
//! ```
//! use async_trait::async_trait;
//! use backup_core::Result;
//! use backup_core::adapter::Destination;
//! use backup_testkit::conformance::destination::{DestinationFixture, DestinationPlace, run_all};
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! # use backup_testkit::doubles::MemoryDestination as MyDestination;
//!
//! /// Gives every case a place of its own, e.g. a new prefix in a bucket for tests.
//! #[derive(Default)]
//! struct Fixture(AtomicU64);
//!
//! struct Place(MyDestination);
//!
//! #[async_trait]
//! impl DestinationFixture for Fixture {
//!     async fn place(&self) -> Result<Box<dyn DestinationPlace>> {
//!         let prefix = format!("test-{}", self.0.fetch_add(1, Ordering::Relaxed));
//!         Ok(Box::new(Place(MyDestination::new(&prefix))))
//!     }
//! }
//!
//! #[async_trait]
//! impl DestinationPlace for Place {
//!     fn destination(&self) -> Arc<dyn Destination> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     async fn again(&self) -> Result<Arc<dyn Destination>> {
//!         Ok(Arc::new(self.0.clone()))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! // In a test: every case passes but those that the fixture has no means for.
//! run_all(&Fixture::default()).await.assert_passed(&[
//!     "identity_and_debug_carry_no_secret",
//!     "wrong_credentials_are_unauthorized",
//!     "a_full_place_is_no_space_and_leaves_nothing",
//!     "a_broken_connection_is_an_error",
//!     "staged_and_foreign_names_are_left_out",
//!     "staged_leftovers_are_removed_below_the_prefix_only",
//! ]);
//! # });
//! ```
//!
//! A single case, while you work on it: `CASES.iter().find(|case| case.name == "ranges_are_exact")`, then
//! [`Case::run`](conformance::Case::run). [`conformance::source`] and [`conformance::restore_target`] work the same way; a restore
//! target's fixture also says which [`Samples`](conformance::restore_target::Samples) it takes.
//!
//! Also run your adapter behind [`faulty`] wrappers and [`Retrying`](backup_core::retry::Retrying) if it keeps state between calls.

pub mod conformance;
mod content;
pub mod doubles;
pub mod faulty;
#[cfg(feature = "gdrive")]
pub mod gdrive;
mod method;
pub mod record;
#[cfg(feature = "s3")]
pub mod s3;

pub use method::Method;
