//! The command line: what can be said, and what each word means.

use crate::locator::Locator;
use crate::units;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

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

/// `backup gdrive`
#[derive(Debug, Subcommand)]
pub(crate) enum Gdrive {
    /// Sign in: prints an address to open in a browser, keeps what Google gives (sealed), and makes a folder for archives
    ///
    /// Needs an OAuth client of the type `Desktop app`, which anybody can make in Google's console (APIs & Services, Credentials) with
    /// the Drive API enabled. The app sees only files that it made itself.
    Login(Login),
    /// Forget an account
    Logout(Logout),
}

/// `backup gdrive login`
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The JSON file of the OAuth client, as Google's console gives it
    #[arg(long, value_name = "FILE")]
    pub(crate) client: PathBuf,
    /// A name for the account, for locators with account=NAME
    #[arg(long, default_value = "default")]
    pub(crate) account: String,
    /// Name of the folder for archives, made at the top of the drive when it is missing
    #[arg(long, default_value = "backups", value_name = "NAME")]
    pub(crate) folder: String,
    /// Address that is used in place of Google's, for tests
    #[arg(long, value_name = "URL", hide = true)]
    pub(crate) endpoint: Option<String>,
}

/// `backup gdrive logout`
#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// The account's name
    #[arg(long, default_value = "default")]
    pub(crate) account: String,
}

/// `backup create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What is backed up
    #[arg(long, value_name = "LOCATOR", required_unless_present = "source", requires = "to")]
    pub(crate) from: Option<Locator>,
    /// Where the archive is kept
    #[arg(long, value_name = "LOCATOR", required_unless_present = "destination", requires = "from")]
    pub(crate) to: Option<Locator>,
    /// What is backed up: the name of a stored connection, see `backup connection`
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "from",
        requires = "destination",
        help_heading = "Stored connections"
    )]
    pub(crate) source: Option<String>,
    /// Where the archive is kept: the name of a stored connection
    #[arg(long, value_name = "NAME", conflicts_with = "to", requires = "source", help_heading = "Stored connections")]
    pub(crate) destination: Option<String>,
    /// What the source's kind of connection lets choose, as JSON; `backup connection kinds --json` tells what that is
    #[arg(long, value_name = "JSON", conflicts_with = "from", help_heading = "Stored connections")]
    pub(crate) source_options: Option<String>,
    /// Leave it to a `backup worker`, which may be on another host
    #[arg(long, conflicts_with = "from", help_heading = "Stored connections")]
    pub(crate) detach: bool,
    /// A name for the archive, by which it can be found again
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How data is compressed
    #[arg(long, value_enum, default_value_t = Codec::Zstd)]
    pub(crate) codec: Codec,
    /// Compression level: 1 to 22 for zstd [default: 3], 1 to 9 for gzip [default: 6]
    #[arg(long)]
    pub(crate) level: Option<i32>,
    /// Stored size at which a volume ends, at most a sixth of --memory [default: what suits the destination]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub(crate) volume_size: Option<u64>,
    /// Leave out what matches, a directory with all below it: `*.tmp` at any depth, `/docs` or `docs/*.tmp` just there
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Do not enter other file systems that are mounted inside the source
    #[arg(long)]
    pub(crate) one_file_system: bool,
    #[command(flatten)]
    pub(crate) mongodb: MongodbSource,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

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

/// How data is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    /// Fast and small
    Zstd,
    /// Understood everywhere
    Gzip,
    /// As it is
    None,
}

/// A place with archives.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Where the archives are
    #[arg(long, value_name = "LOCATOR")]
    pub(crate) at: Locator,
}

/// An archive and its place.
#[derive(Debug, Args)]
pub(crate) struct ArchiveAt {
    /// Id, beginning of one, name, or `latest`
    pub(crate) archive: String,
    /// Where the archive is
    #[arg(long, value_name = "LOCATOR")]
    pub(crate) at: Locator,
}

/// `backup show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) archive: ArchiveAt,
    /// List its entries, as `tar tv` does (with --json: one line each)
    #[arg(long)]
    pub(crate) entries: bool,
}

/// `backup verify`
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) archive: ArchiveAt,
    /// Only look whether every object is there in its size
    #[arg(long, conflicts_with = "sample")]
    pub(crate) quick: bool,
    /// Read only so much of the data, chosen at random, e.g. 5%
    #[arg(long, value_name = "PERCENT", value_parser = units::percent)]
    pub(crate) sample: Option<f64>,
}

