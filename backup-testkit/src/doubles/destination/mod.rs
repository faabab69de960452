//! A destination in memory.

mod place;

use super::{Clock, SystemClock, lock};
use async_trait::async_trait;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use backup_core::model::{Identity, ObjectName, STAGE_PREFIX};
use backup_core::{Digest, Error, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use place::{Place, Putting, Stored, below, is_staged};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex};

pub use place::Damage;

/// How many names a listing looks at before it lets go of the lock.
const PAGE: usize = 100;

/// A destination in memory. Cloning gives a second handle on the same place, [`snapshot`](Self::snapshot) a copy of it.
///
/// Stricter than most services:
/// - A put goes through a staged name, as on a file system: a put that is dropped half-way leaves it behind.
/// - Every call lets other tasks run before and after its effect, so that a dropped call may or may not have had it.
/// - Objects arrive in pieces of an odd size.
/// - [`remove_staged`](Destination::remove_staged) while a put is under way there is `Invalid`, and so is a reversed range.
#[derive(Clone, Debug)]
pub struct MemoryDestination {
    identity: Identity,
    properties: DestinationProperties,
    clock: Arc<dyn Clock>,
    piece: usize,
    place: Arc<Mutex<Place>>,
}

impl Default for MemoryDestination {
    fn default() -> Self {
        Self::new("destination")
    }
}

impl MemoryDestination {
    /// An empty destination; `name` tells it apart from others in [`Destination::identity`].
    pub fn new(name: &str) -> Self {
        Self {
            identity: Identity::new("memory", name),
            properties: DestinationProperties {
                max_object_size: 5 << 30,
                preferred_volume_size: 32 << 20,
                parallelism: 4,
            },
            clock: Arc::new(SystemClock),
            piece: 61_441,
            place: Arc::default(),
        }
    }

    /// Dates its objects by another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Says other things of itself; a put of more than `max_object_size` is `Invalid`.
    #[must_use]
    pub fn with_properties(mut self, properties: DestinationProperties) -> Self {
        self.properties = properties;
        self
    }

    /// Delivers objects in pieces of so many bytes, at least 1.
    #[must_use]
    pub fn with_piece(mut self, bytes: usize) -> Self {
        self.piece = bytes.max(1);
        self
    }

    /// Has room for so many bytes; see [`set_capacity`](Self::set_capacity).
    #[must_use]
    pub fn with_capacity(self, bytes: u64) -> Self {
        self.set_capacity(Some(bytes));
        self
    }

