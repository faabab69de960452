//! Measures the SQL store: pages of a long history and of job logs, and what a busy job log costs the engine.
//!
//! ```text
//! cargo run --release -p backup-benches --bin store -- pages URL [OPERATIONS] [LOG_LINES_OF_EACH]
//! cargo run --release -p backup-benches --bin store -- log URL DIRECTORY
//! ```
//!
//! The database of the URL must be new. `pages` fills it by SQL (10^6 operations and 10^7 log lines by default) and prints medians. `log`
//! runs the same backup with and without 10,000 log records a second going to the store, in turn.

use backup_core::adapter::{ConnectionStore, Store};
use backup_core::engine::{BackupRequest, Engine};
use backup_core::local::LocalDestination;
use backup_core::model::{
    ArchiveId, ClaimNext, ClaimOver, ClaimRequest, ConnectionContent, ConnectionId, Holder, Identity, LogLevel,
    LogPosition, LogQuery, LogRecord, NewConnection, NewOperation, OperationId, OperationKind, OperationQuery,
};
use backup_core::{Error, Result};
use backup_store_sqlx::SqlxStore;
use backup_testkit::doubles::{MemorySource, Synthetic};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RUNS: usize = 51;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| match args.get(at) {
        Some(text) => text.parse::<u64>().map_err(|e| Error::invalid("not a number").on(text).because(e)),
        None => Ok(default),
    };
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pages", url, ..] => pages(url, number(2, 1_000_000)?, number(3, 10)?).await,
        ["log", url, directory] => log(url, directory).await,
        _ => Err(Error::invalid("say `pages URL [OPERATIONS] [LOG_LINES_OF_EACH]` or `log URL DIRECTORY`")),
    }
}

fn failed(cause: sqlx::Error) -> Error {
    Error::permanent("the database does not do what the bench needs").because(cause)
}

fn holder() -> Holder {
    Holder { boot: "bench".into(), host: "bench".into(), pid: 1, started: 1 }
}

fn new_operation(connections: Option<backup_core::model::OperationConnections>) -> NewOperation {
    let now = jiff::Timestamp::now();
    NewOperation {
        id: OperationId::generate(now),
        kind: OperationKind::Backup,
        name: "bench".into(),
        source: Identity::new("local", "/source"),
        destination: Identity::new("local", "/destination"),
        archive: ArchiveId::generate(now),
        spec: serde_json::Value::Null,
        connections,
        created_by: String::new(),
    }
}

