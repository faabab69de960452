//! Buckets on any server, for the conformance suite.

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use backup_core::Result;
use backup_core::adapter::Source;
use backup_core::model::{EntryKind, EntryName, Identity};
use backup_s3::{Credentials, S3Bucket, S3Config, S3Source, S3SourceOptions, S3Versions};
use backup_testkit::conformance::source::{Disturbance, KnownItem, SourceFixture, SourcePart, SourcePlace};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Rule, S3Server};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a server is, and how to get in.
#[derive(Clone)]
pub(crate) struct Access {
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Access {
    pub(crate) fn of(server: &S3Server) -> Self {
        Self {
            endpoint: server.endpoint(),
            access_key: server.access_key().to_owned(),
            secret_key: server.secret_key().to_owned(),
        }
    }

    pub(crate) fn config(&self, bucket: &str, prefix: &str) -> S3Config {
        S3Config {
            prefix: prefix.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            credentials: Credentials::Static {
                access_key: self.access_key.clone(),
                secret_key: self.secret_key.clone().into(),
                session_token: None,
            },
            ..S3Config::new(bucket)
        }
    }

    pub(crate) async fn bucket(&self, bucket: &str, prefix: &str) -> S3Bucket {
        S3Bucket::connect(self.config(bucket, prefix)).await.unwrap()
    }
}

/// Makes buckets on a server. Only that of this process can be told to misbehave.
pub(crate) struct Buckets {
    pub access: Access,
    pub in_process: Option<Arc<S3Server>>,
    pub versions: S3Versions,
    made: AtomicU64,
}

impl Buckets {
    pub(crate) fn new(access: Access, in_process: Option<Arc<S3Server>>, versions: S3Versions) -> Self {
        Self { access, in_process, versions, made: AtomicU64::new(0) }
    }

    async fn make(&self, items: Vec<KnownItem>) -> Box<Place> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let name = format!("source-{}-{number}", std::process::id());
        let bucket = self.access.bucket(&name, "data").await;
        bucket.client().create_bucket().bucket(&name).send().await.unwrap();
        // Neighbours that are not below the prefix.
        for key in ["dat", "data", "data2", "data0/x"] {
            put(&bucket, key, Bytes::from_static(b"a neighbour")).await;
        }
        for item in &items {
            let KnownItem::Entry { name, content: Some(content), .. } = item else { continue };
            put(&bucket, &bucket.key(name.as_str().unwrap()), content.clone()).await;
        }
        let (access, in_process) = (self.access.clone(), self.in_process.clone());
        Box::new(Place { access, in_process, versions: self.versions, name, bucket, items })
    }
}

async fn put(bucket: &S3Bucket, key: &str, content: Bytes) {
    let body = ByteStream::from(content);
    bucket.client().put_object().bucket(bucket.bucket()).key(key).body(body).send().await.unwrap();
}

pub(crate) fn source(bucket: S3Bucket, options: S3SourceOptions) -> Arc<S3Source> {
    Arc::new(S3Source::new(bucket, options).unwrap())
}

