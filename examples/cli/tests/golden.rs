//! Archives that earlier versions wrote, kept in `backup-core/tests/golden`, are read for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod common;
mod made;

use backup_core::archive::{
    Codec, Compression, KeyFileProvider, KeyProvider, PassphraseParameters, PassphraseProvider, generate_key_file,
};
use backup_core::engine::{
    Archive, BackupOptions, BackupRequest, Engine, OpenOptions, Outcome, ResumeBackup, Selection,
};
use backup_core::local::LocalDestination;
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, Entry, EntryKind, EntryName, GroupName, Metadata, Owner, Timestamp, Xattr};
use backup_core::{Digest, ErrorClass};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, MemoryContent, MemoryEntry, MemorySource, OnResume, Trouble, TroubleAt};
use backup_testkit::faulty::{Fault, FaultySource, Rule, Script, When};
use common::{Place, files_below, text};
use futures::TryStreamExt;
use made::{entry, file, second_reader};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Each is a directory with the archive in `archive/`, `expected.json`, and `key` or `passphrase` when it is sealed.
const ARCHIVES: [&str; 7] = ["zstd", "gzip", "none", "sealed-by-key-file", "sealed-by-passphrase", "warnings", "empty"];

/// What must be found in them together.
const FEATURES: [&str; 32] = [
    "attempts: several",
    "codec: gzip",
    "codec: none",
    "codec: zstd",
    "consistency",
    "content over several frames",
    "entry: inconsistent",
    "entry: superseded",
    "entry: without a time",
    "group digests",
    "group: superseded",
    "key: key-file",
    "key: passphrase",
    "kind: directory",
    "kind: file",
    "kind: hard-link",
    "kind: slice",
    "kind: symlink",
    "metadata: extended attributes",
    "metadata: headers",
    "metadata: mode",
    "metadata: owner",
    "metadata: sparse",
    "metadata: tags",
    "metadata: user metadata",
    "name: not UTF-8",
    "name: not the tar path",
    "no entries",
    "time: before 1970",
    "time: nanoseconds",
    "volumes: several",
    "warnings",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../backup-core/tests/golden/v1")
}

#[test]
fn the_golden_archives_are_all_there_and_as_they_were_made() {
    let mut found: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|item| item.unwrap())
        .filter(|item| item.path().is_dir())
        .map(|item| item.file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut listed = ARCHIVES;
    listed.sort_unstable();
    assert_eq!(found, listed, "each directory is an archive that the tests below read");

    assert_eq!(
        std::fs::read_to_string(root().join("SHA256SUMS")).unwrap(),
        sums(),
        "golden archives are never edited, nor is anything added to them: a new format version has a directory of its own"
    );
}

/// Digest and name of each file, as `sha256sum` writes them.
fn sums() -> String {
    let line = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        (name != "SHA256SUMS").then(|| format!("{}  {name}\n", Digest::of(&std::fs::read(&path).unwrap())))
    };
    files_below(&root()).into_iter().filter_map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_feature_of_the_format_is_in_a_golden_archive() {
    let mut found = BTreeSet::new();
    for name in ARCHIVES {
        Golden::open(name).await.features(&mut found).await;
    }
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), FEATURES);
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_archives_say_of_their_entries_what_they_were_made_of() {
    for name in ARCHIVES {
        let golden = Golden::open(name).await;
        let entries: Vec<Entry> = golden.archive.entries(&Selection::default()).unwrap().try_collect().await.unwrap();
        let found: Vec<Value> = entries.iter().map(of_archive).collect();
        assert_eq!(Value::Array(found), golden.expected["entries"], "{name}");
        let manifest = serde_json::to_value(golden.archive.manifest()).unwrap();
        for (member, expected) in golden.expected["manifest"].as_object().unwrap() {
            assert_eq!(&manifest[member], expected, "{name}: {member}");
        }
        // Later versions may count more.
        for (member, expected) in golden.expected["totals"].as_object().unwrap() {
            assert_eq!(&manifest["totals"][member], expected, "{name}: {member}");
        }
    }
}

