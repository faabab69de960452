//! The key under which this program keeps secrets of accounts and connections: a file in the user's configuration directory.

use backup_core::archive::generate_key_file;
use backup_core::secrets::KeyRing;
use backup_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Names the key file instead of the one in the configuration directory. It may have several keys, one on each line, the newest first.
pub(crate) const KEY_FILE: &str = "BACKUP_SECRETS_KEY_FILE";

/// The keys; `make` also makes one if there is none yet, else the error says what is `missing`.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn ring(make: bool, missing: &'static str) -> Result<KeyRing> {
    let path = key_file()?;
    KeyRing::parse(&read_key(&path, make, missing)?).map_err(|e| e.on(path.display()))
}

/// Where the keys are.
///
/// # Errors
/// When there is no home directory.
pub(crate) fn key_file() -> Result<PathBuf> {
    match std::env::var_os(KEY_FILE) {
        Some(path) => Ok(PathBuf::from(path)),
        None => Ok(directory("XDG_CONFIG_HOME", ".config")?.join("secrets.key")),
    }
}

/// `backup` in a directory of the XDG specification, by which a relative path in the variable does not count.
///
/// # Errors
/// When there is no home directory.
pub(crate) fn directory(variable: &str, below_home: &str) -> Result<PathBuf> {
    let given = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(below_home));
    let found =
        given.or_else(home).ok_or_else(|| Error::invalid(format!("there is no home directory; set {variable}")))?;
    Ok(found.join("backup"))
}

fn read_key(path: &Path, make: bool, missing: &'static str) -> Result<SecretString> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.into()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && make => {
            let key = generate_key_file()?;
            write_key(path, &key)
                .map_err(|e| Error::io(e, "cannot make the key of stored secrets").on(path.display()))?;
            Ok(key)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::unauthorized(missing).on(path.display())),
        Err(e) => Err(Error::io(e, "cannot read the key of stored secrets").on(path.display())),
    }
}

fn write_key(path: &Path, key: &SecretString) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", key.expose_secret())?;
    file.sync_all()
}
