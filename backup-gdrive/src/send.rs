//! Sending: requests with the account's token, repeated as far as that makes sense, and answers that are read within limits.

use crate::GDrive;
use crate::error::{Refusal, no_answer, not_understood};
use backup_core::{Error, ErrorClass, Result};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, Response};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of an answer about one thing, at most.
pub(crate) const SMALL: usize = 1 << 20;
/// Bytes of a page of a listing, at most.
pub(crate) const PAGE: usize = 32 << 20;
/// How often a request is repeated while the service has never answered: then somebody may be waiting to hear that it cannot be reached.
const AT_FIRST: u32 = 2;

/// A service that asks for a longer wait is not obeyed to the letter.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What came of a request.
pub(crate) enum Answered {
    /// Any status but those about token, rights and rate.
    Answer(Response),
    /// 401, 403 or 429, for another reason than the rate.
    Refused(Refusal),
}

/// A time in which the service cannot be reached, or has faults of its own.
pub(crate) struct Outage<'a> {
    drive: &'a GDrive,
    since: Option<Instant>,
    failures: u32,
}

impl<'a> Outage<'a> {
    pub(crate) fn new(drive: &'a GDrive) -> Self {
        Self { drive, since: None, failures: 0 }
    }

    /// It is over: the next one has its own time.
    pub(crate) fn over(&mut self) {
        (self.since, self.failures) = (None, 0);
    }

