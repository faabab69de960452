//! What a user tells about a folder, and what can be wrong with it.

use backup_core::{Error, Result};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::time::Duration;

/// A folder of Google Drive, and how to reach it.
///
/// It is read from JSON (see [`JsonSchema`]; secrets are marked `writeOnly`) and never written back: nothing serialises a secret.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GDriveConfig {
    /// Id of the folder, as its address in the browser ends. With the usual scope `drive.file` an app sees only folders that it made itself.
    /// `root`, the top of one's own drive, is for [`GDrive::make_folder`](crate::GDrive::make_folder) only: it is another place for each
    /// account, so that no archives are kept under this name.
    pub folder: String,
    /// A path of folders below it, joined by `/`; they are made when they are missing.
    #[serde(default)]
    pub path: String,
    /// Id of the shared drive that the folder is in; without one, a person's own drive.
    #[serde(default)]
    pub drive: Option<String>,
    /// Who we are.
    pub credentials: Credentials,
    /// Address that is used in place of Google's, e.g. `http://127.0.0.1:8080`: for tests.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// How long to wait when the service asks for less.
    #[serde(default)]
    pub quota: QuotaPolicy,
    /// How long to wait for the service.
    #[serde(default)]
    pub limits: TimeLimits,
}

/// Who asks.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Credentials {
    /// A person who agreed ([`account`](crate::account) has the way there).
    User {
        /// Id of the OAuth client (of the app, not of the person).
        client_id: String,
        /// Secret of the OAuth client.
        #[serde(deserialize_with = "secret")]
        #[schemars(with = "String", extend("writeOnly" = true, "format" = "password"))]
        client_secret: SecretString,
        /// What the person's consent gave. When a token store is given to [`GDrive`](crate::GDrive), the store's counts.
        #[serde(default, deserialize_with = "optional_secret")]
        #[schemars(with = "Option<String>", extend("writeOnly" = true, "format" = "password"))]
        refresh_token: Option<SecretString>,
    },
    /// A service account. It owns no storage: use a shared drive, or act for a person.
    ServiceAccount {
        /// The key file that Google's console gives, as JSON text.
        #[serde(deserialize_with = "secret")]
        #[schemars(with = "String", extend("writeOnly" = true, "format" = "password"))]
        key: SecretString,
        /// E-mail address of the person for whom it acts (domain-wide delegation).
        #[serde(default)]
        subject: Option<String>,
    },
}

/// How long to wait when the service asks for fewer requests or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaPolicy {
    /// The first wait, in milliseconds; each further one is twice as long, less a part left to chance.
    pub first_wait_ms: u64,
    /// The longest wait, in milliseconds.
    pub longest_wait_ms: u64,
    /// For how long waits are repeated, in seconds. What the service refuses for longer is its daily cap (750 GB a day and user), which it tells
    /// in no other way.
    pub patience_s: u64,
    /// After how many seconds an operation that met the daily cap is to go on.
    pub pause_s: u64,
}

impl Default for QuotaPolicy {
    /// From one second to 64, for 15 minutes; then a pause of four hours.
    fn default() -> Self {
        Self { first_wait_ms: 1000, longest_wait_ms: 64_000, patience_s: 15 * 60, pause_s: 4 * 3600 }
    }
}

impl QuotaPolicy {
    /// The wait after so many refusals in a row (at least 1), with a random number from 0 up to 1.
    pub(crate) fn wait(&self, refusals: u32, random: f64) -> Duration {
        let full = self.first_wait_ms.saturating_mul(1 << refusals.saturating_sub(1).min(30)).min(self.longest_wait_ms);
        Duration::from_millis(full).mul_f64(1.0 - 0.5 * random.clamp(0.0, 1.0))
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_s)
    }

    pub(crate) fn pause(&self) -> Duration {
        Duration::from_secs(self.pause_s)
    }
}

/// How long to wait for a service that is slow, or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeLimits {
    /// How long an answer to a request about metadata may take, in milliseconds.
    pub answer_ms: u64,
    /// How long a connection may stand still while content is sent or received, in milliseconds.
    pub still_ms: u64,
    /// For how long requests are repeated, in seconds, when the service has passing faults (HTTP status 500 to 504) or the connection to it is
    /// lost. The waits between are those of [`QuotaPolicy`]. As long as it has never answered, requests are repeated twice only.
    pub outage_s: u64,
}

impl Default for TimeLimits {
    /// A minute, a minute and a half, and five minutes.
    fn default() -> Self {
        Self { answer_ms: 60_000, still_ms: 90_000, outage_s: 300 }
    }
}

impl TimeLimits {
    pub(crate) fn answer(&self) -> Duration {
        Duration::from_millis(self.answer_ms)
    }

    pub(crate) fn still(&self) -> Duration {
        Duration::from_millis(self.still_ms)
    }

    pub(crate) fn outage(&self) -> Duration {
        Duration::from_secs(self.outage_s)
    }
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<SecretString, D::Error> {
    String::deserialize(d).map(SecretString::from)
}

fn optional_secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    Option::<String>::deserialize(d).map(|secret| secret.map(SecretString::from))
}

