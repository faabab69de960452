//! What every command works with.

use crate::args::Global;
use crate::failure::Failure;
use crate::keys::{self, KeySource};
use crate::locator::Locator;
use crate::output::Output;
use crate::store;
use backup_core::adapter::{Destination, Store};
use backup_core::engine::{Archive, OpenOptions, find_archive};
use backup_core::model::OperationId;
use std::sync::Arc;

/// The global options, and what follows from them.
#[derive(Debug)]
pub(crate) struct App {
    /// How this run talks.
    pub(crate) out: Output,
    /// Where the key is, if one is given.
    pub(crate) key: Option<KeySource>,
    global: Global,
}

impl App {
    /// Checks the global options.
    ///
    /// # Errors
    /// `Usage` when they contradict each other.
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let out = Output { json: global.json, quiet: global.quiet };
        Ok(Self { out, key: KeySource::from_args(&global)?, global })
    }

    /// Whether informative job log records are shown.
    pub(crate) fn is_verbose(&self) -> bool {
        self.global.verbose > 0
    }

    /// Whether an archive that is not sealed is fine although a key is given.
    pub(crate) fn allow_unsealed(&self) -> bool {
        self.global.allow_unsealed
    }

    /// The store, made if it is not there yet.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) async fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        store::open(self.global.store.as_deref()).await
    }

    /// The store if there is one: for commands that only compare with what it remembers.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub(crate) async fn store_if_there(&self) -> Result<Option<Arc<dyn Store>>, Failure> {
        store::open_if_there(self.global.store.as_deref()).await
    }

    /// The keys that the command line names, for opening archives.
    ///
    /// # Errors
    /// When the key cannot be loaded.
    pub(crate) fn open_options(&self) -> Result<OpenOptions, Failure> {
        Ok(OpenOptions { keys: keys::load(self.key.as_ref())?, allow_unsealed: self.allow_unsealed() })
    }

    /// Opens an archive for reading.
    ///
    /// # Errors
    /// When it is not there, damaged, or sealed with another key.
    pub(crate) async fn open_archive(
        &self,
        at: &Locator,
        selector: &str,
    ) -> Result<(Arc<dyn Destination>, Archive), Failure> {
        let options = self.open_options()?;
        let destination = at.destination().await?;
        let id = find_archive(&destination, selector).await?;
        let archive = Archive::open(destination.clone(), &id, &options).await.map_err(|e| key_hint(e, &options))?;
        Ok((destination, archive))
    }

    /// The command that continues an operation.
    pub(crate) fn resume_command(&self, operation: &OperationId) -> String {
        self.command(&format!("resume {operation}"))
    }

    /// A command of this program on the same store.
    pub(crate) fn command(&self, words: &str) -> String {
        match &self.global.store {
            // What came from the environment is there for the next command too.
            Some(url) if std::env::var("BACKUP_STORE").ok().as_ref() != Some(url) => {
                format!("backup --store {} {words}", quoted(&shown(url)))
            }
            _ => format!("backup {words}"),
        }
    }
}

fn key_hint(error: backup_core::Error, options: &OpenOptions) -> Failure {
    use backup_core::ErrorClass as C;
    let class = error.class();
    let failure = Failure::from(error);
    match (class, &options.keys) {
        (C::Unauthorized, None) => failure.hint("give the key with --key-file FILE or --passphrase-env VAR"),
        (C::Invalid, Some(_)) if !options.allow_unsealed => failure.hint("--allow-unsealed accepts it"),
        _ => failure,
    }
}

/// The URL of a store without its password.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A parameter may hold a password as well.
    let path = rest[authority_end..].split(['?', '#']).next().unwrap_or_default();
    match rest[..authority_end].rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:PASSWORD@{host}{path}")
        }
        None => format!("{scheme}://{}{path}", &rest[..authority_end]),
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_store_is_not_repeated() {
        assert_eq!(shown("postgres://me:sec@ret@host:5/db?password=secret"), "postgres://me:PASSWORD@host:5/db");
        assert_eq!(shown("postgres://host/db"), "postgres://host/db");
        assert_eq!(shown("/a/b.db"), "/a/b.db");
        assert_eq!(shown("sqlite:///a/b.db"), "sqlite:///a/b.db");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/a/b.db"), "/a/b.db");
        assert_eq!(quoted("/it's here"), r"'/it'\''s here'");
    }
}
