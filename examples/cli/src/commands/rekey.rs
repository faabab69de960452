//! `backup rekey`

use super::list::printable;
use crate::app::App;
use crate::args::{NewKey, Rekey};
use crate::failure::{Exit, Failure};
use crate::keys::{self, KeySource};
use crate::units;
use backup_core::engine::{self, ArchiveStatus, OldKey, RekeyOutcome, find_archive, list_archives};
use backup_core::model::ArchiveId;
use serde_json::{Value, json};

pub(super) async fn run(app: &App, args: Rekey) -> Result<Exit, Failure> {
    let Rekey { archive, all: _, at, new_key, keep_old } = args;
    let NewKey { new_key_file, new_passphrase_env } = new_key;
    let Some(current) = keys::load(app.key.as_ref())? else {
        let text = "give the key that opens the archive now, with --key-file or --passphrase-env";
        return Err(Failure::Usage(text.into()));
    };
    let new = KeySource::of(new_key_file.as_deref(), new_passphrase_env.as_deref(), "--new-")?;
    let Some(new) = keys::load(new.as_ref())? else {
        return Err(Failure::Usage("give the new key with --new-key-file or --new-passphrase-env".into()));
    };
    let old = if keep_old { OldKey::Keep } else { OldKey::Remove };
    let destination = at.destination().await?;
    if let Some(selector) = archive {
        let id = find_archive(&destination, &selector).await?;
        let outcome = engine::rekey(destination, &id, &*current, &*new, old).await?;
        app.out.document(&json!({ "archives": [document(&id, outcome)] }))?;
        app.out.line(line(&id, outcome, old))?;
        return Ok(Exit::Done);
    }
    let (mut documents, mut exit, mut changed) = (Vec::new(), Exit::Done, 0);
    for summary in list_archives(&destination, None, None).await? {
        let id = summary.id;
        let why_not = match (&summary.status, &summary.header) {
            (_, Some(header)) if !header.sealed => continue,
            (ArchiveStatus::Complete, Some(_)) => {
                match engine::rekey(destination.clone(), &id, &*current, &*new, old).await {
                    Ok(outcome) => {
                        changed += u64::from(outcome == RekeyOutcome::Changed);
                        documents.push(document(&id, outcome));
                        app.out.line(line(&id, outcome, old))?;
                        continue;
                    }
                    Err(error) => {
                        exit = exit.worse(Exit::Failed);
                        error.chain()
                    }
                }
            }
            (ArchiveStatus::Unreadable(why), _) => why.clone(),
            (ArchiveStatus::Swept, _) => "it was swept".into(),
            _ => "it is not complete: its backup needs the key with which it began".into(),
        };
        exit = exit.worse(Exit::Warnings);
        app.out.line(format!("{id}: left as it is: {}", printable(&why_not)))?;
        documents.push(json!({ "archive": id, "outcome": "left", "why": why_not }));
    }
    app.out.document(&json!({ "archives": documents }))?;
    app.out.line(format!("changed the key of {}", units::count(changed, "archive")))?;
    Ok(exit)
}

fn document(id: &ArchiveId, outcome: RekeyOutcome) -> Value {
    let outcome = match outcome {
        RekeyOutcome::Changed => "changed",
        RekeyOutcome::Already => "already",
    };
    json!({ "archive": id, "outcome": outcome })
}

fn line(id: &ArchiveId, outcome: RekeyOutcome, old: OldKey) -> String {
    match (outcome, old) {
        (RekeyOutcome::Changed, OldKey::Remove) => format!("{id}: opens with the new key, no more with the old one"),
        (RekeyOutcome::Changed, OldKey::Keep) => format!("{id}: opens with the new key as well"),
        (RekeyOutcome::Already, _) => format!("{id}: opened with the new key already"),
    }
}
