//! The plans of the queries that lists and workers make use the indexes, whatever the time that they take here.

use crate::SqlxStore;
use crate::databases::Server;
use crate::dialect::{Dialect, Statement};
use crate::tests::new_operation;
use crate::{operations, sql};
use backup_core::adapter::Store;
use backup_core::model::{ConnectionId, OperationKind, OperationQuery};
use sqlx::{AnyConnection, Row};

/// Statements, and the index that each is to use.
fn cases() -> Vec<(Statement, &'static [&'static str])> {
    let connection = || Some(ConnectionId::generate(jiff::Timestamp::now()));
    let list = |query: OperationQuery| operations::list(&query).unwrap();
    let mut due = Statement::new(sql::LIST_DUE);
    due.push(sql::ORDER_BY_DUE).bind(20_i64);
    let mut page = Statement::default();
    let mut parts = sql::PAGE_LOG.split('?');
    page.push(parts.next().unwrap()).bind("20260101T000000Z-00000000");
    page.push(parts.next().unwrap()).bind(0_i64);
    page.push(parts.next().unwrap()).bind(1_i64);
    page.push(parts.next().unwrap()).bind(1000_i64);
    vec![
        (list(OperationQuery::default()), &["primary", "pkey", "autoindex", "operations_by"]),
        (list(OperationQuery { states: vec!["failed"], ..OperationQuery::default() }), &["by_state"]),
        (list(OperationQuery { states: vec!["completed", "failed"], ..OperationQuery::default() }), &["by_state"]),
        (list(OperationQuery { kind: Some(OperationKind::Restore), ..OperationQuery::default() }), &["by_kind"]),
        (list(OperationQuery { source_connection: connection(), ..OperationQuery::default() }), &["by_source"]),
        (
            list(OperationQuery { destination_connection: connection(), ..OperationQuery::default() }),
            &["by_destination"],
        ),
        (
            list(OperationQuery {
                source_connection: connection(),
                states: vec!["failed"],
                ..OperationQuery::default()
            }),
            &["by_source", "by_state"],
        ),
        (due, &["by_due"]),
        (page, &["primary", "pkey"]),
    ]
}

async fn plan(conn: &mut AnyConnection, dialect: Dialect, statement: Statement) -> String {
    let explain = match dialect {
        Dialect::Sqlite => "EXPLAIN QUERY PLAN ",
        Dialect::Postgres | Dialect::MySql => "EXPLAIN ",
    };
    let rows = statement.explained(explain).finish(dialect).unwrap().persistent(false).fetch_all(conn).await.unwrap();
    let cells = |row: &sqlx::any::AnyRow| {
        (0..row.len())
            .filter_map(|column| row.try_get::<Option<String>, _>(column).ok().flatten())
            .collect::<Vec<_>>()
            .join(" ")
    };
    rows.iter().map(cells).collect::<Vec<_>>().join("\n").to_lowercase()
}

async fn use_the_indexes(store: &SqlxStore) {
    let db = store.db();
    let mut conn = db.reader.acquire().await.unwrap();
    if db.dialect == Dialect::Postgres {
        // With the few rows of a test it reads the whole table.
        sqlx::query("SET enable_seqscan = off").execute(&mut *conn).await.unwrap();
    }
    for (statement, indexes) in cases() {
        let plan = plan(&mut conn, db.dialect, statement).await;
        assert!(indexes.iter().any(|index| plan.contains(index)), "none of {indexes:?} in:\n{plan}");
        assert!(!plan.contains("seq scan on backup_"), "{plan}");
        // What is not due yet, and what never will be, is not looked at.
        if indexes == ["by_due"] && db.dialect != Dialect::MySql {
            assert!(plan.contains("due_at<") || plan.contains("index cond: (due_at <="), "{plan}");
        }
        // SQLite says so when it reads a table without an index.
        assert!(!plan.lines().any(|line| line.starts_with("scan backup_") && !line.contains("index")), "{plan}");
    }
}

#[tokio::test]
async fn sqlite_uses_the_indexes() {
    use_the_indexes(&SqlxStore::open("sqlite::memory:").await.unwrap()).await;
}

async fn use_the_indexes_of(server: Server) {
    let store = SqlxStore::open(&server.new_database().await).await.unwrap();
    // For an empty table a server makes no plan.
    for _ in 0..30 {
        store.create(new_operation(), None).await.unwrap();
    }
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
