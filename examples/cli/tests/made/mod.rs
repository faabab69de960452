//! Archives of sources in memory, made with the library itself: with names and entries that no file tree has.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use backup_core::archive::KeyProvider;
use backup_core::engine::{BackupOptions, BackupRequest, Engine, Outcome};
use backup_core::local::LocalDestination;
use backup_core::memory::MemoryStore;
use backup_core::model::{EntryKind, EntryName};
use backup_testkit::doubles::{Blob, MemoryContent, MemoryEntry, MemorySource};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A file whose content is delivered with it.
pub(crate) fn file(name: &[u8], content: impl Into<Blob>) -> MemoryEntry {
    entry(name, EntryKind::File, MemoryContent::Inline(content.into()))
}

/// Any entry.
pub(crate) fn entry(name: &[u8], kind: EntryKind, content: MemoryContent) -> MemoryEntry {
    MemoryEntry { name: EntryName::new(name.to_vec()), ..MemoryEntry::new("", kind, content) }
}

/// Makes an archive and gives its id.
pub(crate) async fn archive(
    place: &Path,
    source: MemorySource,
    options: BackupOptions,
    keys: Option<Arc<dyn KeyProvider>>,
) -> String {
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let destination = Arc::new(LocalDestination::new(place).unwrap());
    let request = BackupRequest { options, keys, ..BackupRequest::new(Arc::new(source), destination) };
    let handle = engine.backup(request).await.unwrap();
    let id = handle.archive().to_string();
    let outcome = handle.wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
    id
}

/// The second reader, `docs/read_archive.py`.
pub(crate) fn second_reader() -> Command {
    let python = std::env::var("BACKUP_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let packages = "import sys, zstandard, cryptography; assert sys.version_info >= (3, 9)";
    let found = Command::new(&python).args(["-c", packages]).output();
    let reason = match &found {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = reason {
        panic!(
            "the second reader of the archive format cannot run with {python}: {reason}\n\
             Run the tests with scripts/test, which installs what it needs, or install it yourself:\n\
             python3 -m venv target/test-venv && target/test-venv/bin/pip install zstandard cryptography\n\
             export BACKUP_TEST_PYTHON=$PWD/target/test-venv/bin/python3"
        );
    }
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/read_archive.py"));
    command
}
