//! Folders that go, that come into the bin, that hold files of others; and shared drives.

use crate::fixture::Place;
use backup_core::ErrorClass;
use backup_core::adapter::Destination;
use backup_core::model::ObjectName;
use backup_gdrive::{GDrive, GDriveConfig, GDriveDestination};
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation, DriveRole};
use bytes::Bytes;
use futures::TryStreamExt;
use std::time::Duration;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn content() -> Bytes {
    Bytes::from_static(b"the content of an object")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Removed,
    Binned,
}

impl Loss {
    fn of(self, place: &Place, id: &str) {
        match self {
            Self::Removed => place.server.remove(id),
            Self::Binned => place.server.set_trashed(id, true),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_go_between_two_puts_are_made_anew() {
    for loss in [Loss::Removed, Loss::Binned] {
        for folder in ["/of one/a/data", "/of one/a", "/of one", "backups/archives"] {
            let place = Place::new().await;
            let destination = place.destination();
            destination.put(&name("a/data/1"), content().into()).await.unwrap();
            loss.of(&place, &place.folder_at(folder));
            destination
                .put(&name("a/data/2"), content().into())
                .await
                .unwrap_or_else(|e| panic!("{loss:?} {folder}: {}", e.chain()));
            let paths: Vec<String> = place.server.files().into_iter().map(|file| file.path).collect();
            assert_eq!(paths, ["backups/archives/of one/a/data/2", "neighbour/x"], "{loss:?} {folder}");
            let in_bin = place.server.bin().iter().filter(|file| file.name == "2").count();
            assert_eq!(in_bin, 0, "{loss:?} {folder}: a file that came into the bin is left there");
            assert!(destination.stat(&name("a/data/2")).await.unwrap().is_some());
            assert!(destination.stat(&name("a/data/1")).await.unwrap().is_none(), "{loss:?} {folder}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_goes_during_an_upload_is_made_anew() {
    for loss in [Loss::Removed, Loss::Binned] {
        let place = Place::new().await;
        let destination = place.destination();
        destination.put(&name("a/data/1"), content().into()).await.unwrap();
        let folder = place.folder_at("/a/data");
        place.server.reset_requests();
        place.server.faults().add(
            DriveOperation::UploadChunk,
            When::Nth(2),
            DriveFault::Delay(Duration::from_millis(500)),
        );
        let large = Bytes::from(vec![7; 12 << 20]);
        let (object, payload) = (name("a/data/2"), large.clone().into());
        let put = destination.put(&object, payload);
        let remove = async {
            while place.server.requests(DriveOperation::UploadChunk) < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            loss.of(&place, &folder);
        };
        let (put, ()) = tokio::join!(put, remove);
        put.unwrap_or_else(|e| panic!("{loss:?}: {}", e.chain()));
        assert_eq!(place.server.requests(DriveOperation::BeginUpload), 2, "{loss:?}");
        let files = place.server.files();
        assert!(files.iter().any(|file| file.path.ends_with("/a/data/2") && file.content == large), "{loss:?}");
        assert!(place.server.bin().iter().all(|file| file.name != "2"), "{loss:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_in_the_bin_is_told_and_takes_no_objects() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/1"), content().into()).await.unwrap();
    place.server.set_trashed(&place.folder, true);
    // Also to one that knows the folder from before.
    for destination in [place.destination(), destination] {
        let error = destination.put(&name("a/2"), content().into()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::NotFound, "{}", error.chain());
        assert!(error.chain().contains("in the bin"), "{}", error.chain());
        let error = destination.check().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::NotFound, "{}", error.chain());
    }
    assert!(place.server.bin().iter().all(|file| file.name != "2" && !file.name.contains("probe")));
    place.server.set_trashed(&place.folder, false);
    place.destination().put(&name("a/2"), content().into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_bin_is_not_there_although_its_id_is_known() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/1"), content().into()).await.unwrap();
    place.server.set_trashed(&place.folder_at("/of one/a"), true);
    assert!(destination.stat(&name("a/1")).await.unwrap().is_none());
    assert!(destination.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert!(destination.list_roots().try_collect::<Vec<_>>().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_on_where_a_root_was_that_is_made_anew() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/1"), content().into()).await.unwrap();
    place.server.remove(&place.folder_at("/of one"));
    assert!(destination.list_roots().try_collect::<Vec<_>>().await.unwrap().is_empty());
    destination.remove_staged(&name("a")).await.unwrap();
    destination.check().await.unwrap();
}

/// With the scope `drive.file` the app does not see what a person put into an archive's folder.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_others_in_the_folders_of_an_archive_survive_it() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/data/1"), content().into()).await.unwrap();
    let root = place.folder_at("/of one");
    place.server.plant_hidden(&root, "a/data/holiday.jpg", Bytes::from_static(b"a picture"));
    destination.delete(&name("a/data/1")).await.unwrap();
    destination.remove_staged(&name("a")).await.unwrap();
    assert!(place.server.folders().iter().all(|folder| !folder.path.contains("/of one/")));
    let bin = place.server.bin();
    assert!(bin.iter().any(|file| file.name == "holiday.jpg" && *file.content == *b"a picture"), "{bin:?}");

    // What it sees, and did not make, keeps the folders where they are.
    destination.put(&name("b/data/1"), content().into()).await.unwrap();
    place.server.make_folder_in(&place.folder_at("/of one/b"), "of a person");
    destination.delete(&name("b/data/1")).await.unwrap();
    destination.remove_staged(&name("b")).await.unwrap();
    assert!(place.server.folders().iter().any(|folder| folder.path.ends_with("/of one/b/of a person")));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_shared_drive_files_go_for_good_or_else_into_the_bin() {
    for (role, left) in [(DriveRole::Organizer, 0), (DriveRole::FileOrganizer, 1)] {
        let place = Place::shared(role).await;
        let destination = place.destination();
        destination.put(&name("a/1"), content().into()).await.unwrap();
        destination.delete(&name("a/1")).await.unwrap();
        let bin = place.server.bin();
        assert_eq!(bin.iter().filter(|file| file.name == "1").count(), left, "{role:?}: {bin:?}");
        assert!(destination.stat(&name("a/1")).await.unwrap().is_none());
    }
    // Of one's own, what is refused is refused.
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&name("a/1"), content().into()).await.unwrap();
    let refused = DriveFault::Fail { status: 403, reason: "insufficientFilePermissions" };
    place.server.faults().add(DriveOperation::Delete, When::Always, refused);
    assert_eq!(destination.delete(&name("a/1")).await.unwrap_err().class(), ErrorClass::Permanent);
    assert_eq!(place.server.requests(DriveOperation::Update), 0);
}

/// Without the id of the drive, listings do not find what is on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_drive_is_asked_for_by_its_id() {
    let place = Place::shared(DriveRole::Organizer).await;
    place.destination().put(&name("a/1"), content().into()).await.unwrap();
    assert!(place.destination().stat(&name("a/1")).await.unwrap().is_some());
    assert_eq!(place.destination().free_space().await.unwrap(), None);
    let nowhere = GDriveConfig { drive: Some("0nowhere".into()), ..place.config() };
    let error = GDriveDestination::new(GDrive::new(nowhere).unwrap()).check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{}", error.chain());
}

/// New files show up in listings late: a process finds what it has put itself, and makes no folder twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_finds_its_own_objects_although_listings_lag() {
    let place = Place::shared(DriveRole::FileOrganizer).await;
    place.server.set_list_lag(1000);
    let destination = place.destination();
    destination.check().await.unwrap();
    for n in 0..3 {
        destination.put(&name(&format!("a/data/{n}")), content().into()).await.unwrap();
    }
    assert_eq!(destination.stat(&name("a/data/1")).await.unwrap().map(|info| info.size), Some(content().len() as u64));
    let read: Vec<Bytes> = destination.get(&name("a/data/2"), None).await.unwrap().try_collect().await.unwrap();
    assert_eq!(read.concat(), content());
    destination.delete(&name("a/data/0")).await.unwrap();
    assert!(destination.stat(&name("a/data/0")).await.unwrap().is_none());
    let folders = place.server.folders().iter().filter(|folder| folder.path.contains("/of one/")).count();
    assert_eq!(folders, 2, "{:?}", place.server.folders());
}

/// It is another place for each account, and would have one identity.
#[tokio::test(flavor = "multi_thread")]
async fn the_top_of_a_drive_is_where_folders_are_made_and_no_archives() {
    let place = Place::new().await;
    let config = GDriveConfig { folder: "root".into(), ..place.config() };
    let drive = GDrive::new(config).unwrap();
    let made = drive.make_folder("new ones").await.unwrap();
    assert_eq!(drive.make_folder("new ones").await.unwrap(), made);
    let destination = GDriveDestination::new(drive);
    for done in [destination.check().await, destination.put(&name("a/1"), content().into()).await] {
        let error = done.unwrap_err();
        assert!(error.class() == ErrorClass::Invalid && error.chain().contains("account"), "{}", error.chain());
    }
}
