//! Operations of a service, from their creation to their place in the history.

use crate::common::{Place, same_tree};
use backup_core::ErrorClass;
use backup_core::adapter::ConnectionStore;
use backup_core::archive::{Codec, KeyFileProvider, generate_key_file};
use backup_core::engine::VerifyMode;
use backup_core::model::{ConnectionContent, LogLevel, LogQuery, OperationKind, OperationQuery, Progress};
use backup_core::service::{ConnectionChange, NewBackup, NewConnection, NewRestore, Role};
use backup_core::state::{PauseReason, State};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

const COMPLETED: State = State::Completed { warnings: 0 };

#[tokio::test]
async fn a_backup_is_made_found_verified_exported_and_restored() {
    let place = Place::new();
    let service = place.service();
    let (docs, disk) = place.connect(&service).await;
    let new = NewBackup { name: "nightly".into(), created_by: "anna".into(), ..NewBackup::new(&docs, &disk) };
    let backup = service.backup(new).await.unwrap();
    assert_eq!((backup.state.clone(), backup.new.created_by.as_str()), (State::Pending, "anna"));
    let done = service.wait(&backup.new.id).await.unwrap();
    assert_eq!(done.state, COMPLETED);

    let archive = done.new.archive.clone();
    let listed = service.archives(&disk).await.unwrap();
    assert_eq!(listed.iter().map(|summary| &summary.id).collect::<Vec<_>>(), [&archive]);
    assert_eq!(service.find_archive(&disk, "nightly").await.unwrap(), archive);
    assert_eq!(service.archive(&disk, &archive).await.unwrap().manifest().totals.entries, 20);
    let progress = tokio::sync::watch::Sender::new(Progress::default());
    assert!(service.verify(&disk, &archive, VerifyMode::Full, &progress).await.unwrap().is_sound());
    let tar: Vec<_> = service.export(&disk, &archive, Codec::None).await.unwrap().try_collect().await.unwrap();
    assert!(tar.iter().map(|part| part.len()).sum::<usize>() > 20 * 512);

    let back = NewConnection::new("back", "local", place.config("back")).checked_as([Role::Target]);
    let back = service.create_connection(back).await.unwrap().id;
    let restore = service.restore(NewRestore::new(&disk, &archive, &back)).await.unwrap();
    let states: Vec<_> = service.watch(&restore.new.id).map(|now| now.unwrap().state).collect().await;
    assert_eq!(states.last(), Some(&COMPLETED));
    same_tree(&place.path("docs"), &place.path("back"));

    let history = service.history(&OperationQuery::default()).await.unwrap();
    assert_eq!(history.len(), 2);
    let of_docs = OperationQuery { source_connection: Some(docs), ..OperationQuery::default() };
    assert_eq!(service.history(&of_docs).await.unwrap(), [done]);
    let totals = service.totals(&OperationQuery::default()).await.unwrap();
    assert_eq!((totals.completed, totals.success_rate()), (2, Some(1.0)));
    let used = service.storage().await.unwrap();
    assert!(used.len() == 1 && used[0].archives == 1 && used[0].stored_bytes > 0, "{used:?}");
    let restores = OperationQuery { kind: Some(OperationKind::Restore), ..OperationQuery::default() };
    assert_eq!(service.totals(&restores).await.unwrap().all(), 1);
}

