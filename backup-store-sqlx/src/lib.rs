//! A [`Store`](backup_core::adapter::Store) in an SQLite database, through sqlx.
//!
//! ```no_run
//! # async fn example() -> backup_core::Result<()> {
//! let store = backup_store_sqlx::SqlxStore::open("sqlite:///var/lib/backup/store.db").await?;
//! # Ok(()) }
//! ```
//!
//! Several processes may use one database file at once. Every change is durable when its method
//! returns, also against power loss (write-ahead log, `synchronous=FULL`).

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
