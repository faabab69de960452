//! Writes secrets that a service has replaced back into their connection.

use super::config::{self, SecretKeeper};
use crate::adapter::Store;
use crate::model::{Connection, ConnectionContent, ConnectionId};
use crate::secrets::{KeyRingProvider, open_connection, seal_connection};
use crate::{Error, ErrorClass, Result};
use async_trait::async_trait;
use secrecy::SecretString;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The secrets of a configuration that is not stored yet.
pub(super) struct UnstoredKeeper(Mutex<SecretString>);

impl UnstoredKeeper {
    pub(super) fn new(config: SecretString) -> Self {
        Self(Mutex::new(config))
    }

    /// The configuration as it is now.
    pub(super) fn config(&self) -> SecretString {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    async fn save(&self, pointer: &str, secret: &SecretString) -> Result<()> {
        let mut config = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *config = config::set(&config, pointer, secret)?;
        Ok(())
    }
}

/// The secrets of one connection.
pub(super) struct ConnectionKeeper {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<dyn KeyRingProvider>,
    pub(super) id: ConnectionId,
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
}

#[async_trait]
impl SecretKeeper for ConnectionKeeper {
    async fn load(&self, pointer: &str) -> Result<Option<SecretString>> {
        Ok(config::get(&self.open().await?.1, pointer))
    }

    async fn save(&self, pointer: &str, secret: &SecretString) -> Result<()> {
        loop {
            let (connection, secrets) = self.open().await?;
            let secrets = config::set(&secrets, pointer, secret)?;
            let ring = self.keys.ring().await?;
            let sealed = seal_connection(&ring, &self.id, &connection.kind, &secrets)?;
            let content = ConnectionContent { secret: Some(sealed), ..connection.content };
            match self.store.update_connection(&self.id, connection.version, content).await {
                // Somebody has changed the connection meanwhile; look again.
                Err(e) if e.class() == ErrorClass::Conflict => {}
                result => return result.map(|_| ()),
            }
        }
    }
}
