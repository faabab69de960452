//! Lists all versions and delete markers, those of each key from the oldest to the newest.
//!
//! The service lists them the other way round. So those of a key are collected first; of a key with very many of them only where
//! each chunk of its history starts, and the chunks are then listed again, from the last one to the first.

use super::cursor::{Position, VersionMark};
use super::list::{Decoder, Listed, PREFIX_ITSELF, below, misbehaves, odd_name};
use super::object::{Object, ObjectVersion, timestamp};
use super::scope::Scope;
use super::state::bare;
use crate::S3Bucket;
use crate::error::{About, answered};
use aws_sdk_s3::types::EncodingType;
use backup_core::Result;
use backup_core::model::{EntryName, Timestamp};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// How many versions of one key are held in memory.
pub(super) const CHUNK: usize = 4000;

/// Everything in the scope behind a position.
pub(super) fn versions(
    bucket: S3Bucket,
    scope: Scope,
    after: Option<Position>,
    chunk: usize,
) -> BoxStream<'static, Result<Listed>> {
    async_stream::try_stream! {
        for prefix in &scope.prefixes {
            let mut start = Start::default();
            if let Some(Position { key, version, .. }) = &after {
                if !key.starts_with(prefix.as_str()) && key > prefix {
                    continue;
                }
                if key.starts_with(prefix.as_str()) {
                    if let Some(version) = version.as_ref().filter(|_| scope.contains(key)) {
                        // The rest of the history of the key that was being delivered.
                        let mut history = History::new(&bucket, chunk);
                        let mut found = Pages::new(&bucket, bucket.key(key), Start::default());
                        while let Some(one) = found.next().await? {
                            if one.key != bucket.key(key) || is_reached(&one, version) {
                                break;
                            }
                            history.push(one);
                        }
                        history.resumed = true;
                        while let Some(object) = history.pop().await? {
                            yield Listed::Object(object);
                        }
                    }
                    start = Start { key: Some(bucket.key(key)), id: None };
                }
            }
            let mut history = History::new(&bucket, chunk);
            let mut pages = Pages::new(&bucket, bucket.key(prefix), start);
            loop {
                let one = pages.next().await?;
                if history.key().is_some_and(|key| one.as_ref().is_none_or(|one| one.key != key)) {
                    while let Some(object) = history.pop().await? {
                        yield Listed::Object(object);
                    }
                }
                let Some(one) = one else { break };
                if let Some(bytes) = one.no_text {
                    if one.latest {
                        yield Listed::Odd(odd_name(&bucket, bytes), "its key is no UTF-8");
                    }
                    continue;
                }
                let key = below(&bucket, &one.key)?;
                if key.is_empty() {
                    if one.size > 0 {
                        yield Listed::Odd(EntryName::from(bucket.prefix()), PREFIX_ITSELF);
                    }
                } else if scope.contains(key) {
                    history.push(one);
                }
            }
        }
    }
    .boxed()
}

/// Whether a version, seen from the newest on, is one that has been delivered.
fn is_reached(one: &One, mark: &VersionMark) -> bool {
    // The version itself may have been removed since: then what was made before it counts as delivered.
    one.id == mark.id || one.modified.is_some_and(|modified| modified.seconds < mark.modified)
}

/// A version as it was listed, under its full key.
#[derive(Clone, Debug)]
struct One {
    key: String,
    /// The key's bytes when they are no text; `key` then holds what the service wrote.
    no_text: Option<Vec<u8>>,
    id: String,
    latest: bool,
    delete_marker: bool,
    size: u64,
    etag: Option<String>,
    modified: Option<Timestamp>,
}

/// Where a listing starts: behind a key, or behind a version of it.
#[derive(Clone, Debug, Default)]
struct Start {
    key: Option<String>,
    id: Option<String>,
}

/// The versions of one key, to be given out from the oldest on.
struct History<'a> {
    bucket: &'a S3Bucket,
    chunk: usize,
    /// From the newest to the oldest, behind those in `chunks`.
    held: VecDeque<One>,
    /// What comes before `held`, only by its ends: the newest version of each chunk, and the id of the first version behind it.
    chunks: Vec<(One, String)>,
    count: usize,
    /// Versions of the key were delivered before.
    resumed: bool,
}

impl<'a> History<'a> {
    fn new(bucket: &'a S3Bucket, chunk: usize) -> Self {
        Self { bucket, chunk, held: VecDeque::new(), chunks: Vec::new(), count: 0, resumed: false }
    }

    fn key(&self) -> Option<&str> {
        self.held.front().map(|one| &*one.key)
    }

    /// Adds the next older version.
    fn push(&mut self, one: One) {
        if self.held.len() == self.chunk {
            self.chunks.extend(self.held.pop_front().map(|newest| (newest, one.id.clone())));
            self.held.clear();
        }
        self.held.push_back(one);
        self.count += 1;
    }

