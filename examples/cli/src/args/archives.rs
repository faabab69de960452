//! Commands on archives.

use super::mongodb::{MongodbRestore, MongodbSource};
use super::operations::Resources;
use crate::locator::Locator;
use crate::units;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

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
