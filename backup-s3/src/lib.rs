//! S3 buckets as sources, destinations and restore targets of backups: AWS, and services that speak its protocol.
//!
//! ```no_run
//! use backup_core::engine::{BackupRequest, Engine};
//! use backup_core::memory::MemoryStore;
//! use backup_s3::{S3Bucket, S3Config, S3Destination, S3Source, S3SourceOptions};
//! use std::sync::Arc;
//!
//! # async fn example() -> backup_core::Result<()> {
//! // Credentials as the AWS tools find them; see `S3Config` for everything else.
//! let photos = S3Bucket::connect(S3Config::new("photos")).await?;
//! let mut config = S3Config::new("backups");
//! config.prefix = "photos/".to_owned();
//! let backups = S3Bucket::connect(config).await?;
//!
//! let source = S3Source::new(photos, S3SourceOptions { tags: true, ..S3SourceOptions::default() })?;
//! let engine = Engine::new(Arc::new(MemoryStore::new()));
//! let request = BackupRequest::new(Arc::new(source), Arc::new(S3Destination::new(backups)));
//! let outcome = engine.backup(request).await?.wait().await?;
//! # let _ = outcome;
//! # Ok(())
//! # }
//! ```
//!
//! - [`S3Bucket`] is a connection: a bucket, or the keys below a prefix of it, by an [`S3Config`]. It is shared by cloning.
//! - [`S3Adapter`] makes the following from stored connections of a [`service`](backup_core::service).
//! - [`S3Source`] reads it: current objects or all versions, with headers, user metadata, storage class and tags.
//! - [`S3Destination`] keeps archives in it, [`S3RestoreTarget`] puts archives back into it.
//!
//! What a service answers becomes an [`Error`](backup_core::Error) of the class that tells the engine what to do, names bucket and key, and
//! carries no secret. The engine repeats what fails by one policy ([`Retrying`](backup_core::retry::Retrying)), and the SDK nothing. Only
//! what one call of the engine takes several requests for is repeated in part here, by the same policy: the parts and the completion of an
//! upload, and the reading back of an object from where it broke off ([`S3TargetOptions::retry`]); and a put that met another of the same
//! key.
//!
//! Logs: the SDK's own show secrets below the level `INFO`, see [`SDK_LOG_TARGETS`].
//!
//! Features: `aws-config` (default) finds credentials in the environment, in profiles and on instances.

mod abilities;
mod adapter;
mod attributes;
mod body;
mod client;
mod config;
mod destination;
mod error;
mod listing;
mod object;
mod restore_target;
mod source;
mod version_name;

/// What the targets begin with under which the AWS SDK logs by `tracing`. With more detail than `INFO` it shows what is signed, a customer
/// key included, and what stands in profiles: a subscriber should let nothing of this through.
pub const SDK_LOG_TARGETS: &str = "aws_";

pub use adapter::S3Adapter;
pub use client::{Patience, S3Bucket};
pub use config::{ChecksumMode, Credentials, Encryption, S3Config};
pub use destination::S3Destination;
pub use restore_target::{S3RestoreTarget, S3TargetOptions};
pub use source::{S3Source, S3SourceOptions, S3Versions};
