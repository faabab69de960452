//! Writes secrets that a service has replaced back into their connection.

use super::config::{self, SecretKeeper};
use crate::adapter::Store;
use crate::model::{Connection, ConnectionContent, ConnectionId};
use crate::retry::{Attempts, RetryPolicy, SystemBackoff};
use crate::secrets::{KeyRingProvider, open_connection, seal_connection};
use crate::{Error, ErrorClass, Result};
use async_trait::async_trait;
use secrecy::SecretString;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a store that is away is waited for, about two minutes: what a service has replaced counts no more, and to lose what it gave
/// instead is to lose the access.
const PATIENCE: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(20),
    jitter: 0.5,
    attempts: NonZeroU32::MIN.saturating_add(12),
    max_throttle: Duration::from_secs(60),
};

/// The secrets of a configuration that is not stored yet.
pub(super) struct UnstoredKeeper {
    unstored: Mutex<Unstored>,
    /// What is changed, when that is stored already: of its secrets, what is replaced is kept at once, whatever becomes of the change.
    stored: Option<ConnectionKeeper>,
}

struct Unstored {
    config: SecretString,
    /// Of the stored connection, as the one who changes it knows it.
    version: u64,
}

impl UnstoredKeeper {
    pub(super) fn new(config: SecretString) -> Self {
        Self { unstored: Mutex::new(Unstored { config, version: 0 }), stored: None }
    }

    /// Of a change to a stored connection.
    pub(super) fn of_change(config: SecretString, version: u64, stored: ConnectionKeeper) -> Self {
        Self { unstored: Mutex::new(Unstored { config, version }), stored: Some(stored) }
    }

    /// The configuration as it is now.
    pub(super) fn config(&self) -> SecretString {
        self.lock().config.clone()
    }

    /// The version of the stored connection, when nobody has changed it but this keeper.
    pub(super) fn version(&self) -> u64 {
        self.lock().version
    }

    fn lock(&self) -> MutexGuard<'_, Unstored> {
        self.unstored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for UnstoredKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnstoredKeeper")
    }
}

#[async_trait]
impl SecretKeeper for UnstoredKeeper {
    async fn load(&self, pointer: &str) -> Result<Option<SecretString>> {
        Ok(config::get(&self.config(), pointer))
    }

    async fn save(&self, pointer: &str, secret: &SecretString, instead_of: &SecretString) -> Result<()> {
        {
            let mut unstored = self.lock();
            let Some(changed) = config::replace(&unstored.config, pointer, secret, instead_of)? else { return Ok(()) };
            unstored.config = changed;
        }
        let Some(stored) = &self.stored else { return Ok(()) };
        match stored.keep(pointer, secret, instead_of).await {
            Ok(Some(kept)) => {
                let mut unstored = self.lock();
                if unstored.version == kept.before {
                    unstored.version = kept.after;
                }
            }
            Ok(None) => {}
            // It is in place of one that the change has brought.
            Err(e) if e.class() == ErrorClass::Conflict => {}
            // The change, when it is stored, has it in it.
            Err(e) => tracing::warn!(error = %e.chain(), "a secret that was replaced could not be kept"),
        }
        Ok(())
    }
}

/// The secrets of one connection.
#[derive(Clone)]
pub(super) struct ConnectionKeeper {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<dyn KeyRingProvider>,
    pub(super) id: ConnectionId,
}

/// Versions of a connection before and after a secret was kept.
struct Kept {
    before: u64,
    after: u64,
}

impl fmt::Debug for ConnectionKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionKeeper({})", self.id)
    }
}

impl ConnectionKeeper {
    async fn open(&self) -> Result<(Connection, SecretString)> {
        let connection = self.store.connection(&self.id).await?;
        let connection = connection.ok_or_else(|| Error::not_found("the connection is gone").on(&self.id))?;
        let secrets = open_connection(&*self.keys.ring().await?, &connection)?;
        Ok((connection, secrets.unwrap_or_else(|| "{}".into())))
    }

    /// Keeps a secret, in a task of its own: it goes on when nobody waits for it any more. `None` when it is there already.
    async fn keep(&self, pointer: &str, secret: &SecretString, instead_of: &SecretString) -> Result<Option<Kept>> {
        let (keeper, pointer) = (self.clone(), pointer.to_owned());
        let (secret, instead_of) = (secret.clone(), instead_of.clone());
        let task = tokio::spawn(async move {
            let mut attempts = Attempts::new("keeping a replaced secret", PATIENCE, Arc::new(SystemBackoff));
            loop {
                match keeper.put(&pointer, &secret, &instead_of).await {
                    // Somebody has changed the connection meanwhile; look again at what it has.
                    Ok(Put::Overtaken) => {}
                    Ok(Put::Kept(kept)) => return Ok(Some(kept)),
                    Ok(Put::There) => return Ok(None),
                    Err(error) => attempts.failed(error).await?,
                }
            }
        });
        task.await.unwrap_or_else(|e| Err(Error::transient("a replaced secret was not kept").because(e).on(&self.id)))
    }