#[test]
fn golden_archives_are_sound_and_restored() {
    for name in ARCHIVES {
        let place = Place::new();
        let (directory, expected) = (root().join(name), expected(name));
        let id = expected["archive"].as_str().unwrap();
        let at = directory.join("archive").to_str().unwrap().to_string();
        let (key, passphrase) = key_options(&directory);
        let run = |args: &[&str]| {
            let args: Vec<&str> = args.iter().copied().chain(key.iter().map(String::as_str)).collect();
            let run = common::wait(place.command(&args).env("PASSPHRASE", &passphrase).spawn().unwrap());
            assert_eq!(run.code, Some(0), "{name}: {args:?}\n{}{}", run.stdout, run.stderr);
            run
        };
        let listed = run(&["--json", "list", "--at", &at]).last();
        assert_eq!((&listed["archives"][0]["id"], &listed["archives"][0]["status"]), (&json!(id), &json!("complete")));
        run(&["verify", id, "--at", &at]);
        run(&["restore", id, "--at", &at, "--to", "back"]);
        compare(name, &expected, &place.path("back"));

        let mut reader = second_reader();
        let archive = directory.join("archive").join(id);
        let output = reader.arg("verify").arg(archive).args(&key).env("PASSPHRASE", &passphrase).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    }
}

#[test]
fn tar_gives_the_later_one_of_entries_that_were_superseded_and_the_list_of_warnings() {
    let place = Place::new();
    let expected = expected("warnings");
    let archive = root().join("warnings/archive").join(expected["archive"].as_str().unwrap());
    let script = format!("set -o pipefail; xargs cat < volumes.txt | tar --zstd -x -C {}", place.arg("."));
    let output = Command::new("bash").args(["-c", &script]).current_dir(archive).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert_eq!(read("changing"), "what it was in the end");
    assert_eq!(read("shop/orders/000000.bin") + &read("shop/orders/000001.bin"), "again: one, two");
    let warnings = read("BACKUP-WARNINGS.txt");
    assert!(warnings.starts_with("3 warnings were recorded") && warnings.contains("denied: "), "{warnings}");
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(root().join(name).join("expected.json")).unwrap()).unwrap()
}

/// The options that open an archive, and the passphrase to put into the environment.
fn key_options(directory: &Path) -> (Vec<String>, String) {
    let passphrase = std::fs::read_to_string(directory.join("passphrase")).ok();
    let options = match (&passphrase, directory.join("key")) {
        (Some(_), _) => vec!["--passphrase-env".into(), "PASSPHRASE".into()],
        (None, key) if key.exists() => vec!["--key-file".into(), key.into_os_string().into_string().unwrap()],
        (None, _) => Vec::new(),
    };
    (options, passphrase.unwrap_or_default().trim_end().into())
}

fn keys_of(directory: &Path) -> Option<Arc<dyn KeyProvider>> {
    if let Ok(key) = std::fs::read_to_string(directory.join("key")) {
        return Some(Arc::new(KeyFileProvider::parse(&key.into()).unwrap()));
    }
    // What making it costs counts for a new archive; readers take it from the archive.
    let cost = PassphraseParameters { memory_kib: 64, passes: 2, lanes: 1 };
    let passphrase = std::fs::read_to_string(directory.join("passphrase")).ok()?;
    Some(Arc::new(PassphraseProvider::with_parameters(passphrase.trim_end().into(), cost).unwrap()))
}

async fn open(directory: &Path, id: &str) -> Archive {
    let destination = Arc::new(LocalDestination::new(directory.join("archive")).unwrap());
    let options = OpenOptions { keys: keys_of(directory), allow_unsealed: false };
    Archive::open(destination, &id.parse::<ArchiveId>().unwrap(), &options).await.unwrap()
}

