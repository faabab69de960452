//! Where archives are kept.

use crate::limit::RateLimit;
use crate::model::{Identity, ObjectName};
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::num::NonZeroU64;
use std::ops::Range;

/// Bytes as they arrive. After an error nothing more follows.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// The content of an object to be put: in memory, so that it can be sent again.
///
/// It carries the rate at which it may be sent: an adapter sends what [`chunks`](Payload::chunks) gives, and looks at
/// [`pieces`](Payload::pieces) for whatever else it needs (a checksum, a comparison with what is there).
#[derive(Clone, Default)]
pub struct Payload {
    pieces: Vec<Bytes>,
    limit: Option<RateLimit>,
    sha256: Option<Digest>,
}

impl Payload {
    /// A payload of these pieces, one after the other.
    pub fn new(pieces: Vec<Bytes>) -> Self {
        Self { pieces, limit: None, sha256: None }
    }

    /// The same, whose SHA-256 is known, so that a destination need not hash it again.
    #[must_use]
    pub fn with_sha256(self, sha256: Digest) -> Self {
        Self { sha256: Some(sha256), ..self }
    }

    /// SHA-256 of the whole, when whoever made the payload knew it.
    pub fn known_sha256(&self) -> Option<Digest> {
        self.sha256
    }

    /// The same, to be sent no faster than `limit` allows together with whatever else shares it.
    #[must_use]
    pub fn paced(self, limit: RateLimit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|b| b.len() as u64).sum()
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// A part of it, of the same bytes in memory, under the same limit. What lies beyond the end is left out.
    #[must_use]
    pub fn slice(&self, range: Range<u64>) -> Self {
        let (mut pieces, mut at) = (Vec::new(), 0u64);
        for piece in &self.pieces {
            let length = piece.len() as u64;
            let (from, to) = (range.start.clamp(at, at + length) - at, range.end.clamp(at, at + length) - at);
            if from < to {
                pieces.push(piece.slice(from as usize..to as usize));
            }
            at += length;
        }
        Self { pieces, limit: self.limit.clone(), sha256: None }
    }

    /// Whether it is to be sent slowly at the moment. If not, all of it may be sent at once, without [`chunks`](Self::chunks).
    pub fn is_limited(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.get().is_some())
    }

    /// The whole in chunks of 1 byte to 256 KiB, each as soon as it may be sent. Below a limit they come steadily, about eight a
    /// second for all who share it, since services give up connections on which nothing moves.
    pub fn chunks(&self) -> BoxStream<'static, Bytes> {
        let Self { pieces, limit, .. } = self.clone();
        async_stream::stream! {
            for mut rest in pieces {
                while !rest.is_empty() {
                    let length = rest.len().min(chunk_length(limit.as_ref().and_then(RateLimit::get)));
                    let chunk = rest.split_to(length);
                    if let Some(limit) = &limit {
                        limit.take(length as u64).await;
                    }
                    yield chunk;
                }
            }
        }
        .boxed()
    }

    /// SHA-256 of the whole. CPU work unless it is [known](Self::known_sha256): call it on a blocking thread when the payload is large.
    pub fn digest(&self) -> Digest {
        if let Some(known) = self.sha256 {
            return known;
        }
        let mut hash = crate::Sha256::new();
        self.pieces.iter().for_each(|b| hash.update(b));
        hash.finish()
    }
}

/// Bytes that are sent at once at such a rate.
fn chunk_length(rate: Option<NonZeroU64>) -> usize {
    const MOST: usize = 256 << 10;
    rate.and_then(|rate| usize::try_from(rate.get() / 8).ok()).map_or(MOST, |bytes| bytes.clamp(1, MOST))
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![bytes])
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(vec![bytes.into()])
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

/// What a destination says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: ObjectName,
    /// Length in bytes.
    pub size: u64,
    /// When it was put, on the destination's clock.
    pub modified: jiff::Timestamp,
}

/// What engine and user should know of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationProperties {
    /// The largest object, in bytes.
    pub max_object_size: u64,
    /// Volume size that suits it best, in bytes, when the user does not say.
    pub preferred_volume_size: u64,
    /// How many puts or gets at once are useful, at least 1.
    pub parallelism: usize,
}

