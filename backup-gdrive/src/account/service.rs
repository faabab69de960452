//! Service accounts: a signed claim in place of a person's consent (RFC 7523; "Using OAuth 2.0 for Server to Server Applications").

use backup_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::fmt;

/// With a service account there is no person to limit the app to its own files, and a folder is shared with it.
const SCOPE: &str = "https://www.googleapis.com/auth/drive";
/// How long a claim counts, in seconds: the most that is allowed.
const LIFE: i64 = 3600;

/// The key file of a service account.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: SecretString,
    #[serde(default)]
    private_key_id: Option<String>,
    token_uri: String,
}

pub(super) struct ServiceKey {
    file: KeyFile,
    subject: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, subject } = self;
        f.debug_struct("ServiceKey")
            .field("email", &file.client_email)
            .field("subject", subject)
            .finish_non_exhaustive()
    }
}

fn parse(key: &SecretString) -> Result<KeyFile> {
    // What serde says of a wrong file may repeat some of it.
    serde_json::from_str(key.expose_secret()).map_err(|_| {
        Error::invalid("not the key file of a service account: JSON with client_email, private_key and token_uri")
            .on("key")
    })
}

fn signer(file: &KeyFile) -> Result<jsonwebtoken::EncodingKey> {
    jsonwebtoken::EncodingKey::from_rsa_pem(file.private_key.expose_secret().as_bytes())
        .map_err(|_| Error::invalid("the private key in the key file cannot be read").on("key"))
}

/// Looks for what cannot be right in a key file.
///
/// # Errors
/// `Invalid`.
pub(crate) fn check(key: &SecretString) -> Result<()> {
    signer(&parse(key)?).map(|_| ())
}

impl ServiceKey {
    pub(super) fn new(key: &SecretString, subject: Option<String>) -> Result<Self> {
        Ok(Self { file: parse(key)?, subject })
    }

    pub(super) fn token_uri(&self) -> &str {
        &self.file.token_uri
    }

    /// A claim that is signed at a time.
    pub(super) fn assertion(&self, now: jiff::Timestamp) -> Result<SecretString> {
        let now = now.as_second();
        let Self { file, subject } = self;
        let claims = Claims {
            iss: &file.client_email,
            scope: SCOPE,
            aud: &file.token_uri,
            iat: now,
            exp: now.saturating_add(LIFE),
            sub: subject.as_deref(),
        };
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
        header.kid.clone_from(&file.private_key_id);
        let signed = jsonwebtoken::encode(&header, &claims, &signer(file)?);
        signed
            .map(SecretString::from)
            .map_err(|_| Error::invalid("the key of the service account cannot sign").on("key"))
    }
}
