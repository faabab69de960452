//! A bucket as destination: each object of an archive is one object of the bucket.

mod delete;
mod list;
mod probe;

use crate::S3Bucket;
use crate::attributes::Attributes;
use crate::body::{Md5, Proof, sha256_of};
use crate::object::{Put, PutAnswer};
use async_trait::async_trait;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use backup_core::model::{Identity, ObjectName};
use backup_core::{Error, Result};
use delete::Removal;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// The largest object that one request can put, in bytes.
const MAX_PUT: u64 = 5 << 30;
/// How often a put is tried again that met another of the same key.
const RACES: u32 = 20;

/// A bucket, or a prefix of one, in which archives are kept.
///
/// Objects are put whole by one request with a digest of what is sent: their SHA-256 where the service compares it, otherwise a Content-MD5.
/// And they are never put over another one: where the service honours `If-None-Match: *`, the service sees to that; elsewhere the adapter looks before and compares afterwards, so that of two
/// puts at the very same moment the later may win. (Both is probed once.) Archives name their objects by attempt and random bits, so that this does not happen.
///
/// In a bucket that keeps versions, [`delete`](Destination::delete) removes them all, the current one last; where that is not allowed or an
/// object is locked, it fails, says so, and the object stays.
#[derive(Clone, Debug)]
pub struct S3Destination {
    bucket: S3Bucket,
    abilities: Arc<OnceCell<Abilities>>,
    removal: Arc<Removal>,
}

/// What not all services can do.
#[derive(Clone, Copy, Debug)]
struct Abilities {
    /// The service honours `If-None-Match: *`.
    if_none_match: bool,
    /// The service compares a SHA-256.
    sha256: bool,
}

impl S3Destination {
    /// A destination. Sends no request.
    pub fn new(bucket: S3Bucket) -> Self {
        Self { bucket, abilities: Arc::default(), removal: Arc::default() }
    }

    fn key(&self, name: &ObjectName) -> String {
        self.bucket.key(name.as_str())
    }

    async fn put_key(&self, key: &str, payload: &Payload, proof: Proof, only_new: bool) -> Result<PutAnswer> {
        let attributes = Attributes::of_type("application/octet-stream");
        self.bucket.put(Put { key, payload, proof, only_new, attributes: &attributes }).await
    }

    /// What to say of a put where something is there already.
    async fn compared(&self, key: &str, payload: &Payload, proof: Proof) -> Result<()> {
        match self.bucket.holds(key, payload, proof).await? {
            Some(true) => Ok(()),
            Some(false) => Err(Error::conflict("an object with other bytes is already there")),
            None => Err(Error::transient("another object was there and is gone again; nothing was put")),
        }
    }

    async fn put_new(&self, key: &str, payload: &Payload) -> Result<()> {
        let abilities = self.abilities().await?;
        // The digest of a volume is known; MD5 costs more than all else that is done with its bytes.
        let proof = match abilities.sha256 {
            true => Proof::Sha256(sha256_of(payload).await?),
            false => Proof::Md5(Md5::of(payload).await?),
        };
        if !abilities.if_none_match {
            if let Some(same) = self.bucket.holds(key, payload, proof).await? {
                let conflict = || Error::conflict("an object with other bytes is already there");
                return if same { Ok(()) } else { Err(conflict()) };
            }
            if self.put_key(key, payload, proof, false).await? == PutAnswer::NoSuchClass {
                return Err(no_such_class());
            }
            // Another writer may have come between.
            return self.compared(key, payload, proof).await;
        }
        for turn in 0..RACES {
            match self.put_key(key, payload, proof, true).await? {
                PutAnswer::Stored => return Ok(()),
                PutAnswer::Exists => return self.compared(key, payload, proof).await,
                PutAnswer::NoSuchClass => return Err(no_such_class()),
                PutAnswer::Race => tokio::time::sleep(Duration::from_millis(20 << turn.min(6))).await,
            }
        }
        Err(Error::transient("other puts of this object were under way again and again"))
    }
}

fn no_such_class() -> Error {
    Error::invalid("the service does not know the storage class of the configuration; choose another")
}

#[async_trait]
impl Destination for S3Destination {
    fn identity(&self) -> Identity {
        self.bucket.identity().clone()
    }

    fn properties(&self) -> DestinationProperties {
        DestinationProperties { max_object_size: MAX_PUT, preferred_volume_size: 32 << 20, parallelism: 4 }
    }

    async fn check(&self) -> Result<()> {
        self.probe().await
    }

    async fn now(&self) -> Result<jiff::Timestamp> {
        self.bucket.now().await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        self.put_new(&self.key(name), &body).await.map_err(|e| e.on(name))
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        let key = self.key(name);
        if range.as_ref().is_some_and(Range::is_empty) {
            let gone = || Error::not_found("there is no such object").on(name);
            self.bucket.head(&key).await?.ok_or_else(gone)?;
            return Ok(Box::pin(futures::stream::empty()));
        }
        let mut opened = self.bucket.open(&key, range, None).await?;
        Ok(Box::pin(async_stream::try_stream! {
            while let Some(bytes) = opened.next().await? {
                yield bytes;
            }
        }))
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let seen = self.bucket.head(&self.key(name)).await?;
        Ok(seen.map(|seen| ObjectInfo { name: name.clone(), size: seen.size, modified: seen.modified }))
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        list::objects(self.bucket.clone(), prefix)
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        list::roots(self.bucket.clone())
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.removal.one(&self.bucket, &self.key(name)).await
    }

    async fn delete_many(&self, names: &[ObjectName]) -> Result<()> {
        let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        self.removal.many(&self.bucket, &keys, self.properties().parallelism).await
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        list::remove_staged(&self.bucket, &self.removal, prefix).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}
