//! From what the SDK reports to the classes of [`Error`].

mod credentials;

use crate::body::Sent;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use backup_core::model::EntryName;
use backup_core::{Error, ErrorClass};
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// What a request was about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About<'a> {
    /// The bucket as a whole: listing it, looking whether it is there.
    Bucket(&'a str),
    /// Reading one object. A version that does not fit is `Changed`.
    Read(&'a str, &'a str),
    /// Writing or removing one object. One that is there already is `Conflict`.
    Write(&'a str, &'a str),
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bucket(bucket) => write!(f, "s3://{bucket}"),
            Self::Read(bucket, key) | Self::Write(bucket, key) => write!(f, "s3://{bucket}/{}", EntryName::from(key)),
        }
    }
}

/// The error of a request, with its class. Trouble of the account or the whole bucket is never of a class that could be taken
/// for trouble of the one object.
pub(crate) fn from_sdk<E>(error: SdkError<E, HttpResponse>, about: About<'_>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let own = match &error {
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => {
            let answer = Answer::of(&error);
            answer.classify(about).because(answer)
        }
        other => credentials::trouble(other).unwrap_or_else(|| not_answered(other)),
    };
    own.on(about)
}

/// The error of a request without an answer.
fn not_answered<E>(error: &SdkError<E, HttpResponse>) -> Error
where
    E: StdError + Send + Sync + 'static,
{
    let own = match error {
        SdkError::TimeoutError(_) => Error::transient("the service did not answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            Error::invalid("the request could not be sent; check endpoint and bucket")
        }
        SdkError::DispatchFailure(_) => Error::transient("the service cannot be reached, or the connection broke off"),
        _ => Error::permanent("the request could not be made"),
    };
    own.because(Reason::of(error))
}

/// How long the answer to a request that changes nothing may take to begin.
const ANSWER: Duration = Duration::from_secs(60);

