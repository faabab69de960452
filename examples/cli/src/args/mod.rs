//! The command line: what can be said, and what each word means.

mod archives;
mod connections;
mod keys;
mod mongodb;
mod operations;

pub(crate) use archives::{ArchiveAt, At, Codec, Create, Delete, Export, ExportFormat, Restore, Show, Sweep, Verify};
pub(crate) use connections::{
    CheckAs, Connection, ConnectionAdd, ConnectionArg, ConnectionConfig, ConnectionEdit, ConnectionRemove, Gdrive,
    Login, Logout,
};
pub(crate) use keys::{Keygen, NewKey, Rekey};
pub(crate) use mongodb::{Consistency, MongodbRestore, MongodbSource, Order, Password};
pub(crate) use operations::{History, KindFilter, Logs, OperationArg, Operations, Resources, Resume, Worker};

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Examples:
  backup create --from ~/documents --to /mnt/disk/backups      make an archive
  backup list --at /mnt/disk/backups                           what is there
  backup restore latest --at /mnt/disk/backups --to ./back     put the newest one back
  backup resume latest                                         go on after Ctrl-C or a crash

Signals: Ctrl-C pauses an operation. SIGTERM hands it over: it stops just so, and waits for whoever resumes it, as
`backup resume --all` does. A second signal stops at once; nothing that was stored is lost.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 completed with warnings, 4 paused or handed over.";

const LOCATORS: &str = "\
A LOCATOR is `local:PATH`, or simply a path; for databases `mongodb://USER@HOST/DATABASE` or `mongodb+srv://…`; for buckets
`s3://BUCKET/PREFIX?OPTION=VALUE&...` with the options endpoint=URL, region=NAME,
path_style=true|false, profile=NAME, storage_class=NAME, sse=AES256|aws:kms, kms_key=ID, customer_key_env=VAR,
checksums=when_supported|when_required and, of sources, tags=true|false and versions=current|all. Its credentials come from the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), a profile or the instance, never from the locator.
A folder of Google Drive keeps archives: `gdrive:FOLDER_ID/PATH?OPTION=VALUE&...` with account=NAME (of `backup gdrive login`),
drive=ID (of a shared drive), credentials=FILE (key of a service account).
An ARCHIVE is its id, the beginning of one, its name, or `latest`.";

/// Backs up into archives that any `tar` can read; pauses, resumes, verifies and restores them.
#[derive(Debug, Parser)]
#[command(name = "backup", version, after_help = AFTER_HELP, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Seal (on create) or open the archive with the key in this file; see `backup keygen`
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) key_file: Option<PathBuf>,
    /// Seal or open the archive with the passphrase in this environment variable
    #[arg(long, global = true, value_name = "VAR", help_heading = "Global options")]
    pub(crate) passphrase_env: Option<String>,
    /// Accept an archive that is not sealed although a key is given
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) allow_unsealed: bool,
    /// Write one JSON document to standard output, or JSON lines where there are many events
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Where operations, their checkpoints and connections are kept: a file, sqlite:FILE, postgres://USER:PASSWORD@HOST/DATABASE or
    /// mysql://… [default: backup/store.db in the user's data directory]
    #[arg(
        long,
        global = true,
        env = "BACKUP_STORE",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub(crate) store: Option<String>,
    /// No progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// More about what happens, on standard error; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Back up a source into a new archive
    #[command(after_help = LOCATORS)]
    Create(Create),
    /// List the archives at a place; works without keys
    #[command(after_help = LOCATORS)]
    List(At),
    /// Show what an archive is and holds
    #[command(after_help = LOCATORS)]
    Show(Show),
    /// Read an archive and compare every digest
    ///
    /// Exits 0 when the archive is sound and 1 when anything is wrong with it.
    #[command(after_help = LOCATORS)]
    Verify(Verify),
    /// Put an archive, or a part of it, back
    ///
    /// Items that are there already are kept, with a warning, unless --overwrite is given.
    #[command(after_help = LOCATORS)]
    Restore(Restore),
    /// Write an archive as one standard .tar, .tar.gz or .tar.zst stream, also a sealed one
    #[command(after_help = LOCATORS)]
    Export(Export),
    /// Delete an archive for ever
    #[command(after_help = LOCATORS)]
    Delete(Delete),
    /// Remove incomplete archives that nobody has worked on for a long time
    #[command(after_help = LOCATORS)]
    Sweep(Sweep),
    /// List operations: backups and restores, running, paused and done
    Operations(Operations),
    /// The history in pages, with filters, totals, and what the archives take up
    History(History),
    /// Store, check and change connections: places by name, with sealed credentials
    ///
    /// Operations of connections can be run by workers on any host that shares the store and the key of the secrets.
    #[command(subcommand)]
    Connection(Connection),
    /// Run operations of stored connections, until it is stopped
    ///
    /// Takes what `backup create --source NAME --destination NAME --detach` leaves, what other workers hand over, and what dead ones left.
    Worker(Worker),
    /// Pause a running operation, also one of another process
    Pause(OperationArg),
    /// Give an operation up: remove what a backup wrote of its archive, and what a restore left staged
    Cancel(OperationArg),
    /// Continue an operation that was paused, failed, or died
    Resume(Resume),
    /// Print the job log of an operation
    Logs(Logs),
    /// Make a key that seals archives
    Keygen(Keygen),
    /// Change the key that opens sealed archives; their data stays as it is
    ///
    /// --key-file or --passphrase-env gives the key that opens them now. Safe to be stopped anywhere: repeat it. Operations that
    /// were begun with the old key are resumed with the new one by `backup resume --key-file FILE`.
    #[command(after_help = LOCATORS)]
    Rekey(Rekey),
    /// Sign in to Google Drive, and forget it
    #[command(subcommand)]
    Gdrive(Gdrive),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_are_taken_behind_the_command_too() {
        let cli = Cli::try_parse_from(["backup", "list", "--at", "/x", "--json", "--key-file", "k", "-vv"]).unwrap();
        assert!(cli.global.json && cli.global.verbose == 2 && cli.global.key_file.is_some());
    }

    #[test]
    fn rekey_needs_one_new_key_and_an_archive_or_all() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(parse("backup rekey x --at /a --new-key-file f --key-file k"));
        assert!(parse("backup rekey --all --at /a --new-passphrase-env V --keep-old"));
        assert!(!parse("backup rekey x --at /a"));
        assert!(!parse("backup rekey --at /a --new-key-file f"));
        assert!(!parse("backup rekey x --all --at /a --new-key-file f"));
        assert!(!parse("backup rekey x --at /a --new-key-file f --new-passphrase-env V"));
    }

    #[test]
    fn resume_needs_an_operation_or_all_and_not_both() {
        for bad in [&["backup", "resume"][..], &["backup", "resume", "x", "--all"]] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
