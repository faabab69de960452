//! Secrets at rest: encrypted under a ring of keys that live outside of whatever stores them.
//!
//! ```
//! use backup_core::secrets::{KeyRing, SecretKey};
//!
//! let ring = KeyRing::new(SecretKey::parse(&backup_core::archive::generate_key_file()?)?);
//! let sealed = ring.seal(b"password", b"connection 7, mongodb")?;
//! assert_eq!(ring.open(&sealed, b"connection 7, mongodb")?.as_slice(), b"password");
//! // What was sealed for one place does not open at another.
//! assert!(ring.open(&sealed, b"connection 8, mongodb").is_err());
//! # Ok::<(), backup_core::Error>(())
//! ```

mod connection;
mod provider;
mod ring;

pub use connection::{open_connection, reseal_connection, seal_connection};
pub use provider::{EnvKeys, FileKeys, KeyRingProvider};
pub use ring::{KeyRing, SecretKey};