/// Ten connections; operation n reads number n % 10, and writes number n % 7. One in fifty failed, one in a thousand waits.
async fn fill(url: &str, connections: &[ConnectionId], operations: u64, lines: u64) -> Result<()> {
    let mut conn = AnyConnection::connect(url).await.map_err(failed)?;
    let numbers = if url.starts_with("sqlite") {
        format!(
            "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {operations}) "
        )
    } else {
        format!("WITH numbers AS (SELECT CAST(n AS BIGINT) AS n FROM generate_series(0, {operations} - 1) AS n) ")
    };
    // Ids of one second each from 2001 on, as they sort.
    let text = |n: &str, length: u32| match url.starts_with("sqlite") {
        true => format!("printf('%0{length}d', {n})"),
        false => format!("LPAD(CAST({n} AS TEXT), {length}, '0')"),
    };
    let day = text("20010101 + n / 86400", 8);
    let time = text("n % 86400", 6);
    let id = format!("{day} || 'T' || {time} || 'Z-' || {}", text("n", 8));
    let pick = |modulo: usize| {
        let cases: Vec<String> =
            connections.iter().take(modulo).enumerate().map(|(i, id)| format!("WHEN {i} THEN '{id}'")).collect();
        format!("CASE n % {modulo} {} END", cases.join(" "))
    };
    let state = "CASE WHEN n % 1000 = 1 THEN 'paused' WHEN n % 50 = 0 THEN 'failed' ELSE 'completed' END";
    let data = "CASE WHEN n % 1000 = 1 THEN '{\"state\":\"paused\",\"reason\":\"requested\",\"resume_at\":null}' \
        WHEN n % 50 = 0 THEN '{\"state\":\"failed\",\"error\":\"the source broke off\"}' \
        ELSE '{\"state\":\"completed\",\"warnings\":0}' END";
    let progress = serde_json::to_string(&backup_core::model::Progress::default())
        .map_err(|e| Error::permanent("no JSON of a progress").because(e))?;
    let rows = format!(
        "INSERT INTO backup_operations (id, kind, name, source_kind, source_location, destination_kind, destination_location, \
         archive, spec, source_connection, destination_connection, created_by, state, state_data, version, attempt, nonce, \
         progress, log_sequence, created_at, updated_at, finished_at) {numbers} SELECT {id}, \
         CASE WHEN n % 20 = 0 THEN 'restore' ELSE 'backup' END, 'nightly', 'local', '/home', 's3', 'host/bucket', \
         '20260101T000000Z-00000000', 'null', {}, {}, 'bench', {state}, {data}, 4, 1, 7, '{progress}', {lines}, n * 1000000, \
         n * 1000000, n * 1000000 FROM numbers",
        pick(10),
        pick(7)
    );
    let logs = format!(
        "INSERT INTO backup_log_records (operation_id, sequence, time, level, step, message) {numbers}{} SELECT {id}, line, \
         n * 1000000 + line, CASE WHEN line % 5 = 0 THEN 2 ELSE 1 END, 'transfer', \
         'stored data/00000000-1x7f3a9c.tar.zst, and what else a line of a job log tells' FROM numbers, lines",
        if url.starts_with("sqlite") {
            format!(", lines(line) AS (SELECT 1 UNION ALL SELECT line + 1 FROM lines WHERE line < {lines})")
        } else {
            format!(", lines AS (SELECT CAST(line AS BIGINT) AS line FROM generate_series(1, {lines}) AS line)")
        }
    );
    // The numbers stand in front of both statements on SQLite.
    for statement in [rows, logs] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.map_err(failed)?;
    }
    sqlx::raw_sql("ANALYZE").execute(&mut conn).await.map_err(failed)?;
    conn.close().await.map_err(failed)
}

async fn pages(url: &str, operations: u64, lines: u64) -> Result<()> {
    let store = SqlxStore::open(url).await?;
    let mut connections = Vec::new();
    for number in 0..10 {
        let id = ConnectionId::generate(jiff::Timestamp::now());
        let content = ConnectionContent { name: format!("c{number}"), settings: serde_json::Value::Null, secret: None };
        store.create_connection(NewConnection { id: id.clone(), kind: "local".into(), content }).await?;
        connections.push(id);
    }
    let start = Instant::now();
    fill(url, &connections, operations, lines).await?;
    eprintln!("filled in {:.0} s", start.elapsed().as_secs_f64());
    let middle = store.query(&OperationQuery { limit: Some(1), ..OperationQuery::default() }).await?;
    let newest = middle.first().ok_or_else(|| Error::permanent("nothing was filled in"))?.new.id.clone();
    println!("| {operations} operations, {} log lines | median, ms | slowest, ms |", operations * lines);
    println!("|---|--:|--:|");
    let all = OperationQuery::default;
    let ago = |seconds: i64| {
        "2001-01-03T00:00:00Z".parse::<jiff::Timestamp>().ok().map(|t| t - jiff::SignedDuration::from_secs(seconds))
    };
    for (name, query) in [
        ("history, newest 100", all()),
        ("history, failed", OperationQuery { states: vec!["failed"], ..all() }),
        ("history, all but the completed", OperationQuery { states: vec!["failed", "paused", "running"], ..all() }),
        ("history, all states named", OperationQuery { states: vec!["completed", "failed", "paused"], ..all() }),
        ("history, restores", OperationQuery { kind: Some(OperationKind::Restore), ..all() }),
        ("history, of a source", OperationQuery { source_connection: Some(connections[3].clone()), ..all() }),
        (
            "history, of a source, failed",
            OperationQuery { source_connection: Some(connections[0].clone()), states: vec!["failed"], ..all() },
        ),
        ("history, to a destination", OperationQuery { destination_connection: Some(connections[2].clone()), ..all() }),
        ("history, of some days", OperationQuery { since: ago(86_400), until: ago(0), ..all() }),
        (
            "history, restores that failed, to a destination",
            OperationQuery {
                kind: Some(OperationKind::Restore),
                states: vec!["failed"],
                destination_connection: Some(connections[5].clone()),
                ..all()
            },
        ),
    ] {
        timed(name, async || store.query(&query).await.map(|found| found.len())).await?;
    }
    let log = |min_level| LogQuery { min_level, ..LogQuery::default() };
    timed("log page", async || store.page_log(&newest, &log(LogLevel::Info)).await.map(|page| page.records.len()))
        .await?;
    timed("log page, warnings", async || {
        store.page_log(&newest, &log(LogLevel::Warning)).await.map(|page| page.records.len())
    })
    .await?;
    let next = ClaimNext { holder: holder(), lease: Duration::from_secs(60), per_connection: 2, able: None };
    timed("what an idle worker asks", async || store.claim_next(&next).await.map(|claim| usize::from(claim.is_some())))
        .await?;
    timed("totals of everything", async || store.totals(&all()).await.map(|totals| totals.all() as usize)).await?;
    store.close().await;
    Ok(())
}

