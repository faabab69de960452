//! Resumable uploads: a whole object in one call, in chunks, going on where the service says that it is.
//!
//! Protocol: "Perform a resumable upload" in the guides of the Drive API. What counts is the service's own word of how many bytes it has
//! (`Range` of a 308), never what was sent. After any doubt it is asked. A session that is gone is begun anew.

use crate::GDrive;
use crate::api::{FIELDS, File};
use crate::error::{Refusal, not_understood};
use crate::send::{Answered, Outage, SMALL, request};
use backup_core::adapter::Payload;
use backup_core::{Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Body, Client, Method, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a chunk: a multiple of 256 KiB, as the service wants it.
const CHUNK: u64 = 8 << 20;
/// How often a session that is gone is begun anew.
const SESSIONS: u32 = 3;

/// How far an upload is.
enum Progress {
    /// The service has so many bytes.
    Kept(u64),
    Done(Box<File>),
    /// There is no such session any more.
    Gone,
}

impl GDrive {
    /// Makes a file of a payload. After an error there may be one all the same, whole, if the last answer got lost.
    pub(crate) async fn upload(&self, metadata: &Value, payload: &Payload) -> Result<File> {
        let mut outage = Outage::new(self);
        for _ in 0..SESSIONS {
            let session = self.begin(metadata, payload.len()).await?;
            if let Some(file) = self.send_all(&session, payload, &mut outage).await? {
                return Ok(file);
            }
            tracing::debug!("an upload's session is gone; another is begun");
        }
        Err(Error::transient("the service forgot the upload again and again"))
    }

    /// Begins a session. Its address is as good as a password.
    async fn begin(&self, metadata: &Value, total: u64) -> Result<SecretString> {
        let url = self.url("/upload/drive/v3/files");
        let (body, total) = (metadata.to_string(), total.to_string());
        let parameters = [("uploadType", "resumable"), ("supportsAllDrives", "true"), ("fields", FIELDS)];
        let limit = self.config().limits.answer();
        let build = |http: &Client| {
            request(http, Method::POST, &url, &parameters)
                .header("content-type", "application/json; charset=UTF-8")
                .header("x-upload-content-type", "application/octet-stream")
                .header("x-upload-content-length", &total)
                .timeout(limit)
                .body(body.clone())
        };
        let build = &build;
        // A session that nobody heard of is no file, and goes by itself.
        self.persist(|| async move {
            let begun = self.success(build).await?;
            let place = begun.headers().get("location").and_then(|place| place.to_str().ok());
            place.map(SecretString::from).ok_or_else(not_understood)
        })
        .await
    }

    /// Sends everything; `None` when the session is gone.
    async fn send_all(
        &self,
        session: &SecretString,
        payload: &Payload,
        outage: &mut Outage<'_>,
    ) -> Result<Option<File>> {
        let total = payload.len();
        let mut offset = 0;
        // Nobody knows what arrived: the service is asked until it says so.
        let mut doubtful = false;
        loop {
            let step = match doubtful {
                true => self.ask(session, total).await,
                false => self.send_chunk(session, payload, offset).await,
            };
            let asked = doubtful;
            doubtful = step.is_err();
            match step {
                Err(error) => outage.failed(error).await?,
                Ok(Progress::Done(file)) => return Ok(Some(*file)),
                Ok(Progress::Gone) => return Ok(None),
                Ok(Progress::Kept(kept)) if kept > total || kept == total && total > 0 => return Err(not_understood()),
                Ok(Progress::Kept(kept)) => {
                    if kept > offset {
                        outage.over();
                    } else if !asked {
                        outage.failed(Error::transient("the service kept nothing of what was sent")).await?;
                    }
                    offset = kept;
                }
            }
        }
    }

    async fn send_chunk(&self, session: &SecretString, payload: &Payload, offset: u64) -> Result<Progress> {
        let total = payload.len();
        let end = total.min(offset + CHUNK);
        let range = match total {
            0 => "bytes */0".to_owned(),
            _ => format!("bytes {offset}-{}/{total}", end - 1),
        };
        let moved = Arc::new(AtomicU64::new(0));
        let answered = self
            .send(&moved, |http| {
                request(http, Method::PUT, session.expose_secret(), &[])
                    .header("content-range", &range)
                    .header("content-length", end - offset)
                    .body(body(payload, offset, end, moved.clone()))
            })
            .await?;
        self.progress(answered).await
    }

    /// Asks how far the upload is.
    async fn ask(&self, session: &SecretString, total: u64) -> Result<Progress> {
        let (range, limit) = (format!("bytes */{total}"), self.config().limits.answer());
        let answered = self
            .send(&AtomicU64::new(0), |http| {
                request(http, Method::PUT, session.expose_secret(), &[])
                    .header("content-range", &range)
                    .header("content-length", 0)
                    .timeout(limit)
            })
            .await?;
        self.progress(answered).await
    }

    async fn progress(&self, answered: Answered) -> Result<Progress> {
        let response = match answered {
            Answered::Answer(response) => response,
            Answered::Refused(refusal) => return Err(refusal.into_error()),
        };
        match response.status().as_u16() {
            200 | 201 => {
                let body = self.small(response, SMALL).await?;
                serde_json::from_slice(&body).map(|file| Progress::Done(Box::new(file))).map_err(|_| not_understood())
            }
            308 => kept(&response).map(Progress::Kept),
            404 | 410 => {
                let refusal = self.refusal(response).await?;
                match &*refusal.reason {
                    // The last byte is there, but the folder is not.
                    "notFound" if refusal.is_about_a_file() => Err(folder_gone(refusal)),
                    _ => Ok(Progress::Gone),
                }
            }
            _ => Err(self.refusal(response).await?.into_error()),
        }
    }
}

fn folder_gone(refusal: Refusal) -> Error {
    Error::not_found("the folder of the archive was deleted while it was written").because(refusal.into_error())
}

/// Bytes that the service has: `Range: bytes=0-B`, or nothing without one.
fn kept(response: &Response) -> Result<u64> {
    let Some(range) = response.headers().get("range") else { return Ok(0) };
    let last =
        range.to_str().ok().and_then(|range| range.strip_prefix("bytes=0-")).and_then(|last| last.parse::<u64>().ok());
    last.and_then(|last| last.checked_add(1)).ok_or_else(not_understood)
}

/// The bytes of a payload from one offset to another, as fast as it may be sent.
fn body(payload: &Payload, from: u64, to: u64, moved: Arc<AtomicU64>) -> Body {
    let pieces = payload.slice(from..to).chunks();
    Body::wrap_stream(pieces.map(move |piece: Bytes| {
        moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(piece)
    }))
}
