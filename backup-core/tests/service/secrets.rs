//! No secret is in the store, in a log, in an answer or in a `Debug` text.

use crate::common::{PASSWORD, Place};
use backup_core::adapter::{ConnectionStore, Store};
use backup_core::archive::{KeyFileProvider, generate_key_file};
use backup_core::model::{Checkpoint, ConnectionQuery, LogLevel, LogQuery, OperationId, OperationQuery};
use backup_core::service::{NewBackup, NewConnection, NewRestore, Role, TracingSink};
use backup_testkit::Method;
use backup_testkit::faulty::{Fault, FaultyStore, Rule, Script, When};
use secrecy::ExposeSecret;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The newest checkpoint that the store has of an operation before it is completed.
async fn last_checkpoint(place: &Place, id: &OperationId) -> Checkpoint {
    let mut last = None;
    while !place.store.get(id).await.unwrap().unwrap().state.is_final() {
        last = place.store.checkpoint(id).await.unwrap().or(last);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    last.unwrap()
}

#[tokio::test]
async fn nothing_that_can_be_read_has_a_secret_in_it() {
    let written = Written::default();
    let writer = written.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    // Tasks of this test run on this thread.
    let guard = tracing::subscriber::set_default(subscriber.finish());

    let place = Place::new();
    let key = generate_key_file().unwrap();
    let provider = Arc::new(KeyFileProvider::parse(&key).unwrap());
    // The last checkpoints are looked at before the operations complete.
    let slow = Rule::new(Method::Transition, When::Always, Fault::Delay(Duration::from_secs(1))).about("complete");
    let hold = Script::new().rule(slow);
    let held = FaultyStore::new(Arc::new(place.store.clone()), hold);
    let service = place.builder_on(held).archive_keys(provider).log_sink(Arc::new(TracingSink)).build().unwrap();
    let mut told = String::new();
    let vault = |name: &str, below: &str| NewConnection::new(name, "vault", place.vault(below, PASSWORD));
    let docs = service.create_connection(vault("docs", "docs")).await.unwrap();
    let disk = service.create_connection(vault("disk", "backups").checked_as([Role::Destination])).await.unwrap();
    let back = service.create_connection(vault("back", "back").checked_as([Role::Target])).await.unwrap();
    let wrong = NewConnection::new("wrong", "vault", place.vault("docs", "hunter2-wrong"));
    let refused = service.create_connection(wrong).await.unwrap_err();
    told += &format!("{docs:?} {disk:?} {back:?} {refused:?} {}", refused.chain());

    let backup = service.backup(NewBackup::new(&docs.id, &disk.id)).await.unwrap();
    let backup_checkpoint = last_checkpoint(&place, &backup.new.id).await;
    let done = service.wait(&backup.new.id).await.unwrap();
    assert_eq!(done.state.name(), "completed");
    let restore = service.restore(NewRestore::new(&disk.id, &backup.new.archive, &back.id)).await.unwrap();
    let restore_checkpoint = last_checkpoint(&place, &restore.new.id).await;
    assert_eq!(service.wait(&restore.new.id).await.unwrap().state.name(), "completed");
    service.shutdown().await;

    // All that the store holds.
    for connection in place.store.connections(&ConnectionQuery::default()).await.unwrap() {
        told += &format!(
            "{connection:?} {:?} {}",
            connection.content.secret.as_ref().map(|s| &s.0),
            connection.content.settings
        );
    }
    for operation in place.store.query(&OperationQuery::default()).await.unwrap() {
        told += &format!("{operation:?} {} ", operation.new.spec);
        let all = LogQuery { min_level: LogLevel::Debug, limit: 10_000, ..LogQuery::default() };
        told += &format!("{:?}", place.store.page_log(&operation.new.id, &all).await.unwrap());
        assert_eq!(place.store.checkpoint(&operation.new.id).await.unwrap(), None);
    }
    for checkpoint in [backup_checkpoint, restore_checkpoint] {
        let text = String::from_utf8_lossy(&checkpoint.0).into_owned();
        // That of a sealed archive has no names either.
        assert!(!text.contains("19.txt") && !text.contains("file 19"), "the checkpoint names entries");
        told += &text;
    }
    told += &format!("{service:?} {:?}", service.adapters());
    drop(guard);
    let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("backup::job") && log.contains("connect"), "the log was not captured");
    told += &log;
    let archive_key = key.expose_secret().trim();
    for secret in ["hunter2", "correct-horse", archive_key, archive_key.rsplit(' ').next().unwrap()] {
        assert!(!told.contains(secret), "a secret is told");
    }
}
