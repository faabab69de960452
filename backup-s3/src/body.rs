//! Bodies of requests that write.

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use backup_core::adapter::Payload;
use backup_core::{Digest, Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body::{Frame, SizeHint};
use md5::Digest as _;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;

/// Content up to this length is hashed where it is: a hop to another thread would cost more.
const HASHED_HERE: u64 = 64 << 10;

/// The pieces of a payload, one after the other, without a copy, and as fast as its limit allows.
struct Pieces {
    // The SDK wants a body that several threads may refer to; none of them reads it but the one that sends.
    pieces: Mutex<BoxStream<'static, Bytes>>,
    left: u64,
    all_taken: Arc<Notify>,
}

/// When a body is sent: when its last piece was taken by the connection, and time enough for that one has passed.
#[derive(Debug)]
pub(crate) struct Sent {
    /// `None` when the connection has all of it from the start.
    all_taken: Option<Arc<Notify>>,
    last: Duration,
}

impl Sent {
    pub(crate) async fn wait(&self) {
        if let Some(all_taken) = &self.all_taken {
            all_taken.notified().await;
        }
        tokio::time::sleep(self.last).await;
    }
}

/// Bytes a second as which a connection is slow. One on which nothing moves is broken off much sooner.
const SLOW: u64 = 16 << 10;

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { pieces, left, all_taken } = self.get_mut();
        pieces.get_mut().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(cx).map(|piece| {
            let piece = piece?;
            *left = left.saturating_sub(piece.len() as u64);
            if *left == 0 {
                all_taken.notify_one();
            }
            Some(Ok(Frame::data(piece)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that sends a payload, and what tells when it is sent.
pub(crate) fn body(payload: &Payload) -> (ByteStream, Sent) {
    let longest = payload.pieces().iter().map(Bytes::len).max().unwrap_or_default();
    let last = Duration::from_secs(longest as u64 / SLOW);
    match payload.pieces() {
        [] => (ByteStream::from_static(b""), Sent { all_taken: None, last }),
        [whole] if !payload.is_limited() => (ByteStream::from(whole.clone()), Sent { all_taken: None, last }),
        pieces => {
            let left = payload.len();
            let pieces = if payload.is_limited() {
                payload.chunks()
            } else {
                let pieces: Vec<Bytes> = pieces.iter().filter(|piece| !piece.is_empty()).cloned().collect();
                futures::stream::iter(pieces).boxed()
            };
            let all_taken = Arc::new(Notify::new());
            if left == 0 {
                all_taken.notify_one();
            }
            let sent = Sent { all_taken: Some(all_taken.clone()), last };
            let body = Pieces { pieces: Mutex::new(pieces), left, all_taken };
            (ByteStream::new(SdkBody::from_body_1_x(body)), sent)
        }
    }
}

/// The MD5 of a content, which services compare with what arrived and mostly keep as the ETag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Md5([u8; 16]);

impl Md5 {
    /// Of a payload; a long one is hashed on another thread.
    pub(crate) async fn of(payload: &Payload) -> Result<Self> {
        if payload.len() <= HASHED_HERE {
            return Ok(Self::of_pieces(payload.pieces()));
        }
        on_other_thread(payload, |payload| Self::of_pieces(payload.pieces())).await
    }

    /// Of pieces in memory. CPU work.
    pub(crate) fn of_pieces(pieces: &[Bytes]) -> Self {
        let mut hash = md5::Md5::new();
        pieces.iter().for_each(|piece| hash.update(piece));
        Self(hash.finalize().into())
    }

    /// As the header `Content-MD5` has it.
    pub(crate) fn header(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Whether an ETag, without its quotation marks, is this MD5.
    pub(crate) fn is(&self, etag: &str) -> bool {
        etag.eq_ignore_ascii_case(&hex::encode(self.0))
    }
}

/// What the service compares with what arrives, and refuses a write by that arrived otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// `Content-MD5`, which all services know.
    Md5(Md5),
    /// `x-amz-checksum-sha256`, which some take without comparing it: see [`compares_sha256`](crate::S3Bucket::compares_sha256).
    Sha256(Digest),
    /// Both: the second to be kept with the object.
    Both(Md5, Digest),
}

impl Proof {
    pub(crate) fn md5(self) -> Option<String> {
        match self {
            Self::Md5(md5) | Self::Both(md5, _) => Some(md5.header()),
            Self::Sha256(_) => None,
        }
    }

    pub(crate) fn sha256(self) -> Option<String> {
        match self {
            Self::Sha256(digest) | Self::Both(_, digest) => Some(STANDARD.encode(digest.0)),
            Self::Md5(_) => None,
        }
    }
}

/// SHA-256 of a payload; a long one whose digest is not known is hashed on another thread.
pub(crate) async fn sha256_of(payload: &Payload) -> Result<Digest> {
    if payload.known_sha256().is_some() || payload.len() <= HASHED_HERE {
        return Ok(payload.digest());
    }
    on_other_thread(payload, Payload::digest).await
}

async fn on_other_thread<T: Send + 'static>(
    payload: &Payload,
    work: impl FnOnce(&Payload) -> T + Send + 'static,
) -> Result<T> {
    let payload = payload.clone();
    let failed = |e| Error::permanent("a thread for hashing failed").because(e);
    tokio::task::spawn_blocking(move || work(&payload)).await.map_err(failed)
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The ETag that services give to an object of these parts: the MD5 of their MD5s, and their number. `None` when an ETag of a part is
/// no MD5, as with some encryptions.
pub(crate) fn etag_of_parts<'a>(etags: impl ExactSizeIterator<Item = &'a str>) -> Option<String> {
    let count = etags.len();
    let mut hash = md5::Md5::new();
    for etag in etags {
        let mut bytes = [0; 16];
        hex::decode_to_slice(etag, &mut bytes).ok()?;
        hash.update(bytes);
    }
    Some(format!("{}-{count}", hex::encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::limit::RateLimit;
    use std::num::NonZeroU64;

    async fn sent(payload: &Payload) -> Vec<u8> {
        let (body, _) = body(payload);
        assert_eq!(body.size_hint(), (payload.len(), Some(payload.len())));
        body.collect().await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn a_body_is_the_payload_whatever_its_pieces() {
        let all = Bytes::from((0..600_000u32).map(|i| i as u8).collect::<Vec<_>>());
        let cut = Payload::new(vec![all.slice(..7), Bytes::new(), all.slice(7..300_000), all.slice(300_000..)]);
        let paced = cut.clone().paced(RateLimit::new(NonZeroU64::new(100 << 20)));
        for payload in [cut, paced, Payload::from(all.clone())] {
            assert!(sent(&payload).await == all);
            assert_eq!(Md5::of(&payload).await.unwrap(), Md5::of_pieces(std::slice::from_ref(&all)));
            assert_eq!(sha256_of(&payload).await.unwrap(), Digest::of(&all));
        }
        assert!(sent(&Payload::default()).await.is_empty());
        assert!(sent(&Payload::new(vec![Bytes::new(), Bytes::new()])).await.is_empty());
    }

    #[test]
    fn etags_are_as_the_service_makes_them() {
        let md5 = Md5::of_pieces(&[Bytes::from_static(b"he"), Bytes::from_static(b"llo")]);
        assert!(md5.is("5d41402abc4b2a76b9719d911017c592") && md5.is("5D41402ABC4B2A76B9719D911017C592"));
        assert!(!md5.is("5d41402abc4b2a76b9719d911017c592-1"));
        assert_eq!(md5.header(), "XUFAKrxLKna5cZ2REBfFkg==");
        // printf '\x5d\x41…' | md5sum, for two parts "hello".
        let part = "5d41402abc4b2a76b9719d911017c592";
        assert_eq!(etag_of_parts([part, part].into_iter()).unwrap(), "616b22817b80eed9f65c3aa38cd29054-2");
        assert_eq!(etag_of_parts(["no-md5"].into_iter()), None);
    }
}
