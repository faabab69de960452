//! An account in a file: what a program keeps of a sign-in, sealed.

use super::TokenStore;
use async_trait::async_trait;
use backup_core::secrets::KeyRing;
use backup_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

const WHAT: &str = "account of Google Drive";
/// What is sealed is of this kind.
const AAD: &[u8] = b"backup google drive account 1";

/// A person's consent, and the app that it was given to.
#[derive(Clone)]
pub struct Account {
    /// Id of the OAuth client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
    /// What the consent gave.
    pub refresh_token: SecretString,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// The account as it is sealed.
#[derive(Serialize, Deserialize)]
struct Plain {
    client_id: String,
    client_secret: String,
    refresh_token: String,
}

impl Drop for Plain {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.client_secret);
        zeroize::Zeroize::zeroize(&mut self.refresh_token);
    }
}

/// A file with an [`Account`], sealed under a ring of keys: one line of text that only its owner may read, replaced as a whole.
#[derive(Clone)]
pub struct AccountFile {
    path: PathBuf,
    keys: Arc<KeyRing>,
}

impl fmt::Debug for AccountFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl AccountFile {
    /// At a path. Touches nothing.
    pub fn new(path: impl Into<PathBuf>, keys: Arc<KeyRing>) -> Self {
        Self { path: path.into(), keys }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The account; `None` when there is no such file.
    ///
    /// # Errors
    /// `Unauthorized` without its key, `Corrupt` when it was changed, and what the file system says.
    pub async fn read(&self) -> Result<Option<Account>> {
        let here = self.clone();
        self.blocking(move || here.read_now()).await
    }

    /// Writes the account in place of what was there.
    ///
    /// # Errors
    /// What the file system says; the file from before is then still there.
    pub async fn write(&self, account: &Account) -> Result<()> {
        let (here, account) = (self.clone(), account.clone());
        self.blocking(move || here.write_now(&account)).await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| Error::permanent("a thread for files failed").because(e))?
            .map_err(|e| e.on(self.path.display()))
    }

    fn read_now(&self) -> Result<Option<Account>> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(e, format!("the {WHAT} cannot be read"))),
        };
        let opened = self.keys.open(text.trim(), AAD)?;
        let plain: Plain = serde_json::from_slice(&opened).map_err(|_| Error::corrupt(format!("this is no {WHAT}")))?;
        Ok(Some(Account {
            client_id: plain.client_id.clone(),
            client_secret: plain.client_secret.as_str().into(),
            refresh_token: plain.refresh_token.as_str().into(),
        }))
    }

    fn replace_now(&self, refresh_token: SecretString, instead_of: &SecretString) -> Result<()> {
        let account = self.read_now()?.ok_or_else(|| Error::not_found(format!("there is no {WHAT} any more")))?;
        let kept = account.refresh_token.expose_secret();
        if kept == refresh_token.expose_secret() {
            return Ok(());
        }
        if kept != instead_of.expose_secret() {
            return Err(Error::conflict(format!("the {WHAT} has another token by now, which stays")));
        }
        self.write_now(&Account { refresh_token, ..account })
    }

    fn write_now(&self, account: &Account) -> Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let failed = |e| Error::io(e, format!("the {WHAT} cannot be written"));
        let plain = Plain {
            client_id: account.client_id.clone(),
            client_secret: account.client_secret.expose_secret().to_owned(),
            refresh_token: account.refresh_token.expose_secret().to_owned(),
        };
        let json = serde_json::to_vec(&plain).map_err(|_| Error::invalid("the account cannot be written as JSON"))?;
        let sealed = self.keys.seal(&Zeroizing::new(json), AAD)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(failed)?;
        let staged = directory.join(format!(".backup-tmp-account-{:016x}", rand::random::<u64>()));
        let write = || {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
            writeln!(file, "{sealed}")?;
            file.sync_all()?;
            std::fs::rename(&staged, &self.path)?;
            std::fs::File::open(directory)?.sync_all()
        };
        let written = write();
        if written.is_err() {
            // The first error counts.
            let _ = std::fs::remove_file(&staged);
        }
        written.map_err(failed)
    }
}

#[async_trait]
impl TokenStore for AccountFile {
    async fn load(&self) -> Result<Option<SecretString>> {
        Ok(self.read().await?.map(|account| account.refresh_token))
    }

    async fn save(&self, refresh_token: &SecretString, instead_of: &SecretString) -> Result<()> {
        let (here, refresh_token, instead_of) = (self.clone(), refresh_token.clone(), instead_of.clone());
        self.blocking(move || here.replace_now(refresh_token, &instead_of)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ErrorClass;
    use backup_core::archive::generate_key_file;
    use backup_core::secrets::SecretKey;

    fn ring() -> Arc<KeyRing> {
        Arc::new(KeyRing::new(SecretKey::parse(&generate_key_file().unwrap()).unwrap()))
    }

    #[tokio::test]
    async fn an_account_is_kept_sealed_for_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = AccountFile::new(dir.path().join("a/me.account"), ring());
        assert!(file.read().await.unwrap().is_none() && file.load().await.unwrap().is_none());
        let account =
            Account { client_id: "id".into(), client_secret: "hidden-1".into(), refresh_token: "hidden-2".into() };
        file.write(&account).await.unwrap();
        file.save(&"hidden-3".into(), &"hidden-2".into()).await.unwrap();
        // A late one does not replace it.
        let late = file.save(&"hidden-4".into(), &"hidden-2".into()).await.unwrap_err();
        assert_eq!(late.class(), ErrorClass::Conflict);
        file.save(&"hidden-3".into(), &"hidden-2".into()).await.unwrap();
        let read = file.read().await.unwrap().unwrap();
        assert_eq!((read.refresh_token.expose_secret(), read.client_secret.expose_secret()), ("hidden-3", "hidden-1"));
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains("hidden") && !format!("{file:?}{account:?}").contains("hidden"));
        assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);

        let error = AccountFile::new(file.path(), ring()).read().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        let at = text.rfind('.').unwrap() + 1;
        let other = if text[at..].starts_with('A') { "B" } else { "A" };
        std::fs::write(file.path(), format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
        assert!(file.read().await.is_err());
    }
}
