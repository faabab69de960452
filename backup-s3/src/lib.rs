//! S3 buckets as sources, destinations and restore targets of backups.

mod client;
mod config;
mod error;

pub use client::S3Bucket;
pub use config::{ChecksumMode, Credentials, Encryption, S3Config};
