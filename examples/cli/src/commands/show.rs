//! `backup show`

use super::list::printable;
use crate::app::App;
use crate::args::Show;
use crate::failure::{Exit, Failure};
use crate::output::Lines;
use crate::units;
use backup_core::archive::Totals;
use backup_core::engine::{Archive, Selection};
use backup_core::model::{Entry, EntryKind, Owner, Timestamp};
use futures::StreamExt;
use serde_json::json;

pub(super) async fn run(app: &App, args: Show) -> Result<Exit, Failure> {
    let Show { archive, entries } = args;
    let (_destination, archive) = app.open_archive(&archive.at, &archive.archive).await?;
    let mut lines = Lines::new();
    if entries {
        let mut entries = archive.entries(&Selection::default())?;
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if app.out.json { lines.document(&document(&entry))? } else { lines.line(tar_line(&entry))? }
        }
    } else if app.out.json {
        lines.document(&json!({
            "header": archive.header(), "manifest": archive.manifest(), "warnings": archive.warnings().await?,
        }))?;
    } else {
        lines.line(description(&archive))?;
        for warning in archive.warnings().await?.iter().flat_map(|text| text.lines()) {
            lines.line(printable(warning))?;
        }
    }
    lines.flush()?;
    Ok(Exit::Done)
}

/// What an archive is and holds, for people.
pub(super) fn description(archive: &Archive) -> String {
    let header = archive.header();
    let manifest = archive.manifest();
    let Totals { entries, bytes, raw_bytes: _, stored_bytes, volumes, warnings, inconsistent, superseded } =
        manifest.totals;
    let mut rows = vec![("archive", header.id.to_string())];
    if !header.name.is_empty() {
        rows.push(("name", printable(&header.name)));
    }
    rows.push(("source", printable(&header.source.to_string())));
    rows.push(("started", units::local_time(header.started_at)));
    rows.push(("finished", units::local_time(manifest.finished_at)));
    rows.push(("entries", units::number(entries.saturating_sub(superseded))));
    rows.push(("size", units::bytes(bytes)));
    rows.push(("stored", format!("{} in {}", units::bytes(stored_bytes), units::count(volumes, "volume"))));
    let codec = json!(header.codec).as_str().unwrap_or_default().to_string();
    rows.push(("codec", header.level.map_or_else(|| codec.clone(), |level| format!("{codec}, level {level}"))));
    rows.push(("sealed", if header.sealed { "yes" } else { "no" }.into()));
    if !manifest.consistency.is_null() {
        rows.push(("consistency", printable(&manifest.consistency.to_string())));
    }
    rows.push(("made by", printable(&header.tool)));
    if warnings > 0 {
        rows.push(("warnings", units::number(warnings)));
    }
    if inconsistent > 0 {
        rows.push(("changed while read", units::count(inconsistent, "entry")));
    }
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 2;
    rows.iter().map(|(key, value)| format!("{:width$}{value}", format!("{key}:"))).collect::<Vec<_>>().join("\n")
}

/// A line as `tar tv` prints it.
fn tar_line(entry: &Entry) -> String {
    let owner = |owner: &Option<Owner>| match owner {
        Some(Owner { name: Some(name), .. }) => printable(name),
        Some(Owner { id, name: None }) => id.to_string(),
        None => "-".into(),
    };
    let (letter, link) = match &entry.kind {
        EntryKind::Directory => ('d', String::new()),
        EntryKind::Symlink { target } => ('l', format!(" -> {}", backup_core::model::EntryName::new(target.clone()))),
        EntryKind::HardLink { target } => ('h', format!(" link to {target}")),
        _ => ('-', String::new()),
    };
    let time = entry
        .mtime
        .and_then(|t| jiff::Timestamp::from_second(t.seconds).ok())
        .map_or_else(|| format!("{:19}", "-"), units::local_time);
    format!(
        "{letter}{} {:<15} {:>12} {time} {}{link}{}",
        permissions(entry.metadata.mode),
        format!("{}/{}", owner(&entry.metadata.user), owner(&entry.metadata.group)),
        entry.size,
        entry.name,
        if entry.inconsistent { "  (changed while it was read)" } else { "" },
    )
}

/// `rwxr-xr-x`, with `s` and `t` as `ls` shows them.
fn permissions(mode: Option<u32>) -> String {
    let Some(mode) = mode else { return "?????????".into() };
    let mut text = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn document(entry: &Entry) -> serde_json::Value {
    let Entry { name, kind, size, mtime, metadata, sha256, offset, ordinal, group, inconsistent, superseded: _ } =
        entry;
    let mut document = json!({
        "name": name, "size": size, "mtime": mtime.as_ref().map(Timestamp::to_string), "metadata": metadata,
        "sha256": sha256, "offset": offset, "ordinal": ordinal, "group": group, "inconsistent": inconsistent,
    });
    if let (Some(document), serde_json::Value::Object(kind)) = (document.as_object_mut(), json!(kind)) {
        document.extend(kind);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::model::Metadata;

    fn entry() -> Entry {
        Entry {
            name: "a/b\u{1b}[0m".into(),
            kind: EntryKind::File,
            size: 1234,
            mtime: Some(Timestamp { seconds: 0, nanos: 5 }),
            metadata: Metadata {
                mode: Some(0o4755),
                user: Some(Owner { id: 0, name: Some("root".into()) }),
                group: Some(Owner { id: 7, name: None }),
                ..Metadata::default()
            },
            sha256: None,
            offset: 512,
            ordinal: 0,
            group: None,
            inconsistent: false,
            superseded: false,
        }
    }

    #[test]
    fn entries_are_listed_as_tar_does_and_cannot_write_to_the_terminal() {
        let line = tar_line(&entry());
        assert!(line.starts_with("-rwsr-xr-x root/7                  1234 19"), "{line}");
        assert!(line.ends_with(r"a/b\u{1b}[0m"), "{line}");
        let link = Entry { kind: EntryKind::Symlink { target: "to".into() }, ..entry() };
        assert!(tar_line(&link).starts_with('l') && tar_line(&link).ends_with(" -> to"));
    }

    #[test]
    fn permissions_show_the_special_bits() {
        assert_eq!(permissions(Some(0o640)), "rw-r-----");
        assert_eq!(permissions(Some(0o1777)), "rwxrwxrwt");
        assert_eq!(permissions(Some(0o2644)), "rw-r-Sr--");
        assert_eq!(permissions(None), "?????????");
    }

    #[test]
    fn machines_get_an_entry_as_one_flat_object() {
        let document = document(&entry());
        assert_eq!(document["kind"], "file");
        assert_eq!(document["mtime"], "0.000000005");
        assert_eq!(document["metadata"]["mode"], 0o4755);
    }
}