#[tokio::test]
async fn a_protected_archive_is_not_deleted() {
    let place = Place::new();
    let service = place.service();
    let (docs, disk) = place.connect(&service).await;
    let backup = service.backup(NewBackup::new(&docs, &disk)).await.unwrap();
    service.wait(&backup.new.id).await.unwrap();
    let archive = &backup.new.archive;
    service.protect(&disk, archive, true).await.unwrap();
    assert_eq!(service.delete_archive(&disk, archive).await.unwrap_err().class(), ErrorClass::Conflict);
    assert_eq!(service.delete_archive_everywhere(archive).await.unwrap_err().class(), ErrorClass::Conflict);
    assert_eq!(service.archives(&disk).await.unwrap().len(), 1);
    service.protect(&disk, archive, false).await.unwrap();
    let answer = service.delete_archive_everywhere(archive).await.unwrap();
    assert!(answer.deleted.len() == 1 && answer.failed.is_empty(), "{answer:?}");
    assert!(service.archives(&disk).await.unwrap().is_empty());
    assert!(service.storage().await.unwrap().is_empty());
    assert_eq!(service.delete_archive_everywhere(archive).await.unwrap_err().class(), ErrorClass::NotFound);
    assert_eq!(service.protect(&disk, archive, true).await.unwrap_err().class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn a_place_whose_connection_cannot_be_used_says_why_and_keeps_no_other_from_deletion() {
    let place = Place::new();
    let service = place.service();
    let (docs, disk) = place.connect(&service).await;
    let backup = service.backup(NewBackup::new(&docs, &disk)).await.unwrap();
    assert_eq!(service.wait(&backup.new.id).await.unwrap().state, COMPLETED);
    let archive = &backup.new.archive;
    let broken = place.store.connection(&disk).await.unwrap().unwrap();
    let content = ConnectionContent { settings: json!({ "path": "not absolute" }), ..broken.content };
    place.store.update_connection(&disk, broken.version, content).await.unwrap();
    let error = service.delete_archive_everywhere(archive).await.unwrap().failed.remove(0).1;
    assert!(error.chain().contains("the connection disk cannot be used"), "{}", error.chain());
    assert_eq!(error.class(), ErrorClass::Invalid);

    let again = NewConnection::new("again", "local", place.config("backups")).checked_as([Role::Destination]);
    let again = service.create_connection(again).await.unwrap().id;
    let answer = service.delete_archive_everywhere(archive).await.unwrap();
    assert!(answer.failed.is_empty() && service.archives(&again).await.unwrap().is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_backup_pauses_and_goes_on() {
    let place = Place::new();
    place.large(6 << 20);
    let service = place.service();
    let (docs, disk) = place.connect(&service).await;
    let slow = NewBackup { limit_read: NonZeroU64::new(1 << 20), ..NewBackup::new(&docs, &disk) };
    let id = service.backup(slow).await.unwrap().new.id;
    while service.operation(&id).await.unwrap().state != State::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked = std::time::Instant::now();
    service.pause(&id).await.unwrap();
    let paused = service.wait(&id).await.unwrap();
    assert!(matches!(paused.state, State::Paused { reason: PauseReason::Requested, .. }), "{:?}", paused.state);
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!(service.retry(&id).await.unwrap_err().class(), ErrorClass::Conflict);
    service.resume(&id).await.unwrap();
    // Nobody need wait for the bandwidth that was chosen at first.
    while !service.set_limits(&id, None, None) && service.operation(&id).await.unwrap().state != COMPLETED {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(service.wait(&id).await.unwrap().state, COMPLETED);
    assert_eq!(service.resume(&id).await.unwrap_err().class(), ErrorClass::Conflict);
    assert!(!service.set_limits(&id, None, None));
}

#[tokio::test]
async fn a_cancelled_backup_leaves_nothing() {
    let place = Place::new();
    place.large(6 << 20);
    let service = place.service();
    let (docs, disk) = place.connect(&service).await;
    let slow = NewBackup { limit_read: NonZeroU64::new(1 << 20), ..NewBackup::new(&docs, &disk) };
    let id = service.backup(slow).await.unwrap().new.id;
    while service.operation(&id).await.unwrap().state != State::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(service.cancel(&id).await.unwrap().state, State::Cancelled);
    assert_eq!(service.wait(&id).await.unwrap().state, State::Cancelled);
    service.shutdown().await;
    assert!(service.archives(&disk).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(place.path("backups")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_failed_is_tried_again() {
    let place = Place::new();
    let service = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    let id = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    std::fs::rename(place.path("docs"), place.path("away")).unwrap();
    let worker = place.service();
    let failed = service.wait(&id).await.unwrap();
    assert!(matches!(&failed.state, State::Failed { error } if error.contains("docs")), "{:?}", failed.state);
    let errors = LogQuery { min_level: LogLevel::Error, ..LogQuery::default() };
    assert_eq!(service.log(&id, &errors).await.unwrap().records.len(), 1);
    assert_eq!(service.totals(&OperationQuery::default()).await.unwrap().success_rate(), Some(0.0));
    std::fs::rename(place.path("away"), place.path("docs")).unwrap();
    service.retry(&id).await.unwrap();
    assert_eq!(service.wait(&id).await.unwrap().state, COMPLETED);
    drop(worker);
}

#[tokio::test]
async fn a_log_is_followed_to_its_end_and_cleared() {
    let place = Place::new();
    let service = place.service();
    let (docs, disk) = place.connect(&service).await;
    let id = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    let all = LogQuery { min_level: LogLevel::Debug, ..LogQuery::default() };
    let followed: Vec<_> = service.follow_log(&id, all.clone()).try_collect().await.unwrap();
    let steps: Vec<&str> = followed.iter().map(|stored| stored.record.step.as_str()).collect();
    assert_eq!((steps.first(), steps.last()), (Some(&"created"), Some(&"done")), "{steps:?}");
    assert!(steps.contains(&"claim") && steps.contains(&"connect") && steps.contains(&"transfer"), "{steps:?}");
    assert!(followed.iter().map(|stored| stored.sequence).eq(1..=followed.len() as u64));
    assert_eq!(service.clear_logs(Duration::from_secs(3600)).await.unwrap(), 0);
    // An operation that was created in this very second may have records to come.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(service.clear_logs(Duration::ZERO).await.unwrap(), followed.len() as u64);
    assert!(service.log(&id, &all).await.unwrap().records.is_empty());
    assert_eq!(service.clear_logs(Duration::MAX).await.unwrap_err().class(), ErrorClass::Invalid);
}

#[tokio::test]
async fn sealed_archives_need_the_key_of_the_service() {
    let place = Place::new();
    let key = Arc::new(KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap());
    let sealing = place.builder().archive_keys(key).without_worker().build().unwrap();
    let (docs, disk) = place.connect(&sealing).await;
    let id = sealing.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    // A worker without the key leaves it to others.
    let plain = place.service();
    let paused = plain.wait(&id).await.unwrap();
    assert!(matches!(paused.state, State::Paused { reason: PauseReason::KeyNeeded, .. }), "{:?}", paused.state);
    let asked = plain.backup(NewBackup { sealed: Some(true), ..NewBackup::new(&docs, &disk) }).await.unwrap_err();
    assert_eq!(asked.class(), ErrorClass::Invalid);
    plain.shutdown().await;
    let handle = sealing.run_now(&id, Default::default(), false).await.unwrap().unwrap();
    handle.wait().await.unwrap();
    let archive = &paused.new.archive;
    assert!(sealing.archive(&disk, archive).await.unwrap().header().sealed);
    assert_eq!(plain.archive(&disk, archive).await.unwrap_err().class(), ErrorClass::Unauthorized);
}

#[tokio::test]
async fn what_cannot_be_reached_any_more_can_still_be_cancelled() {
    let place = Place::new();
    let service = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    let moved = service.backup(NewBackup::new(&docs, &disk)).await.unwrap().new.id;
    let change = ConnectionChange { config: Some(place.config("other")), ..ConnectionChange::default() };
    let change = ConnectionChange { check_as: vec![Role::Destination], ..change };
    service.update_connection(&disk, 1, change).await.unwrap();
    let error = service.cancel(&moved).await.unwrap_err();
    assert!(error.chain().contains("is cancelled, but"), "{}", error.chain());
    assert_eq!(service.operation(&moved).await.unwrap().state, State::Cancelled);

    let vault = NewConnection::new("vault", "vault", place.vault("vault", crate::common::PASSWORD));
    let vault = service.create_connection(vault.checked_as([Role::Destination])).await.unwrap().id;
    let locked = service.backup(NewBackup::new(&docs, &vault)).await.unwrap().new.id;
    let other_key = place.builder().keys(crate::common::ring()).without_worker().build().unwrap();
    assert!(other_key.cancel(&locked).await.is_err());
    assert_eq!(service.operation(&locked).await.unwrap().state, State::Cancelled);
    // Secrets that cannot be opened any more can be given anew.
    let change =
        ConnectionChange { config: Some(place.vault("vault", crate::common::PASSWORD)), ..ConnectionChange::default() };
    let change = ConnectionChange { check_as: vec![Role::Destination], ..change };
    other_key.update_connection(&vault, 1, change).await.unwrap();
    assert_eq!(other_key.check_connection(&vault, &[Role::Destination]).await.unwrap().last_check.unwrap().error, None);
}
