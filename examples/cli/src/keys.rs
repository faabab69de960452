//! Where the key of sealed archives comes from. Only its place is ever stored, never the key.

use crate::args::Global;
use crate::failure::Failure;
use backup_core::archive::{KeyFileProvider, KeyProvider, PassphraseProvider};
use backup_core::{Error, Result};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No key file is longer; what is, is another file.
const MAX_KEY_FILE: u64 = 64 << 10;

/// A place where a key is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeySource {
    /// A key file; an absolute path.
    File(PathBuf),
    /// The name of an environment variable with a passphrase.
    PassphraseEnv(String),
}

impl KeySource {
    /// What the global options say.
    ///
    /// # Errors
    /// `Usage` when they say two things.
    pub(crate) fn from_args(global: &Global) -> Result<Option<Self>, Failure> {
        Self::of(global.key_file.as_deref(), global.passphrase_env.as_deref(), "--")
    }

    /// What two options say, whose names start like this.
    ///
    /// # Errors
    /// `Usage` when they say two things.
    pub(crate) fn of(file: Option<&Path>, variable: Option<&str>, option: &str) -> Result<Option<Self>, Failure> {
        match (file, variable) {
            (None, None) => Ok(None),
            (Some(file), None) => {
                let path = std::path::absolute(file).map_err(|e| Failure::Usage(format!("{option}key-file: {e}")))?;
                if path.to_str().is_none() {
                    return Err(Failure::Usage(format!("{option}key-file: the path of a key file must be UTF-8")));
                }
                Ok(Some(Self::File(path)))
            }
            (None, Some(variable)) => Ok(Some(Self::PassphraseEnv(variable.into()))),
            (Some(_), Some(_)) => {
                Err(Failure::Usage(format!("give {option}key-file or {option}passphrase-env, not both")))
            }
        }
    }

    /// Reads the key.
    ///
    /// # Errors
    /// When the file or variable is not there, or holds no key.
    pub(crate) fn load(&self) -> Result<Arc<dyn KeyProvider>> {
        match self {
            Self::File(path) => {
                let text =
                    read_key_file(path).map_err(|e| Error::io(e, "cannot read the key file").on(path.display()))?;
                Ok(Arc::new(KeyFileProvider::parse(&text).map_err(|e| e.on(path.display()))?))
            }
            Self::PassphraseEnv(variable) => {
                // The cause is left out: it shows what the variable holds when that is no text.
                let text = std::env::var(variable).map_err(|_| {
                    Error::unauthorized("this variable should hold a passphrase, and is not set or no text")
                        .on(variable)
                })?;
                if text.is_empty() {
                    return Err(Error::unauthorized("this variable should hold a passphrase and is empty").on(variable));
                }
                Ok(Arc::new(PassphraseProvider::new(SecretString::from(text))?))
            }
        }
    }
}

/// Loads the key that the command line names, if it names one.
///
/// # Errors
/// As [`KeySource::from_args`] and [`KeySource::load`].
pub(crate) fn load(source: Option<&KeySource>) -> Result<Option<Arc<dyn KeyProvider>>> {
    source.map(KeySource::load).transpose()
}

fn read_key_file(path: &Path) -> std::io::Result<SecretString> {
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!("{}: other users may read this key file; chmod 600 keeps it yours", path.display());
    }
    let mut text = String::new();
    file.take(MAX_KEY_FILE + 1).read_to_string(&mut text)?;
    let text = SecretString::from(text);
    if secrecy::ExposeSecret::expose_secret(&text).len() as u64 > MAX_KEY_FILE {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "this is too long for a key file"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_place_of_a_key_is_stored() {
        let file = KeySource::File("/k".into());
        assert_eq!(serde_json::to_string(&file).unwrap(), r#"{"file":"/k"}"#);
        let variable = KeySource::PassphraseEnv("PASS".into());
        assert_eq!(serde_json::to_string(&variable).unwrap(), r#"{"passphrase-env":"PASS"}"#);
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = KeySource::PassphraseEnv("BACKUP_TEST_NO_SUCH_VARIABLE".into()).load().unwrap_err();
        assert!(error.to_string().contains("BACKUP_TEST_NO_SUCH_VARIABLE"), "{error}");
    }
}
