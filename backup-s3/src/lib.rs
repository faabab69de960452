//! S3 buckets as sources, destinations and restore targets of backups.

mod client;
mod config;
mod error;
mod source;
mod version_name;

pub use client::S3Bucket;
pub use config::{ChecksumMode, Credentials, Encryption, S3Config};
pub use source::{S3Source, S3SourceOptions, S3Versions};
