//! Credentials that cannot be had: at the moment, or until somebody sets them right.

use super::{Reason, shown};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ConnectorError, ErrorMetadata};
use backup_core::Error;
use std::env::VarError;
use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::iter;

/// What an error says of the credentials; `None` when it is not about them.
pub(super) fn trouble(error: &(dyn StdError + 'static)) -> Option<Error> {
    let (at, credentials) = causes(error).find_map(|e| Some((e, e.downcast_ref::<CredentialsError>()?)))?;
    let own = match credentials {
        CredentialsError::CredentialsNotLoaded(_) => Error::unauthorized(
            "no credentials could be found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
        ),
        CredentialsError::InvalidConfiguration(_) => Error::unauthorized(
            "the credentials are not set up rightly; look at the AWS environment variables and the profile",
        ),
        _ if causes(at).any(passes) => {
            Error::transient("the service that hands out the credentials cannot be reached, or has a passing fault")
        }
        _ => Error::unauthorized("the credentials could not be loaded; look at the profile, the role and its rights"),
    };
    Some(own.because(Reason(told(error))))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// Whether a cause is a matter of connections or of load.
fn passes(cause: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<CredentialsError>() {
        return matches!(error, CredentialsError::ProviderTimedOut(_));
    }
    if let Some(error) = cause.downcast_ref::<ConnectorError>() {
        return error.is_io() || error.is_timeout();
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        // Others are about files and programs.
        return matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NetworkDown
                | ErrorKind::TimedOut
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
        );
    }
    if let Some(code) = cause.downcast_ref::<ErrorMetadata>().and_then(ErrorMetadata::code) {
        let busy = ["ServiceUnavailable", "InternalFailure", "InternalServerError", "InternalError", "RequestTimeout"];
        return code.contains("Throttl") || code == "TooManyRequestsException" || busy.contains(&code);
    }
    metadata_service::passes(cause)
}

/// The causes as text. What an answer, a file or a variable held may be a secret: of these only the kind is told.
fn told(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    // Whether texts of causes that are not known here are the SDK's own.
    let mut harmless = true;
    for cause in causes(error) {
        let text = if let Some(VarError::NotUnicode(_)) = cause.downcast_ref::<VarError>() {
            // Its own text shows the value.
            "an environment variable is not UTF-8".to_owned()
        } else if let Some(error) = cause.downcast_ref::<CredentialsError>() {
            harmless =
                matches!(error, CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_));
            error.to_string()
        } else if let Some(error) = cause.downcast_ref::<ConnectorError>() {
            harmless = true;
            error.to_string()
        } else if let Some(error) = cause.downcast_ref::<io::Error>() {
            error.kind().to_string()
        } else if let Some(error) = cause.downcast_ref::<ErrorMetadata>() {
            shown(&error.to_string())
        } else if let Some(text) = metadata_service::told(cause) {
            text
        } else if harmless {
            shown(&cause.to_string())
        } else {
            continue;
        };
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(feature = "aws-config")]
mod metadata_service {
    //! The service of an instance that tells it its credentials.

    use aws_config::imds::client::error::{ImdsError, TokenError};
    use aws_sdk_s3::config::http::HttpResponse;
    use aws_sdk_s3::error::SdkError;
    use std::error::Error as StdError;

    fn is_busy(answer: &HttpResponse) -> bool {
        matches!(answer.status().as_u16(), 429 | 500..)
    }

    pub(super) fn passes(cause: &(dyn StdError + 'static)) -> bool {
        if let Some(error) = cause.downcast_ref::<SdkError<TokenError, HttpResponse>>() {
            return matches!(error, SdkError::TimeoutError(_)) || error.raw_response().is_some_and(is_busy);
        }
        match cause.downcast_ref::<ImdsError>() {
            Some(ImdsError::IoError(_)) => true,
            Some(ImdsError::ErrorResponse(answer)) => is_busy(answer.response()),
            _ => false,
        }
    }

    pub(super) fn told(cause: &(dyn StdError + 'static)) -> Option<String> {
        Some(match cause.downcast_ref::<ImdsError>()? {
            // Its own text shows the answer.
            ImdsError::ErrorResponse(answer) => {
                format!("the instance metadata service answers {}", answer.response().status().as_u16())
            }
            ImdsError::FailedToLoadToken(_) => "the instance metadata service gives no token".to_owned(),
            _ => "the instance metadata service does not answer as it should".to_owned(),
        })
    }
}

#[cfg(not(feature = "aws-config"))]
mod metadata_service {
    use std::error::Error as StdError;

    pub(super) fn passes(_: &(dyn StdError + 'static)) -> bool {
        false
    }

    pub(super) fn told(_: &(dyn StdError + 'static)) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{About, from_sdk};
    use super::*;
    use aws_sdk_s3::error::SdkError;
    use aws_sdk_s3::operation::get_object::GetObjectError;
    use backup_core::ErrorClass;
    use std::time::Duration;

    /// As the SDK hands it over.
    fn met(error: CredentialsError) -> Error {
        let failure = SdkError::<GetObjectError, _>::dispatch_failure(ConnectorError::other(error.into(), None));
        from_sdk(failure, About::Bucket("bucket"))
    }

    fn connection(kind: ErrorKind) -> ConnectorError {
        ConnectorError::io(io::Error::new(kind, "a text").into())
    }

    #[test]
    fn what_passes_is_told_from_what_somebody_has_to_set_right() {
        use CredentialsError as C;
        let metadata = |code: &str| ErrorMetadata::builder().code(code).message("a message").build();
        for (error, class) in [
            (C::not_loaded("none in the chain"), ErrorClass::Unauthorized),
            (C::not_loaded(connection(ErrorKind::ConnectionRefused)), ErrorClass::Unauthorized),
            (C::invalid_configuration("no such profile"), ErrorClass::Unauthorized),
            (C::provider_timed_out(Duration::from_secs(5)), ErrorClass::Transient),
            (C::provider_error(connection(ErrorKind::ConnectionReset)), ErrorClass::Transient),
            (C::provider_error(ConnectorError::timeout("slow".into())), ErrorClass::Transient),
            (C::unhandled(io::Error::from(ErrorKind::TimedOut)), ErrorClass::Transient),
            (C::provider_error(metadata("Throttling")), ErrorClass::Transient),
            (C::provider_error(C::provider_timed_out(Duration::from_secs(5))), ErrorClass::Transient),
            (C::provider_error(metadata("AccessDenied")), ErrorClass::Unauthorized),
            (C::provider_error(io::Error::from(ErrorKind::NotFound)), ErrorClass::Unauthorized),
            (C::unhandled("no JSON"), ErrorClass::Unauthorized),
        ] {
            let told = format!("{error:?}");
            let error = met(error);
            assert_eq!(error.class(), class, "{told}: {}", error.chain());
        }
    }

    #[test]
    fn what_was_read_is_not_told() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;
        let variable = || VarError::NotUnicode(OsString::from_vec(b"s3cr3t\xff".to_vec()));
        for error in [
            CredentialsError::unhandled(variable()),
            CredentialsError::provider_error(CredentialsError::unhandled(variable())),
            CredentialsError::not_loaded(variable()),
            CredentialsError::provider_error("the program said s3cr3t"),
            CredentialsError::unhandled(io::Error::other("no JSON: s3cr3t")),
        ] {
            let error = met(error);
            let text = format!("{} {error:?}", error.chain());
            assert!(!text.contains("s3cr3t"), "{text}");
        }
        assert!(met(CredentialsError::unhandled(variable())).chain().contains("variable is not UTF-8"));
        let refused = met(CredentialsError::provider_error(connection(ErrorKind::ConnectionRefused)));
        assert!(refused.chain().ends_with("io error: connection refused"), "{}", refused.chain());
        let missing = met(CredentialsError::invalid_configuration("profile `x` is not there"));
        assert!(missing.chain().ends_with("profile `x` is not there"), "{}", missing.chain());
    }

    /// A metadata service that answers requests for a token, and all others, with these.
    #[cfg(feature = "aws-config")]
    async fn metadata_service(token: &'static str, other: &'static str) -> Error {
        use aws_config::imds;
        use aws_credential_types::provider::ProvideCredentials;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let answer = if request[..read].starts_with(b"PUT") { token } else { other };
                let length = answer.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
                let closing = format!("\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
                let _ = stream.write_all(answer.replacen("\r\n\r\n", &closing, 1).as_bytes()).await;
            }
        });
        let client = imds::Client::builder().max_attempts(1).endpoint(format!("http://{address}")).unwrap().build();
        let provider = imds::credentials::ImdsCredentialsProvider::builder().imds_client(client).build();
        let error = provider.provide_credentials().await.unwrap_err();
        service.abort();
        met(error)
    }

    #[cfg(feature = "aws-config")]
    #[tokio::test]
    async fn a_metadata_service_under_load_is_a_passing_fault() {
        const TOKEN: &str = "HTTP/1.1 200 OK\r\nx-aws-ec2-metadata-token-ttl-seconds: 600\r\n\r\nthe-token";
        const BUSY: &str = "HTTP/1.1 503 Busy\r\n\r\ns3cr3t";
        const REFUSED: &str = "HTTP/1.1 403 Forbidden\r\n\r\ns3cr3t";
        for (token, other, class) in [
            (BUSY, BUSY, ErrorClass::Transient),
            (TOKEN, BUSY, ErrorClass::Transient),
            (REFUSED, BUSY, ErrorClass::Unauthorized),
            (TOKEN, REFUSED, ErrorClass::Unauthorized),
        ] {
            let error = metadata_service(token, other).await;
            let text = format!("{} {error:?}", error.chain());
            assert_eq!(error.class(), class, "{token}, {other}: {text}");
            assert!(!text.contains("s3cr3t") && !text.contains("the-token"), "{text}");
            assert!(text.contains("metadata service"), "{text}");
        }
    }
}
