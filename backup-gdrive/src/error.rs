//! What the service's answers mean. Source: "Resolve errors" in the guides of the Drive API.

use backup_core::{Error, ErrorClass};
use serde::Deserialize;
use std::time::Duration;

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The reason of the first error, e.g. `storageQuotaExceeded`; empty when the body tells none.
    pub(crate) reason: String,
    message: String,
    /// The time after which to ask again, if the service tells one.
    pub(crate) after: Option<Duration>,
    /// How long to wait for the end of a day's cap.
    pause: Duration,
}

#[derive(Deserialize)]
struct Body {
    error: Details,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    reason: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, body: &[u8], after: Option<Duration>, pause: Duration) -> Self {
        let parsed = serde_json::from_slice::<Body>(body).ok().map(|body| body.error);
        let (reason, message) = parsed
            .map(|error| (error.errors.into_iter().next().map(|item| item.reason).unwrap_or_default(), error.message))
            .unwrap_or_default();
        Self { status, reason: shown(&reason), message: shown(&message), after, pause }
    }

    /// The service asks for fewer requests.
    pub(crate) fn is_rate_limit(&self) -> bool {
        self.status == 429
            || self.status == 403
                && matches!(&*self.reason, "rateLimitExceeded" | "userRateLimitExceeded" | "sharingRateLimitExceeded")
    }

    /// Whether it names a file that is missing, and not the request's own address.
    pub(crate) fn is_about_a_file(&self) -> bool {
        self.message.starts_with("File not found")
    }

    /// Class and text.
    pub(crate) fn into_error(self) -> Error {
        let error = match (self.status, &*self.reason) {
            (_, "storageQuotaExceeded" | "quotaExceeded") => {
                Error::no_space("the storage of the account is full; free some, or buy more")
            }
            (_, "teamDriveFileLimitExceeded") => Error::no_space("the shared drive has as many files as it can have"),
            (_, "activeItemCreationLimitExceeded") => {
                Error::no_space("the account has made as many files and folders as it can have; remove some for good")
            }
            (_, "numChildrenInNonRootLimitExceeded") => Error::no_space("the folder has as many files as it can have"),
            _ if self.is_rate_limit() => {
                Error::new(ErrorClass::Throttled { after: self.after }, "the service asks for fewer requests")
            }
            (403, "dailyLimitExceeded") => Error::new(
                ErrorClass::Throttled { after: Some(self.pause) },
                "the app has made as many requests as it may in a day",
            ),
            (403, "downloadQuotaExceeded") => Error::new(
                ErrorClass::Throttled { after: Some(self.pause) },
                "the file was downloaded as often as it may be in a day",
            ),
            (401, _) => Error::unauthorized("the service refuses the account's token; sign in again"),
            (403, "accessNotConfigured" | "SERVICE_DISABLED") => {
                Error::permanent("the Drive API is not enabled in the app's Google Cloud project; enable it there")
            }
            (403, "insufficientPermissions" | "insufficientScopes" | "ACCESS_TOKEN_SCOPE_INSUFFICIENT") => {
                Error::unauthorized("the consent does not cover Drive; sign in again and allow it")
            }
            (403, _) => Error::permanent(
                "the account may not do this; it needs the right to add and delete files in the folder (on a shared drive, \
                 `Content manager`)",
            ),
            (404 | 410, _) => Error::not_found("it is not there, or the account cannot see it"),
            (409, _) => Error::transient("another change was under way"),
            (412, _) => Error::changed("it is another version by now"),
            (416, _) => Error::corrupt("it is shorter than the range that was asked for"),
            (500.., _) if self.after.is_some() => {
                Error::new(ErrorClass::Throttled { after: self.after }, "the service had a passing fault")
            }
            (408 | 425, _) => Error::transient("the service had a passing fault"),
            (500.., _) => Error::transient("the service had a passing fault"),
            _ => Error::permanent("the service refuses the request"),
        };
        error.because(Answer(self.to_string()))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HTTP status {}", self.status)?;
        if !self.reason.is_empty() {
            write!(f, ", {}", self.reason)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// What was answered, as the cause of an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Answer(String);

/// A request that did not come to an answer. The address goes: that of an upload is a secret.
pub(crate) fn no_answer(error: reqwest::Error) -> Error {
    let text = if error.is_connect() {
        "the service cannot be reached"
    } else if error.is_timeout() {
        "the service did not answer in time"
    } else {
        "the connection to the service broke off"
    };
    Error::transient(text).because(error.without_url())
}

/// An answer of success that says nothing sensible.
pub(crate) fn not_understood() -> Error {
    Error::transient("the service's answer could not be understood; is something between it and this machine?")
}

/// Text from outside, short and without control characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(7);

    fn class(status: u16, reason: &str) -> ErrorClass {
        let body = serde_json::json!({ "error": { "errors": [{ "reason": reason }], "message": "m" } });
        Refusal::new(status, body.to_string().as_bytes(), None, PAUSE).into_error().class()
    }

    #[test]
    fn answers_get_their_class() {
        use ErrorClass as C;
        for (status, reason, expected) in [
            (403, "storageQuotaExceeded", C::NoSpace),
            (403, "teamDriveFileLimitExceeded", C::NoSpace),
            (403, "activeItemCreationLimitExceeded", C::NoSpace),
            (403, "userRateLimitExceeded", C::Throttled { after: None }),
            (403, "rateLimitExceeded", C::Throttled { after: None }),
            (429, "", C::Throttled { after: None }),
            (401, "authError", C::Unauthorized),
            (403, "insufficientPermissions", C::Unauthorized),
            (403, "forbidden", C::Permanent),
            (404, "notFound", C::NotFound),
            (416, "", C::Corrupt),
            (500, "internalError", C::Transient),
            (503, "", C::Transient),
            (400, "badRequest", C::Permanent),
        ] {
            assert_eq!(class(status, reason), expected, "{status} {reason}");
        }
        for reason in ["dailyLimitExceeded", "downloadQuotaExceeded"] {
            assert_eq!(class(403, reason), C::Throttled { after: Some(PAUSE) }, "{reason}");
        }
        let busy = Refusal::new(503, b"", Some(Duration::from_secs(9)), PAUSE).into_error();
        assert_eq!(busy.class(), C::Throttled { after: Some(Duration::from_secs(9)) });
        let page = Refusal::new(502, b"<html>\x1b[2J", None, PAUSE).into_error();
        assert_eq!((page.class(), page.chain().contains('\u{1b}')), (C::Transient, false));
    }
}
