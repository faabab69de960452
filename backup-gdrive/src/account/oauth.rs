//! The consent of a person: OAuth 2.0 with an authorization code (RFC 6749), PKCE (RFC 7636) and a `state`.
//!
//! Google's particulars: "Using OAuth 2.0 for Web Server Applications" in its documentation. Without `access_type=offline` and
//! `prompt=consent` there is no refresh token on a second consent.

use crate::config::check_endpoint;
use crate::error::{no_answer, not_understood, shown};
use crate::send::{SMALL, date, http_client, read};
use backup_core::{Digest, Error, ErrorClass, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// The right that is asked for: files and folders that the app itself has made, and no others.
pub const SCOPE: &str = "https://www.googleapis.com/auth/drive.file";
const AUTHORIZE: &str = "https://accounts.google.com/o/oauth2/v2/auth";
const TOKEN: &str = "https://oauth2.googleapis.com/token";
const ANSWER: Duration = Duration::from_secs(60);

/// An app that is registered with Google ("OAuth client" in its console).
pub struct OAuthClient {
    id: String,
    secret: SecretString,
    authorize: String,
    token: String,
}

impl fmt::Debug for OAuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClient").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A person was asked and has not answered yet. Keep it in the person's session.
pub struct PendingConsent {
    redirect_uri: String,
    url: String,
    state: String,
    verifier: SecretString,
}

impl fmt::Debug for PendingConsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingConsent").field("redirect_uri", &self.redirect_uri).finish_non_exhaustive()
    }
}

impl PendingConsent {
    /// What was kept of one, in another process or at a later request.
    pub fn from_parts(redirect_uri: impl Into<String>, state: impl Into<String>, verifier: SecretString) -> Self {
        Self { redirect_uri: redirect_uri.into(), url: String::new(), state: state.into(), verifier }
    }

    /// Where to send the person's browser; empty after [`from_parts`](Self::from_parts).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Comes back with the browser, and shows that the answer belongs to this question.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// Shows Google that who asked is who gets the answer.
    pub fn verifier(&self) -> &SecretString {
        &self.verifier
    }
}

/// What the token address gives.
pub(super) struct Answer {
    pub(super) access: SecretString,
    pub(super) refresh: Option<SecretString>,
    pub(super) life: Duration,
}

#[derive(Deserialize)]
struct Success {
    access_token: SecretString,
    #[serde(default)]
    refresh_token: Option<SecretString>,
    expires_in: u64,
}

#[derive(Deserialize)]
struct Failure {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// 256 random bits as text.
fn random() -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(rand::random::<[u8; 32]>()))
}

impl OAuthClient {
    /// The app, by what Google's console shows.
    pub fn new(id: impl Into<String>, secret: SecretString) -> Self {
        Self { id: id.into(), secret, authorize: AUTHORIZE.to_owned(), token: TOKEN.to_owned() }
    }

    /// The same, at another address than Google's: for tests.
    ///
    /// # Errors
    /// `Invalid` when it is no address.
    pub fn with_endpoint(self, endpoint: &str) -> Result<Self> {
        check_endpoint(endpoint)?;
        let endpoint = endpoint.trim_end_matches('/');
        Ok(Self { authorize: format!("{endpoint}/o/oauth2/v2/auth"), token: format!("{endpoint}/token"), ..self })
    }

    /// Begins: gives the address where the person is asked. `redirect_uri` must be one that is registered with Google, or a loopback address
    /// of a desktop app.
    ///
    /// # Errors
    /// `Invalid` when `redirect_uri` is no address.
    pub fn start(&self, redirect_uri: &str) -> Result<PendingConsent> {
        url::Url::parse(redirect_uri).map_err(|e| Error::invalid("not an address to come back to").because(e))?;
        let mut url = url::Url::parse(&self.authorize).map_err(|e| Error::invalid("not an address").because(e))?;
        let (state, verifier) = (random().to_string(), SecretString::from(random().as_str()));
        let challenge = BASE64.encode(Digest::of(verifier.expose_secret().as_bytes()).0);
        url.query_pairs_mut().extend_pairs([
            ("client_id", &*self.id),
            ("redirect_uri", redirect_uri),
            ("response_type", "code"),
            ("scope", SCOPE),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("access_type", "offline"),
            ("prompt", "consent"),
        ]);
        Ok(PendingConsent { redirect_uri: redirect_uri.to_owned(), url: url.into(), state, verifier })
    }

