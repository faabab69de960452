//! Access tokens: kept until shortly before they end, got anew by one request at a time.

use super::oauth::{Answer, Refused, post};
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

/// By how much two clocks may differ without anybody minding.
const CLOCKS: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);
const NOT_KEPT: &str =
    "a new refresh token of Google Drive could not be kept; that is tried again later, and this process goes on";

/// The access token of an account.
#[derive(Debug)]
pub(crate) struct Tokens {
    grant: Arc<Grant>,
    http: Client,
    /// How long an answer may take.
    limit: Duration,
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
    User(Person),
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

    async fn save(&self, refresh_token: &SecretString, _: &SecretString) -> Result<()> {
        // Nobody else has it.
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
                Grant::User(Person { client, store: store.unwrap_or_else(configured), unsaved: Mutex::default() })
            }
            Credentials::ServiceAccount { key, subject } => Grant::Service(ServiceKey::new(key, subject.clone())?),
        };
        Ok(Self { grant: Arc::new(grant), http, limit: config.limits.answer(), current: Arc::default() })
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
        let (grant, http, limit, current) = (self.grant.clone(), self.http.clone(), self.limit, self.current.clone());
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
            let (token, life) = grant.fetch(&http, limit).await?;
            *held =
                Some(Current { token: token.clone(), until: Instant::now() + life.min(LONGEST).saturating_sub(EARLY) });
            Ok(token)
        });
        got.await.map_err(|e| Error::cancelled("signing in was stopped").because(e))?
    }
}

impl Grant {
    /// A new token, and how long it counts.
    async fn fetch(&self, http: &Client, limit: Duration) -> Result<(SecretString, Duration)> {
        match self {
            Self::Service(key) => {
                let answer = match claim(key, http, limit, jiff::Timestamp::now()).await {
                    // It would be refused for a clock that is wrong; theirs is the one that counts.
                    Err(Refused { error, date: Some(theirs) })
                        if error.class() == ErrorClass::Unauthorized
                            && theirs.duration_since(jiff::Timestamp::now()).abs() > CLOCKS =>
                    {
                        tracing::warn!(%theirs, "this machine's clock differs from Google's; theirs is used to sign in");
                        claim(key, http, limit, theirs).await
                    }
                    answer => answer,
                };
                let Answer { access, life, .. } = answer.map_err(|Refused { error, .. }| match error.class() {
                    ErrorClass::Unauthorized => error.context("the service account was refused; check its key"),
                    _ => error,
                })?;
                Ok((access, life))
            }
            Self::User(person) => person.fetch(http, limit).await,
        }
    }
}

/// Signs in as a service account at a time.
async fn claim(key: &ServiceKey, http: &Client, limit: Duration, now: jiff::Timestamp) -> Result<Answer, Refused> {
    let assertion = key.assertion(now)?;
    let form =
        [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.expose_secret())];
    post(http, limit, key.token_uri(), &form).await
}

/// A person's refresh token, where it is kept.
struct Person {
    client: OAuthClient,
    store: Arc<dyn TokenStore>,
    unsaved: Mutex<Option<Unsaved>>,
}

/// A refresh token that was rotated and could not be kept.
struct Unsaved {
    token: SecretString,
    /// The one that is still in the store.
    instead_of: SecretString,
}

impl std::fmt::Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Person").field("client", &self.client).field("store", &self.store).finish_non_exhaustive()
    }
}

fn same(a: &SecretString, b: &SecretString) -> bool {
    a.expose_secret() == b.expose_secret()
}

impl Person {
    async fn fetch(&self, http: &Client, limit: Duration) -> Result<(SecretString, Duration)> {
        let token = self.token().await?;
        match self.refresh(http, limit, &token).await {
            Err(e) if e.class() == ErrorClass::Unauthorized => {
                // Another process may have got a newer one, or somebody has signed in again.
                match self.store.load().await? {
                    Some(newer) if !same(&newer, &token) => self.refresh(http, limit, &newer).await,
                    _ => Err(e),
                }
            }
            got => got,
        }
    }

    /// The refresh token that counts: the store's, or a newer one that the store has not taken yet.
    async fn token(&self) -> Result<SecretString> {
        let mut unsaved = self.unsaved.lock().await;
        let stored = self.store.load().await;
        let Some(Unsaved { token, instead_of }) = &*unsaved else {
            return stored?.ok_or_else(|| Error::unauthorized("nobody has signed in to Google Drive"));
        };
        match stored {
            // Somebody has signed in again, or out.
            Ok(stored) if stored.as_ref().is_none_or(|stored| !same(stored, instead_of)) => {
                *unsaved = None;
                stored.ok_or_else(|| Error::unauthorized("nobody has signed in to Google Drive"))
            }
            _ => {
                let token = token.clone();
                match self.store.save(&token, instead_of).await {
                    Ok(()) => *unsaved = None,
                    // Since it was read.
                    Err(error) if error.class() == ErrorClass::Conflict => {
                        *unsaved = None;
                        let stored = self.store.load().await?;
                        return stored.ok_or_else(|| Error::unauthorized("nobody has signed in to Google Drive"));
                    }
                    Err(error) => tracing::warn!(error = error.chain(), "{NOT_KEPT}"),
                }
                Ok(token)
            }
        }
    }

    async fn refresh(&self, http: &Client, limit: Duration, token: &SecretString) -> Result<(SecretString, Duration)> {
        let Answer { access, refresh, life } = self.client.refresh(http, limit, token).await?;
        if let Some(rotated) = refresh.filter(|rotated| !same(rotated, token)) {
            let mut unsaved = self.unsaved.lock().await;
            // The store may have one from before this one still.
            let instead_of = unsaved.take().map_or_else(|| token.clone(), |before| before.instead_of);
            *unsaved = match self.store.save(&rotated, &instead_of).await {
                Ok(()) => None,
                Err(error) if error.class() == ErrorClass::Conflict => {
                    tracing::debug!(error = error.chain(), "a newer refresh token of Google Drive is kept already");
                    None
                }
                Err(error) => {
                    // The one from before counts no more: to lose this one is to lose the consent.
                    tracing::warn!(error = error.chain(), "{NOT_KEPT}");
                    Some(Unsaved { token: rotated, instead_of })
                }
            };
        }
        Ok((access, life))
    }
}
