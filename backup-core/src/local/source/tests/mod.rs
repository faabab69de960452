//! Trees on disk, and what the source makes of them.

mod change;
mod flow;
mod links;
mod resume;
mod tree;

use super::*;
use crate::ErrorClass;
use crate::adapter::{Content, SourceEntry};
use crate::budget::ByteBudget;
use crate::limit::RateLimit;
use crate::local::batch::{Batch, Batches, Task};
use crate::local::identity::os;
use crate::local::metadata::OwnerNames;
use crate::local::read::{BatchReader, Outcome};
use crate::model::EntryKind;
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType as Type, Mode, XattrFlags};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tokio_util::sync::CancellationToken;

fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(64 << 20),
        limit: RateLimit::default(),
        stop: CancellationToken::new(),
        excluded: Arc::default(),
    }
}

fn source(root: &Path) -> LocalSource {
    LocalSource::new(LocalSourceConfig { root: root.into(), ..LocalSourceConfig::default() }).unwrap()
}

fn excluding(root: &Path, patterns: &[&str]) -> LocalSource {
    let exclude = patterns.iter().map(|p| (*p).to_owned()).collect();
    LocalSource::new(LocalSourceConfig { root: root.into(), exclude, one_file_system: false }).unwrap()
}

/// All entries and all warnings (`name: message`).
async fn run(source: &Arc<LocalSource>, after: Option<Cursor>, ctx: ReadContext) -> (Vec<SourceEntry>, Vec<String>) {
    let mut events = source.clone().events(after, ctx);
    let (mut entries, mut warnings) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event.unwrap() {
            SourceEvent::Entry(entry) => entries.push(*entry),
            SourceEvent::Warning(w) => {
                warnings.push(format!("{}: {}", w.name.map(|n| n.to_string()).unwrap_or_default(), w.message));
            }
            other => panic!("{other:?}"),
        }
    }
    (entries, warnings)
}

async fn all(source: LocalSource) -> (Vec<SourceEntry>, Vec<String>) {
    run(&Arc::new(source), None, context()).await
}

fn names(entries: &[SourceEntry]) -> Vec<String> {
    entries.iter().map(|e| e.name.to_string()).collect()
}

fn inline(entry: &SourceEntry) -> &[u8] {
    match &entry.content {
        Content::Inline { bytes, .. } => bytes,
        other => panic!("{}: {other:?}", entry.name),
    }
}

fn entry<'a>(entries: &'a [SourceEntry], name: &str) -> &'a SourceEntry {
    entries.iter().find(|e| e.name.as_str() == Some(name)).unwrap_or_else(|| panic!("no {name}"))
}

/// Content, permissions and kind: what has to be the same on a second run.
fn essence(entry: &SourceEntry) -> String {
    let content = match &entry.content {
        Content::Inline { bytes, .. } => format!("{bytes:?}"),
        other => format!("{other:?}"),
    };
    format!("{} {:?} {:?} {:?} {content}", entry.name, entry.kind, entry.mtime, entry.metadata)
}

async fn collect(opened: Opened) -> Vec<u8> {
    let mut content = opened.content;
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await {
        let piece = piece.unwrap();
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    bytes
}
