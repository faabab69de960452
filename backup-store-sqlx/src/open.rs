//! Opening a database: its settings, and its tables as this version knows them.

use crate::db::Db;
use crate::dialect::Dialect;
use crate::error::failed;
use crate::place::Place;
use backup_core::{Error, Result};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migrate, MigrateError, Migrator};
#[cfg(feature = "sqlite")]
use sqlx::{Any, Pool};
use sqlx::{AnyConnection, ConnectOptions};
use std::str::FromStr;
use std::sync::Once;
use std::time::{Duration, Instant};

#[cfg(feature = "sqlite")]
mod sqlite;

const MIGRATIONS_TABLE: &str = "backup_migrations";
const CANNOT_MIGRATE: &str = "cannot bring the database's tables up to date";
/// How long to wait for a lock that another process has, or for a server that is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections to a server at most.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const CONNECTIONS: u32 = 10;

/// Opens the database, with its tables.
pub(crate) async fn open(place: &Place) -> Result<Db> {
    static DRIVERS: Once = Once::new();
    DRIVERS.call_once(|| {
        // Fails when the program has installed drivers of its own already; those count then.
        let _ = sqlx::any::install_drivers(&[
            #[cfg(feature = "sqlite")]
            sqlx::sqlite::any::DRIVER,
            #[cfg(feature = "postgres")]
            sqlx::postgres::any::DRIVER,
            #[cfg(feature = "mysql")]
            sqlx::mysql::any::DRIVER,
        ]);
    });
    let db = match place {
        #[cfg(feature = "sqlite")]
        Place::Memory => sqlite::memory().await?,
        #[cfg(feature = "sqlite")]
        Place::File(path) => sqlite::file(path).await?,
        #[cfg(any(feature = "postgres", feature = "mysql"))]
        Place::Server { dialect, url, .. } => server(*dialect, url).await?,
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Two processes that make one database at the same time can meet locks that nobody waits for.
        match prepare(&db).await {
            Err(e) if e.is_retryable() && Instant::now() < deadline => {
                tracing::debug!(error = %e.chain(), "the database is busy");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(e) => {
                db.close().await;
                return Err(e);
            }
            Ok(()) => return Ok(db),
        }
    }
}

/// In order of their versions; later ones are only ever added at the end.
fn migrations(dialect: Dialect) -> &'static Migrator {
    match dialect {
        #[cfg(feature = "sqlite")]
        Dialect::Sqlite => {
            static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
            &MIGRATIONS
        }
        #[cfg(feature = "postgres")]
        Dialect::Postgres => {
            static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");
            &MIGRATIONS
        }
        #[cfg(feature = "mysql")]
        Dialect::MySql => {
            static MIGRATIONS: Migrator = sqlx::migrate!("migrations/mysql");
            &MIGRATIONS
        }
    }
}