/// A golden archive, opened with the library.
struct Golden {
    archive: Archive,
    expected: Value,
    directory: PathBuf,
}

impl Golden {
    async fn open(name: &str) -> Self {
        let (directory, expected) = (root().join(name), expected(name));
        Self { archive: open(&directory, expected["archive"].as_str().unwrap()).await, expected, directory }
    }

    async fn features(&self, found: &mut BTreeSet<String>) {
        let mut add = |feature: &str, there: bool| there.then(|| found.insert(feature.to_string()));
        let (header, manifest) = (self.archive.header(), self.archive.manifest());
        add(&format!("codec: {}", serde_json::to_value(header.codec).unwrap().as_str().unwrap()), true);
        if header.sealed {
            let keys = self.directory.join("archive").join(header.id.as_str()).join("keys/0.json");
            let keys: Value = serde_json::from_slice(&std::fs::read(keys).unwrap()).unwrap();
            add(&format!("key: {}", keys["wraps"][0]["provider"].as_str().unwrap()), true);
        }
        add("no entries", manifest.totals.entries == 0);
        add("volumes: several", manifest.totals.volumes > 1);
        add("warnings", manifest.totals.warnings > 0);
        add("entry: superseded", manifest.totals.superseded > 0);
        add("group: superseded", !manifest.superseded.is_empty());
        add("consistency", !manifest.consistency.is_null());
        add("group digests", !manifest.group_digests.is_empty());
        let volumes = std::fs::read_dir(self.directory.join("archive").join(header.id.as_str()).join("data"));
        let volumes = volumes.into_iter().flatten().map(|item| item.unwrap().file_name().into_string().unwrap());
        let attempts: BTreeSet<String> = volumes.map(|name| name[9..].split('.').next().unwrap().into()).collect();
        add("attempts: several", attempts.len() > 1);

        let mut entries = self.archive.entries(&Selection::default()).unwrap();
        while let Some(entry) = entries.try_next().await.unwrap() {
            let metadata = &entry.metadata;
            add(&format!("kind: {}", serde_json::to_value(&entry.kind).unwrap()["kind"].as_str().unwrap()), true);
            add("name: not UTF-8", entry.name.as_str().is_none());
            add("name: not the tar path", entry.name.as_bytes().contains(&b'%'));
            add("entry: inconsistent", entry.inconsistent);
            add("entry: without a time", entry.mtime.is_none());
            add("time: before 1970", entry.mtime.is_some_and(|mtime| mtime.seconds < 0));
            add("time: nanoseconds", entry.mtime.is_some_and(|mtime| mtime.nanos > 0));
            add("content over several frames", entry.size > 2 * FRAME);
            add("metadata: mode", metadata.mode.is_some());
            add("metadata: owner", metadata.user.is_some() && metadata.group.is_some());
            add("metadata: extended attributes", !metadata.xattrs.is_empty());
            add("metadata: sparse", metadata.sparse);
            add("metadata: headers", !metadata.headers.is_empty());
            add("metadata: user metadata", !metadata.user_metadata.is_empty());
            add("metadata: tags", !metadata.tags.is_empty());
        }
    }
}

/// An entry as the archive has it, in the form of `expected.json`.
fn of_archive(entry: &Entry) -> Value {
    json!({
        "name": entry.name, "kind": entry.kind, "size": entry.size, "mtime": entry.mtime, "metadata": entry.metadata,
        "sha256": entry.sha256, "group": entry.group, "inconsistent": entry.inconsistent,
    })
}

