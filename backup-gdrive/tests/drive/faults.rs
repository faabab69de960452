//! What goes wrong on the way: nothing is lost, nothing is there twice, nothing is tried for ever.

use crate::fixture::{Place, config};
use backup_core::adapter::{Destination, Payload};
use backup_core::model::ObjectName;
use backup_core::{Digest, Error, ErrorClass, Result};
use backup_gdrive::{GDrive, GDriveDestination};
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation};
use bytes::Bytes;
use futures::TryStreamExt;

const MIB: usize = 1 << 20;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

/// Bytes that differ everywhere.
fn bytes(length: usize) -> Bytes {
    let mut state = 7u32;
    let next = |s: &mut u32| {
        *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*s >> 24) as u8
    };
    (0..length).map(|_| next(&mut state)).collect()
}

async fn whole(destination: &GDriveDestination, of: &ObjectName) -> Result<Vec<u8>> {
    let pieces: Vec<Bytes> = destination.get(of, None).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// One object of 20 MiB, three chunks, is put under a fault, and is there once as a whole.
async fn is_put_under(operation: DriveOperation, when: When, fault: DriveFault) -> Place {
    let place = Place::new().await;
    let destination = place.destination();
    let (object, content) = (name("a/data/1"), bytes(20 * MIB));
    place.server.faults().add(operation, when, fault.clone());
    destination.put(&object, content.clone().into()).await.unwrap_or_else(|e| panic!("{fault:?}: {}", e.chain()));
    assert!(place.server.faults().fired() > 0, "{fault:?} did not happen");
    let files = place.server.files();
    let ours: Vec<_> = files.iter().filter(|file| file.path.ends_with("/a/data/1")).collect();
    assert_eq!(ours.len(), 1, "{fault:?}");
    assert!(ours[0].content == content, "{fault:?}");
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_gets_through_whatever_happens_to_one_of_its_chunks() {
    let faults = [
        DriveFault::FailAfter { status: 500 },
        DriveFault::unavailable(),
        DriveFault::LostReply,
        DriveFault::Drop,
        DriveFault::BreakRequest { after: 3 * MIB + 5 },
        DriveFault::Partial { kept: 2 * MIB },
        DriveFault::Partial { kept: 0 },
        DriveFault::SessionGone { status: 404 },
        DriveFault::SessionGone { status: 410 },
        DriveFault::NotJson,
        DriveFault::rate_limit(),
        DriveFault::Fail { status: 429, reason: "rateLimitExceeded" },
        DriveFault::Fail { status: 401, reason: "authError" },
    ];
    for fault in faults {
        // The first, one in the middle, and the last.
        for nth in 1..=3 {
            is_put_under(DriveOperation::UploadChunk, When::Nth(nth), fault.clone()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_has_taken_is_not_sent_again() {
    let place = is_put_under(DriveOperation::UploadChunk, When::Nth(3), DriveFault::LostReply).await;
    // The last chunk was stored, and asking showed it.
    assert_eq!(place.server.requests(DriveOperation::UploadChunk), 3);
    assert_eq!(place.server.requests(DriveOperation::UploadStatus), 1);
    assert_eq!(place.server.requests(DriveOperation::BeginUpload), 1);
    let place = is_put_under(DriveOperation::UploadChunk, When::Nth(1), DriveFault::Partial { kept: 3 * MIB }).await;
    assert_eq!(place.server.requests(DriveOperation::UploadChunk), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_for_metadata_goes_with_each_object() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/data/0"), Bytes::from_static(b"first").into()).await.unwrap();
    place.server.reset_requests();
    for n in 1..=10 {
        destination.put(&name(&format!("a/data/{n}")), bytes(1000).into()).await.unwrap();
    }
    let count = |operation| place.server.requests(operation);
    assert_eq!((count(DriveOperation::BeginUpload), count(DriveOperation::UploadChunk)), (10, 10));
    assert_eq!(
        (count(DriveOperation::List), count(DriveOperation::GetMetadata), count(DriveOperation::Create)),
        (10, 0, 0)
    );
    assert_eq!(count(DriveOperation::Token), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_in_the_middle_is_got_anew_once() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.check().await.unwrap();
    place.server.reset_requests();
    place.server.expire_access_tokens();
    let puts = (0..8).map(|n| {
        let destination = destination.clone();
        async move { destination.put(&name(&format!("a/{n}")), bytes(9 * MIB).into()).await }
    });
    futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(place.server.requests(DriveOperation::Token), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_a_day_ends_with_a_time_to_go_on() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.check().await.unwrap();
    place.server.faults().add(DriveOperation::BeginUpload, When::Always, DriveFault::rate_limit());
    let error = destination.put(&name("a/1"), bytes(10).into()).await.unwrap_err();
    let after = std::time::Duration::from_secs(4 * 3600);
    assert_eq!(error.class(), ErrorClass::Throttled { after: Some(after) }, "{}", error.chain());
    assert!(place.server.requests(DriveOperation::BeginUpload) > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_space_is_an_error_of_its_own() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.check().await.unwrap();
    assert_eq!(destination.free_space().await.unwrap(), None);
    place.server.set_quota(Some(10 * MIB as u64));
    assert!(destination.free_space().await.unwrap().unwrap() < 10 * MIB as u64);
    let full = DriveFault::Fail { status: 403, reason: "teamDriveFileLimitExceeded" };
    place.server.faults().add(DriveOperation::UploadChunk, When::Nth(1), full);
    for length in [MIB, 11 * MIB] {
        let error = destination.put(&name("a/1"), bytes(length).into()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::NoSpace, "{}", error.chain());
    }
    destination.put(&name("a/1"), bytes(MIB).into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_are_missing_or_of_others_are_named() {
    let place = Place::new().await;
    for folder in ["nowhere", "file"] {
        let error = async {
            let drive = GDrive::new(config(&place.server, folder, &place.server.refresh_token()))?;
            GDriveDestination::new(drive).check().await
        };
        let error: Error = error.await.unwrap_err();
        assert!(error.class() == ErrorClass::NotFound && error.chain().contains(folder), "{}", error.chain());
        assert!(error.chain().contains("drive.file"), "{}", error.chain());
    }
    let file = place.server.files()[0].id.clone();
    let drive = GDrive::new(config(&place.server, &file, &place.server.refresh_token())).unwrap();
    let error = GDriveDestination::new(drive).check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_several_files_for_one_object_counts_and_all_go_together() {
    let place = Place::new().await;
    let destination = place.destination();
    let object = name("a/data/1");
    destination.put(&object, Bytes::from_static(b"ours").into()).await.unwrap();
    let id = place.server.files().iter().find(|file| file.path.ends_with("/a/data/1")).unwrap().id.clone();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    place.server.duplicate(&id, Bytes::from_static(b"somebody's"));
    let fresh = place.destination();
    assert_eq!(whole(&fresh, &object).await.unwrap(), b"ours");
    assert_eq!(fresh.stat(&object).await.unwrap().unwrap().size, 4);
    let listed: Vec<_> = fresh.list(None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        fresh.put(&object, Bytes::from_static(b"other").into()).await.unwrap_err().class(),
        ErrorClass::Conflict
    );
    fresh.delete(&object).await.unwrap();
    assert!(fresh.stat(&object).await.unwrap().is_none());
    assert_eq!(place.server.files().len(), 1, "the neighbour's alone is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_arrives_changed_is_no_success() {
    for sha256 in [true, false] {
        let place = Place::new().await;
        if !sha256 {
            place.server.keep_no_sha256();
        }
        let destination = place.destination();
        let before = place.server.files().len();
        let (object, content) = (name("a/1"), bytes(1000));
        // Whoever hashed it before tells; what arrived is compared all the same.
        let payload = Payload::from(content.clone()).with_sha256(Digest::of(&content));
        place.server.faults().add(DriveOperation::UploadChunk, When::Nth(1), DriveFault::StoreFlipped { at: 700 });
        let error = destination.put(&object, payload.clone()).await.unwrap_err();
        assert_eq!(place.server.faults().fired(), 1);
        assert!(error.is_retryable() && error.chain().contains("not what was sent"), "{}", error.chain());
        assert_eq!(place.server.files().len(), before, "the changed file is left");
        destination.put(&object, payload).await.unwrap();
        assert!(whole(&destination, &object).await.unwrap() == content);
        destination.put(&object, content.clone().into()).await.unwrap();
        let error = destination.put(&object, bytes(999).into()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Conflict);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_and_reads_meet_answers_that_are_no_json_and_connections_that_break() {
    let place = Place::new().await;
    let destination = place.destination();
    let (object, content) = (name("a/1"), bytes(MIB));
    destination.put(&object, content.clone().into()).await.unwrap();
    for operation in [DriveOperation::List, DriveOperation::Token] {
        for when in [When::Always, When::Nth(1)] {
            let fresh = place.destination();
            place.server.faults().add(operation, when, DriveFault::NotJson);
            let listed: Result<Vec<_>> = fresh.list(None).try_collect().await;
            match (when, listed) {
                (When::Always, Err(e)) if e.class() == ErrorClass::Transient => {}
                (When::Nth(_), Ok(found)) if found.len() == 1 => {}
                (_, other) => panic!("{operation:?} {when:?}: {other:?}"),
            }
            place.server.faults().clear();
        }
    }
    place.server.faults().add(DriveOperation::Download, When::Nth(1), DriveFault::Break { after: 1000 });
    let retrying = backup_core::retry::Retrying::new(place.destination(), Default::default());
    let pieces: Vec<Bytes> = retrying.get(&object, None).await.unwrap().try_collect().await.unwrap();
    assert!(pieces.concat() == content);
    let part: Vec<Bytes> = retrying.get(&object, Some(10..20)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(part.concat(), content[10..20]);
}

/// Each first page is empty, with a token for the next: archives must not seem to be gone, nor folders and objects be made twice.
#[tokio::test(flavor = "multi_thread")]
async fn pages_without_files_are_not_the_end_of_a_listing() {
    let place = Place::new().await;
    let (object, content) = (name("a/data/1"), bytes(1000));
    place.destination().put(&object, content.clone().into()).await.unwrap();
    place.server.faults().add(DriveOperation::List, When::Always, DriveFault::EmptyPage);
    let fresh = place.destination();
    assert_eq!(fresh.stat(&object).await.unwrap().map(|info| info.size), Some(1000));
    assert!(whole(&place.destination(), &object).await.unwrap() == content);
    let roots: Vec<String> = fresh.list_roots().try_collect().await.unwrap();
    assert_eq!(roots, ["a"]);
    let before = place.server.files().len();
    place.destination().put(&object, content.into()).await.unwrap();
    assert_eq!(place.server.files().len(), before, "no file or folder was made twice");
    place.destination().delete(&object).await.unwrap();
    place.server.faults().clear();
    assert!(place.destination().stat(&object).await.unwrap().is_none());
}

/// What something in between says in place of the service: before the first byte it is an error, as long as it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_something_in_between_is_no_content() {
    let place = Place::new().await;
    let (object, content) = (name("a/1"), bytes(1000));
    place.destination().put(&object, content.clone().into()).await.unwrap();
    for range in [None, Some(0..24), Some(10..20)] {
        let destination = place.destination();
        let expected = range.clone().map_or(&content[..], |range| &content[range.start as usize..range.end as usize]);
        place.server.faults().add(DriveOperation::Download, When::Always, DriveFault::NotJson);
        let error = destination.get(&object, range.clone()).await.map(|_| ()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{range:?}: {}", error.chain());
        place.server.faults().clear();
        place.server.faults().add(DriveOperation::Download, When::Nth(1), DriveFault::NotJson);
        let pieces: Vec<Bytes> = destination.get(&object, range).await.unwrap().try_collect().await.unwrap();
        assert!(pieces.concat() == expected);
        place.server.faults().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_counts_when_the_service_says_so_and_not_something_in_between() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/1"), bytes(10).into()).await.unwrap();
    let files = place.server.files().len();
    place.server.faults().add(DriveOperation::Delete, When::Always, DriveFault::NotJson);
    let error = destination.delete(&name("a/1")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{}", error.chain());
    assert_eq!(place.server.files().len(), files);
    place.server.faults().clear();
    place.server.faults().add(DriveOperation::Delete, When::Nth(1), DriveFault::NotJson);
    destination.delete(&name("a/1")).await.unwrap();
    assert_eq!((place.server.files().len(), place.server.faults().fired() > 1), (files - 1, true));
}

/// The one upload of a volume is not to be done again because what comes after it fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_for_doubles_that_fails_costs_no_second_upload() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/data/1"), bytes(10).into()).await.unwrap();
    place.server.reset_requests();
    place.server.faults().add(DriveOperation::List, When::First(10), DriveFault::unavailable());
    destination.put(&name("a/data/2"), bytes(10).into()).await.unwrap();
    let count = |operation| place.server.requests(operation);
    assert_eq!((count(DriveOperation::List), count(DriveOperation::UploadChunk)), (11, 1));
    assert_eq!(place.server.open_uploads(), 0);
}
