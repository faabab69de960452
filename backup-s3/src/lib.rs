//! S3 buckets as sources, destinations and restore targets of backups.

mod attributes;
mod body;
mod client;
mod config;
mod destination;
mod error;
mod listing;
mod object;

pub use client::S3Bucket;
pub use config::{ChecksumMode, Credentials, Encryption, S3Config};
pub use destination::S3Destination;