/// Sends a request that changes nothing, and waits for its answer for a minute at most.
pub(crate) fn in_time<T, E>(
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> impl Future<Output = Result<T, SdkError<E, HttpResponse>>> {
    within(ANSWER, request)
}

/// Sends a request, and waits for its answer for so long at most.
pub(crate) fn within<T, E>(
    limit: Duration,
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> impl Future<Output = Result<T, SdkError<E, HttpResponse>>> {
    // The futures of the SDK are large.
    let answer = tokio::time::timeout(limit, Box::pin(request));
    async {
        match answer.await {
            Ok(answer) => answer,
            Err(elapsed) => Err(SdkError::timeout_error(elapsed)),
        }
    }
}

/// Sends a request with a body, and waits for its answer for so long at most once the body is sent. It may have been done all the same.
pub(crate) fn written<T, E>(
    limit: Duration,
    sent: Sent,
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> impl Future<Output = Result<T, SdkError<E, HttpResponse>>> {
    let request = Box::pin(request);
    async move {
        let late = async {
            sent.wait().await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            biased;
            answer = request => answer,
            () = late => Err(SdkError::timeout_error("the service has the whole request and does not answer")),
        }
    }
}

/// The same, with an error of the class that it means.
pub(crate) async fn answered<T, E>(
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    about: About<'_>,
) -> Result<T, Error>
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    in_time(request).await.map_err(|e| from_sdk(e, about))
}

/// The error that an answer of success tells of one of many objects.
pub(crate) fn code_in_answer(code: Option<&str>, message: Option<&str>, about: About<'_>) -> Error {
    let (code, message) = (code.map(shown), message.map(shown));
    let answer =
        Answer { status: 400, code, message, request_id: None, retry_after: None, region: None, delete_marker: false };
    answer.classify(about).because(answer).on(about)
}

/// A content that broke off on its way.
pub(crate) fn broken_off(cause: impl StdError + Send + Sync + 'static, about: About<'_>) -> Error {
    Error::transient("the connection broke off while the content was read").because(Reason::of(&cause)).on(about)
}

/// What the service answered, fit to be shown.
#[derive(Debug)]
struct Answer {
    status: u16,
    code: Option<String>,
    message: Option<String>,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    /// The region that the bucket is in, if the answer tells.
    region: Option<String>,
    /// What was asked for is a delete marker.
    delete_marker: bool,
}

impl Answer {
    fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Self {
        let raw = error.raw_response();
        let header = |name: &str| raw.and_then(|raw| raw.headers().get(name));
        let service = error.as_service_error().map(ProvideErrorMetadata::meta);
        let message = service.and_then(|meta| meta.message());
        Self {
            status: raw.map_or(0, |raw| raw.status().as_u16()),
            code: service.and_then(|meta| meta.code()).filter(|code| !code.is_empty()).map(shown),
            message: message.map(shown),
            request_id: service.and_then(RequestId::request_id).map(shown),
            retry_after: header("retry-after").and_then(|after| after.trim().parse().ok()).map(Duration::from_secs),
            region: header("x-amz-bucket-region").map(shown).or_else(|| message.and_then(expected_region)),
            delete_marker: header("x-amz-delete-marker") == Some("true"),
        }
    }

    /// Class and text. Protocol: "Error responses" of the Amazon S3 API reference, and what other servers were seen to answer.
    fn classify(&self, about: About<'_>) -> Error {
        let throttled =
            || Error::new(ErrorClass::Throttled { after: self.retry_after }, "the service asks for fewer requests");
        let transient = || Error::transient("the service had a passing fault");
        let refused = |text: &'static str| Error::unauthorized(text);
        match self.code.as_deref().unwrap_or_default() {
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "ServiceUnavailable" => return throttled(),
            code if code.contains("Throttl") => return throttled(),
            "InternalError"
            | "OperationAborted"
            | "ConditionalRequestConflict"
            | "RequestTimeout"
            | "IncompleteBody"
            // What is sent is always well-formed, so Garage's word for another digest.
            | "InvalidDigest"
            | "Busy" => return transient(),
            code if is_about_digest(code) => return transient(),
            "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => {
                let text =
                    "this machine's clock and that of the service differ by more than 15 minutes; set the clock (NTP)";
                return Error::transient(text);
            }
            "InvalidAccessKeyId" => return refused("the service does not know the access key; check its id"),
            "SignatureDoesNotMatch" => return refused("the service refuses the signature; check the secret key"),
            "ExpiredToken" | "TokenRefreshRequired" => {
                return refused("the session token has expired; get new credentials");
            }
            "InvalidToken" | "InvalidSecurity" | "MissingSecurityHeader" | "MissingAuthenticationToken" => {
                return refused("the service refuses the credentials; check access key, secret key and session token");
            }
            "AccountProblem" | "AllAccessDisabled" | "NotSignedUp" => {
                return refused("the account may not use the service; ask its owner");
            }
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "Redirect" => return self.wrong_region(),
            "NoSuchBucket" => return no_such_bucket(about),
            "InvalidBucketName" => return Error::invalid("the service does not accept this name of a bucket"),
            "InvalidObjectState" => {
                let text =
                    "it is archived (Glacier or an archive tier); ask the service to restore it (restore-object) first";
                return Error::permanent(text);
            }
            "AccessDenied" | "Forbidden" | "AccessForbidden" => return self.denied(about),
            "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" => return Error::not_found("it is not there"),
            "PreconditionFailed" => return failed_condition(about),
            "InvalidRange" => return out_of_range(),
            "EntityTooLarge" => return Error::unsupported("it is larger than the service takes"),
            "KeyTooLongError" | "MetadataTooLarge" => return Error::unsupported("the service does not store this"),
            "QuotaExceeded"
            | "XMinioStorageFull"
            | "StorageFull"
            | "InsufficientStorage"
            | "AccountQuotaExceeded"
            | "TotalSizeQuotaExceeded" => return Error::no_space("the storage or its quota is full"),
            "NotImplemented" => return Error::unsupported("the service does not know this request"),
            _ => {}
        }
        match self.status {
            429 => throttled(),
            503 => throttled(),
            301 | 302 | 307 | 308 => self.wrong_region(),
            401 => refused("the service refuses the credentials"),
            403 => self.denied(about),
            404 => match about {
                About::Bucket(_) => no_such_bucket(about),
                About::Read(..) | About::Write(..) => Error::not_found("it is not there"),
            },
            // A version that is a delete marker.
            405 if self.delete_marker => Error::not_found("it is a delete marker"),
            408 | 425 => transient(),
            412 => failed_condition(about),
            416 => out_of_range(),
            501 => Error::unsupported("the service does not know this request"),
            507 => Error::no_space("the storage or its quota is full"),
            status if status >= 500 => transient(),
            // An answer of success that could not be understood, e.g. because it broke off.
            status if status < 300 => Error::transient("the service's answer could not be understood"),
            // A bad request whose body names no code may be about the credentials as well as about the object.
            400 if self.code.is_none() => transient(),
            _ => Error::permanent("the service refuses the request"),
        }
    }

    fn wrong_region(&self) -> Error {
        match &self.region {
            Some(region) => Error::unauthorized(format!("the bucket is in the region {region}; set this region")),
            None => Error::unauthorized("the bucket is in another region or at another endpoint; set the right one"),
        }
    }

    fn denied(&self, about: About<'_>) -> Error {
        Error::permanent(match about {
            About::Bucket(_) => "the credentials may not list the bucket (s3:ListBucket); allow it to their owner",
            About::Read(..) => "the credentials may not read it (s3:GetObject, and kms:Decrypt if it is encrypted so)",
            About::Write(..) => "the credentials may not write it, or it is locked (s3:PutObject, s3:DeleteObject)",
        })
    }
}

fn no_such_bucket(about: About<'_>) -> Error {
    match about {
        About::Bucket(_) => Error::not_found("there is no such bucket; check its name and the endpoint"),
        // Not `NotFound`: it is not this object alone that is missing.
        About::Read(..) | About::Write(..) => Error::unauthorized("the bucket is not there any more"),
    }
}

/// Nothing else is `Corrupt`.
fn out_of_range() -> Error {
    Error::corrupt("it is shorter than the range that was asked for")
}

fn failed_condition(about: About<'_>) -> Error {
    match about {
        About::Bucket(_) | About::Read(..) => Error::changed("it is another version by now"),
        About::Write(..) => Error::conflict("it is there already"),
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, ", {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

impl StdError for Answer {}

/// The causes of an error of the SDK below the layers that only say that there is a cause. As text, because the error itself
/// holds the request, whose headers carry secrets.
#[derive(Debug)]
struct Reason(String);

impl Reason {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut parts: Vec<String> = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            let text = shown(&error.to_string());
            // Some layers repeat their cause.
            if !parts.last().is_some_and(|last| last.ends_with(&text)) {
                parts.push(text);
            }
            next = error.source();
        }
        Self(parts.join(": "))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Reason {}

/// Text from outside, short and without control characters.
fn shown(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|c| {
            let escaped = c.is_control();
            let plain = (!escaped).then_some(c);
            plain.into_iter().chain(escaped.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// The region in "… the region 'us-east-1' is wrong; expecting 'eu-west-1'".
fn expected_region(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    rest.split_once('\'').map(|(region, _)| shown(region))
}

/// Whether the code of an error says that what arrived has another digest than the one that was sent.
pub(crate) fn is_about_digest(code: &str) -> bool {
    matches!(code, "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch")
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: About<'_> = About::Read("bucket", "key");
    const WRITE: About<'_> = About::Write("bucket", "key");
    const BUCKET: About<'_> = About::Bucket("bucket");

    fn class(status: u16, code: &str, about: About<'_>) -> ErrorClass {
        answer(status, code).classify(about).class()
    }

    fn answer(status: u16, code: &str) -> Answer {
        Answer {
            status,
            code: Some(code.to_owned()).filter(|code| !code.is_empty()),
            message: None,
            request_id: None,
            retry_after: None,
            region: None,
            delete_marker: false,
        }
    }

    #[test]
    fn answers_get_their_class() {
        use ErrorClass as C;
        let throttled = C::Throttled { after: None };
        for (status, code, about, expected) in [
            (503, "SlowDown", READ, throttled),
            (503, "", READ, throttled),
            (429, "", WRITE, throttled),
            (400, "ThrottlingException", READ, throttled),
            (500, "InternalError", READ, C::Transient),
            (502, "", READ, C::Transient),
            (504, "", READ, C::Transient),
            (409, "OperationAborted", WRITE, C::Transient),
            (409, "ConditionalRequestConflict", WRITE, C::Transient),
            (400, "RequestTimeout", WRITE, C::Transient),
            (400, "BadDigest", WRITE, C::Transient),
            (400, "InvalidDigest", WRITE, C::Transient),
            (400, "", READ, C::Transient),
            (200, "InternalError", WRITE, C::Transient),
            (200, "", WRITE, C::Transient),
            (403, "RequestTimeTooSkewed", READ, C::Transient),
            (403, "SignatureDoesNotMatch", READ, C::Unauthorized),
            (403, "InvalidAccessKeyId", BUCKET, C::Unauthorized),
            (400, "ExpiredToken", READ, C::Unauthorized),
            (301, "PermanentRedirect", READ, C::Unauthorized),
            (301, "", BUCKET, C::Unauthorized),
            (400, "AuthorizationHeaderMalformed", READ, C::Unauthorized),
            (403, "AccessDenied", READ, C::Permanent),
            (403, "", READ, C::Permanent),
            (403, "InvalidObjectState", READ, C::Permanent),
            (400, "KMS.DisabledException", READ, C::Permanent),
            (404, "NoSuchKey", READ, C::NotFound),
            (404, "", READ, C::NotFound),
            (404, "NoSuchUpload", WRITE, C::NotFound),
            (404, "NoSuchBucket", BUCKET, C::NotFound),
            (404, "NoSuchBucket", READ, C::Unauthorized),
            (412, "PreconditionFailed", READ, C::Changed),
            (412, "PreconditionFailed", WRITE, C::Conflict),
            (416, "InvalidRange", READ, C::Corrupt),
            (400, "EntityTooLarge", WRITE, C::Unsupported),
            (501, "NotImplemented", WRITE, C::Unsupported),
            (507, "", WRITE, C::NoSpace),
            (403, "QuotaExceeded", WRITE, C::NoSpace),
        ] {
            assert_eq!(class(status, code, about), expected, "{status} {code} {about}");
        }
    }

    #[test]
    fn the_right_region_is_taken_from_the_message() {
        let message = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        assert_eq!(expected_region(message).as_deref(), Some("eu-west-1"));
        assert_eq!(expected_region("no"), None);
    }

    #[test]
    fn text_from_outside_is_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
        assert!(shown(&"x".repeat(9999)).chars().count() < 500);
        assert_eq!(About::Read("b", "k\n").to_string(), "s3://b/k\\n");
    }
}