    /// The oldest version that was not given out yet.
    async fn pop(&mut self) -> Result<Option<Object>> {
        let mut oldest = self.held.pop_back();
        while oldest.is_none() {
            let Some((newest, behind)) = self.chunks.pop() else { break };
            self.held = self.list_again(newest, &behind).await?;
            oldest = self.held.pop_back();
        }
        let last = self.held.is_empty() && self.chunks.is_empty();
        let alone = self.count == 1 && !self.resumed;
        if last {
            (self.count, self.resumed) = (0, false);
        }
        oldest.map(|one| one.object(self.bucket, alone, last)).transpose()
    }

    /// A chunk once more: from its newest version on, up to the one `behind` it, and at most as many as it had.
    async fn list_again(&self, newest: One, behind: &str) -> Result<VecDeque<One>> {
        let start = Start { key: Some(newest.key.clone()), id: Some(newest.id.clone()) };
        let mut pages = Pages::new(self.bucket, newest.key.clone(), start);
        let mut chunk = VecDeque::from([newest]);
        while chunk.len() < self.chunk
            && let Some(one) = pages.next().await?
            && one.id != behind
            && Some(&one.key) == chunk.front().map(|newest| &newest.key)
        {
            chunk.push_back(one);
        }
        Ok(chunk)
    }
}

impl One {
    fn object(self, bucket: &S3Bucket, alone: bool, last: bool) -> Result<Object> {
        let Self { key, no_text: _, id, latest, delete_marker, size, etag, modified } = self;
        let version = Some(ObjectVersion { id, latest, delete_marker, alone, last });
        Ok(Object { key: below(bucket, &key)?.to_owned(), size, etag, modified, version })
    }
}

/// All versions with a prefix, as the service lists them.
struct Pages<'a> {
    bucket: &'a S3Bucket,
    /// In full.
    prefix: String,
    /// Where the next page starts; `None` behind the last one.
    next: Option<Start>,
    page: VecDeque<One>,
    last_key: Option<String>,
}

impl<'a> Pages<'a> {
    fn new(bucket: &'a S3Bucket, prefix: String, start: Start) -> Self {
        let last_key = start.key.clone().filter(|_| start.id.is_none());
        Self { bucket, prefix, next: Some(start), page: VecDeque::new(), last_key }
    }

    async fn next(&mut self) -> Result<Option<One>> {
        while self.page.is_empty() {
            let Some(start) = self.next.take() else { return Ok(None) };
            self.fetch(start).await?;
        }
        let one = self.page.pop_front();
        if let Some(one) = one.as_ref().filter(|one| one.no_text.is_none() && self.last_key.as_ref() != Some(&one.key))
        {
            in_order(self.last_key.as_deref(), &one.key)?;
            self.last_key = Some(one.key.clone());
        }
        Ok(one)
    }

    async fn fetch(&mut self, start: Start) -> Result<()> {
        let Answer { versions, markers, next } = ask(self.bucket, &self.prefix, &start, None).await?;
        if let Some(next) = &next
            && next.key == start.key
            && next.id == start.id
        {
            return Err(misbehaves("a page is followed by itself"));
        }
        self.next = next;
        self.page = self.merge(versions, markers, &start).await?;
        Ok(())
    }

    /// Makes one list of two that are each in order. The service has one order, but the SDK gives two lists; where times in whole
    /// seconds do not tell how these belong together, the service is asked for one version after the other.
    async fn merge(
        &self,
        mut versions: VecDeque<One>,
        mut markers: VecDeque<One>,
        start: &Start,
    ) -> Result<VecDeque<One>> {
        let mut merged: VecDeque<One> = VecDeque::with_capacity(versions.len() + markers.len());
        while let (Some(version), Some(marker)) = (versions.front(), markers.front()) {
            // The newest comes first.
            let order = version.key.cmp(&marker.key).then(marker.modified.cmp(&version.modified));
            let marker_is_next = match order {
                Ordering::Less => false,
                Ordering::Greater => true,
                Ordering::Equal if version.latest != marker.latest => marker.latest,
                Ordering::Equal => {
                    let before = match merged.back() {
                        Some(before) if before.key == marker.key => Some(before.id.clone()),
                        Some(_) => None,
                        None => start.id.clone().filter(|_| start.key.as_ref() == Some(&marker.key)),
                    };
                    let key = before.is_some().then(|| marker.key.clone());
                    let behind = Start { key, id: before };
                    let one = ask(self.bucket, &marker.key, &behind, Some(1)).await?;
                    one.markers.front().is_some_and(|first| first.id == marker.id)
                }
            };
            merged.extend(if marker_is_next { markers.pop_front() } else { versions.pop_front() });
        }
        merged.append(&mut versions);
        merged.append(&mut markers);
        Ok(merged)
    }
}

/// A listing that is not in the order of UTF-8 could not be taken up where it was: objects would be missed.
fn in_order(last: Option<&str>, key: &str) -> Result<()> {
    if last.is_none_or(|last| last < key) {
        return Ok(());
    }
    Err(misbehaves("the keys do not come in the order of their bytes"))
}

