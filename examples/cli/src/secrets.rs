//! The key under which this program keeps secrets of accounts and connections: a file in the user's configuration directory.

use backup_core::archive::generate_key_file;
use backup_core::secrets::KeyRing;
use backup_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
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
    let doing = |e| Error::io(e, "cannot make the key of stored secrets").on(path.display());
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Err(Error::unauthorized(EMPTY).on(path.display())),
        Ok(text) => Ok(text.into()),
        Err(e) if e.kind() == ErrorKind::NotFound && make => {
            match write_key(path, &generate_key_file()?) {
                // Another process was faster.
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(doing(e)),
                _ => {}
            }
            read_key(path, false, missing)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Err(Error::unauthorized(missing).on(path.display())),
        Err(e) => Err(Error::io(e, "cannot read the key of stored secrets").on(path.display())),
    }
}

const EMPTY: &str = "the file of the key of stored secrets is empty: copy it from another host or from a backup; only if no connection \
    and no account has secrets yet, remove it, and a new one is made";

/// Whole or not at all, and never over another.
fn write_key(path: &Path, key: &SecretString) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::Builder::new()
        .prefix(".secrets-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    writeln!(file, "{}", key.expose_secret())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const MISSING: &str = "there is no key";

    #[test]
    fn of_many_that_make_a_key_at_once_one_does_and_all_have_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (path, start) = (dir.path().join("new/secrets.key"), Barrier::new(8));
        let make = || {
            start.wait();
            read_key(&path, true, MISSING).unwrap().expose_secret().to_owned()
        };
        let keys: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Nothing else is left, and what is there is never replaced.
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(write_key(&path, &"other".into()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), keys[0]);
    }

    #[test]
    fn an_empty_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.key");
        std::fs::write(&path, "\n").unwrap();
        for make in [false, true] {
            let error = read_key(&path, make, MISSING).unwrap_err();
            assert!(error.to_string().contains("remove it") && error.to_string().contains("secrets.key"), "{error}");
        }
    }
}
