//! Bodies that clients send, and the checks of them.

use super::super::Quirks;
use super::{coded, digest};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use s3s::dto::{Checksum, ContentLength, ContentMD5, StreamingBlob};
use s3s::{S3Result, TrailingHeaders, s3_error};

/// What came with a request to store something.
pub(super) struct Incoming {
    pub(super) body: Option<StreamingBlob>,
    pub(super) length: Option<ContentLength>,
    pub(super) md5: Option<ContentMD5>,
    pub(super) checksums: Checksum,
    pub(super) trailers: Option<TrailingHeaders>,
}

/// Takes what is to be stored out of a request.
macro_rules! incoming {
    ($request:expr) => {
        crate::s3::backend::upload::Incoming {
            body: $request.input.body.take(),
            length: $request.input.content_length.take(),
            md5: $request.input.content_md5.take(),
            checksums: s3s::dto::Checksum {
                checksum_crc32: $request.input.checksum_crc32.take(),
                checksum_crc32c: $request.input.checksum_crc32c.take(),
                checksum_crc64nvme: $request.input.checksum_crc64nvme.take(),
                checksum_sha1: $request.input.checksum_sha1.take(),
                checksum_sha256: $request.input.checksum_sha256.take(),
                checksum_type: None,
            },
            trailers: $request.trailing_headers.take(),
        }
    };
}
pub(super) use incoming;

/// A body that agrees with all that was said of it.
pub(super) struct Received {
    pub(super) body: Bytes,
    pub(super) md5: [u8; 16],
    pub(super) checksums: Checksum,
    /// Whether there was a Content-MD5 or a checksum.
    pub(super) protected: bool,
}

impl Incoming {
    /// Reads the body to its end and checks it.
    pub(super) async fn receive(self, quirks: &Quirks) -> S3Result<Received> {
        let Self { body, length, md5: sent_md5, mut checksums, trailers } = self;
        let mut bytes = BytesMut::with_capacity(
            length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default().min(1 << 26),
        );
        if let Some(mut body) = body {
            while let Some(piece) = body.next().await {
                bytes.extend_from_slice(&piece.map_err(
                    |error| match error.to_string().contains("Sha256Mismatch") {
                        true => coded(
                            "XAmzContentSHA256Mismatch",
                            "The provided 'x-amz-content-sha256' header does not match what was computed.",
                        ),
                        false => s3_error!(
                            IncompleteBody,
                            "You did not provide the number of bytes specified by the Content-Length HTTP header"
                        ),
                    },
                )?);
            }
        }
        let body = bytes.freeze();
        if length.is_some_and(|length| u64::try_from(length).is_ok_and(|length| length != body.len() as u64)) {
            return Err(s3_error!(IncompleteBody, "The body is not as long as its Content-Length"));
        }
        let chunked = trailers.is_some();
        if let Some(trailers) = trailers.and_then(|trailers| trailers.take()) {
            let value = |name: &str| Some(trailers.get(format!("x-amz-checksum-{name}"))?.to_str().ok()?.to_owned());
            let late = digest::named(value);
            checksums.checksum_crc32 = checksums.checksum_crc32.or(late.checksum_crc32);
            checksums.checksum_crc32c = checksums.checksum_crc32c.or(late.checksum_crc32c);
            checksums.checksum_crc64nvme = checksums.checksum_crc64nvme.or(late.checksum_crc64nvme);
            checksums.checksum_sha1 = checksums.checksum_sha1.or(late.checksum_sha1);
            checksums.checksum_sha256 = checksums.checksum_sha256.or(late.checksum_sha256);
        }
        if quirks.refuses_checksums && (chunked || digest::any(&checksums)) {
            return Err(s3_error!(InvalidRequest, "This server knows no checksums"));
        }
        if quirks.ignores_checksums {
            checksums = Checksum::default();
        }
        let md5 = digest::md5(&body);
        if let Some(sent) = &sent_md5 {
            let message = "The Content-MD5 you specified did not match what we received.";
            digest::check_md5(sent, &md5).map_err(|code| coded(code, message))?;
        }
        let message = "A checksum you specified did not match what we received.";
        digest::check_checksums(&checksums, &body).map_err(|code| coded(code, message))?;
        let protected = sent_md5.is_some() || digest::any(&checksums);
        Ok(Received { body, md5, checksums, protected })
    }
}
