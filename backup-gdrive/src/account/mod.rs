//! Who uses a drive: consent of a person, service accounts, and access tokens.
//!
//! A person's consent is got with [`OAuthClient`], by a web server or by a program on the person's own machine, and is kept as a refresh token
//! in a [`TokenStore`]; [`AccountFile`] is one. Google may rotate a refresh token; what it gives is written back before it is used.
//!
//! ```no_run
//! use backup_gdrive::account::{OAuthClient, PendingConsent};
//!
//! # async fn example(secret: secrecy::SecretString, state: String, code: String) -> backup_core::Result<()> {
//! let client = OAuthClient::new("1234.apps.googleusercontent.com", secret);
//! // The person presses "connect": keep `pending` in the session, redirect the browser to `pending.url()`.
//! let pending = client.start("https://backups.example.org/google/callback")?;
//! let (kept_state, kept_verifier) = (pending.state().to_owned(), pending.verifier().clone());
//! // The browser comes back with `state` and `code` (the session's cookie must be SameSite=Lax for this):
//! let pending = PendingConsent::from_parts("https://backups.example.org/google/callback", kept_state, kept_verifier);
//! let refresh_token = client.finish(&pending, &state, &code).await?;
//! # let _ = refresh_token;
//! # Ok(())
//! # }
//! ```

mod file;
mod oauth;
mod service;
mod tokens;

pub use file::{Account, AccountFile};
pub use oauth::{OAuthClient, PendingConsent, SCOPE};
pub(crate) use service::check as check_service_key;
pub(crate) use tokens::Tokens;

use async_trait::async_trait;
use backup_core::Result;
use secrecy::SecretString;

/// Where a person's refresh token is kept.
#[async_trait]
pub trait TokenStore: std::fmt::Debug + Send + Sync + 'static {
    /// The token.
    ///
    /// # Behavior
    /// - `None` when nobody has signed in.
    /// - Gives what was saved last, also by another process.
    async fn load(&self) -> Result<Option<SecretString>>;

    /// Keeps a token in place of the one that it was got for.
    ///
    /// # Behavior
    /// - Durable on return; after an error the one before is still there.
    /// - When another than `instead_of` is kept by now, that of a process that was faster or of a new consent, it stays, and the answer is
    ///   `Conflict`; the token itself already being there is success.
    async fn save(&self, refresh_token: &SecretString, instead_of: &SecretString) -> Result<()>;
}
