//! The plans of the queries that lists and workers make use the indexes, whatever the time that they take here.
//!
//! They are made on a long history, of which next to nothing is due: then a server has no reason to read a whole table but the lack of
//! an index.

use crate::databases::Server;
use crate::dialect::{Dialect, Statement};
use crate::error::failed;
use crate::tests::new_operation;
use crate::{SqlxStore, connections, due, operations, sql};
use backup_core::adapter::{ConnectionStore, Store};
use backup_core::model::{
    Capabilities, ConnectionContent, ConnectionId, NewConnection, NewOperation, OperationConnections, OperationKind,
    OperationQuery, SealedSecret,
};
use sqlx::{AnyConnection, AssertSqlSafe, Row};
use std::collections::BTreeSet;
use std::time::Duration;

/// Operations that are due.
const DUE: usize = 30;
/// How often all operations are doubled: 15 times makes a million.
const DOUBLED: usize = 10;

/// How a list must be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// By an index.
    Indexed,
    /// By an index that ends at what is due, without looking at anything else.
    Due,
}

struct Case {
    statement: Statement,
    indexes: &'static [&'static str],
    how: How,
}

/// A statement of a text with several values.
fn with(text: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    let mut statement = Statement::default();
    let mut parts = text.split('?');
    statement.push(parts.next().unwrap());
    for (value, part) in values.into_iter().zip(&mut parts) {
        match value {
            Value::Text(text) => statement.bind(text),
            Value::Number(number) => statement.bind(number),
        };
        statement.push(part);
    }
    assert!(parts.next().is_none(), "values are missing");
    statement
}

enum Value {
    Text(String),
    Number(i64),
}

/// Statements, and the indexes of which each is to use one.
fn cases(id: &ConnectionId) -> Vec<Case> {
    let connection = || Some(id.clone());
    let text = |text: &str| Value::Text(text.to_owned());
    let list = |query: OperationQuery, indexes| Case {
        statement: operations::list(&query).unwrap(),
        indexes,
        how: How::Indexed,
    };
    let due = |able: Option<&Capabilities>, busy: &[&ConnectionId], after: Option<&due::Position>| {
        let busy: BTreeSet<_> = busy.iter().map(|id| (*id).clone()).collect();
        Case { statement: due::list(able, &busy, after), indexes: &["by_due"], how: How::Due }
    };
    let all = OperationQuery::default;
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let able = Capabilities { kinds: of(&["local", "s3"]), keys: of(&["sealed-1.one", "sealed-1.two"]) };
    let after = due::Position { due_at: 1, operation: "20260101T000000Z-00000000".into() };
    let page = [text("20260101T000000Z-00000000"), Value::Number(0), Value::Number(1), Value::Number(1000)];
    let indexed = |statement, indexes| Case { statement, indexes, how: How::Indexed };
    vec![
        list(all(), &["primary", "pkey", "autoindex", "operations_by"]),
        list(OperationQuery { states: vec!["failed"], ..all() }, &["by_state"]),
        list(OperationQuery { states: vec!["completed", "failed"], ..all() }, &["by_state"]),
        list(OperationQuery { kind: Some(OperationKind::Restore), ..all() }, &["by_kind"]),
        list(OperationQuery { source_connection: connection(), ..all() }, &["by_source"]),
        list(OperationQuery { destination_connection: connection(), ..all() }, &["by_destination"]),
        list(
            OperationQuery { source_connection: connection(), states: vec!["failed"], ..all() },
            &["by_source", "by_state"],
        ),
        due(None, &[], None),
        due(None, &[id], None),
        due(Some(&able), &[], None),
        due(Some(&able), &[id], Some(&after)),
        indexed(with(sql::COUNT_AT_WORK, [text(id.as_str()), text(id.as_str())]), &["by_state", "_state"]),
        indexed(connections::find_user(id), &["by_state", "_state"]),
        indexed(with(sql::PAGE_LOG, page), &["primary", "pkey"]),
    ]
}

