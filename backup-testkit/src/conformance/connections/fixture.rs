//! Connections to test with.

use backup_core::Result;
use backup_core::adapter::Store;
use backup_core::model::{Connection, ConnectionContent, ConnectionId, ConnectionQuery, NewConnection, SealedSecret};

pub(super) fn unknown() -> ConnectionId {
    ConnectionId::generate(jiff::Timestamp::now())
}

pub(super) fn content(name: &str) -> ConnectionContent {
    ConnectionContent {
        name: name.into(),
        settings: serde_json::json!({ "bucket": "ünï", "parts": [1, 2.5, null] }),
        secret: Some(SealedSecret("sealed-1.0123.text".into())),
    }
}

pub(super) fn new_connection(name: &str) -> NewConnection {
    NewConnection { id: unknown(), kind: "s3".into(), content: content(name) }
}

pub(super) async fn all(store: &dyn Store) -> Result<Vec<Connection>> {
    store.connections(&ConnectionQuery { limit: Some(1000), ..ConnectionQuery::default() }).await
}