/// Compares a restored tree with what is expected.
fn compare(name: &str, expected: &Value, root: &Path) {
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    for entry in expected["entries"].as_array().unwrap() {
        let entry_name: EntryName = serde_json::from_value(entry["name"].clone()).unwrap();
        let path = root.join(std::ffi::OsStr::from_bytes(entry_name.as_bytes()));
        let what = format!("{name}: {entry_name}");
        let found = path.symlink_metadata().unwrap_or_else(|e| panic!("{what}: {e}"));
        match entry["kind"]["kind"].as_str().unwrap() {
            "file" | "slice" => {
                assert!(found.is_file(), "{what}");
                let content = std::fs::read(&path).unwrap();
                assert_eq!(json!(content.len()), entry["size"], "{what}");
                assert_eq!(json!(Digest::of(&content)), entry["sha256"], "{what}");
            }
            "directory" => assert!(found.is_dir(), "{what}"),
            "symlink" => {
                let target = std::fs::read_link(&path).unwrap();
                assert_eq!(json!(target.to_str().unwrap()), entry["kind"]["target"], "{what}");
            }
            "hard-link" => {
                let target: EntryName = serde_json::from_value(entry["kind"]["target"].clone()).unwrap();
                let target = root.join(std::ffi::OsStr::from_bytes(target.as_bytes())).symlink_metadata().unwrap();
                assert_eq!(found.ino(), target.ino(), "{what}");
            }
            other => panic!("{what}: an unknown kind {other}"),
        }
        let is_link = matches!(entry["kind"]["kind"].as_str(), Some("symlink" | "hard-link"));
        let metadata: Metadata = serde_json::from_value(entry["metadata"].clone()).unwrap();
        if let Some(mode) = metadata.mode.filter(|_| !is_link) {
            assert_eq!(found.mode() & 0o7777, mode, "{what}");
        }
        if let Some(mtime) = entry["mtime"].as_str() {
            let mtime: Timestamp = mtime.parse().unwrap();
            assert_eq!((found.mtime(), found.mtime_nsec()), (mtime.seconds, i64::from(mtime.nanos)), "{what}");
        }
        for Xattr { name, value } in &metadata.xattrs {
            let mut buffer = vec![0; 1000];
            let length = rustix::fs::getxattr(&path, &name[..], &mut buffer[..]).unwrap();
            assert_eq!(buffer[..length], value[..], "{what}");
        }
        paths.insert(path);
    }
    for path in files_below(root) {
        assert!(paths.contains(&path), "{name}: {} is not in the archive", path.display());
    }
}

// ---- How they were made, once ------------------------------------------------------------------------------------

const FRAME: u64 = 64 << 10;

/// Makes the golden archives that are not there yet. Run it once for a new format version, by name and with `--ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes golden archives; those that are there are never made again"]
async fn make_the_golden_archives() {
    for name in ARCHIVES {
        let directory = root().join(name);
        if directory.exists() {
            continue;
        }
        std::fs::create_dir_all(&directory).unwrap();
        let (id, expected) = match name {
            "warnings" => make_with_warnings(&directory.join("archive")).await,
            _ => make_of(name, &directory).await,
        };
        let manifest = serde_json::to_value(open(&directory, &id).await.manifest()).unwrap();
        let document = json!({
            "archive": id,
            "entries": expected,
            "totals": manifest["totals"],
            "manifest": {
                "superseded": manifest["superseded"],
                "consistency": manifest["consistency"],
                "group_digests": manifest["group_digests"],
            },
        });
        let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
        std::fs::write(directory.join("expected.json"), text).unwrap();
    }
    std::fs::write(root().join("SHA256SUMS"), sums()).unwrap();
}

const PASSPHRASE: &str = "correct horse battery staple";

fn options(codec: Codec) -> BackupOptions {
    BackupOptions {
        compression: Compression::new(codec, None).unwrap(),
        volume_size: Some(1500),
        frame_size: FRAME as u32,
        ..BackupOptions::default()
    }
}

