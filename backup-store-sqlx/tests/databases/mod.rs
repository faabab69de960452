//! Databases on the servers of `scripts/test-servers`, or on servers of one's own.

#![allow(dead_code, reason = "each test takes what it needs")]

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A server on which databases may be made.
#[derive(Debug)]
pub(crate) struct Server {
    /// Without the database at its end.
    url: String,
    postgres: bool,
    made: Mutex<Vec<String>>,
}

impl Server {
    pub(crate) fn postgres() -> Self {
        Self::of("BACKUP_TEST_POSTGRES", true)
    }

    pub(crate) fn mysql() -> Self {
        Self::of("BACKUP_TEST_MYSQL", false)
    }

    fn of(variable: &str, postgres: bool) -> Self {
        let url = std::env::var(variable).unwrap_or_else(|_| {
            panic!("{variable} names no server; run the tests by scripts/test, or see docs/TESTING.md")
        });
        Self { url: url.trim_end_matches('/').to_owned(), postgres, made: Mutex::default() }
    }

    /// The URL of a new, empty database.
    pub(crate) async fn new_database(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("backup_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name}")).await;
        self.made.lock().unwrap().push(name.clone());
        format!("{}/{name}", self.url)
    }

    /// Removes what this test has made.
    pub(crate) async fn drop_databases(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        for name in made {
            let force = if self.postgres { " WITH (FORCE)" } else { "" };
            self.execute(&format!("DROP DATABASE {name}{force}")).await;
        }
    }

    /// Runs a statement outside of any of the databases.
    pub(crate) async fn execute(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        if self.postgres {
            let mut conn = PgConnection::connect(&format!("{}/postgres", self.url)).await.unwrap();
            conn.execute(statement).await.unwrap();
        } else {
            let mut conn = MySqlConnection::connect(&format!("{}/mysql", self.url)).await.unwrap();
            conn.execute(statement).await.unwrap();
        }
    }
}
