//! Wrappers that count the calls of any adapter and remember them, so that tests can say "at most one GET per volume" or
//! "nothing was read twice".
//!
//! ```
//! # use backup_core::adapter::Destination;
//! # use backup_testkit::Method;
//! # use backup_testkit::doubles::MemoryDestination;
//! # use backup_testkit::record::{Recorder, RecordingDestination};
//! # use std::sync::Arc;
//! let recorder = Recorder::new();
//! let destination: Arc<dyn Destination> =
//!     RecordingDestination::new(Arc::new(MemoryDestination::default()), recorder.clone());
//! // … run the code under test on `destination` …
//! assert!(recorder.count(Method::Put).calls <= 3);
//! assert!(recorder.read_twice().is_empty() && recorder.is_complete());
//! # drop(destination);
//! ```

mod calls;
mod destination;
mod source;
mod store;
mod target;

pub use calls::{Call, CallOutcome, Count, Recorder};
pub use destination::RecordingDestination;
pub use source::RecordingSource;
pub use store::RecordingStore;
pub use target::RecordingTarget;