    /// Ends: turns the `code` that the browser brought into a refresh token.
    ///
    /// # Errors
    /// `Invalid` when `state` is not that of the question: somebody else's browser came, or an old page. `Unauthorized` when Google refuses the
    /// code.
    pub async fn finish(&self, pending: &PendingConsent, state: &str, code: &str) -> Result<SecretString> {
        // Compared by digest, so that the time tells nothing.
        if Digest::of(state.as_bytes()) != Digest::of(pending.state.as_bytes()) {
            return Err(Error::invalid("the answer does not belong to this sign-in; start it again"));
        }
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &*pending.redirect_uri),
            ("code_verifier", pending.verifier.expose_secret()),
            ("client_id", &*self.id),
            ("client_secret", self.secret.expose_secret()),
        ];
        let answer = post(&http_client()?, ANSWER, &self.token, &form).await?;
        answer.refresh.ok_or_else(|| {
            Error::permanent(
                "Google gave no refresh token; remove the app in the account's settings, and sign in again",
            )
        })
    }

    pub(super) async fn refresh(&self, http: &Client, limit: Duration, token: &SecretString) -> Result<Answer> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token.expose_secret()),
            ("client_id", &*self.id),
            ("client_secret", self.secret.expose_secret()),
        ];
        Ok(post(http, limit, &self.token, &form).await?)
    }
}

/// An answer that is none, or a refusal.
pub(super) struct Refused {
    pub(super) error: Error,
    /// The time on the other side's clock.
    pub(super) date: Option<jiff::Timestamp>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, date: None }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

/// Asks for tokens. No part of the form or of a good answer gets into an error.
pub(super) async fn post(http: &Client, limit: Duration, url: &str, form: &[(&str, &str)]) -> Result<Answer, Refused> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = http.post(url).header("content-type", "application/x-www-form-urlencoded").timeout(limit).body(body);
    let response = request.send().await.map_err(no_answer)?;
    let (status, date) = (response.status().as_u16(), date(response.headers()));
    let body = Zeroizing::new(read(response, limit, SMALL).await?);
    if status == 200 {
        let Success { access_token, refresh_token, expires_in } =
            serde_json::from_slice(&body).map_err(|_| not_understood())?;
        return Ok(Answer { access: access_token, refresh: refresh_token, life: Duration::from_secs(expires_in) });
    }
    let failure = serde_json::from_slice::<Failure>(&body).ok();
    let code = failure.as_ref().map(|failure| failure.error.as_str()).unwrap_or_default();
    let error = match (status, code) {
        (_, "invalid_grant") => Error::unauthorized("Google does not accept the sign-in any more; sign in again"),
        (_, "invalid_client" | "unauthorized_client") => {
            Error::unauthorized("Google does not know the app; check client id and secret")
        }
        (429, _) => Error::new(ErrorClass::Throttled { after: None }, "Google asks for fewer sign-ins"),
        (500.., _) => Error::transient("signing in to Google met a passing fault"),
        _ if failure.is_none() => not_understood(),
        _ => Error::permanent("Google refuses the sign-in"),
    };
    let error = match failure {
        Some(Failure { error: code, error_description }) => error.context_of(status, &code, &error_description),
        None => error,
    };
    Err(Refused { error, date })
}

/// Adds what was answered.
trait ContextOf {
    fn context_of(self, status: u16, code: &str, description: &str) -> Self;
}

impl ContextOf for Error {
    fn context_of(self, status: u16, code: &str, description: &str) -> Self {
        let text = format!("HTTP status {status}, {}: {}", shown(code), shown(description));
        self.because(Said(text))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_carries_a_challenge_and_no_secret() {
        let client = OAuthClient::new("id", "hidden".into());
        let pending = client.start("http://127.0.0.1:1234/").unwrap();
        let url = url::Url::parse(pending.url()).unwrap();
        let of: std::collections::HashMap<_, _> = url.query_pairs().into_owned().collect();
        let challenge = BASE64.encode(Digest::of(pending.verifier().expose_secret().as_bytes()).0);
        assert_eq!((&of["code_challenge"], &of["state"]), (&challenge, &pending.state().to_owned()));
        assert!(pending.verifier().expose_secret().len() >= 43);
        for text in [pending.url(), &format!("{pending:?}{client:?}")] {
            assert!(!text.contains("hidden") && !text.contains(pending.verifier().expose_secret()), "{text}");
        }
        assert_ne!(client.start("http://127.0.0.1:1234/").unwrap().state(), pending.state());
        assert!(client.start("nowhere").is_err());
    }

    #[tokio::test]
    async fn an_answer_to_another_question_is_refused_without_asking_anybody() {
        let client = OAuthClient::new("id", "hidden".into());
        let pending = client.start("http://127.0.0.1:1234/").unwrap();
        let error = client.finish(&pending, "another", "code").await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
    }
}
