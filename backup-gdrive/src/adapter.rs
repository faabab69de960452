//! Folders of Google Drive as the service knows them.

use crate::account::TokenStore;
use crate::{Credentials, GDrive, GDriveConfig, GDriveDestination};
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::Destination;
use backup_core::service::{Adapter, AdapterConfig, Role, SecretKeeper};
use secrecy::SecretString;
use serde_json::Value;
use std::sync::Arc;

/// Connections of kind `gdrive`: a folder and an account, configured by a [`GDriveConfig`]. A refresh token that Google rotates is written
/// back into the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct GDriveAdapter;

/// Where the refresh token stands in the configuration.
const REFRESH_TOKEN: &str = "/credentials/refresh_token";

/// The refresh token of a stored connection.
#[derive(Debug)]
struct StoredToken(Arc<dyn SecretKeeper>);

#[async_trait]
impl TokenStore for StoredToken {
    async fn load(&self) -> Result<Option<SecretString>> {
        self.0.load(REFRESH_TOKEN).await
    }

    async fn save(&self, refresh_token: &SecretString, instead_of: &SecretString) -> Result<()> {
        self.0.save(REFRESH_TOKEN, refresh_token, instead_of).await
    }
}

#[async_trait]
impl Adapter for GDriveAdapter {
    fn kind(&self) -> &str {
        "gdrive"
    }

    fn roles(&self) -> &[Role] {
        &[Role::Destination]
    }

    fn config_schema(&self) -> Value {
        schemars::schema_for!(GDriveConfig).to_value()
    }

    async fn destination(&self, config: &AdapterConfig) -> Result<Arc<dyn Destination>> {
        let drive: GDriveConfig = config.parse()?;
        let drive = match (&drive.credentials, config.keeper()) {
            (Credentials::User { .. }, Some(keeper)) => {
                GDrive::with_token_store(drive, Arc::new(StoredToken(keeper.clone())))?
            }
            _ => GDrive::new(drive)?,
        };
        Ok(Arc::new(GDriveDestination::new(drive)))
    }
}
