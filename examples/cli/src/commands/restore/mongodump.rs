//! `backup restore --from-mongodump`

use crate::app::App;
use crate::args::Restore;
use crate::confirm::confirm;
use crate::failure::{Exit, Failure};
use crate::locator::TargetOptions;
use crate::run::unless_interrupted;
use crate::signals::Signals;
use crate::units;
use backup_core::Error;
use backup_core::engine::Selection;
use backup_mongo::mongodump::{Dump, DumpOptions, restore_dump};
use serde_json::json;

pub(super) async fn run(app: &App, args: Restore) -> Result<Exit, Failure> {
    let Restore {
        archive: _,
        at: _,
        to,
        destination: _,
        target: _,
        target_options: _,
        detach: _,
        include,
        exclude,
        entries: _,
        overwrite,
        force,
        no_verify,
        keep_going: _,
        mongodb,
        from_mongodump,
        resources: _,
    } = args;
    let (Some(path), Some(to)) = (from_mongodump, to) else {
        return Err(Failure::Usage("name a dump and where it is restored".into()));
    };
    if !to.is_mongodb() {
        return Err(Failure::Usage("a dump of mongodump is restored to mongodb://…".into()));
    }
    let options = TargetOptions { mongodb: mongodb.into() };
    let (include, exclude) = options.mongodb.selection(include, exclude);
    let selection = Selection { include, exclude, names: Vec::new() };
    let wanted = selection.filter()?;
    let target = to.target(&options).await.map_err(Failure::of_request)?;
    let place = target.identity();
    let mut signals = Signals::install()?;
    app.out.note(format!("checking {}", path.display()));
    let dump = unless_interrupted(&mut signals, Dump::open(&path)).await??;
    app.out.note(format!(
        "{}: {}, {}",
        path.display(),
        units::count(dump.entries(), "entry"),
        units::bytes(dump.bytes())
    ));
    if !overwrite && !force && !target.is_empty().await? {
        let question = format!("{place} is not empty: restore into it? What is there is kept.");
        confirm(app.out, &question, "--force (keep what is there) or --overwrite (replace it)")?;
    }
    let options = DumpOptions { wanted, overwrite, skip_verify: no_verify, ..DumpOptions::default() };
    let work = restore_dump(&dump, target, options, &|_, _| {});
    let outcome = unless_interrupted(&mut signals, work).await??;
    for warning in &outcome.warnings {
        app.out.note(format!("warning: {warning}"));
    }
    app.out.tell(format!(
        "restored {}, {} to {place}",
        units::count(outcome.entries, "entry"),
        units::bytes(outcome.bytes)
    ));
    let mut warnings = outcome.warnings.len() as u64;
    if let Some(report) = &outcome.verified {
        for mismatch in &report.mismatches {
            app.out.note(format!("warning: {}: {}", mismatch.name, mismatch.message));
        }
        if report.mismatch_count > 0 {
            let text =
                format!("reading back found {} entries that are not as the dump has them", report.mismatch_count);
            return Err(Error::corrupt(text).into());
        }
        warnings += report.metadata_count;
        app.out.tell(format!("verified: {} bytes were read back and are as the dump has them", report.bytes));
    } else {
        app.out.tell("not read back");
    }
    let event = json!({
        "event": "completed", "entries": outcome.entries, "bytes": outcome.bytes, "warnings": warnings,
        "verified": outcome.verified.is_some(),
    });
    app.out.event(&event);
    Ok(if warnings > 0 { Exit::Warnings } else { Exit::Done })
}
