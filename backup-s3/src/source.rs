//! A bucket as a source.

mod cursor;
mod events;
mod fetch;
mod get;
mod list;
mod object;
mod order;
mod read;
mod scope;
mod state;
mod versions;

use crate::S3Bucket;
use crate::error::{About, answered};
use crate::version_name::VersionName;
use async_trait::async_trait;
use backup_core::adapter::{Cursor, Estimate, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version};
use backup_core::model::{EntryName, Identity, Naming};
use backup_core::{Error, Result};
use cursor::Position;
use futures::StreamExt;
use futures::stream::BoxStream;
use get::Getter;
use list::Listed;
use read::Wish;
use schemars::JsonSchema;
use scope::Scope;
use serde::{Deserialize, Serialize};
use state::State;
use std::ops::Range;
use std::sync::Arc;

/// How many objects an estimate counts before it gives up: seven pages of the listing.
const ESTIMATE_OBJECTS: u64 = 7_000;

/// Which objects an [`S3Source`] reads, and what of them.
///
/// Patterns are compared with keys relative to the bucket's prefix: `*` and `?` stand for anything but `/`, `**` for any number of
/// levels, `[ab]` for one of the characters; `\` takes the next character literally. A pattern without `/` is compared with the
/// last part of the key alone, at any level; one with `/`, with the whole key. What lies below a level that matches does so too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct S3SourceOptions {
    /// Only keys that start with one of these, relative to the bucket's prefix; all of them if there is none. Nothing else is listed.
    pub prefixes: Vec<String>,
    /// Only keys that match one of these patterns; all of them if there is none.
    pub include: Vec<String>,
    /// No keys that match one of these patterns.
    pub exclude: Vec<String>,
    /// Read the tags of each object; this is one more request for each.
    pub tags: bool,
    /// Which versions of the objects are read.
    pub versions: S3Versions,
}

/// Which versions of objects a source reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum S3Versions {
    /// The current ones.
    #[default]
    Current,
    /// All of them, and delete markers. The current version of an object has its key as name; earlier ones are named
    /// `KEY?versionId=ID`, delete markers `KEY?deleteMarker=ID`. Each is read as it was listed, also when it has been overwritten since.
    All,
}

/// A bucket, or the keys below a prefix of it, as a source.
///
/// Entries are named by their keys relative to the prefix, and come in the order in which the service lists keys: that of their bytes, or
/// level by level, as servers do that keep directories. All versions are read in the first order only, those of a key from the oldest on. Content headers, user metadata and the storage class go along, tags as an option. Objects up to
/// 1 MiB are read inline, with one request each; larger ones in ranges, each on the condition that the object
/// is still the same. The object whose key is the prefix itself is no entry.
///
/// Objects that are archived, may not be read or vanish are skipped with a warning. What is created while the bucket
/// is read is seen if its key comes later in the order.
#[derive(Debug)]
pub struct S3Source {
    getter: Arc<Getter>,
    scope: Scope,
    versions: S3Versions,
}

impl S3Source {
    /// A source of these objects.
    ///
    /// # Errors
    /// `Invalid` for a pattern that cannot be understood.
    pub fn new(bucket: S3Bucket, options: S3SourceOptions) -> Result<Self> {
        let scope = Scope::new(&options)?;
        let S3SourceOptions { prefixes: _, include: _, exclude: _, tags, versions } = options;
        Ok(Self { getter: Arc::new(Getter::new(bucket, tags)), scope, versions })
    }

    fn bucket(&self) -> &S3Bucket {
        &self.getter.bucket
    }

    fn listing(&self, scope: Scope, after: Option<Position>) -> BoxStream<'static, Result<Listed>> {
        if scope.is_empty() {
            return futures::stream::empty().boxed();
        }
        match self.versions {
            S3Versions::Current => list::objects(self.bucket().clone(), scope, after),
            S3Versions::All => versions::versions(self.bucket().clone(), scope, after, versions::CHUNK),
        }
    }

    fn wish(&self, name: &EntryName, version: Option<&Version>) -> Result<Wish> {
        let text = name.as_str().ok_or_else(|| Error::invalid("no key is like this").on(name))?;
        let state = version.map(|version| State::decode(version, self.versions)).unwrap_or_default();
        let (key, named_id, in_history) = match self.versions {
            S3Versions::Current => (text.to_owned(), None, false),
            S3Versions::All => {
                let VersionName { key, id, delete_marker: _ } = VersionName::decode(text);
                (key, id, true)
            }
        };
        // The plain name is that of the current version, which by now may be another one than was listed.
        let State { version_id, latest, etag } = state;
        let latest = version.map(|_| latest);
        Ok(Wish { key, version_id: version_id.or(named_id), latest, etag, in_history })
    }
}

#[async_trait]
impl Source for S3Source {
    fn identity(&self) -> Identity {
        self.bucket().identity().clone()
    }

    fn properties(&self) -> SourceProperties {
        SourceProperties { parallel_reads: 16, pins_version: true, naming: Naming::Keys }
    }

    async fn check(&self) -> Result<()> {
        let bucket = self.bucket();
        let about = About::Bucket(bucket.bucket());
        let prefix = Some(bucket.prefix().to_owned()).filter(|prefix| !prefix.is_empty());
        let client = bucket.client();
        match self.versions {
            S3Versions::Current => {
                let request = client.list_objects_v2().bucket(bucket.bucket()).set_prefix(prefix).max_keys(1);
                answered(request.send(), about).await.map(drop)
            }
            S3Versions::All => {
                let request = client.list_object_versions().bucket(bucket.bucket()).set_prefix(prefix).max_keys(1);
                answered(request.send(), about).await.map(drop)
            }
        }
    }

    async fn estimate(&self) -> Result<Estimate> {
        if self.scope.has_patterns() {
            // What does not fit would have to be listed, too, and there may be very much of it.
            return Ok(Estimate::default());
        }
        let mut listing = self.listing(self.scope.clone(), None);
        let (mut entries, mut bytes) = (0, 0);
        while let Some(listed) = listing.next().await.transpose()? {
            if let Listed::Object(object) = listed {
                entries += 1;
                bytes += object.size;
            }
            if entries > ESTIMATE_OBJECTS {
                return Ok(Estimate::default());
            }
        }
        Ok(Estimate { entries: Some(entries), bytes: Some(bytes) })
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let after = match after.map(|cursor| Position::decode(&cursor, self.versions)).transpose() {
            Ok(after) => after,
            Err(error) => return futures::stream::once(async { Err(error) }).boxed(),
        };
        let scope = self.scope.clone().without(&ctx.excluded, self.bucket().identity());
        events::events(self.getter.clone(), self.listing(scope, after), ctx)
    }

    async fn read(
        &self,
        entry: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        read::open(&self.getter, &self.wish(entry, version)?, range, ctx).await
    }
}
