//! A [`Store`](backup_core::adapter::Store) in an SQL database, through sqlx: SQLite, PostgreSQL, MySQL or MariaDB.
//!
//! ```no_run
//! # async fn example() -> backup_core::Result<()> {
//! let store = backup_store_sqlx::SqlxStore::open("sqlite:///var/lib/backup/store.db").await?;
//! # Ok(()) }
//! ```
//!
//! Every change is durable when its method returns, as far as the server is set up so (with SQLite also against power loss).
//!
//! - **SQLite** (feature `sqlite`, the default): several processes of one host may use one database file at once; the file must be
//!   on a local file system, because SQLite's write-ahead log needs memory that they share.
//! - **PostgreSQL** (feature `postgres`), **MySQL** and **MariaDB** (feature `mysql`): processes of any number of hosts.

mod archives;
mod checkpoints;
mod connections;
mod db;
mod dialect;
mod due;
mod error;
mod log;
mod open;
mod operations;
mod place;
mod rows;
mod sql;
mod store;
#[cfg(all(test, feature = "sqlite"))]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests;

#[cfg(all(test, feature = "sqlite", feature = "postgres", feature = "mysql"))]
#[path = "../tests/databases/mod.rs"]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod databases;
#[cfg(all(test, feature = "sqlite", feature = "postgres", feature = "mysql"))]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod plans;

pub use store::SqlxStore;

#[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
compile_error!("choose at least one of the features sqlite, postgres and mysql");
