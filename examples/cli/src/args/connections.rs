//! Commands on stored connections and accounts.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

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
