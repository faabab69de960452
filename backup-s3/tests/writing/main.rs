//! Buckets as destinations and restore targets, on a server in this process that can be told to misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

#[path = "../common/mod.rs"]
mod common;
mod destination_faults;
#[allow(dead_code, reason = "the suite on a real server needs more of it")]
mod fixture;
mod target_faults;

use backup_testkit::conformance::{destination, restore_target};
use backup_testkit::s3::Quirks;
use fixture::Buckets;

/// What services other than AWS are like, as far as it matters to who writes.
fn quirks() -> Vec<(&'static str, Quirks)> {
    let with = |change: fn(&mut Quirks)| {
        let mut quirks = Quirks::default();
        change(&mut quirks);
        quirks
    };
    vec![
        ("AWS", Quirks::default()),
        ("ignores If-None-Match", with(|q| q.ignores_if_none_match = true)),
        ("refuses If-None-Match", with(|q| q.refuses_if_none_match = true)),
        ("Garage", with(|q| q.refuses_checksums = true)),
        ("ignores checksums", with(|q| q.ignores_checksums = true)),
        ("SeaweedFS", with(|q| q.lists_parts_twice = true)),
        ("R2", with(|q| (q.wants_equal_parts, q.knows_no_tags) = (true, true))),
    ]
}

/// Without a condition that the service honours, of two puts at the very same moment the later one wins.
const RACE: &str = "of_puts_at_once_one_wins_whole";

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_keeps_its_promises() {
    for (name, quirks) in quirks() {
        println!("{name}");
        let without_condition = quirks.ignores_if_none_match || quirks.refuses_if_none_match;
        let mut report = destination::run_all(&Buckets::own(quirks).await).await;
        if without_condition {
            report.failed.retain(|failed| failed.name != RACE);
        }
        report.assert_passed(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_keeps_its_promises() {
    // It moves many large objects; what differs for it is a condition that is not honoured, and how parts are treated.
    let like_others = Quirks {
        ignores_if_none_match: true,
        refuses_checksums: true,
        lists_parts_twice: true,
        wants_equal_parts: true,
        knows_no_tags: true,
        ..Quirks::default()
    };
    for (name, quirks) in [("AWS", Quirks::default()), ("others", like_others)] {
        println!("{name}");
        restore_target::run_all(&Buckets::own(quirks).await).await.assert_passed(&[
            // Keys are flat: no name leads out of a prefix.
            "hostile_names_are_refused_and_the_rest_is_written",
        ]);
    }
}
