//! Buckets as destinations and restore targets, on a real server: SeaweedFS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod common;
#[path = "writing/fixture.rs"]
#[allow(dead_code, reason = "the other suite needs more of it")]
mod fixture;

use backup_testkit::conformance::{destination, restore_target};
use fixture::Buckets;

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
