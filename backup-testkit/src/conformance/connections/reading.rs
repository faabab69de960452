//! What a store shows of its connections.

use super::fixture::{all, new_connection, unknown};
use crate::conformance::Outcome;
use crate::conformance::suite::ensure;
use backup_core::adapter::Store;
use backup_core::model::{ConnectionQuery, NewConnection};
use std::sync::Arc;

pub(super) async fn a_new_connection_is_as_it_was_given(store: &Arc<dyn Store>) -> Outcome {
    let new = new_connection("Büro \"1\" %_\\");
    let created = store.create_connection(new.clone()).await?;
    ensure!(created.version == 1 && created.created_at == created.updated_at, "{created:?} is not new");
    let shown = NewConnection { id: created.id.clone(), kind: created.kind.clone(), content: created.content.clone() };
    ensure!(shown == new, "{shown:?} is not {new:?}");
    let read = store.connection(&new.id).await?;
    ensure!(read.as_ref() == Some(&created), "{read:?} is not what creating gave: {created:?}");

    let mut bare = new_connection("bare");
    bare.content.secret = None;
    bare.content.settings = serde_json::Value::Null;
    let created = store.create_connection(bare.clone()).await?;
    ensure!(created.content == bare.content, "{created:?} is not {bare:?}");
    let read = store.connection(&bare.id).await?;
    ensure!(read.as_ref() == Some(&created), "{read:?} is not what creating gave: {created:?}");
    Ok(())
}

pub(super) async fn an_unknown_connection_is_none(store: &Arc<dyn Store>) -> Outcome {
    store.create_connection(new_connection("one")).await?;
    ensure!(store.connection(&unknown()).await?.is_none(), "an unknown id gave a connection");
    Ok(())
}

pub(super) async fn pages_list_without_gaps_or_doubles(store: &Arc<dyn Store>) -> Outcome {
    let mut ids = Vec::new();
    for (name, id) in [
        ("c", "20260101T000000Z-00000002"),
        ("a", "20260102T000000Z-00000000"),
        ("b", "20260101T000000Z-00000001"),
        ("e", "20270101T000000Z-0000000a"),
        ("d", "20251231T235959Z-ffffffff"),
    ] {
        ids.push(store.create_connection(NewConnection { id: id.parse()?, ..new_connection(name) }).await?.id);
    }
    ids.sort();
    for limit in 1..=6 {
        let mut found = Vec::new();
        let mut query = ConnectionQuery { limit: Some(limit), ..ConnectionQuery::default() };
        loop {
            let page = store.connections(&query).await?;
            ensure!(page.len() <= limit as usize, "{} connections on a page of {limit}", page.len());
            let Some(last) = page.last() else { break };
            query.after = Some(last.id.clone());
            found.extend(page.into_iter().map(|connection| connection.id));
            ensure!(found.len() <= ids.len(), "pages of {limit} do not end: {found:?}");
        }
        ensure!(found == ids, "pages of {limit} gave {found:?} instead of {ids:?}");
    }
    Ok(())
}

pub(super) async fn filters_of_connections_hold_together(store: &Arc<dyn Store>) -> Outcome {
    for (name, kind) in [("shop", "mongodb"), ("Shop", "s3"), ("offsite", "s3")] {
        store.create_connection(NewConnection { kind: kind.into(), ..new_connection(name) }).await?;
    }
    ensure!(all(&**store).await?.len() == 3, "without a filter all are listed");
    for (kind, name, expected) in [
        (Some("s3"), None, 2),
        (Some("s"), None, 0),
        (None, Some("shop"), 1),
        (Some("s3"), Some("shop"), 0),
        (Some("s3"), Some("Shop"), 1),
        (None, Some("%"), 0),
    ] {
        let query =
            ConnectionQuery { kind: kind.map(Into::into), name: name.map(Into::into), ..ConnectionQuery::default() };
        let found = store.connections(&query).await?.len();
        ensure!(found == expected, "{query:?} found {found} instead of {expected}");
    }
    Ok(())
}
