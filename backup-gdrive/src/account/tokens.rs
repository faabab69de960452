//! Access tokens: kept until shortly before they end, got anew by one request at a time.

use super::oauth::{Answer, post};
use super::service::ServiceKey;
use super::{OAuthClient, TokenStore};
use crate::config::{Credentials, GDriveConfig};
use async_trait::async_trait;
use backup_core::{Error, ErrorClass, Result};
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// No token is kept for longer, whatever the answer says: times further off may not be counted.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// A token is got anew so long before its end.
const EARLY: Duration = Duration::from_secs(60);

/// The access token of an account.
#[derive(Debug)]
pub(crate) struct Tokens {
    grant: Arc<Grant>,
    http: Client,
    current: Arc<Mutex<Option<Current>>>,
}

struct Current {
    token: SecretString,
    until: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("until", &self.until).finish_non_exhaustive()
    }
}

/// What an access token is got for.
#[derive(Debug)]
enum Grant {
    User { client: OAuthClient, store: Arc<dyn TokenStore> },
    Service(ServiceKey),
}

/// A token of the configuration: kept in memory.
struct Configured(std::sync::Mutex<Option<SecretString>>);

impl std::fmt::Debug for Configured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Configured")
    }
}

#[async_trait]
impl TokenStore for Configured {
    async fn load(&self) -> Result<Option<SecretString>> {
        Ok(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }

    async fn save(&self, refresh_token: &SecretString) -> Result<()> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(refresh_token.clone());
        Ok(())
    }
}

impl Tokens {
    pub(crate) fn new(config: &GDriveConfig, http: Client, store: Option<Arc<dyn TokenStore>>) -> Result<Self> {
        let grant = match &config.credentials {
            Credentials::User { client_id, client_secret, refresh_token } => {
                let configured = || -> Arc<dyn TokenStore> { Arc::new(Configured(refresh_token.clone().into())) };
                let mut client = OAuthClient::new(client_id, client_secret.clone());
                if let Some(endpoint) = &config.endpoint {
                    client = client.with_endpoint(endpoint)?;
                }
                Grant::User { client, store: store.unwrap_or_else(configured) }
            }
            Credentials::ServiceAccount { key, subject } => Grant::Service(ServiceKey::new(key, subject.clone())?),
        };
        Ok(Self { grant: Arc::new(grant), http, current: Arc::default() })
    }

    /// A token that counts for a while yet.
    pub(crate) async fn get(&self) -> Result<SecretString> {
        self.current(None).await
    }

    /// Gets another in place of one that the service has refused, unless that has been done already.
    pub(crate) async fn renew(&self, refused: &SecretString) -> Result<()> {
        self.current(Some(refused)).await.map(|_| ())
    }

    async fn current(&self, refused: Option<&SecretString>) -> Result<SecretString> {
        // Goes on when the caller does not wait any more: a refresh token that was rotated must not get lost.
        let (grant, http, current) = (self.grant.clone(), self.http.clone(), self.current.clone());
        let mut held = current.lock_owned().await;
        let refused = refused.map(ExposeSecret::expose_secret);
        if let Some(current) = held.as_ref()
            && current.until > Instant::now()
            && refused != Some(current.token.expose_secret())
        {
            return Ok(current.token.clone());
        }
        let got = tokio::spawn(async move {
            *held = None;
            let (token, life) = grant.fetch(&http).await?;
            *held =
                Some(Current { token: token.clone(), until: Instant::now() + life.min(LONGEST).saturating_sub(EARLY) });
            Ok(token)
        });
        got.await.map_err(|e| Error::cancelled("signing in was stopped").because(e))?
    }
}

impl Grant {
    /// A new token, and how long it counts.
    async fn fetch(&self, http: &Client) -> Result<(SecretString, Duration)> {
        match self {
            Self::Service(key) => {
                let assertion = key.assertion()?;
                let form = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                    ("assertion", assertion.expose_secret()),
                ];
                let Answer { access, life, .. } =
                    post(http, key.token_uri(), &form).await.map_err(|e| match e.class() {
                        ErrorClass::Unauthorized => {
                            e.context("the service account was refused; check its key, and the clock")
                        }
                        _ => e,
                    })?;
                Ok((access, life))
            }
            Self::User { client, store } => {
                let Some(token) = store.load().await? else {
                    return Err(Error::unauthorized("nobody has signed in to Google Drive"));
                };
                match refresh(client, http, &**store, &token).await {
                    Err(e) if e.class() == ErrorClass::Unauthorized => {
                        // Another process may have got a newer one, or somebody has signed in again.
                        match store.load().await? {
                            Some(newer) if newer.expose_secret() != token.expose_secret() => {
                                refresh(client, http, &**store, &newer).await
                            }
                            _ => Err(e),
                        }
                    }
                    got => got,
                }
            }
        }
    }
}

async fn refresh(
    client: &OAuthClient,
    http: &Client,
    store: &dyn TokenStore,
    token: &SecretString,
) -> Result<(SecretString, Duration)> {
    let Answer { access, refresh, life } = client.refresh(http, token).await?;
    if let Some(rotated) = refresh.filter(|rotated| rotated.expose_secret() != token.expose_secret()) {
        store.save(&rotated).await.map_err(|e| e.context("a new refresh token could not be kept"))?;
    }
    Ok((access, life))
}
