//! Embeddable, async, resumable backups: the traits, the archive format, the engine, and the [`service`] around them.

pub mod adapter;
pub mod archive;
pub mod budget;
mod digest;
pub mod engine;
mod error;
pub mod limit;
pub mod local;
pub mod memory;
pub mod model;
mod pattern;
mod pool;
pub mod retry;
pub mod secrets;
pub mod service;
pub mod state;

pub use digest::{Digest, Sha256};
pub use error::{Error, ErrorClass, Result};
