//! `backup delete`, `backup sweep`

use super::list::printable;
use crate::app::App;
use crate::args::{Delete, Sweep};
use crate::confirm::confirm;
use crate::failure::{Exit, Failure};
use crate::units;
use backup_core::Error;
use backup_core::adapter::Destination;
use backup_core::archive::{Codec, Header, ObjectNames};
use backup_core::engine::{self, ArchiveStatus, SweepOptions, SweepReport, find_archive, list_archives};
use backup_core::model::ArchiveId;
use futures::TryStreamExt;
use serde_json::json;
use std::sync::Arc;

/// No header is longer; what is, is none.
const MAX_HEADER: usize = 1 << 20;

pub(super) async fn delete(app: &App, args: Delete) -> Result<Exit, Failure> {
    let Delete { archive, force } = args;
    let destination = archive.at.destination().await?;
    let id = find_archive(&destination, &archive.archive).await?;
    only_one(&destination, &id, &archive.archive).await?;
    if !force {
        let what = header(&*destination, &id).await.map_or_else(String::new, |header| {
            format!(
                " ({}{}, {})",
                if header.name.is_empty() { String::new() } else { format!("\"{}\", ", printable(&header.name)) },
                printable(&header.source.to_string()),
                units::local_time(header.started_at),
            )
        });
        confirm(app.out, &format!("Delete archive {id}{what} for ever?"), "--force")?;
    }
    let store = app.store_if_there().await?;
    let objects = engine::delete_archive(&destination, store.as_deref(), &id).await?;
    app.out.document(&json!({ "deleted": id, "objects": objects }))?;
    app.out.line(format!("deleted archive {id}: {}", units::count(objects, "object")))?;
    Ok(Exit::Done)
}

/// Fails when the archive was found by a name that others have too: what was meant cannot be told, and what is deleted is gone.
async fn only_one(destination: &Arc<dyn Destination>, id: &ArchiveId, selector: &str) -> Result<(), Failure> {
    if selector == "latest" || selector == id.as_str() {
        return Ok(());
    }
    let archives = list_archives(destination, None, None).await?;
    let of_name: Vec<_> = archives
        .iter()
        .filter(|a| a.status == ArchiveStatus::Complete && a.header.as_ref().is_some_and(|h| h.name == selector))
        .map(|a| a.id.as_str())
        .collect();
    if of_name.len() < 2 {
        return Ok(());
    }
    let text = format!("several archives have this name, delete one by its id: {}", of_name.join(", "));
    Err(Error::invalid(text).on(printable(selector)).into())
}

/// What the archive says of itself, if it can still be read: a damaged archive can be deleted too.
async fn header(destination: &dyn Destination, id: &ArchiveId) -> Option<Header> {
    // The header's name depends on neither codec nor seal.
    let name = ObjectNames::new(id.clone(), Codec::None, false).header();
    let mut stream = destination.get(&name, None).await.ok()?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.try_next().await.ok()? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_HEADER {
            return None;
        }
    }
    Header::parse(&bytes).ok()
}

pub(super) async fn sweep(app: &App, args: Sweep) -> Result<Exit, Failure> {
    let Sweep { at, min_age, dry_run } = args;
    let destination = at.at.destination().await?;
    let report = engine::sweep(&destination, &SweepOptions { min_age, dry_run }).await?;
    let SweepReport { swept, kept, objects, bytes, .. } = report;
    app.out.document(&json!({
        "dry_run": dry_run, "swept": swept, "objects": objects, "bytes": bytes,
        "kept": kept.iter().map(|(id, why)| json!({ "archive": id, "why": why })).collect::<Vec<_>>(),
    }))?;
    for id in &swept {
        app.out.line(format!("{id}: {}", if dry_run { "would be removed" } else { "removed" }))?;
    }
    for (id, why) in &kept {
        app.out.line(format!("{id}: kept, {why}"))?;
    }
    let did = if dry_run { "would remove" } else { "removed" };
    app.out.line(format!(
        "{did} {}, {}, {}",
        units::count(swept.len() as u64, "archive"),
        units::count(objects, "object"),
        units::bytes(bytes),
    ))?;
    Ok(Exit::Done)
}
