//! Wrappers that make any adapter fail by a script.
//!
//! ```
//! use backup_core::ErrorClass;
//! use backup_testkit::Method;
//! use backup_testkit::doubles::MemoryDestination;
//! use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
//! use std::sync::Arc;
//!
//! let script = Script::new()
//!     .rule(Rule::new(Method::Put, When::Nth(3), Fault::LostReply(ErrorClass::Transient)))
//!     .rule(Rule::new(Method::Get, When::Always, Fault::Break { after: 1000, class: ErrorClass::Transient }).about("/data/"));
//! let destination = FaultyDestination::new(Arc::new(MemoryDestination::default()), script.clone());
//! // … run the code under test on `destination` …
//! assert!(script.fired().is_empty());
//! # drop(destination);
//! ```
//!
//! [`Script::random`] fails calls at random from a seed, which its `Debug` prints, so that a failed run can be repeated.

mod body;
mod destination;
mod script;
mod source;
mod store;
mod target;

pub use destination::FaultyDestination;
pub use script::{Fault, Fired, Rule, Script, When};
pub use source::FaultySource;
pub use store::FaultyStore;
pub use target::FaultyTarget;