    async fn put(&self, pointer: &str, secret: &SecretString, instead_of: &SecretString) -> Result<Put> {
        let (connection, secrets) = self.open().await?;
        let replaced = config::replace(&secrets, pointer, secret, instead_of).map_err(|e| e.on(&self.id))?;
        let Some(secrets) = replaced else { return Ok(Put::There) };
        let ring = self.keys.ring().await?;
        let sealed = seal_connection(&ring, &self.id, &connection.kind, &secrets)?;
        let content = ConnectionContent { secret: Some(sealed), ..connection.content };
        match self.store.update_connection(&self.id, connection.version, content).await {
            Ok(after) => Ok(Put::Kept(Kept { before: connection.version, after: after.version })),
            Err(e) if e.class() == ErrorClass::Conflict => Ok(Put::Overtaken),
            Err(e) => Err(e),
        }
    }
}

/// What became of one try to keep a secret.
enum Put {
    Kept(Kept),
    There,
    Overtaken,
}

#[async_trait]
impl SecretKeeper for ConnectionKeeper {
    async fn load(&self, pointer: &str) -> Result<Option<SecretString>> {
        Ok(config::get(&self.open().await?.1, pointer))
    }

    async fn save(&self, pointer: &str, secret: &SecretString, instead_of: &SecretString) -> Result<()> {
        self.keep(pointer, secret, instead_of).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ConnectionStore;
    use crate::memory::MemoryStore;
    use crate::model::NewConnection;
    use crate::secrets::{KeyRing, SecretKey};
    use secrecy::ExposeSecret;

    const TOKEN: &str = "/credentials/token";

    #[tokio::test]
    async fn a_late_token_does_not_replace_a_newer_one() {
        let key = SecretKey::parse(&crate::archive::generate_key_file().unwrap()).unwrap();
        let keys = Arc::new(KeyRing::new(key));
        let store = MemoryStore::new();
        let id = ConnectionId::generate(jiff::Timestamp::now());
        let secrets = SecretString::from(r#"{"credentials":{"token":"1","other":"stays"}}"#);
        let secret = Some(seal_connection(&keys, &id, "drive", &secrets).unwrap());
        let content = ConnectionContent { name: "drive".into(), settings: serde_json::json!({}), secret };
        store.create_connection(NewConnection { id: id.clone(), kind: "drive".into(), content }).await.unwrap();
        let keeper =
            || ConnectionKeeper { store: Arc::new(store.clone()), keys: Arc::new(keys.clone()), id: id.clone() };
        let unstored = Arc::new(UnstoredKeeper::new(secrets));
        let keepers: [(Arc<dyn SecretKeeper>, Arc<dyn SecretKeeper>); 2] =
            [(Arc::new(keeper()), Arc::new(keeper())), (unstored.clone(), unstored)];
        for (worker, late) in keepers {
            let stored =
                async |of: &Arc<dyn SecretKeeper>| of.load(TOKEN).await.unwrap().unwrap().expose_secret().to_owned();
            worker.save(TOKEN, &"2".into(), &"1".into()).await.unwrap();
            worker.save(TOKEN, &"3".into(), &"2".into()).await.unwrap();
            // One whose lease is lost got its own for the first token.
            let refused = late.save(TOKEN, &"2b".into(), &"1".into()).await.unwrap_err();
            assert_eq!(refused.class(), ErrorClass::Conflict);
            assert!(!refused.chain().contains("2b"), "{}", refused.chain());
            assert_eq!(stored(&late).await, "3");
            // An answer that got lost.
            worker.save(TOKEN, &"3".into(), &"2".into()).await.unwrap();
            assert_eq!(stored(&worker).await, "3");
            let other = worker.load("/credentials/other").await.unwrap().unwrap();
            assert_eq!(other.expose_secret(), "stays");
        }
        assert_eq!(store.connection(&id).await.unwrap().unwrap().version, 3);
    }

    /// Of many that save at once, each for what it has read, none is lost that another has built on.
    #[tokio::test(flavor = "multi_thread")]
    async fn changes_of_the_connection_meanwhile_do_not_matter() {
        let key = SecretKey::parse(&crate::archive::generate_key_file().unwrap()).unwrap();
        let keys = Arc::new(KeyRing::new(key));
        let store = MemoryStore::new();
        let id = ConnectionId::generate(jiff::Timestamp::now());
        let secrets = SecretString::from(r#"{"token":"0"}"#);
        let secret = Some(seal_connection(&keys, &id, "drive", &secrets).unwrap());
        let content = ConnectionContent { name: "0".into(), settings: serde_json::json!({}), secret };
        store.create_connection(NewConnection { id: id.clone(), kind: "drive".into(), content }).await.unwrap();
        let keeper = ConnectionKeeper { store: Arc::new(store.clone()), keys: Arc::new(keys), id: id.clone() };
        let rename = async {
            for name in 1..50 {
                let connection = store.connection(&id).await.unwrap().unwrap();
                let content = ConnectionContent { name: name.to_string(), ..connection.content };
                // A token that was saved meanwhile wins.
                let _ = store.update_connection(&id, connection.version, content).await;
                tokio::task::yield_now().await;
            }
        };
        let rotate = async {
            for n in 0..50 {
                let (before, next) = (SecretString::from(n.to_string()), SecretString::from((n + 1).to_string()));
                keeper.save("/token", &next, &before).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(rename, rotate);
        assert_eq!(keeper.load("/token").await.unwrap().unwrap().expose_secret(), "50");
    }
}
