//! Archives of object stores on a file system.

use crate::common::{complete, engine, request, small_volumes, verify};
use backup_core::archive::{Codec, Header};
use backup_core::engine::{RestoreRequest, VerifyMode};
use backup_core::local::{LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::model::{EntryKind, Naming, ObjectName};
use backup_testkit::doubles::{Blob, MemoryContent, MemoryDestination, MemoryEntry, MemorySource};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

fn contents_below(dir: &Path, into: &mut BTreeSet<Vec<u8>>) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            contents_below(&path, into);
        } else {
            into.insert(std::fs::read(&path).unwrap());
        }
    }
}

/// Each key holds itself, so that every file can be told.
#[tokio::test]
async fn every_key_of_a_bucket_becomes_a_file_whatever_it_looks_like() {
    let long = format!("{}/{}", "ä".repeat(300), "b".repeat(423));
    let keys = [
        "../x",
        "..",
        ".",
        "/abs",
        "//",
        "a",
        "a/",
        "a/b",
        "a/b/",
        "a/b/c",
        "a//b",
        "a%2Fb",
        "A",
        "tab\tnew\nline",
        "\u{1}",
        "日本/ключ",
        "~",
        "BACKUP-WARNINGS.txt",
        &long,
    ];
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    let mut source = MemorySource::new("bucket").with_naming(Naming::Keys);
    for key in &sorted {
        let content = bytes::Bytes::copy_from_slice(key.as_bytes());
        source = source.entry(MemoryEntry::new(key, EntryKind::File, MemoryContent::Inline(Blob::Bytes(content))));
    }
    let destination = MemoryDestination::default();
    let mut request = request(&Arc::new(source), &destination);
    request.options = small_volumes(Codec::Zstd);
    let engine = engine(&MemoryStore::new());
    let handle = engine.backup(request).await.unwrap();
    let archive = handle.archive().clone();
    assert_eq!(complete(handle).await, 0);
    let header = &destination.objects()[&ObjectName::new(format!("{archive}/header.json")).unwrap()];
    assert_eq!(Header::parse(header).unwrap().naming, Naming::Keys);
    assert!(verify(&destination, &archive, None, VerifyMode::Full).await.unwrap().is_sound());

    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    // Nobody says how names become paths: the archive does.
    let target = Arc::new(LocalTarget::new(LocalTargetConfig::new(&root)).unwrap());
    let restore = RestoreRequest::new(Arc::new(destination.clone()), archive, target);
    assert_eq!(complete(engine.restore(restore).await.unwrap()).await, 0, "warnings");
    let mut found = BTreeSet::new();
    contents_below(&root, &mut found);
    let expected: BTreeSet<Vec<u8>> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    assert_eq!(found, expected);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing lies beside the root");
}
