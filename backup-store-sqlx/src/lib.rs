//! A [`Store`](backup_core::adapter::Store) in an SQLite database, through sqlx.
//!
//! ```no_run
//! # async fn example() -> backup_core::Result<()> {
//! let store = backup_store_sqlx::SqlxStore::open("sqlite:///var/lib/backup/store.db").await?;
//! # Ok(()) }
//! ```
//!
//! Several processes of one host may use one database file at once; the file must be on a local file
//! system, because SQLite's write-ahead log needs memory that they share. Every change is durable when
//! its method returns, also against power loss (`synchronous=FULL`).

mod archives;
mod checkpoints;
mod db;
mod error;
mod log;
mod open;
mod operations;
mod rows;
mod sql;
mod store;
#[cfg(test)]
mod tests;

pub use store::SqlxStore;
