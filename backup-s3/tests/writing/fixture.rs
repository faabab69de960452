//! Buckets on any server, for the conformance suites of what writes to them.

use crate::common::Access;
use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use backup_core::Result;
use backup_core::adapter::{Destination, RestoreTarget};
use backup_core::model::EntryName;
use backup_core::retry::RetryPolicy;
use backup_s3::{S3Bucket, S3Destination, S3RestoreTarget, S3TargetOptions};
use backup_testkit::conformance::destination::{DestinationFixture, DestinationPlace};
use backup_testkit::conformance::restore_target::{Sample, Samples, SeenItem, TargetFixture, TargetPlace};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Quirks, Rule, S3Server};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Makes places in one bucket: real servers take room for each bucket. Only a server of this process can be told to misbehave.
pub(crate) struct Buckets {
    access: Access,
    own: Option<Arc<S3Server>>,
    bucket: OnceCell<String>,
    made: AtomicU64,
}

impl Buckets {
    /// On a server of this process.
    pub(crate) async fn own(quirks: Quirks) -> Self {
        let server = S3Server::start().await;
        server.set_quirks(quirks);
        Self::new(Access::of(&server), Some(Arc::new(server)))
    }

    /// On the server that the environment names.
    pub(crate) fn of_environment() -> Self {
        Self::new(Access::of_environment(), None)
    }

    fn new(access: Access, own: Option<Arc<S3Server>>) -> Self {
        Self { access, own, bucket: OnceCell::new(), made: AtomicU64::new(0) }
    }

    async fn bucket(&self) -> &str {
        self.bucket.get_or_init(|| async { self.access.new_bucket("").await.bucket().to_owned() }).await
    }

    async fn make(&self) -> Place {
        let prefix = format!("place-{:03}/data", self.made.fetch_add(1, Ordering::Relaxed));
        let bucket = self.access.bucket(self.bucket().await, &prefix).await;
        // Neighbours that are not below the prefix.
        for key in [format!("{prefix}2/x"), format!("{prefix}!")] {
            put(&bucket, &key, Bytes::from_static(b"a neighbour")).await;
        }
        Place { access: self.access.clone(), prefix, bucket }
    }

    async fn with_wrong_secret(&self) -> S3Bucket {
        let access = Access { secret_key: "wrong".into(), ..self.access.clone() };
        access.bucket(self.bucket().await, "data").await
    }
}

/// A bucket.
pub(crate) struct Place {
    access: Access,
    prefix: String,
    bucket: S3Bucket,
}

pub(crate) async fn put(bucket: &S3Bucket, key: &str, content: Bytes) {
    let body = ByteStream::from(content);
    bucket.client().put_object().bucket(bucket.bucket()).key(key).body(body).send().await.unwrap();
}

/// All keys below the prefix.
pub(crate) async fn keys(bucket: &S3Bucket) -> Vec<String> {
    let mut keys = Vec::new();
    let mut token = None;
    loop {
        let request = bucket.client().list_objects_v2().bucket(bucket.bucket()).prefix(bucket.prefix());
        let request = request.set_continuation_token(token);
        let page = request.send().await.unwrap();
        keys.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return keys;
        }
    }
}

impl Place {
    async fn anew(&self) -> S3Bucket {
        self.access.bucket(self.bucket.bucket(), &self.prefix).await
    }
}

#[async_trait]
impl DestinationFixture for Buckets {
    async fn place(&self) -> Result<Box<dyn DestinationPlace>> {
        Ok(Box::new(self.make().await))
    }

    fn many(&self) -> usize {
        1200
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn Destination>>> {
        Ok(Some(Arc::new(S3Destination::new(self.with_wrong_secret().await))))
    }

    async fn nearly_full(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        let Some(server) = &self.own else { return Ok(None) };
        let place = self.make().await;
        let full = Fault::Fail { status: 403, code: "QuotaExceeded", after: None };
        let about = format!("{}/full/a", place.prefix);
        // The first put of it is the large one.
        server.faults().add(Rule::new(Operation::PutObject, When::Nth(1), full).about(&about));
        Ok(Some(Box::new(place)))
    }

    async fn breaking(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        let Some(server) = &self.own else { return Ok(None) };
        let place = self.make().await;
        let about = format!("{}/read/", place.prefix);
        server
            .faults()
            .add(Rule::new(Operation::GetObject, When::Always, Fault::Break { after: 100_000 }).about(&about));
        Ok(Some(Box::new(place)))
    }
}

#[async_trait]
impl DestinationPlace for Place {
    fn destination(&self) -> Arc<dyn Destination> {
        Arc::new(S3Destination::new(self.bucket.clone()))
    }

