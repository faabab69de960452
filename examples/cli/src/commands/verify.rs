//! `backup verify`

use super::list::printable;
use crate::app::App;
use crate::args::Verify;
use crate::failure::{Exit, Failure};
use crate::progress::with_progress;
use crate::units;
use backup_core::adapter::Destination;
use backup_core::engine::{Archive, Finding, VerifyMode, VerifyOutcome};
use backup_core::model::Progress;
use serde_json::json;
use tokio::sync::watch;

pub(super) async fn run(app: &App, args: Verify) -> Result<Exit, Failure> {
    let Verify { archive, quick, sample } = args;
    let mode = match (quick, sample) {
        (true, _) => VerifyMode::Quick,
        (false, Some(percent)) => VerifyMode::Sample { percent },
        (false, None) => VerifyMode::Full,
    };
    let (destination, archive) = app.open_archive(&archive.at, &archive.archive).await?;
    let (sender, progress) = watch::channel(Progress::default());
    let mut outcome = with_progress(app.out, progress, archive.verify(mode, &sender)).await?;
    if let Some(finding) = compare_with_store(app, &*destination, &archive).await? {
        outcome.finding_count += 1;
        outcome.findings.insert(0, finding);
    }
    tell(app, &archive, mode, &outcome)
}

/// An archive whose manifest is not the one that was stored is another archive, however sound it is in itself.
async fn compare_with_store(
    app: &App,
    destination: &dyn Destination,
    archive: &Archive,
) -> Result<Option<Finding>, Failure> {
    let Some(store) = app.store_if_there().await? else { return Ok(None) };
    let records = store.archives(&destination.identity()).await?;
    let mut records = records.into_iter().map(|known| known.record);
    let id = &archive.header().id;
    Ok(records.find(|r| r.archive == *id && r.manifest_sha256 != archive.manifest_sha256()).map(|record| Finding {
        object: None,
        entry: None,
        message: format!(
            "the manifest is not the one that was stored: its SHA-256 is {}, and {} was stored",
            archive.manifest_sha256(),
            record.manifest_sha256
        ),
    }))
}

fn tell(app: &App, archive: &Archive, mode: VerifyMode, outcome: &VerifyOutcome) -> Result<Exit, Failure> {
    let VerifyOutcome { objects, bytes, entries, findings, finding_count } = outcome;
    let id = &archive.header().id;
    app.out.document(&json!({
        "archive": id, "mode": mode_name(mode), "sound": outcome.is_sound(),
        "objects": objects, "bytes": bytes, "entries": entries, "finding_count": finding_count,
        "findings": findings.iter().map(|f| json!({
            "object": f.object, "entry": f.entry, "message": f.message,
        })).collect::<Vec<_>>(),
    }))?;
    for Finding { object, entry, message } in findings {
        let object = object.as_ref().map(|o| format!("{}: ", printable(o))).unwrap_or_default();
        let entry = entry.as_ref().map(|e| format!("{e}: ")).unwrap_or_default();
        app.out.line(format!("{object}{entry}{message}"))?;
    }
    let left_out = finding_count.saturating_sub(findings.len() as u64);
    if left_out > 0 {
        app.out.line(format!("and {} more", units::count(left_out, "finding")))?;
    }
    let read = format!(
        "{}, {}, {} looked at",
        units::count(*objects, "object"),
        units::count(*entries, "entry"),
        units::bytes(*bytes),
    );
    if outcome.is_sound() {
        let scope = match mode {
            VerifyMode::Full => "",
            VerifyMode::Quick => " as far as names and sizes tell",
            _ => " as far as the sample tells",
        };
        app.out.line(format!("archive {id} is sound{scope}: {read}"))?;
        Ok(Exit::Done)
    } else {
        app.out.line(format!("archive {id} is DAMAGED, {}: {read}", units::count(*finding_count, "finding")))?;
        Ok(Exit::Failed)
    }
}

fn mode_name(mode: VerifyMode) -> &'static str {
    match mode {
        VerifyMode::Quick => "quick",
        VerifyMode::Full => "full",
        _ => "sample",
    }
}
