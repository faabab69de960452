//! `backup logs`

use crate::app::App;
use crate::args::Logs;
use crate::failure::{Exit, Failure};
use crate::operations::{Hold, find, hold};
use crate::output::Lines;
use crate::units;
use backup_core::model::{LogLevel, LogQuery, StoredLogRecord};
use backup_core::state::State;
use std::time::Duration;

/// How often new records are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub(super) async fn run(app: &App, args: Logs) -> Result<Exit, Failure> {
    let Logs { operation, follow } = args;
    let store = app.store().await?;
    let id = find(&*store, &operation.operation).await?.new.id;
    let mut query = LogQuery::default();
    let mut lines = Lines::new();
    loop {
        // The state is read first: what stands in the log after an end is then in the pages that follow.
        let now = find(&*store, id.as_str()).await?;
        loop {
            let page = store.page_log(&id, &query).await?;
            for record in &page.records {
                if app.out.json { lines.document(record)? } else { lines.line(line(record))? }
            }
            query.after = page.next_after;
            if !page.more {
                break;
            }
        }
        lines.flush()?;
        let goes_on = now.state == State::Pending || hold(&now) == Hold::Live;
        if !follow || !goes_on {
            if follow && !now.state.is_final() {
                app.out.note(format!("operation {id} is {}", crate::operations::state_text(&now)));
            }
            return Ok(Exit::Done);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `2026-11-20 06:15:00  warning  list  skipped: permission denied`
fn line(stored: &StoredLogRecord) -> String {
    let record = &stored.record;
    let level = match record.level {
        LogLevel::Debug => "debug  ",
        LogLevel::Info => "info   ",
        LogLevel::Warning => "warning",
        LogLevel::Error => "error  ",
    };
    let mut text = format!("{}  {level}  {:<10}  {}", units::local_time(record.time), record.step, record.message);
    if !record.context.is_null() {
        text.push_str("  ");
        text.push_str(&record.context.to_string());
    }
    text
}