async fn make_of(name: &str, directory: &Path) -> (String, Vec<Value>) {
    let codec = match name {
        "gzip" | "sealed-by-passphrase" => Codec::Gzip,
        "none" => Codec::None,
        _ => Codec::Zstd,
    };
    match name {
        "sealed-by-key-file" => {
            let key = generate_key_file().unwrap();
            std::fs::write(directory.join("key"), key.expose_secret().to_string() + "\n").unwrap();
        }
        "sealed-by-passphrase" => std::fs::write(directory.join("passphrase"), format!("{PASSPHRASE}\n")).unwrap(),
        _ => {}
    }
    let (source, expected) = if name == "empty" {
        (MemorySource::new("golden/empty"), Vec::new())
    } else {
        // Without compression a large content would make a large archive.
        everything(if codec == Codec::None { 3_000 } else { 200_000 })
    };
    (made::archive(&directory.join("archive"), source, options(codec), keys_of(directory)).await, expected)
}

/// An entry as it was made, in the form of `expected.json`.
fn of_source(entry: &MemoryEntry) -> Value {
    let content = match &entry.content {
        MemoryContent::Inline(blob) | MemoryContent::Stored(blob) => Some(blob),
        MemoryContent::None => None,
    };
    json!({
        "name": entry.name, "kind": entry.kind, "size": content.map_or(0, Blob::size), "mtime": entry.mtime,
        "metadata": entry.metadata, "sha256": content.map(Blob::digest), "group": entry.group,
        "inconsistent": entry.inconsistent,
    })
}

fn with(mut entry: MemoryEntry, change: impl FnOnce(&mut MemoryEntry)) -> MemoryEntry {
    change(&mut entry);
    entry
}

fn slice(group: &str, number: usize, content: &str) -> MemoryEntry {
    let name = format!("{}/{number:06}.bin", group.replace('.', "/"));
    let slice = entry(name.as_bytes(), EntryKind::Slice, MemoryContent::Inline(content.into()));
    with(slice, |entry| entry.group = Some(GroupName(group.into())))
}

/// Every kind of entry and of metadata that a file tree can be made of again.
fn everything(large: usize) -> (MemorySource, Vec<Value>) {
    let mode = |mode| move |entry: &mut MemoryEntry| entry.metadata.mode = Some(mode);
    let text: String = (0..).map(|n| format!("line {n} of a long text\n")).take(large / 20).collect();
    let xattr = |name: &'static [u8], value: &'static [u8]| Xattr { name: name.into(), value: value.into() };
    let text_map = |key: &str, value: &str| [(key.to_string(), value.to_string())].into();
    let link = |target: &'static str| EntryKind::Symlink { target: target.into() };
    let mut holes = vec![0; 5_000];
    holes.extend_from_slice(b"the end");
    let entries = vec![
        with(entry(b"dir", EntryKind::Directory, MemoryContent::None), mode(0o750)),
        with(file(b"dir/before-1970", "old"), |entry| {
            entry.mtime = Some(Timestamp { seconds: -2, nanos: 500_000_000 });
        }),
        with(file(b"dir/file", "some text\n"), |entry| {
            entry.metadata = Metadata {
                mode: Some(0o640),
                user: Some(Owner { id: 12_345, name: Some("nobody-of-this-name".into()) }),
                group: Some(Owner { id: 54_321, name: None }),
                xattrs: vec![xattr(b"user.bytes", b"\0\xff\n"), xattr(b"user.text", b"words")],
                ..Metadata::default()
            };
        }),
        with(file(b"dir/no-time", "timeless"), |entry| entry.mtime = None),
        with(file(b"dir/sparse", holes), |entry| entry.metadata.sparse = true),
        with(file(b"dir/whole-second", ""), |entry| entry.mtime = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 })),
        entry(b"empty", EntryKind::Directory, MemoryContent::None),
        entry(b"hard", EntryKind::HardLink { target: "dir/file".into() }, MemoryContent::None),
        entry(b"large.txt", EntryKind::File, MemoryContent::Stored(text.into_bytes().into())),
        entry(b"link", link("dir/file"), MemoryContent::None),
        entry(b"link-to-nowhere", link("/nowhere/at all"), MemoryContent::None),
        file(b"name-100%41", "percent"),
        file(b"name-\xff\xfe", "bytes"),
        file("name-Größe".as_bytes(), "text"),
        with(file(b"object", "from a bucket"), |entry| {
            entry.metadata.headers = text_map("content-type", "text/plain");
            entry.metadata.user_metadata = text_map("colour", "grün");
            entry.metadata.tags = text_map("keep", "yes");
        }),
    ];
    let mut expected: Vec<Value> = entries.iter().map(of_source).collect();
    let slices = ["one, ", "two, ", "three"];
    expected.extend(slices.iter().enumerate().map(|(n, text)| of_source(&slice("shop.orders", n, text))));
    let facts = backup_core::adapter::SourceFacts {
        consistency: json!({ "kind": "snapshot", "at": 17 }),
        group_digests: [(GroupName("shop.orders".into()), "0123456789abcdef".into())].into(),
    };
    let source = entries.into_iter().fold(MemorySource::new("golden/everything"), MemorySource::entry);
    (source.slices("shop.orders", slices.map(Blob::from).into()).with_facts(facts), expected)
}

