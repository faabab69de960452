//! Where archives are kept.

use crate::model::{Identity, ObjectName};
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::ops::Range;

/// Bytes as they arrive. After an error nothing more follows.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// The content of an object to be put: in memory, so that it can be sent again.
#[derive(Clone, Default)]
pub struct Payload(Vec<Bytes>);

impl Payload {
    /// A payload of these pieces, one after the other.
    pub fn new(pieces: Vec<Bytes>) -> Self {
        Self(pieces)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|b| b.len() as u64).sum()
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.0
    }

    /// SHA-256 of the whole. CPU work: call it on a blocking thread when the payload is large.
    pub fn digest(&self) -> Digest {
        let mut hash = crate::Sha256::new();
        self.0.iter().for_each(|b| hash.update(b));
        hash.finish()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(vec![bytes.into()])
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
