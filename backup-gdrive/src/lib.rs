//! Google Drive as destination of backups: a folder of one's own drive, or of a shared drive.
//!
//! ```no_run
//! use backup_core::engine::{BackupRequest, Engine};
//! use backup_core::local::{LocalSource, LocalSourceConfig};
//! use backup_core::memory::MemoryStore;
//! use backup_gdrive::{GDrive, GDriveConfig, GDriveDestination};
//! use std::sync::Arc;
//!
//! # async fn example() -> backup_core::Result<()> {
//! let config: GDriveConfig = serde_json::from_value(serde_json::json!({
//!     "folder": "1AbC…",
//!     "credentials": { "kind": "user", "client_id": "…", "client_secret": "…", "refresh_token": "…" },
//! })).map_err(|e| backup_core::Error::invalid("not a configuration").because(e))?;
//! let destination = GDriveDestination::new(GDrive::new(config)?);
//! let source = LocalSource::new(LocalSourceConfig { root: "./docs".into(), ..Default::default() })?;
//! let engine = Engine::new(Arc::new(MemoryStore::new()));
//! engine.backup(BackupRequest::new(Arc::new(source), Arc::new(destination))).await?.wait().await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`GDrive`] is a connection: a folder and an account, by a [`GDriveConfig`]. It is shared by cloning.
//! - [`GDriveAdapter`] makes one from stored connections of a [`service`](backup_core::service).
//! - [`GDriveDestination`] keeps archives in it.
//! - [`account`] has what gets and keeps the consent of a person: the OAuth redirect flow for any web server or program, and a place for refresh
//!   tokens that Google rotates.
//!
//! What the service answers becomes an [`Error`](backup_core::Error) of the class that tells the engine what to do. A consent that was
//! taken back is [`Unauthorized`](backup_core::ErrorClass::Unauthorized): the operation pauses until somebody has signed in again.

pub mod account;
mod adapter;
mod api;
mod config;
mod destination;
mod error;
mod folders;
mod names;
mod pages;
mod send;
mod upload;

pub use adapter::GDriveAdapter;
pub use api::GDrive;
pub use config::{Credentials, GDriveConfig, QuotaPolicy, TimeLimits};
pub use destination::GDriveDestination;
