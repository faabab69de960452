//! The service layer: connections, operations in the background, workers, secrets, history.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod common;
mod connections;
mod handing;
mod operations;
mod secrets;
mod states;
#[path = "../model/watch.rs"]
mod watch;
mod workers;
