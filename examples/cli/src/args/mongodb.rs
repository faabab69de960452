//! Options of MongoDB databases as sources and restore targets.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Where the password of a MongoDB user is, when it is not in the locator.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Password {
    /// The password of the user in `mongodb://USER@…` is in this environment variable
    #[arg(long, value_name = "VAR", conflicts_with = "mongodb_password_file", help_heading = "MongoDB options")]
    pub(crate) mongodb_password_env: Option<String>,
    /// The password is in this file
    #[arg(long, value_name = "FILE", help_heading = "MongoDB options")]
    pub(crate) mongodb_password_file: Option<PathBuf>,
}

/// How databases are read.
#[derive(Clone, Debug, Args)]
pub(crate) struct MongodbSource {
    #[command(flatten)]
    pub(crate) password: Password,
    /// Only collections that match, as DATABASE.COLLECTION: `shop.*`; --exclude takes such patterns too
    #[arg(long, value_name = "GLOB", help_heading = "MongoDB options")]
    pub(crate) collection: Vec<String>,
    /// The order in which documents are read
    #[arg(long, value_enum, default_value_t = Order::Natural, help_heading = "MongoDB options")]
    pub(crate) order: Order,
    /// In what sense everything is of one moment
    #[arg(long, value_enum, default_value_t = Consistency::Automatic, help_heading = "MongoDB options")]
    pub(crate) consistency: Consistency,
}

/// The order in which documents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// As they lie on the server: fastest; a resume on another server reads begun collections again
    Natural,
    /// By _id: costs the server more; a resume goes on at any server
    Id,
}

/// In what sense everything is of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// A snapshot, or the oplog beside when that takes too long; best effort on a server without replication
    Automatic,
    /// The oplog from the start
    Oplog,
    /// Each document as it is when it is read
    BestEffort,
}

/// How databases are written.
#[derive(Clone, Debug, Args)]
pub(crate) struct MongodbRestore {
    #[command(flatten)]
    pub(crate) password: Password,
    /// Restore database OLD as NEW (a database in --to does so for the only one that is restored)
    #[arg(long, value_name = "OLD=NEW", value_parser = renaming, help_heading = "MongoDB options")]
    pub(crate) rename: Vec<(String, String)>,
    /// Merge the users and roles of the archive into those that are there
    #[arg(long, help_heading = "MongoDB options")]
    pub(crate) users_and_roles: bool,
}

fn renaming(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write OLD=NEW".into()),
    }
}
