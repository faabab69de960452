//! Archives whose names want to get out of the restore target. The engine stores any name that a source gives; restoring is
//! where it must stop.

use crate::common::*;
use backup_core::engine::{Outcome, RestoreRequest};
use backup_core::local::{LocalTarget, LocalTargetConfig};
use backup_core::memory::MemoryStore;
use backup_core::model::{EntryKind, EntryName, LogLevel, LogQuery};
use backup_testkit::doubles::{Blob, MemoryContent, MemoryDestination, MemoryEntry, MemorySource};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything below a directory: files with their content, links with their target, never followed.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let what = if metadata.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                open.push(path.clone());
                "directory".to_owned()
            } else {
                String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    found
}

struct Place {
    base: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Place {
    /// `target` is to be restored into; what lies beside it must stay as it is.
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("outside")).unwrap();
        std::fs::write(base.path().join("outside/secret"), "secret").unwrap();
        std::fs::write(base.path().join("x"), "x of the parent").unwrap();
        let before = tree(base.path());
        Self { base, before }
    }

    fn root(&self) -> PathBuf {
        self.base.path().join("target")
    }

    fn assert_untouched(&self) {
        let after: BTreeMap<_, _> =
            tree(self.base.path()).into_iter().filter(|(p, _)| !p.starts_with("target")).collect();
        assert_eq!(after, self.before);
    }
}

/// Restores a source and gives the outcome, the tree that came of it, and the warnings in the job log.
async fn restored(
    source: MemorySource,
    place: &Place,
) -> (Result<Outcome, backup_core::Error>, BTreeMap<PathBuf, String>, String) {
    use backup_core::adapter::Store;
    let destination = MemoryDestination::default();
    let archive = back_up(request(&Arc::new(source), &destination)).await;
    assert_sound(&destination, &archive, None).await;
    let target = Arc::new(LocalTarget::new(LocalTargetConfig::new(place.root())).unwrap());
    let store = MemoryStore::new();
    let handle = engine(&store).restore(RestoreRequest::new(Arc::new(destination), archive, target)).await.unwrap();
    let id = handle.id().clone();
    let outcome = wait(handle).await;
    let query = LogQuery { min_level: LogLevel::Warning, ..LogQuery::default() };
    let log: Vec<_> =
        store.page_log(&id, &query).await.unwrap().records.into_iter().map(|r| r.record.message).collect();
    place.assert_untouched();
    let tree = if place.root().exists() { tree(&place.root()) } else { BTreeMap::new() };
    assert!(tree.keys().all(|path| !path.to_string_lossy().contains(".backup-tmp-")), "{tree:?}");
    (outcome, tree, log.join("\n"))
}

