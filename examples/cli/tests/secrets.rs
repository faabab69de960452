//! No secret of a connection is in a database, in an archive's checkpoint, or in anything that the tool says.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod buckets;
mod common;
#[path = "../../../backup-store-sqlx/tests/databases/mod.rs"]
mod databases;

use buckets::Buckets;
use common::{Place, Run, files_below, wait};
use databases::Server;
use sqlx::{Connection, Row};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; run the tests by scripts/test, or see docs/TESTING.md"))
}

/// All rows of all tables, as text.
async fn dump(url: &str, postgres: bool) -> String {
    let mut all = String::new();
    for table in ["connections", "operations", "checkpoints", "log_records", "archives", "migrations"] {
        if postgres {
            let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
            let select = format!("SELECT CAST(t AS TEXT) FROM backup_{table} AS t");
            for row in sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(&mut conn).await.unwrap() {
                all += &row.get::<String, _>(0);
            }
        } else {
            let mut conn = sqlx::MySqlConnection::connect(url).await.unwrap();
            let select = format!("SELECT * FROM backup_{table}");
            for row in sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(&mut conn).await.unwrap() {
                for column in 0..row.len() {
                    let bytes = row.try_get_unchecked::<Option<Vec<u8>>, _>(column).ok().flatten().unwrap_or_default();
                    all += &String::from_utf8_lossy(&bytes);
                }
            }
        }
    }
    all
}

fn nothing_tells_a_secret(server: Server, postgres: bool) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = runtime.block_on(server.new_database());
    let database_password = url.split(':').nth(2).unwrap().split('@').next().unwrap().to_owned();
    let buckets = Buckets::new();
    let (endpoint, access) = (buckets.server.endpoint(), buckets.server.access_key());
    let secret = buckets.server.secret_key().to_owned();
    let bucket = "secrets";
    buckets.server.create_bucket(bucket);
    let mongodb = variable("BACKUP_TEST_MONGODB");
    let mongodb_password = mongodb.split(':').nth(2).unwrap().split('@').next().unwrap().to_owned();
    let place: &Place = &buckets.place;
    place.tree("docs");
    place.ends(0, &["keygen", "archive.key"]);
    let mut told = String::new();
    let mut run = |code: i32, args: &[&str]| -> Run {
        let mut command = place.command(&[&["-vv", "--store", &url][..], args].concat());
        command
            .env("RUST_LOG", "trace")
            .env("S3_SECRET", &secret)
            .env("MONGODB_URI", &mongodb)
            .env_remove("BACKUP_STORE");
        let run = wait(command.spawn().unwrap());
        assert_eq!(run.code, Some(code), "backup {}\n{}\n{}", args.join(" "), run.stdout, run.stderr);
        told += &run.stdout;
        told += &run.stderr;
        run
    };
    run(0, &["connection", "add", "docs", "--kind", "local", "--set", &format!("path={}", place.arg("docs"))]);
    let set = [format!("bucket={bucket}"), format!("endpoint={endpoint}"), format!("credentials.access_key={access}")];
    let region = format!("region={}", buckets.server.region());
    let s3 = ["connection", "add", "bucket", "--kind", "s3", "--set", &set[0], "--set", &set[1], "--set", &set[2]];
    let more = [
        "--set",
        &region,
        "--set",
        "credentials.kind=static",
        "--secret",
        "credentials.secret_key=S3_SECRET",
        "--check-as",
        "destination",
    ];
    run(0, &[&s3[..], &more].concat());
    run(0, &["connection", "add", "database", "--kind", "mongodb", "--secret", "uri=MONGODB_URI"]);
    run(0, &["--json", "connection", "list"]);
    run(0, &["connection", "show", "bucket"]);
    run(0, &["--key-file", "archive.key", "create", "--source", "docs", "--destination", "bucket"]);
    run(0, &["--json", "create", "--source", "docs", "--destination", "bucket", "--detach"]);
    run(0, &["--json", "history"]);
    run(0, &["--json", "logs", "latest"]);
    run(
        2,
        &["create", "--source", "database", "--destination", "docs", "--detach", "--source-options", "{\"order\":7}"],
    );

    let tables = runtime.block_on(dump(&url, postgres));
    assert!(tables.contains(bucket) && tables.contains("sealed-1."), "the tables were not read");
    // The checkpoint of the sealed archive names nothing, and that of the other one has not begun.
    assert!(!tables.contains("c.bin"), "a checkpoint names entries");
    told += &tables;
    for file in files_below(&place.path("")) {
        // The key file of the archives, and that of the secrets.
        if file.extension().is_none_or(|extension| extension != "key") {
            told += &String::from_utf8_lossy(&std::fs::read(file).unwrap());
        }
    }
    let archive_key = std::fs::read_to_string(place.path("archive.key")).unwrap();
    let archive_key = archive_key.split_whitespace().last().unwrap();
    for secret in [&*secret, &*mongodb_password, &*database_password, archive_key] {
        assert!(
            !told.contains(secret),
            "a secret is told: {}",
            told.split(secret).next().unwrap().lines().last().unwrap()
        );
    }
    runtime.block_on(server.drop_databases());
}

#[test]
fn on_postgresql() {
    nothing_tells_a_secret(Server::postgres(), true);
}

#[test]
fn on_mariadb() {
    nothing_tells_a_secret(Server::mysql(), false);
}
