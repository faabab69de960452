//! S3 buckets as sources, destinations and restore targets of backups.

mod attributes;
mod body;
mod client;
mod config;
mod destination;
mod error;
mod honours;
mod listing;
mod object;
mod restore_target;
mod source;
mod version_name;

pub use client::S3Bucket;
pub use config::{ChecksumMode, Credentials, Encryption, S3Config};
pub use destination::S3Destination;
pub use restore_target::{S3RestoreTarget, S3TargetOptions};
pub use source::{S3Source, S3SourceOptions, S3Versions};
