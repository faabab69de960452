//! An adapter of one's own: tables of keys and values in memory.
//!
//! They stand for whatever a program holds that is no file: rows of a cache, generated reports, settings. [`TableSource`] reads one; the
//! test in `tests/` holds it against the contract of [`Source`](backup_core::adapter::Source). [`TableAdapter`] is the one type that makes
//! it a kind of connection.

mod adapter;
mod table;

pub use adapter::TableAdapter;
pub use table::TableSource;
