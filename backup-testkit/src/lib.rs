//! Conformance suites, fault injection and in-memory doubles for adapters of backup-core.

pub mod conformance;
mod content;
pub mod doubles;
pub mod faulty;
mod method;
pub mod record;

pub use method::Method;