async fn timed(name: &str, call: impl AsyncFn() -> Result<usize>) -> Result<()> {
    let mut times = Vec::new();
    let mut found = 0;
    for _ in 0..RUNS {
        let start = Instant::now();
        found = call().await?;
        times.push(start.elapsed());
    }
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("| {name} ({found}) | {:.2} | {:.2} |", ms(times[RUNS / 2]), ms(times[RUNS - 1]));
    Ok(())
}

async fn log(url: &str, directory: &str) -> Result<()> {
    let store = SqlxStore::open(url).await?;
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for round in 0..5 {
        for (times, with_log) in [(&mut quiet, false), (&mut busy, true)] {
            let logger = if with_log { Some(tokio::spawn(write_log(store.clone()))) } else { None };
            let entries = Synthetic { entries: 3000, size: 1 << 20, inline: true };
            let source = Arc::new(MemorySource::synthetic("synthetic", entries));
            let place = std::path::Path::new(directory).join(format!("{round}-{with_log}"));
            let engine = Engine::new(Arc::new(store.clone()));
            let start = Instant::now();
            engine.backup(BackupRequest::new(source, Arc::new(LocalDestination::new(&place)?))).await?.wait().await?;
            times.push(start.elapsed());
            if let Some(logger) = logger {
                logger.abort();
            }
            std::fs::remove_dir_all(&place).map_err(|e| Error::io(e, "cannot remove the archive"))?;
        }
    }
    quiet.sort();
    busy.sort();
    let (quiet, busy) = (quiet[2].as_secs_f64(), busy[2].as_secs_f64());
    println!("| backup of 3 GB | s, median of 5 |\n|---|--:|");
    println!(
        "| without other log records | {quiet:.2} |\n| beside 10,000 log records a second | {busy:.2} ({:.2}x) |",
        busy / quiet
    );
    store.close().await;
    Ok(())
}

/// 10,000 records a second, in batches as an engine writes them.
async fn write_log(store: SqlxStore) -> Result<()> {
    let created = store.create(new_operation(None), None).await?;
    let claim = ClaimRequest { holder: holder(), lease: Duration::from_secs(600), over: ClaimOver::Nobody };
    store.claim(&created.new.id, claim).await?;
    let record = LogRecord::info("transfer", "stored data/00000000-1x7f3a9c.tar.zst, and what else a line tells");
    let records = vec![record.with(serde_json::json!({ "stored_bytes": 33_554_432 })); 2500];
    let mut turn = tokio::time::interval(Duration::from_millis(250));
    let mut at = LogPosition::new_writer();
    loop {
        turn.tick().await;
        store.append_log(&created.new.id, at, &records).await?;
        at.first += records.len() as u64;
    }
}
