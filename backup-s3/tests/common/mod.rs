//! Servers and buckets of the tests.
#![allow(dead_code, reason = "each test binary uses a part")]

use backup_s3::{Credentials, S3Bucket, S3Config};
use backup_testkit::s3::S3Server;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a server is, and how to get in.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) endpoint: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

impl Access {
    /// To a server of this process.
    pub(crate) fn of(server: &S3Server) -> Self {
        Self {
            endpoint: server.endpoint(),
            access_key: server.access_key().to_owned(),
            secret_key: server.secret_key().to_owned(),
        }
    }

    /// To the server that the environment names. A suite that does not run has not passed.
    pub(crate) fn of_environment() -> Self {
        let variable = |name: &str| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set; scripts/test-servers starts the server and sets it"))
        };
        Self {
            endpoint: variable("BACKUP_TEST_S3"),
            access_key: variable("BACKUP_TEST_S3_ACCESS_KEY"),
            secret_key: variable("BACKUP_TEST_S3_SECRET_KEY"),
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

    /// A new bucket, and what lies below a prefix of it.
    pub(crate) async fn new_bucket(&self, prefix: &str) -> S3Bucket {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let bucket = self.bucket(&name, prefix).await;
        bucket.client().create_bucket().bucket(&name).send().await.unwrap();
        bucket
    }
}
