//! Commands on keys.

use crate::locator::Locator;
use clap::Args;
use std::path::PathBuf;

/// `backup keygen`
#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// File to make, readable for you alone; without it the key is printed
    pub(crate) file: Option<PathBuf>,
}

/// `backup rekey`
#[derive(Debug, Args)]
pub(crate) struct Rekey {
    /// Id, beginning of one, name, or `latest`
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) archive: Option<String>,
    /// Every sealed and complete archive there
    #[arg(long)]
    pub(crate) all: bool,
    /// Where the archives are
    #[arg(long, value_name = "LOCATOR")]
    pub(crate) at: Locator,
    #[command(flatten)]
    pub(crate) new_key: NewKey,
    /// The present key goes on opening them too
    #[arg(long)]
    pub(crate) keep_old: bool,
}

/// The key that is to open archives.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct NewKey {
    /// The file with the new key; see `backup keygen`
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// The environment variable with the new passphrase
    #[arg(long, value_name = "VAR")]
    pub(crate) new_passphrase_env: Option<String>,
}
