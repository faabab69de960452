//! The buckets: what the service keeps, and what tests look at and change behind the client's back.

use super::object::{S3Object, now};
use super::synthetic::{Listed, Synthetic};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Whether a bucket keeps versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// It never has.
    #[default]
    Off,
    /// It does.
    Enabled,
    /// It did; writes now replace the version `null`.
    Suspended,
}

/// What a bucket is like.
#[derive(Clone, Debug, Default)]
pub struct S3BucketOptions {
    /// The region; `None` is the server's. Requests that are signed for another one are answered with 301 PermanentRedirect.
    pub region: Option<String>,
    /// Versions.
    pub versioning: Versioning,
    /// Object lock with a default retention: it has versions, writes need a Content-MD5 or a checksum, and versions cannot be deleted.
    pub object_lock: bool,
    /// Objects that are computed instead of stored.
    pub synthetic: Option<Synthetic>,
}

/// A multipart upload that was neither completed nor aborted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct S3Upload {
    /// The key.
    pub key: String,
    /// Its id.
    pub upload_id: String,
    /// The numbers of its parts, ascending.
    pub parts: Vec<i32>,
}

/// The buckets. Cloning shares them.
#[derive(Clone, Default)]
pub struct S3Buckets(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) buckets: BTreeMap<String, Bucket>,
    ids: u64,
}

pub(super) struct Bucket {
    pub(super) made: SystemTime,
    pub(super) region: Option<String>,
    pub(super) versioning: Versioning,
    pub(super) object_lock: bool,
    synthetic: Option<Synthetic>,
    /// The versions of each key, oldest first; never an empty list.
    versions: BTreeMap<String, Vec<S3Object>>,
    /// By key and id.
    pub(super) uploads: BTreeMap<(String, String), Upload>,
}

pub(super) struct Upload {
    pub(super) initiated: SystemTime,
    /// Headers, metadata and the like of the object to be.
    pub(super) object: S3Object,
    /// Each number's parts in order of arrival: the last one counts.
    pub(super) parts: BTreeMap<i32, Vec<Part>>,
}

#[derive(Clone)]
pub(super) struct Part {
    pub(super) body: Bytes,
    /// MD5 of the body.
    pub(super) md5: [u8; 16],
    pub(super) etag: String,
    pub(super) modified: SystemTime,
}

impl S3Buckets {
    /// Makes a bucket; one that exists is replaced.
    pub fn create_bucket(&self, name: &str, options: S3BucketOptions) {
        self.lock().buckets.insert(name.to_owned(), Bucket::new(options));
    }

    /// The current version of an object, if it is there and not deleted.
    pub fn object(&self, bucket: &str, key: &str) -> Option<S3Object> {
        self.lock().buckets.get(bucket)?.current(key)
    }

    /// All objects that are stored, current versions only, by key.
    pub fn objects(&self, bucket: &str) -> Vec<S3Object> {
        let state = self.lock();
        let Some(bucket) = state.buckets.get(bucket) else { return Vec::new() };
        bucket.versions.keys().filter_map(|key| bucket.current(key)).collect()
    }

    /// All versions and delete markers, by key, newest first.
    pub fn versions(&self, bucket: &str) -> Vec<S3Object> {
        let state = self.lock();
        let versions = state.buckets.get(bucket).into_iter().flat_map(|bucket| bucket.versions.values());
        versions.flat_map(|versions| versions.iter().rev().cloned()).collect()
    }

    /// Stores an object as it is, in a bucket that exists; in a bucket with versions it gets a new version id. Returns the version id.
    ///
    /// # Panics
    /// Without such a bucket.
    pub fn put(&self, bucket: &str, object: S3Object) -> String {
        let mut state = self.lock();
        let id = state.next_id();
        match state.buckets.get_mut(bucket) {
            Some(found) => found.store(object, id),
            None => panic!("there is no bucket {bucket}"),
        }
    }

    /// Deletes an object as a client would: in a bucket with versions that leaves a delete marker.
    pub fn remove(&self, bucket: &str, key: &str) {
        let mut state = self.lock();
        let id = state.next_id();
        if let Some(bucket) = state.buckets.get_mut(bucket) {
            bucket.remove(key, id);
        }
    }