    /// After a failure: waits until the next try is due.
    ///
    /// # Errors
    /// The failure, when it does not pass, or has not for too long.
    pub(crate) async fn failed(&mut self, error: Error) -> Result<()> {
        let asked = match error.class() {
            ErrorClass::Transient => None,
            ErrorClass::Throttled { after } => after,
            _ => return Err(error),
        };
        let config = self.drive.config();
        let since = *self.since.get_or_insert_with(Instant::now);
        self.failures += 1;
        if !self.drive.0.answers() && self.failures > AT_FIRST {
            return Err(error);
        }
        let own = config.quota.wait(self.failures, rand::random());
        let wait = asked.map_or(own, |asked| asked.max(own));
        if since.elapsed().saturating_add(wait) > config.limits.outage() {
            return Err(error);
        }
        tracing::debug!(?wait, failures = self.failures, error = error.chain(), "Google Drive is tried again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

impl GDrive {
    /// Sends a request until it has an answer that is not about token or rate. `build` is called for each try; a try in which `moved` does not
    /// change for too long is given up. Any other answer is success: its status is the caller's to look at.
    pub(crate) async fn send(&self, moved: &AtomicU64, build: impl Fn(&Client) -> RequestBuilder) -> Result<Answered> {
        let inner = &*self.0;
        let mut renewed = false;
        let mut since: Option<Instant> = None;
        loop {
            let token = inner.tokens.get().await?;
            let sent = build(&inner.http).bearer_auth(token.expose_secret()).send();
            let response = self.while_it_moves(moved, sent).await?.map_err(no_answer)?;
            let status = response.status().as_u16();
            if status < 500 {
                inner.answered();
            }
            let refusal = match status {
                401 | 403 | 429 => self.refusal(response).await?,
                _ => {
                    inner.refusals.store(0, Ordering::Relaxed);
                    return Ok(Answered::Answer(response));
                }
            };
            if refusal.status == 401 && !renewed {
                // It may have been taken back, or the clock was wrong.
                renewed = true;
                inner.tokens.renew(&token).await?;
                continue;
            }
            if !refusal.is_rate_limit() {
                return Ok(Answered::Refused(refusal));
            }
            let started = *since.get_or_insert_with(Instant::now);
            let quota = &inner.config.quota;
            let refusals = inner.refusals.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let own = quota.wait(refusals, rand::random());
            let wait = refusal.after.map_or(own, |asked| asked.max(own));
            if started.elapsed().saturating_add(wait) > quota.patience() {
                let text =
                    "the service has refused requests for so long that it must be the account's daily cap (750 GB)";
                let pause = refusal.after.map_or(quota.pause(), |asked| asked.max(quota.pause()));
                let class = ErrorClass::Throttled { after: Some(pause) };
                return Err(Error::new(class, text).because(refusal.into_error()));
            }
            tracing::debug!(?wait, refusals, "Google Drive asks for fewer requests");
            tokio::time::sleep(wait).await;
        }
    }

    /// Repeats what may be repeated, for as long as an outage is waited for.
    pub(crate) async fn persist<T, F: Future<Output = Result<T>>>(&self, work: impl Fn() -> F) -> Result<T> {
        let mut outage = Outage::new(self);
        loop {
            match work().await {
                Ok(done) => return Ok(done),
                Err(error) => outage.failed(error).await?,
            }
        }
    }

    /// Sends a request whose answer must be a success. It is not repeated in an outage.
    pub(crate) async fn success(&self, build: impl Fn(&Client) -> RequestBuilder) -> Result<Response> {
        match self.send(&AtomicU64::new(0), build).await? {
            Answered::Answer(response) if response.status().is_success() => Ok(response),
            Answered::Answer(response) => Err(self.refusal(response).await?.into_error()),
            Answered::Refused(refusal) => Err(refusal.into_error()),
        }
    }

    /// Sends a request whose answer is JSON of at most so many bytes, and repeats it in an outage: for requests that change nothing when they
    /// are done twice.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        most: usize,
        build: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<T> {
        let build = &build;
        self.persist(|| self.json_once(most, build)).await
    }

    /// The same for requests that are not repeated.
    pub(crate) async fn json_once<T: DeserializeOwned>(
        &self,
        most: usize,
        build: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<T> {
        let answer = self.config().limits.answer();
        let response = self.success(|http| build(http).timeout(answer)).await?;
        let body = self.small(response, most).await?;
        serde_json::from_slice(&body).map_err(|_| not_understood())
    }

    /// Reads an answer that should be short.
    pub(crate) async fn small(&self, response: Response, most: usize) -> Result<Vec<u8>> {
        read(response, self.config().limits.answer(), most).await
    }

    /// Reads what a refusal says.
    pub(crate) async fn refusal(&self, response: Response) -> Result<Refusal> {
        let (status, after) = (response.status().as_u16(), retry_after(response.headers()));
        let body = self.small(response, SMALL).await?;
        Ok(Refusal::new(status, &body, after, self.config().quota.pause()))
    }

    /// Waits for something as long as `moved` changes: for transfers that may take long, but not stand still.
    pub(crate) async fn while_it_moves<T>(&self, moved: &AtomicU64, work: impl Future<Output = T>) -> Result<T> {
        while_it_moves(self.config().limits.still(), moved, work).await
    }
}

/// Reads the body of an answer, of which neither the size nor the time is the other side's to choose.
pub(crate) async fn read(mut response: Response, limit: Duration, most: usize) -> Result<Vec<u8>> {
    let read = async {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(no_answer)? {
            if body.len() + piece.len() > most {
                return Err(not_understood());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    };
    tokio::time::timeout(limit, read).await.map_err(|_| Error::transient("the service did not answer in time"))?
}

/// The time after which to ask again: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let now = date(headers).unwrap_or_else(jiff::Timestamp::now);
    Duration::try_from(then.duration_since(now)).ok().map(|wait| wait.min(LONGEST))
}

/// The service's time, to the second.
pub(crate) fn date(headers: &HeaderMap) -> Option<jiff::Timestamp> {
    let date = headers.get("date")?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(date).ok().map(|time| time.timestamp())
}

/// A client as all of this crate's requests use it.
pub(crate) fn http_client() -> Result<Client> {
    Client::builder()
        // 308 means something else in uploads.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(50))
        .user_agent(concat!("backup-gdrive/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| Error::permanent("cannot set up the HTTP client").because(e.without_url()))
}

/// A request with parameters.
pub(crate) fn request(http: &Client, method: Method, url: &str, parameters: &[(&str, &str)]) -> RequestBuilder {
    http.request(method, url).query_pairs(parameters)
}

pub(crate) fn get(http: &Client, url: &str, parameters: &[(&str, &str)]) -> RequestBuilder {
    request(http, Method::GET, url, parameters)
}

/// Adds parameters to a request's address.
pub(crate) trait QueryPairs {
    fn query_pairs(self, parameters: &[(&str, &str)]) -> Self;
}

impl QueryPairs for RequestBuilder {
    fn query_pairs(self, parameters: &[(&str, &str)]) -> Self {
        let (client, request) = self.build_split();
        match request {
            Ok(mut request) => {
                if !parameters.is_empty() {
                    request.url_mut().query_pairs_mut().extend_pairs(parameters);
                }
                Self::from_parts(client, request)
            }
            // What was wrong with it is said when it is sent.
            Err(_) => client.request(Method::GET, ""),
        }
    }
}

/// Waits for something as long as `moved` changes within each `still`.
pub(crate) async fn while_it_moves<T>(still: Duration, moved: &AtomicU64, work: impl Future<Output = T>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(still, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) if moved.load(Ordering::Relaxed) != before => {}
            Err(_) => return Err(Error::transient("nothing moved on the connection for too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_read_as_seconds_and_as_a_date() {
        let of = |pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), reqwest::header::HeaderValue::from_str(value).unwrap())
            });
            retry_after(&headers.collect())
        };
        assert_eq!(of(&[("retry-after", "120")]), Some(Duration::from_secs(120)));
        let date = ("date", "Fri, 20 Nov 2026 06:15:00 GMT");
        assert_eq!(of(&[("retry-after", "Fri, 20 Nov 2026 06:16:30 GMT"), date]), Some(Duration::from_secs(90)));
        assert_eq!(of(&[("retry-after", "Fri, 20 Nov 2026 06:14:00 GMT"), date]), None);
        assert_eq!((of(&[("retry-after", "soon")]), of(&[])), (None, None));
    }
}
