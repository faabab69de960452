//! Locators (`kind:rest`), and the registry of adapters that they lead to.
//!
//! A new kind of place is one more [`Adapter`] in [`ADAPTERS`].

use async_trait::async_trait;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::{Error, Result};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

mod gdrive;
mod local;
pub(crate) mod mongodb;
mod s3;

/// What this program can reach.
const ADAPTERS: &[&dyn Adapter] =
    &[&local::Local, &s3::S3, &mongodb::Mongodb, &mongodb::MongodbSrv, &gdrive::GoogleDrive];

/// How a source is read; kept with the operation, so that a resume reads it in the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SourceOptions {
    /// Globs of what is left out.
    pub(crate) exclude: Vec<String>,
    /// Do not enter other file systems.
    pub(crate) one_file_system: bool,
    /// How databases are read.
    pub(crate) mongodb: mongodb::SourceOptions,
}

/// How a target is written; kept with the operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TargetOptions {
    /// How databases are written.
    pub(crate) mongodb: mongodb::TargetOptions,
}

/// A secret that stood in a locator: known to this process only, and never kept.
pub(crate) type Secret = Option<SecretString>;

/// Makes sources, destinations and restore targets of one kind.
#[async_trait]
trait Adapter: Sync {
    /// What stands before the colon.
    fn kind(&self) -> &'static str;

    /// How its locators look, for messages.
    fn syntax(&self) -> &'static str;

    /// The locator's rest in a form that means the same in every working directory.
    fn absolute(&self, rest: &str) -> Result<String, String>;

    /// Takes a secret out of the locator's rest; what stays can be kept and shown.
    fn without_secret(&self, rest: &str) -> Result<(String, Secret), String> {
        Ok((rest.to_owned(), None))
    }

    /// What can be backed up.
    async fn source(&self, rest: &str, secret: &Secret, options: &SourceOptions) -> Result<Arc<dyn Source>>;

    /// What can keep archives.
    async fn destination(&self, rest: &str) -> Result<Arc<dyn Destination>>;

    /// What archives can be restored to.
    async fn target(&self, rest: &str, secret: &Secret, options: &TargetOptions) -> Result<Arc<dyn RestoreTarget>>;
}

/// A place of a known kind; absolute, without secrets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Locator {
    adapter: &'static dyn Adapter,
    rest: String,
    secret: Secret,
}

impl Locator {
    /// The place as something to back up.
    ///
    /// # Errors
    /// When the adapter cannot be made.
    pub(crate) async fn source(&self, options: &SourceOptions) -> Result<Arc<dyn Source>> {
        self.adapter.source(&self.rest, &self.secret, options).await
    }

    /// The place as one that keeps archives.
    ///
    /// # Errors
    /// When the adapter cannot be made.
    pub(crate) async fn destination(&self) -> Result<Arc<dyn Destination>> {
        self.adapter.destination(&self.rest).await
    }

    /// The place as one to restore to.
    ///
    /// # Errors
    /// When the adapter cannot be made.
    pub(crate) async fn target(&self, options: &TargetOptions) -> Result<Arc<dyn RestoreTarget>> {
        self.adapter.target(&self.rest, &self.secret, options).await
    }

    /// Whether it is a place of MongoDB.
    pub(crate) fn is_mongodb(&self) -> bool {
        self.adapter.kind().starts_with("mongodb")
    }
}

impl FromStr for Locator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(format!("an empty locator; {}", help()));
        }
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) if is_kind(kind) => (kind, rest),
            _ => ("local", text),
        };
        let adapter = ADAPTERS
            .iter()
            .find(|a| a.kind() == kind)
            .ok_or_else(|| format!("there is no kind of place called `{kind}`; {}", help()))?;
        let (rest, secret) = adapter.without_secret(rest)?;
        Ok(Self { adapter: *adapter, rest: adapter.absolute(&rest)?, secret })
    }
}

/// Whether the text before a colon is meant as a kind: a path such as `./a:b` or a file `x:y` of one letter is not.
fn is_kind(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-'))
}

/// What may be shown of a text that was refused as a locator, if not all of it: neither what stands before an `@` nor options.
pub(crate) fn shown(text: &str) -> Option<String> {
    let (kind, rest) = text.split_once("://")?;
    let place = rest.split('?').next().unwrap_or_default();
    let place = place.rsplit('@').next().unwrap_or_default();
    let shown = format!("{kind}://{place}");
    (shown != text).then(|| format!("{shown}…"))
}

fn help() -> String {
    let forms: Vec<&str> = ADAPTERS.iter().map(|a| a.syntax()).collect();
    format!("known are: {} (a path with a colon in it is written ./PATH)", forms.join(", "))
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.adapter.kind(), self.rest)
    }
}

impl fmt::Debug for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Locator {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse().map_err(Error::invalid)
    }
}

impl From<Locator> for String {
    fn from(locator: Locator) -> Self {
        locator.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_and_local_ones_become_absolute() {
        let here = std::env::current_dir().unwrap();
        for (text, location) in [
            ("/a/b", "local:/a/b".to_string()),
            ("local:/a/b", "local:/a/b".to_string()),
            ("x/y", format!("local:{}/x/y", here.display())),
            ("./a:b", format!("local:{}/a:b", here.display())),
            ("/odd:name", "local:/odd:name".to_string()),
            ("local:a:b", format!("local:{}/a:b", here.display())),
        ] {
            let locator: Locator = text.parse().unwrap();
            assert_eq!(locator.to_string(), location, "{text}");
            // What is stored means the same again.
            assert_eq!(locator.to_string().parse::<Locator>().unwrap().to_string(), location);
        }
    }

    #[test]
    fn what_is_shown_of_a_refused_locator_has_no_credentials() {
        assert_eq!(shown("s3://AK:secret@bucket/x?y=z").unwrap(), "s3://bucket/x…");
        assert_eq!(shown("s3://bucket?secret_key=x").unwrap(), "s3://bucket…");
        assert_eq!(shown("s3://bucket"), None);
        assert_eq!(shown("./a:b@c"), None);
    }

    #[test]
    fn an_unknown_kind_is_named_and_the_known_ones_are_listed() {
        for bad in ["ftp://host/x", "mongo://h/db"] {
            let message = bad.parse::<Locator>().unwrap_err();
            assert!(message.contains(bad.split(':').next().unwrap()) && message.contains("local:PATH"), "{message}");
        }
        assert!("".parse::<Locator>().is_err());
        // What was meant is the home directory, which only a shell knows.
        for home in ["~", "~/x", "local:~/x"] {
            assert!(home.parse::<Locator>().unwrap_err().contains("$HOME"), "{home}");
        }
        assert!("./~/x".parse::<Locator>().is_ok() && "~x".parse::<Locator>().is_ok());
        assert!("local:".parse::<Locator>().is_err());
    }
}