    /// The uploads that are open.
    pub fn uploads(&self, bucket: &str) -> Vec<S3Upload> {
        let state = self.lock();
        let uploads = state.buckets.get(bucket).into_iter().flat_map(|bucket| &bucket.uploads);
        uploads
            .map(|((key, upload_id), upload)| S3Upload {
                key: key.clone(),
                upload_id: upload_id.clone(),
                parts: upload.parts.keys().copied().collect(),
            })
            .collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// For versions and uploads: opaque, and never used twice.
    pub(super) fn next_id(&mut self) -> String {
        self.ids += 1;
        format!("{:016x}{:04x}", crate::doubles::mix(self.ids), self.ids)
    }
}

impl Bucket {
    pub(super) fn new(options: S3BucketOptions) -> Self {
        let S3BucketOptions { region, versioning, object_lock, synthetic } = options;
        let versioning = if object_lock { Versioning::Enabled } else { versioning };
        let (versions, uploads) = (BTreeMap::new(), BTreeMap::new());
        Self { made: now(), region, versioning, object_lock, synthetic, versions, uploads }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.synthetic.is_none_or(|synthetic| synthetic.objects == 0)
    }

    /// Whether answers name version ids.
    pub(super) fn tells_versions(&self) -> bool {
        self.versioning != Versioning::Off
    }

    pub(super) fn can_be_written(&self) -> bool {
        self.synthetic.is_none()
    }

    /// The newest version of a key, which may be a delete marker.
    pub(super) fn newest(&self, key: &str) -> Option<S3Object> {
        match self.synthetic {
            Some(synthetic) => synthetic.object(key),
            None => self.versions.get(key)?.last().cloned(),
        }
    }

    pub(super) fn current(&self, key: &str) -> Option<S3Object> {
        self.newest(key).filter(|object| !object.delete_marker)
    }

    pub(super) fn version(&self, key: &str, id: &str) -> Option<S3Object> {
        self.versions.get(key)?.iter().find(|object| object.version_id == id).cloned()
    }

    pub(super) fn version_mut(&mut self, key: &str, id: &str) -> Option<&mut S3Object> {
        self.versions.get_mut(key)?.iter_mut().find(|object| object.version_id == id)
    }

    /// Current objects from a key on (this one included), in the order of their UTF-8 bytes.
    pub(super) fn list_from(&self, from: &str) -> Box<dyn Iterator<Item = Listed> + '_> {
        if let Some(synthetic) = self.synthetic {
            return Box::new(synthetic.list_from(from));
        }
        let newest = self.versions_from(from).filter_map(|(_, versions)| versions.last());
        Box::new(newest.filter(|object| !object.delete_marker).map(Listed::of))
    }

    /// Each key from one on (this one included) with its versions, oldest first.
    pub(super) fn versions_from<'a>(
        &'a self,
        from: &str,
    ) -> impl Iterator<Item = (&'a String, &'a Vec<S3Object>)> + use<'a> {
        self.versions.range::<str, _>((Bound::Included(from), Bound::Unbounded))
    }

    /// Stores a version, under `new_id` if the bucket gives ids. Returns its id.
    pub(super) fn store(&mut self, mut object: S3Object, new_id: String) -> String {
        object.version_id = if self.versioning == Versioning::Enabled { new_id } else { "null".to_owned() };
        let id = object.version_id.clone();
        let versions = self.versions.entry(object.key.clone()).or_default();
        versions.retain(|other| other.version_id != id);
        versions.push(object);
        id
    }

    /// Deletes without naming a version. Returns the id of the delete marker, if that is what it left.
    pub(super) fn remove(&mut self, key: &str, new_id: String) -> Option<String> {
        if self.versioning == Versioning::Off {
            self.versions.remove(key);
            return None;
        }
        Some(self.store(S3Object::marker(key), new_id))
    }

    /// Deletes one version for good. Returns what it was.
    pub(super) fn remove_version(&mut self, key: &str, id: &str) -> Option<S3Object> {
        let versions = self.versions.get_mut(key)?;
        let at = versions.iter().position(|object| object.version_id == id)?;
        let gone = versions.remove(at);
        if versions.is_empty() {
            self.versions.remove(key);
        }
        Some(gone)
    }
}