fn bytes_named(name: &[u8], content: MemoryContent) -> MemoryEntry {
    let mut entry = MemoryEntry::new("x", EntryKind::File, content);
    entry.name = EntryName::new(name.to_vec());
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_out_of_the_target_is_refused_and_the_rest_is_restored() {
    let long = "n".repeat(300);
    let names: Vec<Vec<u8>> = [
        "../x",
        "/abs",
        "a/../../x",
        "a/../b",
        "./dot",
        "..",
        ".",
        "a//b",
        "trailing/",
        "/",
        "../outside/secret",
        "a/./b",
        ".backup-tmp-x",
        "dir/.backup-tmp-y/z",
        &long,
        &format!("{long}/below"),
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .chain([b"nul\0byte".to_vec(), b"nul/\0".to_vec()])
    .collect();
    for large in [false, true] {
        let mut source = MemorySource::new("hostile").file("first", "first");
        for (n, name) in names.iter().enumerate() {
            let content = if large && n < 3 {
                MemoryContent::Stored(Blob::pattern(n as u64, 17 << 20))
            } else {
                MemoryContent::Inline("hostile".into())
            };
            source = source.entry(bytes_named(name, content));
        }
        let place = Place::new();
        let (outcome, tree, log) = restored(source.file("last", "last"), &place).await;
        let Ok(Outcome::Completed { warnings, .. }) = outcome else { panic!("{outcome:?} {log}") };
        assert_eq!(warnings, names.len() as u64, "{log}\n{tree:?}");
        for part in ["../x", "/abs", "a/../../x", ".backup-tmp-x", "nul\\u{0}byte", &long] {
            assert!(log.contains(part), "{part} is not named in {log}");
        }
        let kept: Vec<_> = tree.iter().filter(|(_, what)| *what != "directory").map(|(path, _)| path.clone()).collect();
        assert_eq!(kept, [PathBuf::from("first"), PathBuf::from("last")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symbolic_link_is_restored_but_nothing_goes_through_it() {
    for large in [false, true] {
        let place = Place::new();
        let outside = place.base.path().join("outside");
        let content = |text: &str| {
            if large { MemoryContent::Stored(Blob::pattern(1, 17 << 20)) } else { MemoryContent::Inline(text.into()) }
        };
        let source = MemorySource::new("hostile")
            .symlink("absolute", outside.to_str().unwrap())
            .symlink("relative", "../outside")
            .symlink("self", ".")
            .entry(MemoryEntry::new("absolute/new", EntryKind::File, content("through")))
            .entry(MemoryEntry::new("relative/secret", EntryKind::File, content("through")))
            .entry(MemoryEntry::new("self/inside", EntryKind::File, content("through")))
            .directory("absolute/directory")
            .symlink("relative/link", "x")
            .file("fine", "fine");
        let (outcome, tree, log) = restored(source, &place).await;
        let Ok(Outcome::Completed { warnings, .. }) = outcome else { panic!("{outcome:?} {log}") };
        // An entry below a link may come first and make a directory of it; then the link is what is refused. Each of the three
        // names meets one or the other.
        assert!((3..=5).contains(&warnings), "{log}");
        for (link, points_to) in [("relative", "../outside"), ("self", ".")] {
            let what = &tree[Path::new(link)];
            assert!(*what == format!("-> {points_to}") || what == "directory", "{tree:?}");
        }
        assert!(!tree.contains_key(Path::new("inside")), "{tree:?}");
        assert!(tree.contains_key(Path::new("fine")));
    }
}

/// The link is an item of the target already, not of the archive.
#[tokio::test(flavor = "multi_thread")]
async fn a_symbolic_link_that_lies_in_the_target_is_not_followed_either() {
    let place = Place::new();
    std::fs::create_dir(place.root()).unwrap();
    std::os::unix::fs::symlink("../outside", place.root().join("dir")).unwrap();
    let source = MemorySource::new("hostile").directory("dir").file("dir/secret", "replaced").file("fine", "fine");
    let (outcome, tree, log) = restored(source, &place).await;
    assert!(matches!(outcome, Ok(Outcome::Completed { warnings, .. }) if warnings > 0), "{outcome:?} {log}");
    assert_eq!(tree[Path::new("dir")], "-> ../outside");
    assert_eq!(tree[Path::new("fine")], "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_never_reaches_outside() {
    let place = Place::new();
    let absolute = place.base.path().join("outside/secret");
    let link = |name: &str, target: &str| {
        let kind = EntryKind::HardLink { target: target.into() };
        MemoryEntry::new(name, kind, MemoryContent::Inline("linked".into()))
    };
    let source = MemorySource::new("hostile")
        .file("inside", "inside")
        .symlink("way", "../outside")
        .entry(link("up", "../outside/secret"))
        .entry(link("absolute", absolute.to_str().unwrap()))
        .entry(link("through", "way/secret"))
        .entry(link("missing", "not/there"))
        .entry(link("../escaped", "inside"))
        .entry(link("right", "inside"));
    let (outcome, tree, log) = restored(source, &place).await;
    let Ok(Outcome::Completed { warnings, .. }) = outcome else { panic!("{outcome:?} {log}") };
    assert_eq!(warnings, 5, "{log}");
    assert_eq!(tree[Path::new("right")], "inside");
    assert!(tree.values().all(|what| what != "secret"), "{tree:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_odd_bytes_come_back_as_they_are() {
    use std::os::unix::ffi::OsStrExt;
    let names: [&[u8]; 6] = [b"new\nline", b"caf\xe9", b"back\\slash", b" ", b"-rf", b"a:b*?\""];
    let mut source = MemorySource::new("odd");
    for name in names {
        source = source.entry(bytes_named(name, MemoryContent::Inline("odd".into())));
    }
    let place = Place::new();
    let (outcome, tree, log) = restored(source, &place).await;
    assert!(matches!(outcome, Ok(Outcome::Completed { warnings: 0, .. })), "{outcome:?} {log}");
    for name in names {
        assert!(tree.contains_key(Path::new(std::ffi::OsStr::from_bytes(name))), "{}", EntryName::new(name.to_vec()));
    }
}

/// One entry stands where another one needs a directory.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_contradict_each_other_are_warnings() {
    let place = Place::new();
    let source = MemorySource::new("hostile")
        .file("a", "file")
        .file("a/b", "below a file")
        .directory("d")
        .file("d", "a file where a directory is")
        .file("fine", "fine")
        .file("fine", "twice");
    let (outcome, tree, log) = restored(source, &place).await;
    let warnings = match outcome {
        Ok(Outcome::Completed { warnings, .. }) => warnings,
        other => panic!("{other:?} {log}"),
    };
    assert_eq!(warnings, 3, "{log}");
    assert_eq!(tree[Path::new("a")], "file");
}
