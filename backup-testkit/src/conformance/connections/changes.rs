//! Changes of connections, and those that are refused.

use super::fixture::{all, content, new_connection, unknown};
use crate::conformance::Outcome;
use crate::conformance::store::{operation_with, states};
use crate::conformance::suite::{ensure, refused};
use backup_core::adapter::Store;
use backup_core::model::{Connection, ConnectionCheck, NewConnection};
use backup_core::{ErrorClass, Result};
use std::sync::Arc;

const AT_ONCE: usize = 8;

/// That one of several calls at once has won, and the others were told of the conflict; gives the winner's answer.
fn one_winner(answers: Vec<Result<Connection>>) -> Outcome<Connection> {
    let mut won = Vec::new();
    for answer in answers {
        match answer {
            Ok(connection) => won.push(connection),
            lost => refused(lost, &[ErrorClass::Conflict], "the call that came too late")?,
        }
    }
    ensure!(won.len() == 1, "{} of the calls at once have won", won.len());
    Ok(won.remove(0))
}

pub(super) async fn an_id_and_a_name_are_taken_once(store: &Arc<dyn Store>) -> Outcome {
    let first = store.create_connection(new_connection("one")).await?;
    let same_id = NewConnection { id: first.id.clone(), ..new_connection("two") };
    refused(store.create_connection(same_id).await, &[ErrorClass::Conflict], "a second connection of one id")?;
    let same_name = NewConnection { kind: "local".into(), ..new_connection("one") };
    refused(store.create_connection(same_name).await, &[ErrorClass::Conflict], "a second connection of one name")?;
    let kept = all(&**store).await?;
    ensure!(kept == [first], "the refused calls left {kept:?}");
    Ok(())
}

pub(super) async fn of_many_of_one_name_at_once_one_wins(store: &Arc<dyn Store>) -> Outcome {
    let calls = (0..AT_ONCE).map(|_| store.create_connection(new_connection("one")));
    let winner = one_winner(futures::future::join_all(calls).await)?;
    let kept = all(&**store).await?;
    ensure!(kept == [winner], "the calls left {kept:?}");
    Ok(())
}

pub(super) async fn odd_names_are_refused(store: &Arc<dyn Store>) -> Outcome {
    let long = "ü".repeat(129);
    for bad in ["", " ", " a", "a ", "a\nb", "a\u{1b}[0m", &long] {
        let answer = store.create_connection(new_connection(bad)).await;
        refused(answer, &[ErrorClass::Invalid], "a name that is not allowed")?;
    }
    ensure!(all(&**store).await?.is_empty(), "a refused connection is there");
    store.create_connection(new_connection(&long[2..])).await?;
    Ok(())
}

pub(super) async fn a_change_replaces_the_content(store: &Arc<dyn Store>) -> Outcome {
    let first = store.create_connection(new_connection("one")).await?;
    let mut next = content("two");
    next.secret = None;
    next.settings = serde_json::json!({ "bucket": "other" });
    let changed = store.update_connection(&first.id, first.version, next.clone()).await?;
    ensure!(changed.content == next && changed.version == 2, "{changed:?} is not {next:?} at version 2");
    ensure!(changed.kind == first.kind && changed.created_at == first.created_at, "more than the content has changed");
    let read = store.connection(&first.id).await?;
    ensure!(read.as_ref() == Some(&changed), "{read:?} is not what the change gave: {changed:?}");
    // A change may keep the name, and the name before is free.
    let again = store.update_connection(&first.id, 2, content("two")).await?;
    ensure!(again.version == 3, "the second change gave version {}", again.version);
    store.create_connection(new_connection("one")).await?;
    Ok(())
}

pub(super) async fn of_many_changes_of_one_version_one_wins(store: &Arc<dyn Store>) -> Outcome {
    let first = store.create_connection(new_connection("one")).await?;
    let names: Vec<_> = (0..AT_ONCE).map(|i| format!("name {i}")).collect();
    let calls = names.iter().map(|name| store.update_connection(&first.id, 1, content(name)));
    let winner = one_winner(futures::future::join_all(calls).await)?;
    for version in [0, 1, 3, u64::MAX] {
        let answer = store.update_connection(&first.id, version, content("late")).await;
        refused(answer, &[ErrorClass::Conflict], "a change of another version")?;
    }
    let kept = all(&**store).await?;
    ensure!(kept == [winner], "the calls left {kept:?}");
    Ok(())
}

