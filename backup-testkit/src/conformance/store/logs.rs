//! Job logs.

use super::fixture::*;
use crate::conformance::suite::ensure;
use crate::conformance::{Outcome, Stop};
use backup_core::adapter::Store;
use backup_core::model::{LogLevel, LogPosition, LogQuery, LogRecord, OperationId, StoredLogRecord};
use backup_core::{ErrorClass, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

fn record(level: LogLevel, message: String) -> LogRecord {
    let time = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_700_000_000);
    let context = if message.len().is_multiple_of(2) { serde_json::Value::Null } else { serde_json::json!({ "n": 1 }) };
    LogRecord { time, ..LogRecord::new(level, "transfer", message) }.with(context)
}

fn batch(writer: usize, round: usize, length: usize) -> Vec<LogRecord> {
    (0..length).map(|i| record(LogLevel::Info, format!("{writer} {round} {i}"))).collect()
}

pub(super) async fn appends_at_once_leave_no_gaps_and_stay_together(store: &Arc<dyn Store>) -> Outcome {
    const WRITERS: usize = 6;
    const ROUNDS: usize = 5;
    let id = pending(&**store).await?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, id) = (Arc::clone(store), id.clone());
        writers.spawn(async move {
            for round in 0..ROUNDS {
                store.append_log(&id, LogPosition::new_writer(), &batch(writer, round, 1 + writer * 3)).await?;
            }
            Result::<()>::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let log = log_of(&**store, &id).await?;
    let expected: usize = 1 + (0..WRITERS).map(|writer| ROUNDS * (1 + writer * 3)).sum::<usize>();
    ensure_eq!(log.len(), expected, "records");
    let sequences: Vec<u64> = log.iter().map(|stored| stored.sequence).collect();
    ensure_eq!(sequences, (1..=expected as u64).collect::<Vec<_>>(), "the sequences");
    let messages: Vec<&str> = log.iter().map(|stored| stored.record.message.as_str()).collect();
    for writer in 0..WRITERS {
        let mut from = 0;
        for round in 0..ROUNDS {
            let batch = batch(writer, round, 1 + writer * 3);
            let batch: Vec<&str> = batch.iter().map(|record| record.message.as_str()).collect();
            let found = messages[from..].windows(batch.len()).position(|window| window == batch);
            let Some(found) = found else {
                return Err(Stop::Failed(format!(
                    "the records of batch {round} of writer {writer} do not stand together"
                )));
            };
            from += found + batch.len();
        }
    }
    store.append_log(&id, LogPosition::new_writer(), &[]).await?;
    let many: Vec<LogRecord> = batch(99, 0, 5_000);
    store.append_log(&id, LogPosition::new_writer(), &many).await?;
    let after = store.page_log(&id, &LogQuery { after: expected as u64, limit: 10_000, ..LogQuery::default() }).await?;
    ensure!(
        after.records.iter().map(|stored| &stored.record).eq(&many),
        "5,000 records in one call come back in order"
    );
    Ok(())
}

pub(super) async fn an_append_that_is_repeated_doubles_nothing(store: &Arc<dyn Store>) -> Outcome {
    let id = pending(&**store).await?;
    let other_operation = pending(&**store).await?;
    let (one, other) = (LogPosition::new_writer(), LogPosition::new_writer());
    let records = batch(0, 0, 7);
    let behind = |first: u64| LogPosition { first, ..one };
    store.append_log(&id, one, &records[..2]).await?;
    // Whatever others write meanwhile.
    store.append_log(&id, other, &batch(1, 0, 2)).await?;
    store.append_log(&id, one, &records[..2]).await?;
    store.append_log(&id, one, &records[..4]).await?;
    store.append_log(&id, behind(2), &records[2..4]).await?;
    store.append_log(&id, behind(4), &records[4..5]).await?;
    // A late one changes neither the log nor what is known of the writer.
    store.append_log(&id, one, &records[..1]).await?;
    store.append_log(&id, behind(3), &records[3..7]).await?;
    store.append_log(&id, other, &batch(1, 0, 2)).await?;
    let log = log_of(&**store, &id).await?;
    let mut expected = batch(0, 0, 7);
    expected.splice(2..2, batch(1, 0, 2));
    ensure!(log[1..].iter().map(|stored| &stored.record).eq(&expected), "the log with repeated calls: {log:?}");
    ensure!(log.iter().map(|stored| stored.sequence).eq(1..=10), "the sequences with repeated calls");
    store.append_log(&other_operation, one, &records[..2]).await?;
    ensure_eq!(log_of(&**store, &other_operation).await?.len(), 3, "records of another operation");

    let mut calls = JoinSet::new();
    let at = LogPosition::new_writer();
    for length in 1..=8 {
        let (store, id) = (Arc::clone(store), id.clone());
        calls.spawn(async move { store.append_log(&id, at, &batch(2, 0, length)).await });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    let log = log_of(&**store, &id).await?;
    let expected = batch(2, 0, 8);
    ensure!(log[10..].iter().map(|stored| &stored.record).eq(&expected), "the log with calls at once: {log:?}");
    Ok(())
}

pub(super) async fn a_log_can_be_written_in_every_state(store: &Arc<dyn Store>) -> Outcome {
    for state in STATES {
        let (before, _) = in_state(&**store, state).await?;
        let records = batch(0, 0, 2);
        let length = log_of(&**store, &before.new.id).await?.len();
        store.append_log(&before.new.id, LogPosition::new_writer(), &records).await?;
        let log = log_of(&**store, &before.new.id).await?;
        ensure!(
            log[length..].iter().map(|stored| &stored.record).eq(&records),
            "the records of an operation that is {state} come back as they were given"
        );
        ensure_eq!(operation(&**store, &before.new.id).await?, before, "the operation that is {state}");
    }
    let missing = unknown();
    refused(
        store.append_log(&missing, LogPosition::new_writer(), &batch(0, 0, 1)).await,
        ErrorClass::NotFound,
        "a log of nothing",
    )?;
    ensure!(log_of(&**store, &missing).await?.is_empty(), "a log of nothing was kept");
    Ok(())
}

/// Reads pages until the end.
async fn read_all(store: &dyn Store, id: &OperationId, level: LogLevel, limit: u32) -> Result<Vec<StoredLogRecord>> {
    let mut query = LogQuery { after: 0, min_level: level, limit };
    let mut all = Vec::new();
    loop {
        let page = store.page_log(id, &query).await?;
        all.extend(page.records);
        query.after = page.next_after;
        if !page.more {
            return Ok(all);
        }
    }
}

pub(super) async fn pages_give_each_record_once(store: &Arc<dyn Store>) -> Outcome {
    let id = pending(&**store).await?;
    let other = pending(&**store).await?;
    store.append_log(&other, LogPosition::new_writer(), &batch(1, 1, 10)).await?;
    let levels = [LogLevel::Info, LogLevel::Warning, LogLevel::Debug, LogLevel::Error, LogLevel::Info];
    let records: Vec<_> = (0..25).map(|i| record(levels[i % levels.len()], format!("record {i}"))).collect();
    store.append_log(&id, LogPosition::new_writer(), &records).await?;
    let all = log_of(&**store, &id).await?;
    ensure_eq!(all.len(), 26, "records");
    for level in [LogLevel::Debug, LogLevel::Info, LogLevel::Warning, LogLevel::Error] {
        let expected: Vec<_> = all.iter().filter(|stored| stored.record.level >= level).cloned().collect();
        for limit in [1, 2, 5, expected.len() as u32, 10_000] {
            let read = read_all(&**store, &id, level, limit).await?;
            ensure_eq!(read, expected, "the log from {level:?} in pages of {limit}");
        }
        let page = store.page_log(&id, &LogQuery { after: 0, min_level: level, limit: expected.len() as u32 }).await?;
        ensure!(!page.more, "a page that holds the rest says that there is no more");
        ensure_eq!(page.next_after, 26, "what was left out by its level is behind the page too");
    }
    let end = store.page_log(&id, &LogQuery { after: 1_000, ..LogQuery::default() }).await?;
    ensure_eq!((end.records.len(), end.next_after, end.more), (0, 1_000, false), "a page behind the end");
    Ok(())
}

pub(super) async fn a_reader_that_follows_a_writer_misses_nothing(store: &Arc<dyn Store>) -> Outcome {
    let id = pending(&**store).await?;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..3 {
        let (store, id) = (Arc::clone(store), id.clone());
        writers.spawn(async move {
            for round in 0..30 {
                let records: Vec<_> = [LogLevel::Info, LogLevel::Warning]
                    .into_iter()
                    .map(|level| record(level, format!("{writer} {round} {level:?}")))
                    .collect();
                store.append_log(&id, LogPosition::new_writer(), &records).await?;
            }
            Result::<()>::Ok(())
        });
    }
    let follower = {
        let (store, id, done) = (Arc::clone(store), id.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut query = LogQuery { after: 0, min_level: LogLevel::Warning, limit: 7 };
            let mut followed = Vec::new();
            loop {
                let last_round = done.load(Ordering::SeqCst);
                let page = store.page_log(&id, &query).await?;
                query.after = page.next_after;
                followed.extend(page.records);
                if !page.more && last_round {
                    return Result::<_>::Ok(followed);
                }
                tokio::task::yield_now().await;
            }
        })
    };
    while let Some(written) = writers.join_next().await {
        written??;
    }
    done.store(true, Ordering::SeqCst);
    let followed = follower.await??;
    let all = read_all(&**store, &id, LogLevel::Warning, 10_000).await?;
    ensure_eq!(all.len(), 90, "warnings");
    ensure_eq!(followed, all, "what the follower saw");
    Ok(())
}

pub(super) async fn the_log_of_nothing_is_empty(store: &Arc<dyn Store>) -> Outcome {
    let page = store.page_log(&unknown(), &LogQuery::default()).await?;
    ensure!(page.records.is_empty() && !page.more, "the log of an operation that was never created: {page:?}");
    for limit in [0, 10_001] {
        let query = LogQuery { limit, ..LogQuery::default() };
        refused(store.page_log(&unknown(), &query).await, ErrorClass::Invalid, "a page of a size that is not allowed")?;
    }
    Ok(())
}

pub(super) async fn what_is_cleared_is_gone_and_numbers_go_on(store: &Arc<dyn Store>) -> Outcome {
    let at = |seconds| jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(seconds);
    let timed = |seconds, message: &str| LogRecord { time: at(seconds), ..LogRecord::info("test", message) };
    let old: OperationId = "20010101T000000Z-00000000".parse()?;
    store.create(backup_core::model::NewOperation { id: old.clone(), ..new_operation() }, None).await?;
    let new = pending(&**store).await?;
    // 2001-09-09, and later.
    let records = [timed(1_000_000_000, "a"), timed(1_000_000_500, "b"), timed(1_000_001_000, "c")];
    store.append_log(&old, LogPosition::new_writer(), &records).await?;
    store.append_log(&new, LogPosition::new_writer(), &records).await?;
    ensure_eq!(store.clear_logs(at(1_000_000_000)).await?, 0, "records from before the first");
    ensure_eq!(store.clear_logs(at(1_000_001_000)).await?, 2, "records that were cleared");
    ensure_eq!(store.clear_logs(at(1_000_001_000)).await?, 0, "records that were cleared again");
    let messages = |log: Vec<StoredLogRecord>| -> Vec<(u64, String)> {
        log.into_iter().map(|stored| (stored.sequence, stored.record.message)).collect()
    };
    store.append_log(&old, LogPosition::new_writer(), &[timed(1_000_002_000, "d")]).await?;
    let kept = messages(log_of(&**store, &old).await?);
    ensure_eq!(kept[1..], [(4, "c".into()), (5, "d".into())], "the log of the old operation");
    ensure_eq!(log_of(&**store, &new).await?.len(), 4, "records of the operation that was created later");
    // What is created is dated by the store.
    ensure_eq!(store.clear_logs(now() + jiff::SignedDuration::from_secs(60)).await?, 7, "all the rest");
    store.append_log(&old, LogPosition::new_writer(), &[timed(1_000_003_000, "e")]).await?;
    ensure_eq!(messages(log_of(&**store, &old).await?), [(6, "e".into())], "the log after everything was cleared");
    let page = store.page_log(&new, &LogQuery::default()).await?;
    ensure_eq!((page.records.len(), page.next_after), (0, 4), "a page of a log that was cleared");
    Ok(())
}

pub(super) async fn writers_are_forgotten_with_the_log_of_what_has_ended(store: &Arc<dyn Store>) -> Outcome {
    for (state, forgotten) in [("completed", true), ("cancelled", true), ("failed", false), ("pending", false)] {
        let id = in_state(&**store, state).await?.0.new.id;
        let (at, records) = (LogPosition::new_writer(), [LogRecord::info("test", "once")]);
        store.append_log(&id, at, &records).await?;
        let count = log_of(&**store, &id).await?.len() as u64;
        store.clear_logs(jiff::Timestamp::UNIX_EPOCH).await?;
        store.append_log(&id, at, &records).await?;
        ensure_eq!(log_of(&**store, &id).await?.len() as u64, count, "records, none of which is doubled");
        ensure!(store.clear_logs(now() + jiff::SignedDuration::from_secs(60)).await? >= count, "all are cleared");
        store.append_log(&id, at, &records).await?;
        let log = log_of(&**store, &id).await?;
        ensure_eq!(log.len(), usize::from(forgotten), "records of a writer whose log is gone, {state}");
    }
    Ok(())
}
