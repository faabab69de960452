//! How far an operation has come.

use serde::{Deserialize, Serialize};

/// What an operation is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Checking that source and destination can be reached, counting.
    #[default]
    Preparing,
    /// Moving data.
    Transferring,
    /// Writing the manifest, or finishing the restore target.
    Finishing,
    /// Reading back and comparing.
    Verifying,
    /// Nothing more to do.
    Done,
}

/// A snapshot of an operation's progress. Counts cover all attempts, not only the present one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Entries done.
    pub entries: u64,
    /// Entries in all, if known.
    pub entries_total: Option<u64>,
    /// Content bytes read from the source (backup) or written to the target (restore).
    pub bytes: u64,
    /// Content bytes in all, if known.
    pub bytes_total: Option<u64>,
    /// Bytes written to the destination (backup) or read from it (restore, verify).
    pub stored_bytes: u64,
    /// Warnings so far.
    pub warnings: u64,
    /// Content bytes a second, smoothed over some seconds.
    pub bytes_per_second: f64,
    /// Seconds until the end at this rate, if the totals are known.
    pub eta_seconds: Option<f64>,
}