/// `backup restore`
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Id, beginning of one, name, or `latest`
    #[arg(required_unless_present = "from_mongodump")]
    pub(crate) archive: Option<String>,
    /// Where the archive is
    #[arg(long, value_name = "LOCATOR", required_unless_present_any = ["from_mongodump", "destination"])]
    pub(crate) at: Option<Locator>,
    /// Where the data is put back
    #[arg(long, value_name = "LOCATOR", required_unless_present = "target")]
    pub(crate) to: Option<Locator>,
    /// Where the archive is: the name of a stored connection, see `backup connection`
    #[arg(long, value_name = "NAME", conflicts_with = "at", requires = "target", help_heading = "Stored connections")]
    pub(crate) destination: Option<String>,
    /// Where the data is put back: the name of a stored connection
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "from_mongodump"], requires = "destination", help_heading = "Stored connections")]
    pub(crate) target: Option<String>,
    /// What the target's kind of connection lets choose, as JSON; `backup connection kinds --json` tells what that is
    #[arg(long, value_name = "JSON", conflicts_with = "to", help_heading = "Stored connections")]
    pub(crate) target_options: Option<String>,
    /// Leave it to a `backup worker`, which may be on another host
    #[arg(long, conflicts_with = "to", help_heading = "Stored connections")]
    pub(crate) detach: bool,
    /// Only what matches, a directory with all below it: `*.txt` at any depth, `/docs` or `docs/*.txt` just there
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// But not what matches this, by the same rules
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Only the entry of exactly this name, even when it contains `*`
    #[arg(long = "entry", value_name = "NAME")]
    pub(crate) entries: Vec<OsString>,
    /// Replace what is there already
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Do not ask when the target is not empty; what is there is kept
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not read the target back at the end
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Restore all that is intact of a damaged archive, and name what is lost
    #[arg(long)]
    pub(crate) keep_going: bool,
    #[command(flatten)]
    pub(crate) mongodb: MongodbRestore,
    /// Restore a directory or archive file of mongodump, packed or not, instead of an archive
    #[arg(long, value_name = "PATH", conflicts_with_all = ["archive", "at", "entries", "keep_going"], help_heading = "MongoDB options")]
    pub(crate) from_mongodump: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

/// `backup export`
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) archive: ArchiveAt,
    /// File to write, `-` is standard output; for mongodump the directory to make
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// What is written
    #[arg(long, value_enum, default_value_t = ExportFormat::Tar)]
    pub(crate) format: ExportFormat,
    /// How the stream is compressed [default: by the file's extension, else as the archive is]
    #[arg(long, value_enum)]
    pub(crate) codec: Option<Codec>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// What an export writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One stream that tar reads
    Tar,
    /// A directory that mongorestore reads, of an archive of MongoDB databases
    Mongodump,
}

/// `backup delete`
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) archive: ArchiveAt,
    /// Do not ask
    #[arg(long)]
    pub(crate) force: bool,
}

/// `backup sweep`
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    #[command(flatten)]
    pub(crate) at: At,
    /// How long nothing may have been written to an archive before it counts as given up
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = units::duration)]
    pub(crate) min_age: Duration,
    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
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

/// `backup connection`
#[derive(Debug, Subcommand)]
pub(crate) enum Connection {
    /// Store a connection; it is checked first, and stored only when it works
    Add(ConnectionAdd),
    /// List them
    List,
    /// Show one, without its secrets
    Show(ConnectionArg),
    /// Check whether one works now
    Check(ConnectionCheck),
    /// Change one; it is checked first, and what is not named stays, secrets too
    Edit(ConnectionEdit),
    /// Remove one and its secrets
    Remove(ConnectionRemove),
    /// List the kinds of connections, or show the JSON Schema of the configuration of one
    Kinds {
        /// The kind
        kind: Option<String>,
    },
    /// Seal all secrets under the newest key of the key file, so that the older ones can be removed from it
    Reseal,
}

/// The configuration of a connection.
#[derive(Debug, Args)]
pub(crate) struct ConnectionConfig {
    /// The configuration as a JSON file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A field of it; a dot leads into an object: `bucket=photos`, `credentials.kind=static`. Not for secrets, which others would see
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// A secret field, from an environment variable: `credentials.secret_key=MY_KEY`
    #[arg(long, value_name = "NAME=VAR")]
    pub(crate) secret: Vec<String>,
}

/// What a connection is checked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckAs {
    /// It can be read
    Source,
    /// Archives can be written, read and removed there
    Destination,
    /// Archives can be restored there
    Target,
}

/// `backup connection add`
#[derive(Debug, Args)]
pub(crate) struct ConnectionAdd {
    /// Its name
    pub(crate) name: String,
    /// Its kind: local, s3, mongodb, gdrive
    #[arg(long)]
    pub(crate) kind: String,
    #[command(flatten)]
    pub(crate) config: ConnectionConfig,
    /// What to check it as; may be given several times [default: as a source, when its kind can be read]
    #[arg(long = "check-as", value_enum, value_name = "ROLE")]
    pub(crate) check: Vec<CheckAs>,
}

/// `backup connection show`
#[derive(Debug, Args)]
pub(crate) struct ConnectionArg {
    /// Its name or id
    pub(crate) name: String,
}

/// `backup connection remove`
#[derive(Debug, Args)]
pub(crate) struct ConnectionRemove {
    /// Its name or id
    pub(crate) name: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) force: bool,
}

/// `backup connection check`
#[derive(Debug, Args)]
pub(crate) struct ConnectionCheck {
    /// Its name or id
    pub(crate) name: String,
    /// What to check it as; may be given several times
    #[arg(long = "check-as", value_enum, value_name = "ROLE")]
    pub(crate) check: Vec<CheckAs>,
}

/// `backup connection edit`
#[derive(Debug, Args)]
pub(crate) struct ConnectionEdit {
    /// Its name or id
    pub(crate) name: String,
    /// Another name for it
    #[arg(long, value_name = "NAME")]
    pub(crate) rename: Option<String>,
    #[command(flatten)]
    pub(crate) config: ConnectionConfig,
    /// What to check it as; may be given several times
    #[arg(long = "check-as", value_enum, value_name = "ROLE")]
    pub(crate) check: Vec<CheckAs>,
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
