//! A source of one's own: a table of keys and values in memory.
//!
//! It stands for whatever a program holds that is no file: rows of a cache, a generated report, settings. The whole
//! adapter is [`TableSource`]; the test in `tests/` holds it against the contract of [`Source`](backup_core::adapter::Source).

mod table;

pub use table::TableSource;