    async fn again(&self) -> Result<Arc<dyn Destination>> {
        Ok(Arc::new(S3Destination::new(self.anew().await)))
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.access.secret_key.clone()]
    }

    async fn plant(&self, path: &str, bytes: Bytes) -> Result<bool> {
        put(&self.bucket, &self.bucket.key(path), bytes).await;
        Ok(true)
    }

    async fn paths(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(
            keys(&self.bucket)
                .await
                .iter()
                .filter_map(|key| Some(key.strip_prefix(self.bucket.prefix())?.to_owned()))
                .collect(),
        ))
    }
}

/// Parts as small as may be, so that the large sample has several; and no long waits.
pub(crate) fn options() -> S3TargetOptions {
    let retry =
        RetryPolicy { initial: Duration::from_millis(2), max: Duration::from_millis(50), ..RetryPolicy::default() };
    S3TargetOptions { part_size: 5 << 20, retry, ..S3TargetOptions::default() }
}

pub(crate) fn target(bucket: S3Bucket) -> Arc<S3RestoreTarget> {
    Arc::new(S3RestoreTarget::new(bucket, options()).unwrap())
}

#[async_trait]
impl TargetFixture for Buckets {
    async fn place(&self) -> Result<Box<dyn TargetPlace>> {
        Ok(Box::new(self.make().await))
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::keys().with_large((12 << 20) + 12_345);
        samples.small.push(Sample::hard_link("dir/hard", "dir/a"));
        samples.unfinishable = Some(Sample::hard_link("dir/dangling", "dir/nothing"));
        samples
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn RestoreTarget>>> {
        Ok(Some(target(self.with_wrong_secret().await)))
    }
}

#[async_trait]
impl TargetPlace for Place {
    fn target(&self) -> Arc<dyn RestoreTarget> {
        target(self.bucket.clone())
    }

    async fn again(&self) -> Result<Arc<dyn RestoreTarget>> {
        Ok(target(self.anew().await))
    }

    async fn look(&self, name: &EntryName) -> Result<Option<SeenItem>> {
        let key = self.bucket.key(name.as_str().unwrap());
        let found = self.bucket.client().get_object().bucket(self.bucket.bucket()).key(key).send().await;
        match found {
            Ok(object) => Ok(Some(SeenItem::Content(object.body.collect().await.unwrap().into_bytes()))),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_no_such_key()) => Ok(None),
            Err(e) => panic!("{e:?}"),
        }
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.access.secret_key.clone()]
    }

    async fn staged(&self) -> Result<Option<Vec<String>>> {
        let listed = self.bucket.client().list_multipart_uploads().bucket(self.bucket.bucket());
        let listed = listed.prefix(self.bucket.prefix()).send().await.unwrap();
        let ids = listed.uploads().iter().map(|u| format!("{} {}", u.key().unwrap(), u.upload_id().unwrap()));
        let staged = keys(&self.bucket).await.into_iter().filter(|key| key.contains(".backup-tmp-"));
        Ok(Some(ids.chain(staged).collect()))
    }

    async fn spoil(&self, name: &EntryName) -> Result<bool> {
        let Some(SeenItem::Content(content)) = self.look(name).await? else { return Ok(false) };
        let mut content = content.to_vec();
        content[0] ^= 1;
        put(&self.bucket, &self.bucket.key(name.as_str().unwrap()), content.into()).await;
        Ok(true)
    }

    async fn lose(&self, name: &EntryName) -> Result<bool> {
        let key = self.bucket.key(name.as_str().unwrap());
        self.bucket.client().delete_object().bucket(self.bucket.bucket()).key(key).send().await.unwrap();
        Ok(true)
    }
}