/// Where archives are kept: a plain store of immutable objects below a root.
#[async_trait]
pub trait Destination: std::fmt::Debug + Send + Sync + 'static {
    /// The place that this destination stands for: its root.
    ///
    /// # Behavior
    /// - Does no I/O and always answers the same.
    /// - Carries no secret.
    fn identity(&self) -> Identity;

    /// What engine and user should know of it.
    ///
    /// # Behavior
    /// - Does no I/O; all values are at least 1.
    fn properties(&self) -> DestinationProperties;

    /// Writes, reads back and removes a probe.
    ///
    /// # Behavior
    /// - Success means that put, get and delete work now; makes the root if that is missing.
    /// - Leaves nothing behind that [`list`](Destination::list) shows.
    /// - Wrong credentials are `Unauthorized`, a missing place or right is `NotFound` or `Permanent`.
    async fn check(&self) -> Result<()>;

    /// The time on the clock that dates its objects.
    ///
    /// # Behavior
    /// - Not earlier than [`ObjectInfo::modified`] of an object that was put before the call, but for the clock's resolution of at most one second.
    async fn now(&self) -> Result<jiff::Timestamp>;

    /// Stores an object, whole or not at all.
    ///
    /// # Behavior
    /// - On success the object is durable and visible to every later call.
    /// - Equal bytes already under this name: success. Different bytes: `Conflict`, and the old bytes stay.
    /// - After an error or a dropped call the object is either there as a whole or not at all.
    /// - Two puts of one name at once: one object remains, whole; a loser with other bytes gets `Conflict`.
    /// - A full disk or quota is `NoSpace`.
    /// - An empty payload is an object of 0 bytes.
    /// - Sends no faster than the payload allows, and steadily: its [`chunks`](Payload::chunks) as they come.
    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()>;

    /// Opens an object or a part of it.
    ///
    /// # Behavior
    /// - Delivers exactly the range, or the whole object without one.
    /// - An absent object is `NotFound`, now or as the first item of the stream.
    /// - A range beyond the end is `Corrupt` (the object is shorter than what the archive says), now or in the stream, never fewer bytes without an error.
    /// - An empty range of an object that exists delivers no bytes.
    /// - A connection that breaks off is an error of the stream, never an early end.
    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream>;

    /// Looks whether an object is there.
    ///
    /// # Behavior
    /// - `None` when it is absent; right after a put the object is there with its size.
    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>>;

    /// Lists the objects whose names start with `prefix/`, or all of them.
    ///
    /// # Behavior
    /// - Every object that was there before the call and is not deleted during it comes once, in any order.
    /// - Holds at most a page in memory, not the whole listing.
    /// - Staged and foreign names that are no [`ObjectName`] are left out.
    /// - Nothing below the prefix: an empty stream, not an error.
    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>>;

    /// Lists the first components of all object names: the archives, and whatever else lies in the root.
    ///
    /// # Behavior
    /// - Each component comes once, in any order, without reading what lies below.
    fn list_roots(&self) -> BoxStream<'_, Result<String>>;

    /// Removes an object.
    ///
    /// # Behavior
    /// - An absent object is success.
    /// - After success neither get nor stat nor list finds it.
    async fn delete(&self, name: &ObjectName) -> Result<()>;

    /// Removes many objects, in no order: several at once, or with one request where the service has one for that.
    ///
    /// # Behavior
    /// - After success all of them are gone, as after [`delete`](Destination::delete); absent ones are success.
    /// - After an error some of them may be gone, and no other object; calling again goes on.
    async fn delete_many(&self, names: &[ObjectName]) -> Result<()> {
        let at_once = self.properties().parallelism.max(1);
        let each = names.iter().cloned();
        let each = each.map(|name| async move { self.delete(&name).await.map_err(|e| e.on(&name)) });
        futures::stream::iter(each).buffer_unordered(at_once).try_collect().await
    }

    /// Removes staged leftovers of broken puts below `prefix/`.
    ///
    /// # Behavior
    /// - Removes only names that start with [`STAGE_PREFIX`](crate::model::STAGE_PREFIX), and no object.
    /// - The caller makes sure that no put is under way below the prefix.
    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()>;

    /// Bytes that can still be stored.
    ///
    /// # Behavior
    /// - `None` when the service does not say.
    async fn free_space(&self) -> Result<Option<u64>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_paced_payload_comes_whole_at_its_rate_and_without_long_gaps() {
        let pieces = vec![Bytes::from(vec![1; 300_000]), Bytes::new(), Bytes::from(vec![2; 50_001])];
        let limit = RateLimit::new(NonZeroU64::new(10_000));
        let payload = Payload::new(pieces.clone()).paced(limit.clone());
        assert!(payload.is_limited());
        let (start, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let (mut chunks, mut whole) = (payload.chunks(), Vec::new());
        while let Some(chunk) = chunks.next().await {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            whole.extend_from_slice(&chunk);
        }
        assert!(whole == pieces.concat());
        let took = start.elapsed().as_secs_f64();
        assert!((34.5..=35.1).contains(&took), "{took}");
        assert!(longest < Duration::from_millis(200), "{longest:?}");
        // A limit that is lifted no longer holds anything up, also what is on its way.
        let mut chunks = payload.chunks();
        let start = Instant::now();
        chunks.next().await.unwrap();
        limit.set(None);
        assert_eq!(
            chunks.map(|chunk| chunk.len()).fold(1250, |sum, length| async move { sum + length }).await,
            350_001
        );
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(!payload.is_limited());
    }

    #[test]
    fn any_part_of_a_payload_is_what_lies_there() {
        let payload = Payload::new(vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defgh")]);
        for from in 0..10 {
            for to in 0..10 {
                let expected: Vec<u8> =
                    b"abcdefgh".iter().enumerate().filter(|(at, _)| (from..to).contains(at)).map(|(_, b)| *b).collect();
                assert_eq!(payload.slice(from as u64..to as u64).pieces().concat(), expected, "{from}..{to}");
            }
        }
    }

    #[test]
    fn a_known_digest_stays_with_the_whole_and_not_with_a_part() {
        let payload = Payload::from(vec![1, 2, 3]);
        assert_eq!(payload.known_sha256(), None);
        let known = payload.clone().with_sha256(payload.digest()).paced(RateLimit::default());
        assert_eq!(known.known_sha256(), Some(Digest::of(&[1, 2, 3])));
        assert_eq!(known.slice(0..2).known_sha256(), None);
        assert_eq!(known.slice(0..2).digest(), Digest::of(&[1, 2]));
    }

    #[tokio::test]
    async fn a_payload_without_a_limit_comes_in_large_chunks() {
        let payload = Payload::from(vec![7; 600_000]).paced(RateLimit::default());
        let lengths: Vec<usize> = payload.chunks().map(|chunk| chunk.len()).collect().await;
        assert_eq!(lengths, [256 << 10, 256 << 10, 600_000 - (512 << 10)]);
        assert_eq!(chunk_length(NonZeroU64::new(1)), 1);
    }
}