/// Bytes that do not repeat.
pub(crate) fn bytes(length: usize) -> Bytes {
    (0..length as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

#[async_trait]
impl SourceFixture for Buckets {
    async fn place(&self) -> Result<Box<dyn SourcePlace>> {
        let mut items = vec![
            KnownItem::file("a b+c%20d", "blank, plus and percent"),
            KnownItem::file("backups/archive/manifest.json", "an archive"),
            KnownItem::file("backups2", "not an archive"),
            KnownItem::file("deep/er/ä/日本", "no ASCII"),
            KnownItem::file("empty", ""),
            KnownItem::file("large", bytes((5 << 20) + 17)),
            KnownItem::file("larger than a frame", bytes((9 << 20) + 1)),
            KnownItem::file("one frame", bytes(1 << 20)),
            KnownItem::file("~last", "the end"),
        ];
        if self.in_process.is_some() {
            items.extend([
                KnownItem::file("../x", "a path upwards"),
                KnownItem::file("/", "a slash"),
                KnownItem::file("folder", "beside its folder"),
                KnownItem::file("folder/", ""),
                KnownItem::file("folder//", "no name twice"),
                KnownItem::file("folder/b", "in the folder"),
                KnownItem::file("line\nbreak\u{1}\u{7f}", "control characters"),
            ]);
        }
        Ok(self.make(items).await)
    }

    async fn many(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        let Some(server) = &self.in_process else { return Ok(None) };
        let place = self.make(Vec::new()).await;
        let items: Vec<_> = (0..20_000).map(|n| KnownItem::file(&format!("{n:05}"), "small")).collect();
        for item in &items {
            let KnownItem::Entry { name, content: Some(content), .. } = item else { continue };
            server.put(&place.name, &place.bucket.key(name.as_str().unwrap()), content.clone());
        }
        Ok(Some(Box::new(Place { items, ..*place })))
    }

    async fn missing(&self) -> Result<Option<Arc<dyn Source>>> {
        let bucket = self.access.bucket("there-is-no-such-bucket", "").await;
        Ok(Some(source(bucket, S3SourceOptions { versions: self.versions, ..Default::default() })))
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn Source>>> {
        let place = self.make(Vec::new()).await;
        let access = Access { secret_key: "not the secret".to_owned(), ..self.access.clone() };
        let bucket = access.bucket(&place.name, "").await;
        Ok(Some(source(bucket, S3SourceOptions { versions: self.versions, ..Default::default() })))
    }

    async fn breaking(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        let Some(server) = &self.in_process else { return Ok(None) };
        let place = self.make(vec![KnownItem::file("large", bytes(5 << 20))]).await;
        let rule = Rule::new(Operation::GetObject, When::Always, Fault::Break { after: 99_999 });
        server.faults().add(rule.about(&format!("{}/", place.name)));
        Ok(Some(place))
    }
}

pub(crate) struct Place {
    access: Access,
    in_process: Option<Arc<S3Server>>,
    versions: S3Versions,
    name: String,
    bucket: S3Bucket,
    items: Vec<KnownItem>,
}

#[async_trait]
impl SourcePlace for Place {
    fn source(&self) -> Arc<dyn Source> {
        source(self.bucket.clone(), S3SourceOptions { versions: self.versions, ..Default::default() })
    }

    async fn again(&self) -> Result<Arc<dyn Source>> {
        let bucket = self.access.bucket(&self.name, "/data/").await;
        Ok(source(bucket, S3SourceOptions { versions: self.versions, ..Default::default() }))
    }

    fn items(&self) -> Vec<KnownItem> {
        self.items.clone()
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.access.secret_key.clone()]
    }

    fn part(&self) -> Option<SourcePart> {
        let place = self.bucket.identity();
        let identity = Identity::new(place.kind.clone(), format!("{}/backups", place.location));
        Some(SourcePart { identity, names: vec!["backups/archive/manifest.json".into()] })
    }

    async fn disturb(&self, item: &EntryName, how: Disturbance) -> Result<bool> {
        let key = self.bucket.key(item.as_str().unwrap());
        let known = self.items.iter().find_map(|known| match known {
            KnownItem::Entry { name, kind: EntryKind::File, content: Some(content) } if name == item => Some(content),
            _ => None,
        });
        match how {
            Disturbance::Remove => {
                let request = self.bucket.client().delete_object().bucket(&self.name).key(key);
                request.send().await.unwrap();
            }
            Disturbance::Change(content) => put(&self.bucket, &key, content).await,
            Disturbance::Shorten(left) => put(&self.bucket, &key, known.unwrap().slice(..left as usize)).await,
            Disturbance::Deny => {
                let Some(server) = &self.in_process else { return Ok(false) };
                let rule = Rule::new(Operation::GetObject, When::Always, Fault::denied());
                server.faults().add(rule.about(&format!("{}/{key}", self.name)));
            }
        }
        Ok(true)
    }
}
