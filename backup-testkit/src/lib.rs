//! Conformance suites, fault injection and strict doubles for adapters of `backup-core`.

pub mod conformance;
