//! A bucket as a source, on a real server: SeaweedFS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

#[path = "source/fixture.rs"]
mod fixture;

use backup_s3::S3Versions;
use backup_testkit::conformance::source;
use fixture::{Access, Buckets};

fn access() -> Access {
    let variable = |name: &str| {
        std::env::var(name)
            .unwrap_or_else(|_| panic!("{name} is not set; scripts/test-servers starts the server and sets it"))
    };
    Access {
        endpoint: variable("BACKUP_TEST_S3"),
        access_key: variable("BACKUP_TEST_S3_ACCESS_KEY"),
        secret_key: variable("BACKUP_TEST_S3_SECRET_KEY"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_its_promises() {
    let buckets = Buckets::new(access(), None, S3Versions::Current);
    source::run_all(&buckets).await.assert_passed(&[
        // They need a server that misbehaves on demand.
        "a_stop_ends_a_long_stream_soon",
        "an_item_that_may_not_be_read_does_not_end_the_run",
        "a_broken_connection_is_an_error",
        "a_denied_item_is_permanent_or_unauthorized",
    ]);
}
