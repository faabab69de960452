//! Where this program keeps the Google accounts that somebody has signed in to: sealed files in the user's data directory, under a key in
//! the configuration directory.

use backup_core::archive::generate_key_file;
use backup_core::secrets::{KeyRing, SecretKey};
use backup_core::{Error, Result};
use backup_gdrive::account::AccountFile;
use secrecy::{ExposeSecret, SecretString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names the key file instead of the one in the configuration directory.
const KEY_FILE: &str = "BACKUP_SECRETS_KEY_FILE";

/// The file of an account; `make` also makes the key if there is none yet.
///
/// # Errors
/// When the name is none, or the key cannot be read.
pub(crate) fn file(name: &str, make: bool) -> Result<AccountFile> {
    check(name)?;
    let data = directory("XDG_DATA_HOME", ".local/share")?;
    let key = match std::env::var_os(KEY_FILE) {
        Some(path) => PathBuf::from(path),
        None => directory("XDG_CONFIG_HOME", ".config")?.join("secrets.key"),
    };
    let ring = KeyRing::new(SecretKey::parse(&read_key(&key, make)?).map_err(|e| e.on(key.display()))?);
    Ok(AccountFile::new(data.join("gdrive").join(format!("{name}.account")), Arc::new(ring)))
}

/// Names of accounts are file names.
///
/// # Errors
/// `Invalid` with what may stand there.
pub(crate) fn check(name: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'@' | b'.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.bytes().all(fine) {
        return Err(Error::invalid("the name of an account has letters, digits, `-`, `_`, `@` and `.`")
            .on(name.escape_default()));
    }
    Ok(())
}

/// `backup` in a directory of the XDG specification, by which a relative path in the variable does not count.
fn directory(variable: &str, below_home: &str) -> Result<PathBuf> {
    let given = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(below_home));
    let found =
        given.or_else(home).ok_or_else(|| Error::invalid(format!("there is no home directory; set {variable}")))?;
    Ok(found.join("backup"))
}

fn read_key(path: &Path, make: bool) -> Result<SecretString> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.into()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && make => {
            let key = generate_key_file()?;
            write_key(path, &key)
                .map_err(|e| Error::io(e, "cannot make the key of stored accounts").on(path.display()))?;
            Ok(key)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::unauthorized("nobody has signed in to Google Drive; run `backup gdrive login`")
                .on(path.display()))
        }
        Err(e) => Err(Error::io(e, "cannot read the key of stored accounts").on(path.display())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_accounts_lead_nowhere_else() {
        for good in ["default", "me@example.org", "a_b-1"] {
            check(good).unwrap();
        }
        for bad in ["", "../x", "a/b", ".hidden", "ä"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
