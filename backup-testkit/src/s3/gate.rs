//! What the service checks before it looks at a request: region, clock, session.

use super::buckets::S3Buckets;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use std::time::{Duration, SystemTime};

/// How far the client's clock may be off.
const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// Why a request is turned away.
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// The region of the bucket, where the client should have asked.
    pub(super) region: Option<String>,
}

/// Checks the region that the request was signed for.
pub(super) fn check_region(buckets: &S3Buckets, own: &str, bucket: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(signed) = signed_region(headers) else { return Ok(()) };
    let there = buckets.lock().buckets.get(bucket).and_then(|bucket| bucket.region.clone());
    let right = there.as_deref().unwrap_or(own);
    if signed == right {
        return Ok(());
    }
    if signed == own {
        let message =
            "The bucket you are attempting to access must be addressed using the specified endpoint.".to_owned();
        return Err(Refusal { status: 301, code: "PermanentRedirect", message, region: Some(right.to_owned()) });
    }
    let message = format!("The authorization header is malformed; the region '{signed}' is wrong; expecting '{right}'");
    Err(Refusal { status: 400, code: "AuthorizationHeaderMalformed", message, region: Some(right.to_owned()) })
}

/// Checks the time of the signature against a clock that is forward by `skew`.
pub(super) fn check_clock(headers: &HeaderMap, skew: Duration) -> Result<(), Refusal> {
    let Some(signed) = headers.get("x-amz-date").and_then(|value| value.to_str().ok()).and_then(amz_date) else {
        return Ok(());
    };
    let now = SystemTime::now() + skew;
    let off = now.duration_since(signed).unwrap_or_else(|ahead| ahead.duration());
    if off <= MAX_SKEW {
        return Ok(());
    }
    let message = "The difference between the request time and the current time is too large.".to_owned();
    Err(Refusal { status: 403, code: "RequestTimeTooSkewed", message, region: None })
}

/// Checks the token of a session: it has to be there if keys are those of one, and must not be there otherwise.
pub(super) fn check_session(headers: &HeaderMap, wanted: Option<&str>) -> Result<(), Refusal> {
    let sent = headers.get("x-amz-security-token").map(|value| value.as_bytes());
    if sent == wanted.map(str::as_bytes) {
        return Ok(());
    }
    let message = "The provided token is malformed or otherwise invalid.".to_owned();
    Err(Refusal { status: 400, code: "InvalidToken", message, region: None })
}

/// `Credential=KEY/DATE/REGION/s3/aws4_request`, where the key may have slashes.
fn signed_region(headers: &HeaderMap) -> Option<&str> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let scope = authorization.split_once("Credential=")?.1.split(',').next()?;
    scope.trim().rsplit('/').nth(2)
}

/// `20260102T030405Z`.
fn amz_date(text: &str) -> Option<SystemTime> {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(SystemTime::from(time.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn a_request_is_signed_for_the_region_of_its_bucket() {
        let buckets = S3Buckets::default();
        let options = super::super::S3BucketOptions { region: Some("eu-west-1".into()), ..Default::default() };
        buckets.create_bucket("far", options);
        let check = |bucket: &str, region: &str| {
            let text = format!("AWS4-HMAC-SHA256 Credential=A/K/20260102/{region}/s3/aws4_request, SignedHeaders=host");
            let refused = check_region(&buckets, "us-east-1", bucket, &headers("authorization", &text));
            refused.err().map(|refusal| (refusal.status, refusal.region.unwrap()))
        };
        assert_eq!(check("near", "us-east-1"), None);
        assert_eq!(check("far", "eu-west-1"), None);
        assert_eq!(check("far", "us-east-1"), Some((301, "eu-west-1".into())));
        assert_eq!(check("near", "eu-west-1"), Some((400, "us-east-1".into())));
    }

    #[test]
    fn a_clock_may_be_off_by_a_quarter_of_an_hour() {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let check = |minutes: u64| check_clock(&headers("x-amz-date", &now), Duration::from_secs(minutes * 60)).is_ok();
        assert!(check(0));
        assert!(check(14));
        assert!(!check(16));
    }
}
