//! The source on real servers: see docs/TESTING.md for where they come from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod conformance;
mod consistency;
mod data;
mod resume;
mod server;
mod support;
mod trouble;