    /// Changes the room: what does not fit is `NoSpace`. Staged bytes count. `None` is without bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.place).capacity = bytes;
    }

    /// An independent copy of the place as it is now, to go back to or to compare with.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let place = lock(&self.place).clone();
        Self { place: Arc::new(Mutex::new(Place { puts: BTreeSet::new(), ..place })), ..self.clone() }
    }

    /// Makes this place what the other is now, for all handles.
    pub fn restore(&self, other: &MemoryDestination) {
        let objects = lock(&other.place).objects.clone();
        lock(&self.place).objects = objects;
    }

    /// All objects with their bytes, which are shared and not copied.
    pub fn objects(&self) -> BTreeMap<ObjectName, Bytes> {
        let place = lock(&self.place);
        place.objects.iter().filter_map(|(n, o)| Some((ObjectName::new(n).ok()?, o.bytes.clone()))).collect()
    }

    /// The bytes of an object.
    pub fn bytes(&self, name: &ObjectName) -> Option<Bytes> {
        lock(&self.place).objects.get(name.as_str()).map(|o| o.bytes.clone())
    }

    /// The staged names that broken puts have left behind.
    pub fn staged(&self) -> Vec<String> {
        lock(&self.place).objects.keys().filter(|name| is_staged(name)).cloned().collect()
    }

    /// All names that are there, those of objects as well as staged and foreign ones.
    pub fn names(&self) -> Vec<String> {
        lock(&self.place).objects.keys().cloned().collect()
    }

    /// Puts bytes there whatever was there before. `name` may also be a staged or foreign name, which no caller of the trait could give.
    pub fn insert(&self, name: &str, bytes: impl Into<Bytes>) {
        let stored = Stored { bytes: bytes.into(), modified: self.clock.now() };
        lock(&self.place).objects.insert(name.to_owned(), stored);
    }

    /// Loses an object; whether it was there.
    pub fn remove(&self, name: &ObjectName) -> bool {
        lock(&self.place).objects.remove(name.as_str()).is_some()
    }

    /// Exchanges the bytes of two objects; whether both were there.
    pub fn swap(&self, a: &ObjectName, b: &ObjectName) -> bool {
        let mut place = lock(&self.place);
        let (Some(of_a), Some(of_b)) = (place.objects.get(a.as_str()).cloned(), place.objects.get(b.as_str()).cloned())
        else {
            return false;
        };
        place.objects.insert(a.to_string(), of_b);
        place.objects.insert(b.to_string(), of_a);
        true
    }

    /// Damages an object; whether that changed any byte of it.
    pub fn corrupt(&self, name: &ObjectName, damage: Damage) -> bool {
        let mut place = lock(&self.place);
        let Some(stored) = place.objects.get_mut(name.as_str()) else { return false };
        let bytes = damage.to(&stored.bytes);
        let changed = bytes != stored.bytes;
        stored.bytes = bytes;
        changed
    }

    /// Dates an object anew; whether it was there.
    pub fn set_modified(&self, name: &ObjectName, modified: Timestamp) -> bool {
        let mut place = lock(&self.place);
        place.objects.get_mut(name.as_str()).map(|o| o.modified = modified).is_some()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Destination for MemoryDestination {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn properties(&self) -> DestinationProperties {
        self.properties
    }

    async fn check(&self) -> Result<()> {
        tokio::task::yield_now().await;
        match lock(&self.place).free() {
            Some(0) => Err(Error::no_space("no room for a probe")),
            _ => Ok(()),
        }
    }

    async fn now(&self) -> Result<Timestamp> {
        tokio::task::yield_now().await;
        Ok(self.clock.now())
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        if body.len() > self.properties.max_object_size {
            return Err(Error::invalid(format!("{} bytes are more than an object may have", body.len())).on(name));
        }
        let bytes = Bytes::from(body.pieces().concat());
        if body.known_sha256().is_some_and(|known| known != Digest::of(&bytes)) {
            return Err(Error::invalid("the payload says a SHA-256 that is not its own").on(name));
        }
        let stage = {
            let mut place = lock(&self.place);
            match place.objects.get(name.as_str()) {
                Some(there) if there.bytes == bytes => return Ok(()),
                Some(_) => return Err(Error::conflict("there is another object of this name").on(name)),
                None => {}
            }
            if place.free().is_some_and(|free| free < bytes.len() as u64) {
                return Err(Error::no_space("the destination is full").on(name));
            }
            place.stages += 1;
            let parent = name.as_str().rsplit_once('/').map(|(parent, _)| format!("{parent}/")).unwrap_or_default();
            let stage = format!("{parent}{STAGE_PREFIX}{}", place.stages);
            place.puts.insert(stage.clone());
            place.objects.insert(stage.clone(), Stored { bytes: bytes.clone(), modified: self.clock.now() });
            stage
        };
        let putting = Putting(&self.place, stage);
        let mut chunks = body.chunks();
        while chunks.next().await.is_some() {}
        tokio::task::yield_now().await;
        {
            let mut place = lock(&self.place);
            place.objects.remove(&putting.1);
            match place.objects.get(name.as_str()) {
                Some(there) if there.bytes == bytes => {}
                Some(_) => return Err(Error::conflict("another put of this name was faster").on(name)),
                None => {
                    place.objects.insert(name.to_string(), Stored { bytes, modified: self.clock.now() });
                }
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        tokio::task::yield_now().await;
        let bytes = self.bytes(name).ok_or_else(|| Error::not_found("no such object").on(name))?;
        let length = bytes.len() as u64;
        let range = range.unwrap_or(0..length);
        if range.start > range.end {
            return Err(Error::invalid(format!("a range from {} back to {}", range.start, range.end)).on(name));
        }
        if range.end > length && range.start < range.end {
            let text = format!("the object ends at {length}, before the end of the range at {}", range.end);
            return Err(Error::corrupt(text).on(name));
        }
        let piece = self.piece;
        let mut rest = bytes.slice(range.start.min(length) as usize..range.end.min(length) as usize);
        Ok(async_stream::stream! {
            while !rest.is_empty() {
                tokio::task::yield_now().await;
                yield Ok(rest.split_to(piece.min(rest.len())));
            }
        }
        .boxed())
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        tokio::task::yield_now().await;
        let place = lock(&self.place);
        Ok(place.objects.get(name.as_str()).map(|stored| stored.info(name.clone())))
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        let prefix = prefix.map(|p| format!("{p}/")).unwrap_or_default();
        async_stream::stream! {
            let mut after: Option<String> = None;
            loop {
                tokio::task::yield_now().await;
                let page: Vec<(String, ObjectInfo)> = {
                    let place = lock(&self.place);
                    let from = after.as_deref().map_or(Bound::Included(prefix.as_str()), Bound::Excluded);
                    let behind = place.objects.range::<str, _>((from, Bound::Unbounded));
                    behind
                        .take_while(|(raw, _)| raw.starts_with(&prefix))
                        .filter_map(|(raw, stored)| Some((raw.clone(), stored.info(ObjectName::new(raw).ok()?))))
                        .take(PAGE)
                        .collect()
                };
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                for (_, info) in page {
                    yield Ok(info);
                }
            }
        }
        .boxed()
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        let roots = |place: &Place| -> BTreeSet<String> {
            let root = |name: &String| name.split('/').next().unwrap_or_default().to_owned();
            place.objects.keys().map(root).filter(|root| !root.starts_with(STAGE_PREFIX)).collect()
        };
        async_stream::stream! {
            tokio::task::yield_now().await;
            let roots = roots(&lock(&self.place));
            for root in roots {
                yield Ok(root);
            }
        }
        .boxed()
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        tokio::task::yield_now().await;
        lock(&self.place).objects.remove(name.as_str());
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn delete_many(&self, names: &[ObjectName]) -> Result<()> {
        for name in names {
            self.delete(name).await?;
        }
        Ok(())
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        tokio::task::yield_now().await;
        let mut place = lock(&self.place);
        if let Some(busy) = place.puts.iter().find(|name| below(name, prefix)) {
            return Err(Error::invalid("staged names are removed while a put is under way").on(busy));
        }
        place.objects.retain(|name, _| !(below(name, prefix) && is_staged(name)));
        Ok(())
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        tokio::task::yield_now().await;
        Ok(lock(&self.place).free())
    }
}
