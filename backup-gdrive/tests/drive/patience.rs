//! How long is waited: for answers, for the end of an outage, and as long as the service asks for.

use crate::fixture::{Place, limits};
use backup_core::ErrorClass;
use backup_core::adapter::Destination;
use backup_core::model::ObjectName;
use backup_gdrive::{GDrive, GDriveDestination, TimeLimits};
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation};
use bytes::Bytes;
use futures::TryStreamExt;
use std::time::{Duration, Instant};

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn content() -> Bytes {
    Bytes::from_static(b"the content of an object")
}

/// The body of an answer begins and does not end: the call goes on within the time for an answer, on another connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stands_still_stops_nothing() {
    use DriveOperation as O;
    for operation in
        [O::Token, O::GetMetadata, O::List, O::Create, O::UploadChunk, O::UploadStatus, O::Download, O::About]
    {
        let place = Place::new().await;
        let destination = place.destination_with(TimeLimits { answer_ms: 300, still_ms: 300, ..limits() });
        place.server.faults().add(operation, When::Nth(1), DriveFault::StallBody { after: 5 });
        if operation == O::UploadStatus {
            place.server.faults().add(O::UploadChunk, When::First(2), DriveFault::LostReply);
        }
        let all = async {
            destination.check().await?;
            destination.put(&name("a/1"), content().into()).await?;
            destination.free_space().await?;
            destination.delete(&name("a/1")).await
        };
        let done = tokio::time::timeout(Duration::from_secs(60), all).await;
        done.unwrap_or_else(|_| panic!("{operation:?}: it hangs"))
            .unwrap_or_else(|e| panic!("{operation:?}: {}", e.chain()));
        assert!(place.server.faults().fired() > 0, "{operation:?}");
    }
}

