//! Connections: counts requests, lets faults happen, and hands the rest to the service.

use super::answer::{self, Answer};
use super::files::{self, Parameters};
use super::operation::FILES;
use super::state::State;
use super::{DriveFault, DriveFaults, DriveOperation, oauth, upload};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;

/// Everything that a connection needs.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) own: String,
    pub(super) state: Mutex<State>,
    pub(super) faults: DriveFaults,
    pub(super) counts: Mutex<BTreeMap<DriveOperation, u64>>,
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

impl Wire {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Closed> {
        let (head, body) = request.into_parts();
        let range = head.headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let operation = DriveOperation::of(&head.method, &head.uri, range);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(operation).or_default() += 1;
        let fault = self.faults.decide(operation);
        let limit = match fault {
            Some(DriveFault::Drop) => return Err(Closed),
            Some(DriveFault::Hang) => std::future::pending().await,
            Some(DriveFault::BreakRequest { after }) => after,
            Some(DriveFault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                usize::MAX
            }
            _ => usize::MAX,
        };
        let Some(body) = read(body, limit).await else {
            // The client went away in the middle of its body.
            return Err(Closed);
        };
        let target = head.uri.path_and_query().map(|target| target.as_str()).unwrap_or_default();
        let request = Served { operation, target, headers: &head.headers, body: &body };
        let mut answer = match fault {
            Some(DriveFault::Fail { status, reason }) => answer::error(status, reason),
            Some(DriveFault::SessionGone { status }) => {
                let (_, query) = target.split_once('?').unwrap_or_default();
                if let Some(id) = form(query.as_bytes()).get("upload_id") {
                    self.state().sessions.remove(id);
                }
                answer::error(status, "notFound")
            }
            Some(DriveFault::NotJson) => answer::text(200, "<html>It works!</html>".into()),
            Some(DriveFault::FailAfter { status }) => {
                self.serve(&request, None, true);
                answer::error(status, "backendError")
            }
            Some(DriveFault::LostReply) => {
                self.serve(&request, None, true);
                return Err(Closed);
            }
            Some(DriveFault::BreakRequest { .. }) => {
                self.serve(&request, None, false);
                return Err(Closed);
            }
            Some(DriveFault::EmptyPage) if operation == DriveOperation::List && !target.contains("pageToken=") => {
                answer::json(200, &serde_json::json!({ "files": [], "nextPageToken": files::FROM_THE_START }))
            }
            Some(DriveFault::Partial { kept }) => self.serve(&request, Some(kept), true),
            Some(DriveFault::Break { after }) => {
                let (head, body) = self.serve(&request, None, true).into_parts();
                let bytes = body.collect().await.map_err(|_| Closed)?.to_bytes();
                Answer::from_parts(head, answer::broken(bytes, after))
            }
            Some(DriveFault::StallBody { after }) => {
                let (head, body) = self.serve(&request, None, true).into_parts();
                let bytes = body.collect().await.map_err(|_| Closed)?.to_bytes();
                Answer::from_parts(head, answer::stalled(&bytes, after))
            }
            Some(DriveFault::Padded { blanks }) => {
                let (head, body) = self.serve(&request, None, true).into_parts();
                let bytes = body.collect().await.map_err(|_| Closed)?.to_bytes();
                Answer::from_parts(head, answer::body([vec![b' '; blanks].as_slice(), &bytes].concat().into()))
            }
            Some(DriveFault::StoreFlipped { at }) => {
                let mut bytes = body.to_vec();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                }
                self.serve(&Served { body: &bytes.into(), ..request }, None, true)
            }
            Some(DriveFault::Busy { status, after_s }) => {
                let mut busy = answer::error(status, "backendError");
                busy.headers_mut().insert(RETRY_AFTER, after_s.into());
                busy
            }
            _ => self.serve(&request, None, true),
        };
        let date = self.state().now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        answer.headers_mut().extend(HeaderValue::try_from(date).map(|date| (DATE, date)));
        Ok(answer)
    }

    fn serve(&self, request: &Served<'_>, partial: Option<usize>, whole: bool) -> Answer {
        let Served { operation, target, headers, body } = *request;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameters = form(query.as_bytes());
        let id = path.strip_prefix(FILES).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        let mut state = self.state();
        let needs_token = !matches!(operation, DriveOperation::Authorize | DriveOperation::Token);
        // The address of a session is a secret of its own, and enough.
        let in_session = matches!(operation, DriveOperation::UploadChunk | DriveOperation::UploadStatus);
        let token =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        let known = token.map(|token| state.access_tokens.contains(token));
        if needs_token && !(known == Some(true) || in_session && known.is_none()) {
            return answer::error(401, "authError");
        }
        match operation {
            DriveOperation::Authorize => oauth::authorize(&mut state, &parameters),
            DriveOperation::Token => {
                let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                if !kind.starts_with("application/x-www-form-urlencoded") {
                    return answer::oauth_error("invalid_request", "The body is no form.");
                }
                oauth::token(&mut state, &form(body))
            }
            DriveOperation::About => files::about(&state, &parameters),
            DriveOperation::List => files::list(&mut state, &parameters),
            DriveOperation::GetMetadata => files::metadata(&state, id, &parameters),
            DriveOperation::Download => files::download(&state, id, &parameters, headers),
            DriveOperation::Create => files::create(&mut state, &parameters, body),
            DriveOperation::Update => files::update(&mut state, id, &parameters, body),
            DriveOperation::Delete => files::delete(&mut state, id, &parameters),
            DriveOperation::BeginUpload => upload::begin(&mut state, &self.own, &parameters, headers, body),
            DriveOperation::UploadChunk | DriveOperation::UploadStatus => {
                upload::chunk(&mut state, &parameters, headers, body, partial, whole)
            }
            DriveOperation::Other => answer::error(404, "notFound"),
        }
    }
}

/// A request that was read.
struct Served<'a> {
    operation: DriveOperation,
    target: &'a str,
    headers: &'a HeaderMap,
    body: &'a Bytes,
}

fn form(bytes: &[u8]) -> Parameters {
    url::form_urlencoded::parse(bytes).into_owned().collect()
}

/// The body, or its start; `None` when it broke off.
async fn read(mut body: Incoming, limit: usize) -> Option<Bytes> {
    let mut read = BytesMut::new();
    while read.len() < limit {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read.extend_from_slice(&data);
                }
            }
            Some(Err(_)) => return None,
            None => break,
        }
    }
    read.truncate(limit);
    Some(read.freeze())
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