fn invalid(field: &str, text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::invalid(text).on(format!("Google Drive configuration, {field}"))
}

/// Ids of files, folders and drives: letters, digits, `-` and `_`.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl GDriveConfig {
    /// A folder, by its id or `root`; everything else can be set afterwards.
    pub fn new(folder: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            folder: folder.into(),
            path: String::new(),
            drive: None,
            credentials,
            endpoint: None,
            quota: QuotaPolicy::default(),
            limits: TimeLimits::default(),
        }
    }

    /// Looks for what cannot be right, without asking the service.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what to write there.
    pub fn validate(&self) -> Result<()> {
        let Self { folder, path: _, drive, credentials, endpoint, quota, limits } = self;
        if !is_id(folder) {
            let text = "write the id of a folder, which its address in the browser ends with, or `root`";
            return Err(invalid("folder", text));
        }
        if self
            .components()
            .any(|part| part == "." || part == ".." || part.chars().any(char::is_control) || part.len() > 200)
        {
            return Err(invalid("path", "it is a path of folders: names without control characters, joined by `/`"));
        }
        if drive.as_deref().is_some_and(|drive| !is_id(drive)) {
            return Err(invalid("drive", "write the id of a shared drive, or leave it out"));
        }
        if let Some(endpoint) = endpoint {
            check_endpoint(endpoint)?;
        }
        if quota.first_wait_ms == 0 || quota.longest_wait_ms < quota.first_wait_ms || quota.pause_s == 0 {
            return Err(invalid(
                "quota",
                "the waits must be longer than nothing, and the longest not shorter than the first",
            ));
        }
        if limits.answer_ms == 0 || limits.still_ms == 0 {
            return Err(invalid("limits", "the times must be longer than nothing"));
        }
        match credentials {
            Credentials::User { client_id, .. } if client_id.trim().is_empty() => {
                Err(invalid("credentials", "the id of the OAuth client is missing"))
            }
            Credentials::User { .. } => Ok(()),
            Credentials::ServiceAccount { key, .. } => crate::account::check_service_key(key),
        }
    }

    /// The path's parts.
    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter(|part| !part.is_empty())
    }
}

pub(crate) fn check_endpoint(endpoint: &str) -> Result<()> {
    match url::Url::parse(endpoint) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none() =>
        {
            Ok(())
        }
        _ => Err(invalid("endpoint", "write it as in http://127.0.0.1:8080, without credentials")),
    }
}

impl fmt::Debug for GDriveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, path, drive, credentials, endpoint, quota, limits } = self;
        // Somebody may have put credentials there before anything was validated.
        let endpoint = endpoint.as_deref().map(|e| check_endpoint(e).map_or("(not valid)", |()| e));
        f.debug_struct("GDriveConfig")
            .field("folder", folder)
            .field("path", path)
            .field("drive", drive)
            .field("credentials", credentials)
            .field("endpoint", &endpoint)
            .field("quota", quota)
            .field("limits", limits)
            .finish()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { client_id, client_secret: _, refresh_token: _ } => {
                f.debug_struct("User").field("client_id", client_id).finish_non_exhaustive()
            }
            Self::ServiceAccount { key: _, subject } => {
                f.debug_struct("ServiceAccount").field("subject", subject).finish_non_exhaustive()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Credentials {
        let secret = |text: &str| SecretString::from(text);
        Credentials::User {
            client_id: "id".into(),
            client_secret: secret("hidden-1"),
            refresh_token: Some(secret("hidden-2")),
        }
    }

    #[test]
    fn what_cannot_be_right_is_named() {
        let good = GDriveConfig { path: "/a/b c/".into(), ..GDriveConfig::new("root", user()) };
        good.validate().unwrap();
        let field = |change: fn(&mut GDriveConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(field(|c| c.folder = "https://drive.google.com/x".into()).contains("folder"));
        assert!(field(|c| c.path = "a/../b".into()).contains("path"));
        assert!(field(|c| c.drive = Some(String::new())).contains("drive"));
        assert!(field(|c| c.endpoint = Some("http://me:secret@host".into())).contains("endpoint"));
        assert!(field(|c| c.quota.pause_s = 0).contains("quota"));
        assert!(field(|c| c.limits.still_ms = 0).contains("limits"));
        assert!(
            field(|c| c.credentials = Credentials::ServiceAccount { key: "{}".into(), subject: None }).contains("key")
        );
    }

    #[test]
    fn secrets_are_marked_and_not_shown() {
        let config =
            GDriveConfig { endpoint: Some("http://me:hidden-3@host".into()), ..GDriveConfig::new("root", user()) };
        assert!(!format!("{config:?}").contains("hidden"));
        let schema = serde_json::to_value(schemars::schema_for!(GDriveConfig)).unwrap();
        let text = schema.to_string();
        assert_eq!(text.matches("\"writeOnly\":true").count(), 3, "{text}");
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        let quota = QuotaPolicy { first_wait_ms: 10, longest_wait_ms: 50, ..QuotaPolicy::default() };
        let waits: Vec<u128> = (1..=5).map(|n| quota.wait(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 50, 50]);
        assert_eq!(quota.wait(u32::MAX, 1.0).as_millis(), 25);
    }
}
