//! The content of objects.

use super::{GDriveDestination, Known};
use crate::error::{no_answer, not_understood};
use crate::send::{get, while_it_moves};
use backup_core::adapter::ByteStream;
use backup_core::{Error, Result};
use futures::StreamExt;
use reqwest::{Response, StatusCode};
use std::ops::Range;
use std::sync::atomic::AtomicU64;

impl GDriveDestination {
    /// The content of a file, or of a range that is not empty.
    pub(super) async fn open(&self, known: &Known, range: Option<&Range<u64>>) -> Result<ByteStream> {
        let url = &self.drive.url(&format!("/drive/v3/files/{}", known.id));
        let header = &range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let asked = self.drive.persist(|| async move {
            let response = self.drive.success(|http| {
                let request = get(http, url, PARAMETERS);
                match header {
                    Some(range) => request.header("range", range),
                    None => request,
                }
            });
            let response = response.await?;
            check(&response, known, range)?;
            Ok(response)
        });
        let mut content = asked.await?.bytes_stream();
        let wanted = range.map_or(known.size, |range| range.end - range.start);
        let still = self.drive.config().limits.still();
        Ok(async_stream::try_stream! {
            let mut left = wanted;
            // Each piece has its own time.
            let moved = AtomicU64::new(0);
            while let Some(piece) = while_it_moves(still, &moved, content.next()).await? {
                let piece = piece.map_err(no_answer)?;
                left = left.checked_sub(piece.len() as u64).ok_or_else(|| Error::corrupt("it is longer than it was"))?;
                yield piece;
            }
            if left > 0 {
                Err(Error::transient("the content ended early"))?;
            }
        }
        .boxed())
    }
}

const PARAMETERS: &[(&str, &str)] = &[("alt", "media"), ("supportsAllDrives", "true"), ("acknowledgeAbuse", "true")];

/// Whether what comes is what was asked for. A page of something in between, which is a success as well, has another length.
fn check(response: &Response, known: &Known, range: Option<&Range<u64>>) -> Result<()> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let wanted = match range {
        Some(range) => {
            if response.status() != StatusCode::PARTIAL_CONTENT {
                return Err(not_understood());
            }
            let expected = format!("bytes {}-{}/", range.start, range.end - 1);
            if !header("content-range").is_some_and(|told| told.starts_with(&expected)) {
                return Err(Error::corrupt("it is shorter than the range that was asked for"));
            }
            range.end - range.start
        }
        None if response.status() != StatusCode::OK => return Err(not_understood()),
        None => known.size,
    };
    match header("content-length").and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length == wanted => Ok(()),
        _ => Err(not_understood()),
    }
}
