//! Google Drive as destination, on a server in this process that can be told to misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod accounts;
mod engine;
mod faults;
mod fixture;
mod folders;
mod independent;
mod patience;
mod secrets;

use backup_testkit::conformance::destination;
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation, DriveRole};
use fixture::Drives;
use futures::{FutureExt, StreamExt};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_keeps_its_promises() {
    destination::run_all(&Drives::default()).await.assert_passed(&[]);
}

/// Where the account may put things into the bin, but not remove them for good.
#[tokio::test(flavor = "multi_thread")]
async fn the_destination_keeps_its_promises_in_a_shared_drive() {
    let fixture = Drives { shared: Some(DriveRole::FileOrganizer), many: 150, ..Drives::default() };
    destination::run_all(&fixture).await.assert_passed(&[]);
}

/// Faults that pass must not be noticed, apart from the time that they take.
#[tokio::test(flavor = "multi_thread")]
async fn the_destination_keeps_its_promises_under_every_fault_that_passes() {
    use DriveOperation as O;
    let faults = [
        (O::UploadChunk, DriveFault::FailAfter { status: 503 }),
        (O::UploadChunk, DriveFault::LostReply),
        (O::UploadChunk, DriveFault::unavailable()),
        (O::UploadChunk, DriveFault::BreakRequest { after: 300 << 10 }),
        (O::UploadChunk, DriveFault::SessionGone { status: 410 }),
        (O::UploadChunk, DriveFault::NotJson),
        (O::UploadChunk, DriveFault::rate_limit()),
        (O::BeginUpload, DriveFault::rate_limit()),
        (O::List, DriveFault::rate_limit()),
        (O::Download, DriveFault::rate_limit()),
        (O::List, DriveFault::EmptyPage),
        (O::GetMetadata, DriveFault::Fail { status: 401, reason: "authError" }),
        (O::List, DriveFault::Fail { status: 401, reason: "authError" }),
        (O::Download, DriveFault::Fail { status: 401, reason: "authError" }),
        (O::UploadChunk, DriveFault::Fail { status: 401, reason: "authError" }),
        (O::UploadChunk, DriveFault::Drop),
        (O::UploadChunk, DriveFault::Partial { kept: 256 << 10 }),
        (O::UploadChunk, DriveFault::Delay(Duration::from_millis(50))),
        (O::BeginUpload, DriveFault::unavailable()),
        (O::BeginUpload, DriveFault::LostReply),
        (O::List, DriveFault::unavailable()),
        (O::List, DriveFault::Drop),
        (O::List, DriveFault::NotJson),
        (O::List, DriveFault::Delay(Duration::from_millis(50))),
        (O::Download, DriveFault::unavailable()),
        (O::Download, DriveFault::NotJson),
        (O::Download, DriveFault::Break { after: 50_000 }),
        (O::GetMetadata, DriveFault::unavailable()),
        (O::GetMetadata, DriveFault::Drop),
        (O::Create, DriveFault::LostReply),
        (O::Create, DriveFault::unavailable()),
        (O::Delete, DriveFault::LostReply),
        (O::Delete, DriveFault::FailAfter { status: 500 }),
        (O::Delete, DriveFault::NotJson),
        (O::About, DriveFault::unavailable()),
        (O::Token, DriveFault::unavailable()),
        (O::Token, DriveFault::Drop),
    ];
    let run = async |(operation, fault): (O, DriveFault)| {
        // A token that was just got anew and is refused again is no fault that passes.
        let when = match (operation, &fault) {
            (_, DriveFault::Fail { status: 401, .. }) => When::Nth(2),
            // There are not many of these.
            (O::Token | O::GetMetadata | O::Create | O::About, _) => When::Nth(1),
            (O::Delete, _) | (_, DriveFault::Break { .. }) => When::Every(3),
            _ => When::Every(7),
        };
        let shown = format!("{operation:?}: {fault:?}");
        let fixture = Drives { fault: Some((operation, when, fault)), many: 30, ..Drives::default() };
        let report = destination::run_all(&fixture).await;
        println!("{shown}: {} times", fixture.fired());
        report.assert_passed(&[]);
        assert!(fixture.fired() > 0, "{shown} did not happen");
    };
    let runs = faults.map(|fault| run(fault).boxed_local());
    futures::stream::iter(runs).buffer_unordered(6).collect::<()>().await;
}