/// A page as the service sends it.
struct Answer {
    versions: VecDeque<One>,
    markers: VecDeque<One>,
    next: Option<Start>,
}

/// Asks for a page of what starts with a full prefix.
async fn ask(bucket: &S3Bucket, prefix: &str, start: &Start, at_most: Option<i32>) -> Result<Answer> {
    let request = bucket
        .client()
        .list_object_versions()
        .bucket(bucket.bucket())
        .encoding_type(EncodingType::Url)
        .set_prefix(Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()))
        .set_key_marker(start.key.clone())
        .set_version_id_marker(start.id.clone())
        .set_max_keys(at_most);
    let page = answered(request.send(), About::Bucket(bucket.bucket())).await?;
    let decoder = Decoder::of(page.encoding_type.as_ref());
    let next = if page.is_truncated == Some(true) {
        let missing = || misbehaves("a page does not tell where the next starts");
        let key = decoder.text(page.next_key_marker.as_deref().ok_or_else(missing)?);
        let key = key.map_err(|_| misbehaves("a page ends with a key that is no text"))?;
        Some(Start { key: Some(key), id: page.next_version_id_marker })
    } else {
        None
    };
    let versions = page.versions.unwrap_or_default().into_iter().map(|version| {
        let modified = version.last_modified.as_ref().map(timestamp);
        One {
            size: u64::try_from(version.size.unwrap_or_default()).unwrap_or_default(),
            etag: version.e_tag.as_deref().map(bare),
            ..One::new(decoder, version.key.unwrap_or_default(), version.version_id, version.is_latest, modified)
        }
    });
    let markers = page.delete_markers.unwrap_or_default().into_iter().map(|marker| {
        let modified = marker.last_modified.as_ref().map(timestamp);
        let key = marker.key.unwrap_or_default();
        One { delete_marker: true, ..One::new(decoder, key, marker.version_id, marker.is_latest, modified) }
    });
    Ok(Answer { versions: versions.collect(), markers: markers.collect(), next })
}

impl One {
    fn new(
        decoder: Decoder,
        key: String,
        id: Option<String>,
        latest: Option<bool>,
        modified: Option<Timestamp>,
    ) -> Self {
        let (key, no_text) = match decoder.text(&key) {
            Ok(text) => (text, None),
            Err(bytes) => (key, Some(bytes)),
        };
        // Objects from before versioning was switched on have the id `null`, which some servers leave out.
        let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| "null".to_owned());
        let latest = latest.unwrap_or_default();
        Self { key, no_text, id, latest, delete_marker: false, size: 0, etag: None, modified }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Credentials, S3Config, S3SourceOptions};
    use backup_testkit::s3::{Operation, S3BucketOptions, S3Server, Versioning};
    use futures::TryStreamExt;

    #[tokio::test]
    async fn a_history_longer_than_what_is_held_is_listed_again_in_chunks() {
        let server = S3Server::start().await;
        let versioning = Versioning::Enabled;
        server.create_bucket_with("data", S3BucketOptions { versioning, ..S3BucketOptions::default() });
        let count = 23;
        let long: Vec<String> = (0..count).map(|_| server.put("data", "a", "x")).collect();
        let next = server.put("data", "a/b", "x");
        let expected: Vec<&String> = long.iter().chain([&next]).collect();
        let bucket = S3Bucket::connect(S3Config {
            endpoint: Some(server.endpoint()),
            credentials: Credentials::Static {
                access_key: server.access_key().to_owned(),
                secret_key: server.secret_key().into(),
                session_token: None,
            },
            ..S3Config::new("data")
        });
        let bucket = bucket.await.unwrap();
        let scope = Scope::new(&S3SourceOptions::default()).unwrap();
        for chunk in [1, 2, 5, count - 1, count, count + 1] {
            server.reset_requests();
            let found = versions(bucket.clone(), scope.clone(), None, chunk);
            let found: Vec<Object> = found
                .map_ok(|listed| match listed {
                    Listed::Object(object) => object,
                    Listed::Odd(name, why) => panic!("{name}: {why}"),
                })
                .try_collect()
                .await
                .unwrap();
            let ids: Vec<&String> = found.iter().map(|object| &object.version.as_ref().unwrap().id).collect();
            assert_eq!(ids, expected, "in chunks of {chunk}");
            let ends: Vec<_> = found.iter().filter(|object| object.version.as_ref().unwrap().last).collect();
            assert_eq!(ends.len(), 2, "in chunks of {chunk}");
            let alone: Vec<_> = found.iter().filter(|object| object.version.as_ref().unwrap().alone).collect();
            assert_eq!(alone.len(), 1, "in chunks of {chunk}");
            let again = server.requests().count(Operation::ListObjectVersions) - 1;
            // A chunk of one version is known by its start.
            let expected = if chunk == 1 { 0 } else { (count as u64 - 1) / chunk as u64 };
            assert_eq!(again, expected, "in chunks of {chunk}");
        }
    }
}
