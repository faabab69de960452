//! `backup list`

use crate::app::App;
use crate::args::At;
use crate::failure::{Exit, Failure};
use crate::output::{Lines, table};
use crate::units;
use backup_core::engine::{ArchiveStatus, ArchiveSummary, list_archives};
use serde_json::json;

pub(super) async fn run(app: &App, args: At) -> Result<Exit, Failure> {
    let options = app.open_options()?;
    let destination = args.at.destination().await?;
    let store = app.store_if_there().await?;
    let archives = list_archives(&destination, store.as_deref(), options.keys.as_deref()).await?;
    if app.out.json {
        let archives: Vec<_> = archives.iter().map(document).collect();
        app.out.document(&json!({ "archives": archives }))?;
        return Ok(Exit::Done);
    }
    if archives.is_empty() {
        app.out.note(format!("there are no archives at {}", destination.identity()));
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = archives.iter().map(row).collect();
    let mut lines = Lines::new();
    lines.line(table(&["ARCHIVE", "NAME", "STATUS", "STARTED", "ENTRIES", "SIZE", "STORED", "SOURCE"], &rows))?;
    lines.flush()?;
    Ok(Exit::Done)
}

fn row(summary: &ArchiveSummary) -> Vec<String> {
    let ArchiveSummary { id, status, header, totals, finished_at: _ } = summary;
    let header = header.as_ref();
    let unknown = || "-".to_string();
    let mut status = status_text(status);
    if header.is_some_and(|h| h.sealed) {
        status.push_str(", sealed");
    }
    if let Some(warnings) = totals.map(|t| t.warnings).filter(|n| *n > 0) {
        status = format!("{status}, {}", units::count(warnings, "warning"));
    }
    vec![
        id.to_string(),
        // A name comes from the destination; it must not reach the terminal raw.
        header.map(|h| printable(&h.name)).filter(|n| !n.is_empty()).unwrap_or_else(unknown),
        status,
        header.map_or_else(unknown, |h| units::local_time(h.started_at)),
        totals.map_or_else(unknown, |t| t.entries.saturating_sub(t.superseded).to_string()),
        totals.map_or_else(unknown, |t| units::bytes(t.bytes)),
        totals.map_or_else(unknown, |t| units::bytes(t.stored_bytes)),
        header.map_or_else(unknown, |h| printable(&h.source.to_string())),
    ]
}

/// Text from an archive without control characters.
pub(super) fn printable(text: &str) -> String {
    backup_core::model::EntryName::from(text).to_string()
}

fn status_text(status: &ArchiveStatus) -> String {
    match status {
        ArchiveStatus::Missing => "MISSING: it was completed, and is not there any more".into(),
        ArchiveStatus::Replaced => "REPLACED: not what was stored under this id".into(),
        ArchiveStatus::Unreadable(why) => format!("UNREADABLE: {}", printable(why)),
        other => status_name(other).into(),
    }
}

fn document(summary: &ArchiveSummary) -> serde_json::Value {
    let ArchiveSummary { id, status, header, totals, finished_at } = summary;
    let problem = match status {
        ArchiveStatus::Unreadable(why) => Some(why),
        _ => None,
    };
    json!({
        "id": id, "status": status_name(status), "problem": problem,
        "header": header, "totals": totals, "finished_at": finished_at,
    })
}

fn status_name(status: &ArchiveStatus) -> &'static str {
    match status {
        ArchiveStatus::Complete => "complete",
        ArchiveStatus::Incomplete => "incomplete",
        ArchiveStatus::Swept => "swept",
        ArchiveStatus::Missing => "missing",
        ArchiveStatus::Replaced => "replaced",
        ArchiveStatus::Unreadable(_) => "unreadable",
        _ => "unknown",
    }
}
