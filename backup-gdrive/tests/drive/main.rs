//! Google Drive as destination, on a server in this process that can be told to misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod accounts;
mod engine;
mod faults;
mod fixture;
mod independent;
mod secrets;

use backup_testkit::conformance::destination;
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation};
use fixture::Drives;

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_keeps_its_promises() {
    destination::run_all(&Drives::default()).await.assert_passed(&[]);
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
    ];
    for (operation, fault) in faults {
        println!("{operation:?}: {fault:?}");
        // A token that was just got anew and is refused again is no fault that passes.
        let when = if matches!(fault, DriveFault::Fail { status: 401, .. }) { When::Nth(2) } else { When::Every(7) };
        let fixture = Drives { fault: Some((operation, when, fault)), many: 30 };
        destination::run_all(&fixture).await.assert_passed(&[]);
    }
}