/// What is due, and a long history. Gives a connection of each of these.
async fn fill(store: &SqlxStore) -> ConnectionId {
    let id = ConnectionId::generate(jiff::Timestamp::now());
    let secret = Some(SealedSecret("sealed-1.one.c2VjcmV0".into()));
    let content = ConnectionContent { name: "one".into(), settings: serde_json::Value::Null, secret };
    store.create_connection(NewConnection { id: id.clone(), kind: "local".into(), content }).await.unwrap();
    for _ in 0..DUE {
        let connections = Some(OperationConnections { source: id.clone(), destination: id.clone() });
        store.create(NewOperation { connections, ..new_operation() }, None).await.unwrap();
    }
    let db = store.db();
    let columns = sql::INSERT_OPERATION.split(['(', ')']).nth(1).unwrap();
    for doubling in 1..=DOUBLED {
        let values: Vec<String> = columns
            .split(',')
            .map(|column| match column.trim() {
                // At each doubling another character of the id becomes one that no id has.
                "id" => format!("CONCAT(SUBSTR(id, 1, {}), 'x', SUBSTR(id, {}))", doubling - 1, doubling + 1),
                "state" => "'completed'".into(),
                "due_at" => "NULL".into(),
                column => column.to_owned(),
            })
            .collect();
        let double =
            format!("INSERT INTO backup_operations ({columns}) SELECT {} FROM backup_operations", values.join(", "));
        // A server that other tests keep busy may give a lock up.
        for tries in 0.. {
            let done = sqlx::query(AssertSqlSafe(double.clone())).execute(&db.writer).await;
            match done.map_err(failed("cannot fill the store")) {
                Err(e) if e.is_retryable() && tries < 5 => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(e) => panic!("doubling {doubling}: {}", e.chain()),
                Ok(_) => break,
            }
        }
    }
    // As servers do by themselves after a while.
    let analyze = match db.dialect {
        Dialect::Sqlite => return id,
        Dialect::Postgres => "ANALYZE backup_operations",
        Dialect::MySql => "ANALYZE TABLE backup_operations",
    };
    sqlx::query(analyze).fetch_all(&db.writer).await.unwrap();
    id
}

async fn plan(conn: &mut AnyConnection, dialect: Dialect, statement: Statement) -> String {
    let explain = match dialect {
        Dialect::Sqlite => "EXPLAIN QUERY PLAN ",
        Dialect::Postgres | Dialect::MySql => "EXPLAIN ",
    };
    let rows = statement.explained(explain).finish(dialect).unwrap().persistent(false).fetch_all(conn).await.unwrap();
    // Of MySQL not what might be used.
    let columns: &[&str] = match dialect {
        Dialect::Sqlite => &["detail"],
        Dialect::Postgres => &["QUERY PLAN"],
        Dialect::MySql => &["table", "type", "key", "Extra"],
    };
    let cells = |row: &sqlx::any::AnyRow| {
        let cell = |column: &&str| row.try_get::<Option<String>, _>(*column).unwrap().unwrap_or_else(|| "-".into());
        columns.iter().map(cell).collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(cells).collect::<Vec<_>>().join("\n").to_lowercase()
}

async fn use_the_indexes(store: &SqlxStore) {
    let id = fill(store).await;
    let db = store.db();
    let mut conn = db.reader.acquire().await.unwrap();
    for Case { statement, indexes, how } in cases(&id) {
        let plan = plan(&mut conn, db.dialect, statement).await;
        assert!(indexes.iter().any(|index| plan.contains(index)), "none of {indexes:?} in:\n{plan}");
        let large = |line: &str| line.contains("backup_operations") || line.contains("backup_log");
        // What is read as a whole.
        let whole = |line: &str| match db.dialect {
            Dialect::Sqlite => line.starts_with("scan ") && !line.contains("index"),
            Dialect::Postgres => line.contains("seq scan on"),
            Dialect::MySql => line.split(' ').nth(1) == Some("all"),
        };
        assert!(!plan.lines().any(|line| large(line) && whole(line)), "{plan}");
        if how == How::Due {
            // What is not due yet, and what never will be, is not looked at.
            let bounded = |line: &str| match db.dialect {
                Dialect::Sqlite => line.contains("search backup_operations") && line.contains("due_at<"),
                Dialect::Postgres => line.contains("index cond: (") && line.contains("due_at <="),
                Dialect::MySql => line.starts_with("backup_operations range") && line.contains("by_due"),
            };
            assert!(plan.lines().any(bounded), "{plan}");
        }
    }
}

#[tokio::test]
async fn sqlite_uses_the_indexes() {
    use_the_indexes(&SqlxStore::open("sqlite::memory:").await.unwrap()).await;
}

async fn use_the_indexes_of(server: Server) {
    let store = SqlxStore::open(&server.new_database().await).await.unwrap();
    use_the_indexes(&store).await;
    store.close().await;
    server.drop_databases().await;
}

#[tokio::test]
async fn postgresql_uses_the_indexes() {
    use_the_indexes_of(Server::postgres()).await;
}

#[tokio::test]
async fn mariadb_uses_the_indexes() {
    use_the_indexes_of(Server::mysql()).await;
}