async fn prepare(db: &Db) -> Result<()> {
    match db.dialect {
        #[cfg(feature = "sqlite")]
        Dialect::Sqlite => sqlite::prepare(&db.writer).await,
        #[cfg(any(feature = "postgres", feature = "mysql"))]
        dialect => {
            let mut conn = db.writer.acquire().await.map_err(failed("cannot connect to the database"))?;
            // One process at a time. A lock that is not given back ends with its connection.
            lock(&mut conn, dialect, Lock::Take).await?;
            let migrated = migrate(&mut conn, dialect).await;
            match (migrated, lock(&mut conn, dialect, Lock::GiveBack).await) {
                (Ok(()), Ok(())) => Ok(()),
                (migrated, unlocked) => {
                    sqlx::Connection::close(conn.detach()).await.map_err(failed("cannot close a connection"))?;
                    migrated.and(unlocked)
                }
            }
        }
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Take,
    GiveBack,
}

/// The lock of a database under which its tables are made.
#[cfg(any(feature = "postgres", feature = "mysql"))]
async fn lock(conn: &mut AnyConnection, dialect: Dialect, lock: Lock) -> Result<()> {
    match dialect {
        // sqlx's own lock asks to wait without end in a way that MariaDB takes for not at all.
        #[cfg(feature = "mysql")]
        Dialect::MySql => {
            let statement = match lock {
                Lock::Take => "SELECT CAST(GET_LOCK(CONCAT('backup.', SHA1(DATABASE())), 60) AS SIGNED)",
                Lock::GiveBack => "SELECT CAST(RELEASE_LOCK(CONCAT('backup.', SHA1(DATABASE()))) AS SIGNED)",
            };
            let row = sqlx::query(statement).fetch_one(conn).await.map_err(failed(CANNOT_MIGRATE))?;
            match crate::rows::number(&row)? {
                1 => Ok(()),
                _ => Err(Error::transient("another process makes the tables, and does not come to an end")),
            }
        }
        #[allow(unreachable_patterns, reason = "which databases there are is for features to say")]
        _ => match lock {
            Lock::Take => conn.lock().await.map_err(migration_failed),
            Lock::GiveBack => conn.unlock().await.map_err(migration_failed),
        },
    }
}

/// Options for a URL. Nothing of a statement is ever logged.
fn options(url: &str) -> Result<AnyConnectOptions> {
    // The driver's text may repeat parts of the URL, so it is not passed on.
    let options = AnyConnectOptions::from_str(url).map_err(|_| Error::invalid("the store's URL cannot be read"))?;
    Ok(options.disable_statement_logging())
}

/// Runs settings on each new connection.
fn with_settings(pool: AnyPoolOptions, settings: &'static [&'static str]) -> AnyPoolOptions {
    pool.acquire_timeout(PATIENCE).after_connect(move |conn, _| {
        Box::pin(async move {
            for setting in settings {
                sqlx::raw_sql(*setting).execute(&mut *conn).await?;
            }
            Ok(())
        })
    })
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
async fn server(dialect: Dialect, url: &secrecy::SecretString) -> Result<Db> {
    use secrecy::ExposeSecret;
    let settings: &[&str] = match dialect {
        #[cfg(feature = "postgres")]
        Dialect::Postgres => &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"],
        #[cfg(feature = "mysql")]
        Dialect::MySql => &["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"],
        #[cfg(feature = "sqlite")]
        Dialect::Sqlite => &[],
    };
    let pool = with_settings(AnyPoolOptions::new().max_connections(CONNECTIONS), settings);
    let pool =
        pool.connect_with(options(url.expose_secret())?).await.map_err(failed("cannot connect to the database"))?;
    Ok(Db { dialect, writer: pool.clone(), reader: pool, told: Default::default() })
}

/// Applies the migrations that the database lacks.
async fn migrate(conn: &mut AnyConnection, dialect: Dialect) -> Result<()> {
    let migrations = migrations(dialect);
    conn.ensure_migrations_table(MIGRATIONS_TABLE).await.map_err(migration_failed)?;
    if conn.dirty_version(MIGRATIONS_TABLE).await.map_err(migration_failed)?.is_some() {
        return Err(Error::corrupt(
            "making the tables was broken off half way; drop those that start with backup_, and start again",
        ));
    }
    let applied = conn.list_applied_migrations(MIGRATIONS_TABLE).await.map_err(migration_failed)?;
    for done in &applied {
        let Some(known) = migrations.iter().find(|migration| migration.version == done.version) else {
            return Err(Error::unsupported(
                "the store was written by a newer version of this program; use that version, or another store",
            ));
        };
        if known.checksum != done.checksum {
            return Err(Error::corrupt("the database's tables are not those that this program has made"));
        }
    }
    for migration in migrations.iter().skip(applied.len()) {
        tracing::debug!(version = migration.version, description = %migration.description, "migrating the store");
        conn.apply(MIGRATIONS_TABLE, migration).await.map_err(migration_failed)?;
    }
    Ok(())
}

fn migration_failed(cause: MigrateError) -> Error {
    match cause {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => failed(CANNOT_MIGRATE)(cause),
        cause => Error::permanent(CANNOT_MIGRATE).because(cause.to_string()),
    }
}

/// A pool whose one connection stays.
#[cfg(feature = "sqlite")]
async fn one_connection(pool: AnyPoolOptions, options: AnyConnectOptions) -> Result<Pool<Any>> {
    let pool = pool.max_connections(1).max_lifetime(None).idle_timeout(None);
    pool.connect_with(options).await.map_err(failed("cannot open the database"))
}