/// A refusal whose text stands still, and content that does.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_still_for_good_is_an_error_that_may_pass() {
    let place = Place::new().await;
    let destination = place.destination_with(TimeLimits { answer_ms: 300, still_ms: 300, outage_s: 0 });
    destination.put(&name("a/1"), content().into()).await.unwrap();
    place.server.faults().add(DriveOperation::Download, When::Always, DriveFault::StallBody { after: 5 });
    let got = async { destination.get(&name("a/1"), None).await?.try_collect::<Vec<_>>().await };
    let got = tokio::time::timeout(Duration::from_secs(20), got).await.unwrap();
    assert_eq!(got.unwrap_err().class(), ErrorClass::Transient);
    let check = tokio::time::timeout(Duration::from_secs(20), destination.check()).await.unwrap();
    assert_eq!(check.unwrap_err().class(), ErrorClass::Transient);
    // The probe is removed all the same.
    assert_eq!(place.server.files().len(), 2, "{:?}", place.server.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_far_too_long_is_not_read_to_its_end() {
    use DriveOperation as O;
    let place = Place::new().await;
    let destination = place.destination_with(TimeLimits { outage_s: 0, ..limits() });
    destination.put(&name("a/1"), content().into()).await.unwrap();
    for (operation, blanks) in [(O::About, 2 << 20), (O::List, 40 << 20), (O::UploadChunk, 2 << 20)] {
        place.server.faults().add(operation, When::Always, DriveFault::Padded { blanks });
        let done = match operation {
            O::About => destination.free_space().await.map(|_| ()),
            O::List => destination.stat(&name("a/1")).await.map(|_| ()),
            _ => destination.put(&name("a/2"), content().into()).await,
        };
        assert_eq!(done.unwrap_err().class(), ErrorClass::Transient, "{operation:?}");
        place.server.faults().clear();
    }
}

/// Longer than the attempts of the engine's retries last, in numbers of refusals.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_for() {
    use DriveOperation as O;
    for fault in
        [DriveFault::unavailable(), DriveFault::Fail { status: 500, reason: "internalError" }, DriveFault::Drop]
    {
        for operation in [O::BeginUpload, O::UploadChunk, O::List, O::Create, O::Download, O::Delete] {
            let place = Place::new().await;
            let destination = place.destination();
            destination.check().await.unwrap();
            place.server.faults().add(operation, When::First(10), fault.clone());
            let all = async {
                destination.put(&name("a/1"), content().into()).await?;
                let read: Vec<Bytes> = destination.get(&name("a/1"), None).await?.try_collect().await?;
                assert_eq!(read.concat(), content());
                destination.delete(&name("a/1")).await
            };
            all.await.unwrap_or_else(|e| panic!("{operation:?} {fault:?}: {}", e.chain()));
            assert_eq!(place.server.faults().fired(), 10, "{operation:?} {fault:?}");
            assert_eq!(place.server.files().len(), 1, "{operation:?} {fault:?}");
            let folders = place.server.folders().iter().filter(|folder| folder.path.ends_with("/a")).count();
            assert_eq!(folders, 1, "{operation:?} {fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_does_not_end_is_an_error_and_at_first_soon() {
    let place = Place::new().await;
    place.server.faults().add(DriveOperation::GetMetadata, When::Always, DriveFault::unavailable());
    let destination = place.destination();
    let error = destination.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{}", error.chain());
    assert_eq!(place.server.requests(DriveOperation::GetMetadata), 3);
    place.server.faults().clear();
    destination.check().await.unwrap();
    place.server.faults().add(DriveOperation::List, When::Always, DriveFault::unavailable());
    let begun = Instant::now();
    let error = destination.stat(&name("a/1")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{}", error.chain());
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_says_when_to_come_again() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.check().await.unwrap();
    for status in [429, 503] {
        place.server.faults().add(DriveOperation::List, When::Nth(1), DriveFault::Busy { status, after_s: 1 });
        let begun = Instant::now();
        destination.stat(&name("a/1")).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1), "{status}: {:?}", begun.elapsed());
        place.server.faults().clear();
    }
    // Longer than it is waited here: the caller knows how long.
    place.server.faults().add(DriveOperation::List, When::Always, DriveFault::Busy { status: 503, after_s: 90 });
    let error = destination.stat(&name("a/1")).await.unwrap_err();
    let class = ErrorClass::Throttled { after: Some(Duration::from_secs(90)) };
    assert_eq!(error.class(), class, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caps_of_a_day_pause_for_as_long_as_the_configuration_says() {
    let place = Place::new().await;
    let mut config = place.config();
    config.quota.pause_s = 777;
    let destination = GDriveDestination::new(GDrive::new(config).unwrap());
    destination.put(&name("a/1"), content().into()).await.unwrap();
    let class = ErrorClass::Throttled { after: Some(Duration::from_secs(777)) };
    let fail = |reason| DriveFault::Fail { status: 403, reason };
    place.server.faults().add(DriveOperation::BeginUpload, When::Always, fail("dailyLimitExceeded"));
    let error = destination.put(&name("a/2"), content().into()).await.unwrap_err();
    assert_eq!(error.class(), class, "{}", error.chain());
    place.server.faults().add(DriveOperation::Download, When::Always, fail("downloadQuotaExceeded"));
    let error = destination.get(&name("a/1"), None).await.map(|_| ()).unwrap_err();
    assert_eq!(error.class(), class, "{}", error.chain());
}

/// No answer at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_never_answered_is_given_up_and_sent_again() {
    for operation in
        [DriveOperation::UploadChunk, DriveOperation::Download, DriveOperation::List, DriveOperation::Delete]
    {
        let place = Place::new().await;
        let destination = place.destination_with(TimeLimits { answer_ms: 300, still_ms: 300, ..limits() });
        place.server.faults().add(operation, When::Nth(1), DriveFault::Hang);
        let check = tokio::time::timeout(Duration::from_secs(60), destination.check()).await;
        check
            .unwrap_or_else(|_| panic!("{operation:?}: it hangs"))
            .unwrap_or_else(|e| panic!("{operation:?}: {}", e.chain()));
        assert_eq!(place.server.faults().fired(), 1, "{operation:?}");
    }
}
