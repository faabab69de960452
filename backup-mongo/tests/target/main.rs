//! The restore target on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod conformance;
mod engine;
mod mongodump;
mod oplog;
mod plan;
mod restore;
#[allow(dead_code, reason = "the other suite uses more of it")]
#[path = "../mongo/server.rs"]
mod server;
