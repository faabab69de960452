//! Where the keys for secrets at rest come from.

use super::KeyRing;
use crate::{Error, Result};
use async_trait::async_trait;
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;

/// Gives the keys under which secrets are sealed at rest. Asked each time, by a worker whenever it looks for what is due, so that keys can be
/// changed while a program runs.
#[async_trait]
pub trait KeyRingProvider: std::fmt::Debug + Send + Sync + 'static {
    /// The keys.
    ///
    /// # Behavior
    /// - `Unauthorized` when they cannot be got now; no text of an error has a key in it.
    async fn ring(&self) -> Result<Arc<KeyRing>>;
}

/// Keys that the program has got by itself.
#[async_trait]
impl KeyRingProvider for Arc<KeyRing> {
    async fn ring(&self) -> Result<Arc<KeyRing>> {
        Ok(self.clone())
    }
}

/// Keys in an environment variable: as many as there are lines, the newest first (see [`KeyRing::parse`]).
#[derive(Clone, Debug)]
pub struct EnvKeys {
    variable: String,
}

impl EnvKeys {
    /// Keys in the variable of this name.
    pub fn new(variable: impl Into<String>) -> Self {
        Self { variable: variable.into() }
    }
}

#[async_trait]
impl KeyRingProvider for EnvKeys {
    async fn ring(&self) -> Result<Arc<KeyRing>> {
        let text = std::env::var(&self.variable)
            .map_err(|_| Error::unauthorized("no keys for stored secrets stand in this variable").on(&self.variable))?;
        KeyRing::parse(&text.into()).map(Arc::new).map_err(|e| e.on(&self.variable))
    }
}

/// Keys in a file: as many as there are lines, the newest first (see [`KeyRing::parse`]).
#[derive(Clone, Debug)]
pub struct FileKeys {
    path: PathBuf,
}

impl FileKeys {
    /// Keys in the file of this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl KeyRingProvider for FileKeys {
    async fn ring(&self) -> Result<Arc<KeyRing>> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
        let text = read.await.map_err(|e| Error::permanent("reading the keys was broken off").because(e))?;
        let text = text.map(SecretString::from).map_err(|e| {
            Error::unauthorized("the keys for stored secrets cannot be read").on(self.path.display()).because(e)
        })?;
        KeyRing::parse(&text).map(Arc::new).map_err(|e| e.on(self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use crate::archive::generate_key_file;
    use secrecy::ExposeSecret;

    #[tokio::test]
    async fn a_file_has_several_keys_the_newest_first() {
        let (old, new) = (generate_key_file().unwrap(), generate_key_file().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, old.expose_secret()).unwrap();
        let keys = FileKeys::new(&path);
        let sealed = keys.ring().await.unwrap().seal(b"secret", b"").unwrap();
        std::fs::write(&path, format!("{}\n\n{}\n", new.expose_secret().trim(), old.expose_secret().trim())).unwrap();
        let ring = keys.ring().await.unwrap();
        assert_eq!(*ring.open(&sealed, b"").unwrap(), b"secret");
        assert!(ring.is_outdated(&sealed).unwrap());
    }

    #[tokio::test]
    async fn keys_that_are_not_there_are_named() {
        for keys in [&EnvKeys::new("BACKUP_TEST_NO_KEYS") as &dyn KeyRingProvider, &FileKeys::new("/no/such/keys")] {
            let error = keys.ring().await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Unauthorized);
            assert!(error.to_string().contains("/no/such/keys") || error.to_string().contains("BACKUP_TEST_NO_KEYS"));
        }
        assert_eq!(KeyRing::parse(&"\n".into()).unwrap_err().class(), ErrorClass::Invalid);
    }
}