pub(super) async fn a_change_to_a_bad_name_changes_nothing(store: &Arc<dyn Store>) -> Outcome {
    let first = store.create_connection(new_connection("one")).await?;
    store.create_connection(new_connection("two")).await?;
    let taken = store.update_connection(&first.id, 1, content("two")).await;
    refused(taken, &[ErrorClass::Conflict], "the name of another connection")?;
    let odd = store.update_connection(&first.id, 1, content("two\n")).await;
    refused(odd, &[ErrorClass::Invalid], "a name that is not allowed")?;
    let kept = store.connection(&first.id).await?;
    ensure!(kept.as_ref() == Some(&first), "the refused changes left {kept:?}");
    Ok(())
}

pub(super) async fn the_unknown_is_not_changed(store: &Arc<dyn Store>) -> Outcome {
    let answer = store.update_connection(&unknown(), 1, content("one")).await;
    refused(answer, &[ErrorClass::NotFound], "a change of an unknown connection")?;
    ensure!(all(&**store).await?.is_empty(), "the refused change has made a connection");
    Ok(())
}

pub(super) async fn what_is_deleted_can_be_created_again(store: &Arc<dyn Store>) -> Outcome {
    let new = new_connection("one");
    store.create_connection(new.clone()).await?;
    store.delete_connection(&new.id, 1).await?;
    ensure!(store.connection(&new.id).await?.is_none(), "the deleted connection is still there");
    let again = store.create_connection(new).await?;
    ensure!(again.version == 1, "a new connection has version {}", again.version);
    Ok(())
}

pub(super) async fn a_deletion_of_another_version_changes_nothing(store: &Arc<dyn Store>) -> Outcome {
    let first = store.create_connection(new_connection("one")).await?;
    let changed = store.update_connection(&first.id, 1, content("one")).await?;
    for version in [0, 1, 3] {
        let answer = store.delete_connection(&first.id, version).await;
        refused(answer, &[ErrorClass::Conflict], "a deletion of another version")?;
    }
    let kept = store.connection(&first.id).await?;
    ensure!(kept.as_ref() == Some(&changed), "the refused deletions left {kept:?}");
    Ok(())
}

pub(super) async fn the_unknown_is_not_deleted(store: &Arc<dyn Store>) -> Outcome {
    refused(store.delete_connection(&unknown(), 1).await, &[ErrorClass::NotFound], "a deletion of the unknown")
}

pub(super) async fn the_last_check_is_kept(store: &Arc<dyn Store>) -> Outcome {
    let first = store.create_connection(new_connection("one")).await?;
    ensure!(first.last_check.is_none(), "a new connection was checked");
    let at = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_micros(1_700_000_000_123_456);
    for error in [Some("no such bucket: \"x\"".to_owned()), None] {
        let check = ConnectionCheck { at, error };
        let checked = store.record_check(&first.id, check.clone()).await?;
        let expected = Connection { last_check: Some(check), ..first.clone() };
        ensure!(checked == expected, "{checked:?} is not {expected:?}");
        let read = store.connection(&first.id).await?;
        ensure!(read.as_ref() == Some(&checked), "{read:?} is not what the check gave: {checked:?}");
    }
    let changed = store.update_connection(&first.id, 1, content("two")).await?;
    ensure!(changed.last_check == Some(ConnectionCheck { at, error: None }), "a change lost the check: {changed:?}");
    Ok(())
}

pub(super) async fn the_unknown_is_not_checked(store: &Arc<dyn Store>) -> Outcome {
    let check = ConnectionCheck { at: jiff::Timestamp::UNIX_EPOCH, error: None };
    refused(store.record_check(&unknown(), check).await, &[ErrorClass::NotFound], "a check of the unknown")
}

pub(super) async fn what_is_in_use_stays(store: &Arc<dyn Store>) -> Outcome {
    for (state, number) in states().into_iter().zip(0..) {
        let from = store.create_connection(new_connection(&format!("from {number}"))).await?.id;
        let to = store.create_connection(new_connection(&format!("to {number}"))).await?.id;
        operation_with(&**store, &from, &to, state).await?;
        for id in [from, to] {
            let deleted = store.delete_connection(&id, 1).await;
            if matches!(state, "pending" | "running" | "committing" | "paused") {
                refused(deleted, &[ErrorClass::Conflict], "the deletion of a connection in use")?;
                ensure!(
                    store.connection(&id).await?.is_some(),
                    "the connection of an operation that is {state} is gone"
                );
            } else {
                deleted?;
            }
        }
    }
    Ok(())
}
