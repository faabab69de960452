//! A bucket as a source, on a server in this process.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod fixture;
mod history;
mod keys;
mod metadata;
mod run;
mod trouble;

use backup_s3::S3Versions;
use backup_testkit::conformance::source;
use backup_testkit::s3::S3Server;
use fixture::{Access, Buckets};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_its_promises() {
    let server = Arc::new(S3Server::start().await);
    let buckets = Buckets::new(Access::of(&server), Some(server), S3Versions::Current);
    source::run_all(&buckets).await.assert_passed(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_of_all_versions_keeps_its_promises() {
    let server = Arc::new(S3Server::start().await);
    let buckets = Buckets::new(Access::of(&server), Some(server), S3Versions::All);
    source::run_all(&buckets).await.assert_passed(&[]);
}
