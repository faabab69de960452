//! Commands on operations, and what an operation may use.

use super::mongodb::Password;
use crate::units;
use clap::{Args, ValueEnum};
use std::num::NonZeroU64;

/// What an operation may use.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Resources {
    /// Memory for data in flight; the process needs about 64 MiB besides [default: 192MiB, on resume as before]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub(crate) memory: Option<u64>,
    /// Read at most so much a second, e.g. 10MiB
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    pub(crate) limit_read: Option<NonZeroU64>,
    /// Write at most so much a second
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    pub(crate) limit_write: Option<NonZeroU64>,
}

/// `backup operations`
#[derive(Debug, Args)]
pub(crate) struct Operations {
    /// Only operations in this state; may be given several times
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) state: Vec<StateFilter>,
    /// Only the newest so many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// `backup history`
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Only operations in this state; may be given several times
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) state: Vec<StateFilter>,
    /// Only operations of this kind
    #[arg(long, value_enum)]
    pub(crate) kind: Option<KindFilter>,
    /// Only operations that read from this connection
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// Only operations that write to this connection
    #[arg(long, value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// Only operations that were created at this time or later: 2026-11-20, 2026-11-20T06:15, or with a zone
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    pub(crate) since: Option<jiff::Timestamp>,
    /// Only operations that were created before this time
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    pub(crate) until: Option<jiff::Timestamp>,
    /// Only operations older than this one: the next page
    #[arg(long, value_name = "OP")]
    pub(crate) before: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

/// Kinds by which operations can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindFilter {
    Backup,
    Restore,
    Verify,
}

/// `backup worker`
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Operations at once
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) parallel: usize,
    /// Operations at once that work with one connection, over all workers of the store
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) per_connection: u32,
    /// Seconds between two looks for work
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = units::seconds)]
    pub(crate) look_every: f64,
    /// Memory for data in flight, of all operations together [default: 192 MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub(crate) memory: Option<u64>,
    /// Seconds after which others may take over what a worker that is not heard of has [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) lease: Option<u64>,
}

/// States by which operations can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateFilter {
    Pending,
    Running,
    Committing,
    Paused,
    Completed,
    Failed,
    Cancelled,
}

impl StateFilter {
    /// The name that stores use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Committing => "committing",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One operation.
#[derive(Debug, Args)]
pub(crate) struct OperationArg {
    /// Id of the operation, the beginning of one, or `latest`
    #[arg(value_name = "OP")]
    pub(crate) operation: String,
}

/// `backup resume`
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Id of the operation, the beginning of one, or `latest`
    #[arg(value_name = "OP", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) operation: Option<String>,
    /// Every operation that can go on, one after the other, the oldest first
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not wait for another worker that still holds the operation: you know that it is gone
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Of a restore: from here on restore all that is intact of a damaged archive, and name what is lost
    #[arg(long)]
    pub(crate) keep_going: bool,
    #[command(flatten)]
    pub(crate) password: Password,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

/// `backup logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) operation: OperationArg,
    /// Wait for more until the operation ends
    #[arg(long, short)]
    pub(crate) follow: bool,
}
