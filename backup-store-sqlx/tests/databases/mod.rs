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
    async fn execute(&self, statement: &str) {
        let database = if self.postgres { "postgres" } else { "mysql" };
        self.execute_in(&format!("{}/{database}", self.url), statement).await;
    }

    /// Runs a statement in a database.
    pub(crate) async fn execute_in(&self, url: &str, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        if self.postgres {
            PgConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
        } else {
            MySqlConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
        }
    }
}

/// Stands between a store and its server, and can cut the line.
#[derive(Debug)]
pub(crate) struct Proxy {
    up: tokio::sync::watch::Sender<bool>,
}

impl Proxy {
    /// A proxy for the server of a URL, and the URL that leads through it.
    pub(crate) async fn start(url: &str) -> (Self, String) {
        let at = url.rfind('@').unwrap() + 1;
        let to = url[at..].split('/').next().unwrap().to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let through = url.replacen(&to, &listener.local_addr().unwrap().to_string(), 1);
        let up = tokio::sync::watch::Sender::new(true);
        let state = up.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut state, to) = (state.clone(), to.clone());
                tokio::spawn(async move {
                    // A closed connection is what clients of a dead server see.
                    if !*state.borrow() {
                        return;
                    }
                    let Ok(mut server) = tokio::net::TcpStream::connect(&to).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = state.wait_for(|up| !up) => {}
                    }
                });
            }
        });
        (Self { up }, through)
    }

    pub(crate) fn down(&self) {
        self.up.send_replace(false);
    }

    pub(crate) fn up(&self) {
        self.up.send_replace(true);
    }
}
