//! Connections: counts requests, lets faults happen, and hands the rest to the service.

use super::backend::{Backend, digest};
use super::body::{self, Trouble};
use super::gate::{self, Refusal};
use super::requests::Counter;
use super::{Fault, Faults, Operation, S3Buckets};
use bytes::Bytes;
use futures::StreamExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::{S3Auth, SecretKey};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse, S3Result, s3_error};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;

/// Everything that a connection needs.
pub(super) struct Wire {
    service: S3Service,
    buckets: S3Buckets,
    faults: Faults,
    counter: Counter,
    region: &'static str,
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a fault of the test's script")
    }
}

impl std::error::Error for Closed {}

/// The one key that the server knows.
struct Keys(String, String);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key != self.0 {
            return Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            ));
        }
        Ok(SecretKey::from(self.1.as_str()))
    }
}

impl Wire {
    pub(super) fn new(backend: Backend, keys: (String, String), region: &'static str, counter: Counter) -> Self {
        let (buckets, faults) = (backend.buckets().clone(), backend.faults().clone());
        let mut builder = S3ServiceBuilder::new(backend);
        builder.set_auth(Keys(keys.0, keys.1));
        let mut config = S3Config::default();
        // The gate checks the time, by a clock that tests may put forward.
        config.presigned_url_max_skew_time_secs = u32::MAX;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        Self { service: builder.build(), buckets, faults, counter, region }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<HttpResponse, Closed> {
        let target = super::operation::Target::of(request.method(), request.uri());
        let at_work = self.counter.begin(target.operation);
        let fault = self.faults.decide(target.operation, &target.subject());
        let head = request.method() == Method::HEAD;
        let answer = self.with_fault(request, &target.bucket, target.operation, fault).await;
        drop(at_work);
        answer.map(|mut answer| {
            if head {
                *answer.body_mut() = Body::empty();
            }
            let now = jiff::Timestamp::try_from(SystemTime::now() + self.faults.skew()).unwrap_or_default();
            let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            answer.headers_mut().extend(HeaderValue::try_from(date).ok().map(|date| (DATE, date)));
            answer
        })
    }

    async fn with_fault(
        &self,
        request: Request<Incoming>,
        bucket: &str,
        operation: Operation,
        fault: Option<Fault>,
    ) -> Result<HttpResponse, Closed> {
        let request = request.map(Body::from);
        let serve = |request| self.serve(request, bucket, operation);
        let trouble = match fault {
            None => return serve(request).await,
            Some(Fault::Act(act)) => {
                (act.0)(&self.buckets);
                return serve(request).await;
            }
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                return serve(request).await;
            }
            Some(Fault::Fail { status, code, after }) => {
                read_to(request.into_body(), u64::MAX).await;
                return Ok(error(status, code, "A fault of the test's script.", after));
            }
            Some(Fault::Drop) => return Err(Closed),
            Some(Fault::BreakRequest { after }) => {
                read_to(request.into_body(), after).await;
                return Err(Closed);
            }
            Some(Fault::LostReply) => {
                drop(serve(request).await);
                return Err(Closed);
            }
            Some(Fault::FailAfter { status, code }) => {
                drop(serve(request).await);
                return Ok(error(status, code, "A fault of the test's script.", None));
            }
            Some(Fault::FailWith200 { code, done }) => {
                match done {
                    true => drop(serve(request).await),
                    false => read_to(request.into_body(), u64::MAX).await,
                }
                return Ok(error(200, code, "A fault of the test's script.", None));
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Break { after }) => Trouble::Break(after),
            Some(Fault::Short { after }) => Trouble::Short(after),
            Some(Fault::Stall { after }) => Trouble::Stall(after),
            Some(Fault::Slow { piece, pause }) => Trouble::Slow(piece, pause),
            Some(Fault::Flip { at }) => Trouble::Flip(at),
        };
        let (mut head, body) = serve(request).await?.into_parts();
        if let (Trouble::Short(after), Some(length)) = (trouble, head.headers.get_mut(CONTENT_LENGTH)) {
            let full: u64 = length.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or_default();
            *length = full.min(after).into();
        }
        Ok(Response::from_parts(head, body::troubled(body, trouble)))
    }

    async fn serve(&self, request: Request<Body>, bucket: &str, operation: Operation) -> Result<HttpResponse, Closed> {
        let checked = gate::check_region(&self.buckets, self.region, bucket, request.headers())
            .and_then(|()| gate::check_clock(request.headers(), self.faults.skew()))
            .and_then(|()| gate::check_session(request.headers(), self.faults.session_token().as_deref()));
        if let Err(refusal) = checked {
            read_to(request.into_body(), u64::MAX).await;
            return Ok(refused(refusal));
        }
        let request = match operation {
            // The service parses this body itself and hands its digest to nobody.
            Operation::DeleteObjects | Operation::PutObjectTagging => match checked_document(request).await {
                Ok(request) => request,
                Err(code) => return Ok(error(400, code, "The body does not agree with its digest.", None)),
            },
            _ => request,
        };
        self.service.call(request).await.map_err(|_| Closed)
    }
}

/// Serves connections for as long as the runtime lives.
pub(super) async fn serve(listener: TcpListener, wire: Arc<Wire>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Small answers are not to wait for more.
        let _ = stream.set_nodelay(true);
        let wire = wire.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| wire.answer(request));
            // A connection that ends in an error is a client that went away, or a fault.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Reads and forgets so much of a body.
async fn read_to(mut body: Body, limit: u64) {
    let mut read = 0;
    while read < limit {
        match body.next().await {
            Some(Ok(piece)) => read += piece.len() as u64,
            Some(Err(_)) | None => return,
        }
    }
}

/// Reads an XML body and compares it with its Content-MD5; without one, a checksum header has to be there.
async fn checked_document(request: Request<Body>) -> Result<Request<Body>, &'static str> {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(|_| "IncompleteBody")?);
    }
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    match text("content-md5") {
        Some(md5) => digest::check_md5(md5, &digest::md5(&bytes))?,
        None if head.headers.keys().any(|name| name.as_str().starts_with("x-amz-checksum-")) => {
            let sent = digest::named(|algorithm| text(&format!("x-amz-checksum-{algorithm}")).map(str::to_owned));
            digest::check_checksums(&sent, &bytes)?;
        }
        None => return Err("InvalidRequest"),
    }
    Ok(Request::from_parts(head, Body::from(Bytes::from(bytes))))
}

fn refused(refusal: Refusal) -> HttpResponse {
    let Refusal { status, code, message, region } = refusal;
    let mut answer = error(status, code, &message, None);
    if let Some(region) = region.and_then(|region| HeaderValue::try_from(region).ok()) {
        answer.headers_mut().insert("x-amz-bucket-region", region);
    }
    answer
}

/// An error as the API writes it.
fn error(status: u16, code: &str, message: &str, after: Option<Duration>) -> HttpResponse {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
         <RequestId>0000000000000000</RequestId></Error>"
    );
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    if let Some(after) = after {
        answer.headers_mut().insert(RETRY_AFTER, after.as_secs().into());
    }
    answer
}
