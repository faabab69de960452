//! Buckets as destinations and restore targets, on a real server: SeaweedFS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod common;
#[path = "writing/fixture.rs"]
#[allow(dead_code, reason = "the other suite needs more of it")]
mod fixture;

use backup_core::adapter::{RestorePlan, RestoreTarget, Written};
use backup_core::model::Naming;
use backup_s3::S3RestoreTarget;
use backup_testkit::conformance::restore_target::{Sample, plan};
use backup_testkit::conformance::{destination, restore_target};
use common::Access;
use fixture::{Buckets, options};

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_keeps_its_promises() {
    destination::run_all(&Buckets::of_environment()).await.assert_passed(&[
        // They need a server that misbehaves on demand.
        "a_full_place_is_no_space_and_leaves_nothing",
        "a_broken_connection_is_an_error",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_keeps_its_promises() {
    restore_target::run_all(&Buckets::of_environment()).await.assert_passed(&[
        // Keys are flat: no name leads out of a prefix.
        "hostile_names_are_refused_and_the_rest_is_written",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expires_that_is_no_date_and_is_refused_costs_a_warning_and_not_the_object() {
    let bucket = Access::of_environment().new_bucket("").await;
    let target = S3RestoreTarget::new(bucket.clone(), options()).unwrap();
    let mut sample = Sample::file("a", "x");
    sample.entry.metadata.headers.insert("expires".into(), "0".into());
    let plan = RestorePlan { naming: Naming::Keys, ..plan([&sample]) };
    target.prepare(&plan).await.unwrap();
    let written = target.write_small(&plan, vec![sample.small()]).await.unwrap();
    assert!(matches!(written[0], Ok(Written::Created)), "{written:?}");
    let seen = bucket.client().head_object().bucket(bucket.bucket()).key("a").send().await.unwrap();
    assert_eq!(seen.expires_string(), None);
    let warnings = target.finish(&plan).await.unwrap();
    assert!(warnings.len() == 1 && warnings[0].message.contains("Expires (`0`)"), "{warnings:?}");
}
