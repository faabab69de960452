//! Answers.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Answer = Response<Body>;

pub(super) fn body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Comes in pieces, as from a network.
pub(super) fn pieces(bytes: Bytes) -> Body {
    const PIECE: usize = 256 << 10;
    let count = bytes.len().div_ceil(PIECE);
    let pieces = (0..count).map(move |n| Ok(Frame::data(bytes.slice(n * PIECE..bytes.len().min((n + 1) * PIECE)))));
    BodyExt::boxed_unsync(StreamBody::new(stream::iter(pieces)))
}

/// The first so many bytes, and then the connection breaks; a shorter body comes whole.
pub(super) fn broken(bytes: Bytes, after: usize) -> Body {
    if bytes.len() <= after {
        return body(bytes);
    }
    let sent = bytes.slice(..after);
    let error = io::Error::other("a fault of the test's script");
    BodyExt::boxed_unsync(StreamBody::new(stream::iter([Ok(Frame::data(sent)), Err(error)])))
}

/// The first so many bytes, and then nothing more, for ever.
pub(super) fn stalled(bytes: &Bytes, after: usize) -> Body {
    let sent = bytes.slice(..bytes.len().min(after));
    let frames = stream::once(std::future::ready(Ok(Frame::data(sent)))).chain(stream::pending());
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

pub(super) fn empty(status: u16) -> Answer {
    let mut answer = Response::new(body(Bytes::new()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

pub(super) fn json(status: u16, value: &Value) -> Answer {
    text(status, value.to_string())
}

pub(super) fn text(status: u16, text: String) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = body(text.into());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    answer
}

/// An error as the Drive API writes it ("Resolve errors" of its guides).
pub(super) fn error(status: u16, reason: &str) -> Answer {
    let message = format!("A test's answer: {reason}.");
    json(
        status,
        &json!({ "error": {
            "code": status,
            "message": message,
            "errors": [{ "domain": "global", "reason": reason, "message": message }],
        }}),
    )
}

pub(super) fn not_found(id: &str) -> Answer {
    let message = format!("File not found: {id}.");
    let details = json!([{ "domain": "global", "reason": "notFound", "message": message }]);
    json(404, &json!({ "error": { "code": 404, "message": message, "errors": details }}))
}

/// An error as OAuth writes it (RFC 6749, 5.2).
pub(super) fn oauth_error(error: &str, description: &str) -> Answer {
    json(400, &json!({ "error": error, "error_description": description }))
}
