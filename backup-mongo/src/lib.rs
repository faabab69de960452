#![doc = include_str!("../../docs/MONGODB.md")]

mod adapter;
mod client;
mod config;
mod digest;
mod documents;
mod error;
mod extjson;
pub mod layout;
pub mod mongodump;
mod restore_target;
mod source;

pub use adapter::MongoAdapter;
pub use client::{KIND, MongoCluster, Topology};
pub use config::{MongoConfig, Selection};
pub use digest::{GroupDigest, Tally};
pub use error::{command_code, driver_error};
pub use extjson::canonical_json;
pub use restore_target::{MongoRestoreTarget, MongoTargetOptions, STAGE_PREFIX, entry_patterns};
pub use source::{MongoSource, MongoSourceOptions, ReadConsistency, ReadOrder};