/// A backup during which about everything happened that makes warnings, and that broke off once.
async fn make_with_warnings(place: &Path) -> (String, Vec<Value>) {
    let linked = EntryKind::HardLink { target: "gone".into() };
    let again = ["again: one", ", two"];
    let inconsistent = with(file(b"half-written", "half"), |entry| entry.inconsistent = true);
    let source = MemorySource::new("golden/warnings")
        .with_parallel_reads(1)
        .file("before", "first")
        .stored("changing", vec![b'x'; (16 << 20) + 1000])
        .warning("denied", "skipped: permission denied")
        .stored("gone", "no more")
        .entry(inconsistent.clone())
        .entry(entry(b"other-name-of-gone", linked, MemoryContent::Stored("still there".into())))
        .group(
            "shop.orders",
            ["first: one", ", two", ", three"].map(Blob::from).into(),
            OnResume::SupersedeWith(again.map(Blob::from).into()),
        )
        .file("zz-after", "last");
    assert!(source.at_read("changing", TroubleAt::read(2), Trouble::Change("what it was in the end".into())));
    assert!(source.at_read("gone", TroubleAt::read(1), Trouble::Vanish));

    // The first run breaks off inside of the group, the second one goes on.
    let break_off = Fault::Break { after: 8, class: ErrorClass::Permanent };
    let script = Script::new().rule(Rule::new(Method::Events, When::Nth(1), break_off));
    let source = FaultySource::new(Arc::new(source), script);
    let destination = Arc::new(LocalDestination::new(place).unwrap());
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let request =
        BackupRequest { options: options(Codec::Zstd), ..BackupRequest::new(source.clone(), destination.clone()) };
    let handle = engine.backup(request).await.unwrap();
    let (operation, archive) = (handle.id().clone(), handle.archive().to_string());
    assert_eq!(handle.wait().await.unwrap_err().class(), ErrorClass::Permanent);
    let resume = ResumeBackup {
        operation,
        source,
        destination,
        keys: None,
        limits: Default::default(),
        take_over: Default::default(),
    };
    let outcome = engine.resume_backup(resume).await.unwrap().wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { warnings: 3, .. }), "{outcome:?}");

    let stored = |name: &[u8], content: &str| entry(name, EntryKind::File, MemoryContent::Stored(content.into()));
    let entries = [
        file(b"before", "first"),
        stored(b"changing", "what it was in the end"),
        inconsistent,
        stored(b"other-name-of-gone", "still there"),
        slice("shop.orders", 0, again[0]),
        slice("shop.orders", 1, again[1]),
        file(b"zz-after", "last"),
    ];
    (archive, entries.iter().map(of_source).collect())
}
