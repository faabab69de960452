//! Archives that were made to do harm: names that lead out of the target, and figures that cannot be true.

use crate::common::*;
use async_trait::async_trait;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, Granularity, ObjectInfo, Payload};
use backup_core::archive::Codec;
use backup_core::engine::{
    Archive, BackupOptions, Finding, OpenOptions, Outcome, RestoreRequest, Selection, VerifyMode,
};
use backup_core::limit::RateLimit;
use backup_core::local::{LocalTarget, LocalTargetConfig, NameRule};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, EntryKind, GroupName, Identity, LogQuery, ObjectName, OperationId};
use backup_core::{Digest, Error, ErrorClass, Result};
use backup_testkit::doubles::{
    Blob, Damage, MemoryContent, MemoryDestination, MemoryEntry, MemorySource, MemoryTarget,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Every path below a directory, with what it is.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for item in std::fs::read_dir(directory).unwrap() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let meta = path.symlink_metadata().unwrap();
            let what = if meta.is_dir() {
                left.push(path);
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("link to {}", path.read_link().unwrap().display())
            } else {
                format!("file {:?}", std::fs::read(&path).unwrap())
            };
            found.insert(name, what);
        }
    }
    found
}

/// The names that would do harm, by where `outside` is, each with what a user must at least be told.
fn harmful(outside: &Path) -> Vec<MemoryEntry> {
    let file = |name: &str| MemoryEntry::new(name, EntryKind::File, MemoryContent::Inline(Blob::from("evil")));
    let link = |name: &str, target: &str| {
        let kind = EntryKind::Symlink { target: target.as_bytes().to_vec().into() };
        MemoryEntry::new(name, kind, MemoryContent::None)
    };
    let hard = |name: &str, target: &str| {
        MemoryEntry::new(name, EntryKind::HardLink { target: target.into() }, MemoryContent::None)
    };
    let outside = outside.to_str().unwrap();
    vec![
        file("../x"),
        file("../canary"),
        file(&format!("{outside}/abs")),
        file("a/../../b"),
        file("a/./c"),
        file("a//d"),
        file("./e"),
        file("."),
        file(".."),
        file("trailing/"),
        file("nul\0name"),
        file(".backup-tmp-x"),
        file("sub/.backup-tmp-y/z"),
        file(&"n".repeat(300)),
        file(&format!("{}/below", "m".repeat(300))),
        link("escape", outside),
        file("escape/through"),
        link("up", ".."),
        file("up/x"),
        hard("up/hard", "good"),
        hard("hard-outside", &format!("{outside}/canary")),
        hard("hard-up", "../canary"),
        hard("hard-through", "escape/canary"),
        hard("hard-nowhere", "no-such-entry"),
    ]
}

struct Restored {
    outcome: Result<Outcome>,
    log: String,
}

async fn restore_local(
    destination: &MemoryDestination,
    id: &ArchiveId,
    root: &Path,
    names: NameRule,
    overwrite: bool,
) -> Restored {
    let store = MemoryStore::new();
    let target = LocalTarget::new(LocalTargetConfig { names, ..LocalTargetConfig::new(root) }).unwrap();
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), id.clone(), Arc::new(target));
    request.options.overwrite = overwrite;
    let handle = engine(&store).restore(request).await.unwrap();
    let operation = handle.id().clone();
    let outcome = wait(handle).await;
    Restored { outcome, log: log_of(&store, &operation).await }
}

async fn log_of(store: &MemoryStore, operation: &OperationId) -> String {
    use backup_core::adapter::Store;
    let page = store.page_log(operation, &LogQuery::default()).await.unwrap();
    page.records.iter().map(|stored| format!("{:?} {}\n", stored.record.level, stored.record.message)).collect()
}

async fn names_do_no_harm(rule: NameRule, overwrite: bool) {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("canary"), "alive").unwrap();
    std::fs::create_dir(place.path().join("outside")).unwrap();
    std::fs::write(place.path().join("outside/canary"), "alive").unwrap();
    let root = place.path().join("root");
    std::fs::create_dir(&root).unwrap();

    let harmful = harmful(&place.path().join("outside"));
    let mut source = MemorySource::new("hostile").file("good", "first");
    for entry in harmful.clone() {
        source = source.entry(entry);
    }
    source = source.directory("zz").file("zz/good", "last").stored("zz/large", Blob::pattern(1, 100_000));
    let destination = MemoryDestination::new("destination");
    let id = back_up(&MemoryStore::new(), backup_request(source, destination.clone())).await;
    let archive = open(&destination, &id, &None).await.unwrap();
    assert!(verify(&archive, VerifyMode::Full).await.unwrap().is_sound());

    let Restored { outcome, log } = restore_local(&destination, &id, &root, rule, overwrite).await;
    let after = tree(place.path());
    let mut outside: Vec<_> = after.iter().filter(|(name, _)| !name.starts_with(b"root")).collect();
    outside.sort();
    let alive = format!("file {:?}", b"alive");
    let directory = "directory".to_owned();
    let expected =
        [(b"canary".to_vec(), &alive), (b"outside".to_vec(), &directory), (b"outside/canary".to_vec(), &alive)];
    let expected: Vec<_> = expected.iter().map(|(name, what)| (name, *what)).collect();
    assert_eq!(outside, expected, "something happened outside the target\n{log}");
    for (name, content) in [("good", &b"first"[..]), ("zz/good", b"last")] {
        assert_eq!(after.get(format!("root/{name}").as_bytes()), Some(&format!("file {content:?}")), "{name}\n{log}");
    }
    assert_eq!(std::fs::read(root.join("zz/large")).unwrap(), Blob::pattern(1, 100_000).bytes());
    assert!(
        !after.keys().any(|name| name.windows(12).any(|part| part == b".backup-tmp-") && rule == NameRule::Exact),
        "staged names remain: {after:?}"
    );
    // No name in the target may be a way to the canary's content.
    for (name, what) in after.iter().filter(|(name, _)| name.starts_with(b"root")) {
        assert!(!what.contains(&format!("{:?}", b"alive")), "{} is the canary", String::from_utf8_lossy(name));
    }

    let Ok(Outcome::Completed { warnings, .. }) = outcome else { panic!("{outcome:?}\n{log}") };
    assert!(warnings > 0, "{log}");
    for entry in harmful {
        let name = entry.name.to_string();
        let restored_under_its_name = after.contains_key([b"root/", entry.name.as_bytes()].concat().as_slice());
        let leads_out = name.starts_with("hard-") && name != "hard-up";
        if rule == NameRule::Exact || leads_out {
            assert!(restored_under_its_name || log.contains(&name), "{name} is neither there nor told of\n{log}");
        }
    }
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_never_lead_out_of_the_target_when_they_are_used_as_they_are() {
    names_do_no_harm(NameRule::Exact, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_never_lead_out_of_the_target_when_they_are_used_as_they_are_and_may_replace() {
    names_do_no_harm(NameRule::Exact, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_never_lead_out_of_the_target_when_they_are_encoded() {
    names_do_no_harm(NameRule::Encoded, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_never_lead_out_of_the_target_when_they_are_encoded_and_may_replace() {
    names_do_no_harm(NameRule::Encoded, true).await;
}

/// An archive whose index and manifest can be rewritten at will, with right checksums.
struct Forgery {
    destination: MemoryDestination,
    id: ArchiveId,
    manifest: Value,
    /// The lines of the only index piece: first volumes and entries mixed, as they were written.
    lines: Vec<Value>,
    right: Items,
}

impl Forgery {
    /// Of an archive whose volumes have so many bytes, in frames of 64 KiB.
    async fn new(volume_size: u64) -> Self {
        let destination = MemoryDestination::new("destination");
        let mut request = backup_request(source(1), destination.clone());
        request.options = BackupOptions { volume_size: Some(volume_size), ..options(Codec::None) };
        let id = back_up(&MemoryStore::new(), request).await;
        let right = restored(&destination, &id, &None).await;
        let object = |name: &ObjectName| destination.bytes(name).unwrap();
        let manifest = object(&ObjectName::new(format!("{id}/manifest.json")).unwrap());
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest.as_object_mut().unwrap().remove("sha256");
        let index = below(&destination, &id, "index");
        assert_eq!(index.len(), 1);
        let text = object(&index[0]);
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let lines = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        Self { destination, id, manifest, lines, right }
    }

    fn copy(&self) -> Self {
        Self {
            destination: self.destination.snapshot(),
            id: self.id.clone(),
            manifest: self.manifest.clone(),
            lines: self.lines.clone(),
            right: self.right.clone(),
        }
    }

    /// Writes index and manifest as they are now.
    fn written(mut self) -> Self {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(&line_text(line));
            text.push('\n');
        }
        let index = below(&self.destination, &self.id, "index");
        let piece = &mut self.manifest["pieces"][0];
        piece["size"] = json!(text.len());
        piece["raw_size"] = json!(text.len());
        piece["sha256"] = json!(Digest::of(text.as_bytes()).to_string());
        self.destination.insert(index[0].as_str(), text.into_bytes());
        self.written_manifest()
    }

    fn written_manifest(self) -> Self {
        let mut bytes = serde_json::to_vec(&self.manifest).unwrap();
        bytes.pop();
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(format!(",\"sha256\":\"{digest}\"}}\n").as_bytes());
        self.destination.insert(&format!("{}/manifest.json", self.id), bytes);
        self
    }

    fn entry(&mut self, name: &str) -> &mut Value {
        self.lines.iter_mut().find(|line| line["name"] == name).unwrap()
    }

    fn volume(&mut self, number: usize) -> &mut Value {
        self.lines.iter_mut().filter(|line| line.get("volume").is_some()).nth(number).unwrap()
    }

    fn piece(&mut self) -> &mut Value {
        &mut self.manifest["pieces"][0]
    }
}

/// A line as a decoder knows it: what it is comes first.
fn line_text(line: &Value) -> String {
    let mut members = line.as_object().unwrap().clone();
    let kind = if members.contains_key("volume") { "volume" } else { "name" };
    let first = members.remove(kind).unwrap();
    let rest = serde_json::to_string(&members).unwrap();
    let rest = rest.strip_prefix('{').unwrap();
    let comma = if rest == "}" { "" } else { "," };
    format!("{{\"{kind}\":{first}{comma}{rest}")
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

/// Everything that reads an archive; returns what was found wrong.
async fn read_all(forgery: &Forgery, what: &str, plausible: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut note = |doing: &str, error: &Error| {
        let chain = error.chain();
        assert!(!chain.contains("panicked"), "{what}: {doing}: {chain}");
        wrong.push(format!("{doing}: {chain}"));
    };
    let target = MemoryTarget::new("target");
    let restored = restore(&MemoryStore::new(), &forgery.destination, &forgery.id, target.clone(), &None).await;
    if let Err(error) = &restored {
        note("restore", error);
    }
    if !plausible {
        assert!(restored.is_err() || target.items() == forgery.right, "{what}: something wrong was restored");
        assert_nothing_wrong(&target, &forgery.right, what);
    }
    let destination = Arc::new(forgery.destination.clone());
    let archive = match Archive::open(destination, &forgery.id, &OpenOptions::default()).await {
        Ok(archive) => archive,
        Err(error) => {
            note("open", &error);
            return wrong;
        }
    };
    match archive.entries(&Selection::default()).unwrap().try_collect::<Vec<_>>().await {
        Ok(entries) => {
            for entry in entries {
                let mut content = archive.content(&entry);
                while let Some(piece) = content.next().await {
                    if let Err(error) = piece {
                        note("content", &error);
                        break;
                    }
                }
            }
        }
        Err(error) => note("entries", &error),
    }
    let mut export = archive.export(Codec::Zstd, RateLimit::default());
    while let Some(piece) = export.next().await {
        if let Err(error) = piece {
            note("export", &error);
        }
    }
    drop(export);
    for mode in [VerifyMode::Quick, VerifyMode::Sample { percent: 100.0 }, VerifyMode::Full] {
        let outcome = verify(&archive, mode).await.unwrap_or_else(|e| panic!("{what}: {mode:?}: {}", e.chain()));
        for finding in outcome.findings {
            note("verify", &Error::corrupt(finding.message));
        }
    }
    wrong
}

type Edit = (&'static str, fn(&mut Forgery));

/// What is wrong with index and manifest; each is written with right checksums.
const EDITS: &[Edit] = &[
    ("an offset near the end of numbers", |f| f.entry("large")["offset"] = json!(u64::MAX - 5)),
    ("a size near the end of numbers", |f| f.entry("large")["size"] = json!(u64::MAX - 5)),
    ("offset and size whose sum overflows", |f| {
        f.entry("large")["offset"] = json!(u64::MAX / 2 + 5);
        f.entry("large")["size"] = json!(u64::MAX / 2 + 5);
    }),
    ("a small entry whose offset is behind the end", |f| f.entry("dir/small")["offset"] = json!(1_u64 << 40)),
    ("a size beyond the volumes", |f| f.entry("large")["size"] = json!(1_u64 << 50)),
    ("a size a little too large", |f| f.entry("dir/small")["size"] = json!(701)),
    ("a size a little too small", |f| f.entry("dir/small")["size"] = json!(699)),
    ("an entry of no bytes with a digest of some", |f| f.entry("dir/small")["size"] = json!(0)),
    ("an entry in the place of another", |f| f.entry("z")["offset"] = json!(0)),
    ("entries that overlap", |f| {
        let at = f.entry("dir/stored")["offset"].as_u64().unwrap_or(3072);
        f.entry("large")["offset"] = json!(at + 100);
    }),
    ("entries out of order", |f| {
        let places: Vec<usize> = (0..f.lines.len()).filter(|n| f.lines[*n].get("name").is_some()).collect();
        let (first, last) = (places[2], places[places.len() - 1]);
        let offset = |f: &Forgery, n: usize| f.lines[n].get("offset").cloned().unwrap_or(json!(2048));
        let (a, b) = (offset(f, first), offset(f, last));
        f.lines[first]["offset"] = b;
        f.lines[last]["offset"] = a;
    }),
    ("all entries at the last one's place", |f| {
        for line in f.lines.iter_mut().filter(|line| line.get("name").is_some()) {
            line["offset"] = json!(200_000);
        }
    }),
    ("entries backwards", |f| {
        let mut at = 200_000;
        for line in f.lines.iter_mut().filter(|line| line.get("name").is_some()) {
            line["offset"] = json!(at);
            line["size"] = json!(if line.get("sha256").is_some() { 10 } else { 0 });
            at -= 20_000;
        }
    }),
    ("a frame of 4 GiB raw", |f| f.volume(0)["frames"][0][1] = json!(u32::MAX)),
    ("a frame of 4 GiB stored", |f| {
        f.volume(0)["frames"][0][0] = json!(u32::MAX);
        let frames = f.volume(0)["frames"].as_array().unwrap().clone();
        f.volume(0)["size"] = json!(frames.iter().map(|frame| frame[0].as_u64().unwrap()).sum::<u64>());
    }),
    ("a frame of no bytes", |f| f.volume(0)["frames"][0] = json!([0, 0])),
    ("no frames", |f| f.volume(0)["frames"] = json!([])),
    ("so many frames that their sum is large", |f| {
        let frames = vec![[65_536_u32, 64 << 20]; 100_000];
        f.volume(0)["frames"] = json!(frames);
        f.volume(0)["size"] = json!(65_536_u64 * 100_000);
        let first = f.volume(0)["volume"].clone();
        f.lines.retain(|line| line.get("volume").is_none_or(|name| *name == first));
        f.piece()["raw"]["end"] = json!((64_u64 << 20) * 100_000);
        f.manifest["totals"]["raw_bytes"] = f.piece()["raw"]["end"].clone();
        f.piece()["volumes"] = json!(1);
        f.manifest["totals"]["volumes"] = json!(1);
    }),
    ("a volume near the end of numbers", |f| f.volume(0)["raw"] = json!(u64::MAX - 10)),
    ("a volume of almost all numbers", |f| f.volume(0)["size"] = json!(u64::MAX - 1)),
    ("a volume that is named twice", |f| {
        let again = f.volume(0).clone();
        f.lines.insert(0, again);
    }),
    ("a volume of another name", |f| f.volume(0)["volume"] = json!("data/../../x")),
    ("a volume that is the manifest", |f| f.volume(0)["volume"] = json!("manifest.json")),
    ("a volume without digest", |f| {
        f.volume(0).as_object_mut().unwrap().remove("sha256");
    }),
    ("a volume that is missing", |f| {
        let at = f.lines.iter().position(|line| line.get("volume").is_some()).unwrap();
        f.lines.remove(at);
    }),
    ("more entries than there are", |f| {
        f.piece()["entries"] = json!(1_000_000_000_000_000_000_u64);
        f.manifest["totals"]["entries"] = json!(1_000_000_000_000_000_000_u64);
    }),
    ("more volumes than there are", |f| {
        f.piece()["volumes"] = json!(1_000_000_000_000_000_000_u64);
        f.manifest["totals"]["volumes"] = json!(1_000_000_000_000_000_000_u64);
    }),
    ("entries from the end of numbers on", |f| {
        f.piece()["first_entry"] = json!(u64::MAX - 2);
        f.manifest["totals"]["entries"] = json!(u64::MAX);
    }),
    ("a stream of almost all numbers", |f| {
        f.piece()["raw"]["end"] = json!(u64::MAX - 1);
        f.manifest["totals"]["raw_bytes"] = json!(u64::MAX - 1);
    }),
    ("a stream that runs backwards", |f| {
        f.piece()["raw"] = json!({"start": 10, "end": 0});
        f.manifest["totals"]["raw_bytes"] = json!(0);
    }),
    ("a total that is no sum", |f| f.manifest["totals"]["raw_bytes"] = json!(1)),
    ("the totals at the end of numbers", |f| {
        for total in f.manifest["totals"].as_object_mut().unwrap().values_mut() {
            *total = json!(u64::MAX);
        }
    }),
    ("a group that is void beyond the end", |f| {
        f.manifest["superseded"] = json!([{"group": "shop.orders", "first": 0, "last": u64::MAX}]);
    }),
    ("a piece outside the archive", |f| f.piece()["name"] = json!("index/../../x")),
    ("a line without end", |f| {
        f.lines.push(json!({"name": "x".repeat(70_000), "kind": "directory", "offset": 0}));
    }),
    ("an unknown kind of entry", |f| f.entry("dir")["kind"] = json!("wormhole")),
    ("a link without target", |f| f.entry("dir")["kind"] = json!("symlink")),
    ("another digest", |f| {
        let other = f.entry("z")["sha256"].clone();
        f.entry("dir/small")["sha256"] = other;
    }),
];

/// Lies that fit in themselves: without a seal only comparing the index with the tar stream shows them.
const PLAUSIBLE: &[Edit] = &[
    ("a stream without its end", |f| {
        const END: u64 = 1024;
        let last = f.lines.iter().filter(|line| line.get("volume").is_some()).count() - 1;
        let volume = f.volume(last);
        let name = volume["volume"].as_str().unwrap().to_owned();
        let size = volume["size"].as_u64().unwrap() - END;
        volume["size"] = json!(size);
        let frame = volume["frames"].as_array_mut().unwrap().last_mut().unwrap();
        for length in frame.as_array_mut().unwrap() {
            *length = json!(length.as_u64().unwrap() - END);
        }
        let object = ObjectName::new(format!("{}/{name}", f.id)).unwrap();
        let bytes = f.destination.bytes(&object).unwrap().slice(..size as usize);
        f.volume(last)["sha256"] = json!(Digest::of(&bytes).to_string());
        f.destination.insert(object.as_str(), bytes);
        let end = f.piece()["raw"]["end"].as_u64().unwrap() - END;
        f.piece()["raw"]["end"] = json!(end);
        f.manifest["totals"]["raw_bytes"] = json!(end);
    }),
    ("another name", |f| f.entry("dir/small")["name"] = json!("dir/else")),
    ("an entry less", |f| {
        let at = f.lines.iter().position(|line| line["name"] == "dir/small").unwrap();
        let next = f.lines[at].get("offset").cloned();
        f.lines.remove(at);
        if let (Some(next), Some(line)) = (next, f.lines.get_mut(at)) {
            line.as_object_mut().unwrap().entry("offset").or_insert(next);
        }
        f.piece()["entries"] = json!(f.right.len() - 1);
        f.manifest["totals"]["entries"] = json!(f.right.len() - 1);
    }),
];

/// What is wrong with the manifest's record of the piece alone.
const ABOUT_THE_PIECE: &[Edit] = &[
    ("a piece of almost all numbers", |f| {
        f.piece()["size"] = json!(u64::MAX - 1);
        f.manifest["totals"]["stored_bytes"] = json!(u64::MAX);
    }),
    ("a large piece before the true one", |f| {
        let mut empty = f.piece().clone();
        let rest = u64::MAX - f.piece()["size"].as_u64().unwrap();
        for member in ["entries", "volumes"] {
            empty[member] = json!(0);
        }
        empty["raw"] = json!({"start": 0, "end": 0});
        empty["size"] = json!(rest);
        for member in ["first_name", "last_name"] {
            empty.as_object_mut().unwrap().remove(member);
        }
        f.manifest["pieces"].as_array_mut().unwrap().insert(0, empty);
        f.manifest["totals"]["stored_bytes"] = json!(u64::MAX);
    }),
    ("a piece of 64 MiB of lines", |f| f.piece()["raw_size"] = json!(64 << 20)),
    ("a piece of more than 64 MiB of lines", |f| f.piece()["raw_size"] = json!((64 << 20) + 1)),
    ("a piece without lines", |f| f.piece()["raw_size"] = json!(0)),
    ("the piece twice", |f| {
        let again = f.piece().clone();
        f.manifest["pieces"].as_array_mut().unwrap().push(again);
    }),
    ("no pieces", |f| f.manifest["pieces"] = json!([])),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_that_cannot_be_true_are_errors_and_cost_nothing() {
    for volume_size in [64 << 10, 1 << 20] {
        let sound = Forgery::new(volume_size).await;
        assert_eq!(read_all(&sound.copy().written(), "unchanged", false).await, Vec::<String>::new());
        let forge = |edit: fn(&mut Forgery)| {
            let mut forgery = sound.copy();
            edit(&mut forgery);
            forgery.written()
        };
        let of_the_piece = |edit: fn(&mut Forgery)| {
            let mut forgery = sound.copy().written();
            edit(&mut forgery);
            forgery.written_manifest()
        };
        let forged = EDITS.iter().map(|(what, edit)| (what, forge(*edit), false));
        let plausible = PLAUSIBLE.iter().map(|(what, edit)| (what, forge(*edit), true));
        let of_pieces = ABOUT_THE_PIECE.iter().map(|(what, edit)| (what, of_the_piece(*edit), false));
        for (what, forgery, plausible) in forged.chain(plausible).chain(of_pieces) {
            let reading = tokio::time::timeout(Duration::from_secs(60), read_all(&forgery, what, plausible));
            let wrong = reading.await.unwrap_or_else(|_| panic!("{what}: reading it hangs"));
            assert!(!wrong.is_empty(), "{what}: nobody noticed");
        }
    }
    let peak = peak_memory();
    assert!(peak < 1 << 30, "{} MiB were taken", peak >> 20);
}

/// What is strange about an object.
#[derive(Clone, Debug)]
enum Way {
    /// There are more bytes of it than it has, without an end; counts them.
    Endless(Arc<AtomicU64>),
    /// It lies on a bad sector.
    Unreadable,
}

/// A destination with one strange object.
#[derive(Debug)]
struct Strange {
    inner: MemoryDestination,
    object: ObjectName,
    way: Way,
}

#[async_trait]
impl Destination for Strange {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn properties(&self) -> DestinationProperties {
        self.inner.properties()
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.inner.now().await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        self.inner.put(name, body).await
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        let true_bytes = self.inner.get(name, range).await?;
        if *name != self.object {
            return Ok(true_bytes);
        }
        let Way::Endless(given) = self.way.clone() else { return Err(Error::permanent("input/output error").on(name)) };
        let zeros = Bytes::from(vec![0; 1 << 20]);
        let more = futures::stream::repeat_with(move || {
            given.fetch_add(zeros.len() as u64, Ordering::Relaxed);
            Ok(zeros.clone())
        });
        Ok(true_bytes.chain(more).boxed())
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.inner.stat(name).await
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        self.inner.list(prefix)
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        self.inner.list_roots()
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.inner.delete(name).await
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        self.inner.remove_staged(prefix).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_without_end_is_not_read_to_its_end() {
    for keys in [None, Some(key())] {
        let inner = MemoryDestination::new("destination");
        let id = archive_of(1, &inner, Codec::Zstd, &keys).await;
        let object = |relative: &str| ObjectName::new(format!("{id}/{relative}")).unwrap();
        let mut objects = vec![object("header.json"), below(&inner, &id, "index")[0].clone()];
        objects.extend(below(&inner, &id, "data").into_iter().take(1));
        objects.extend(keys.is_some().then(|| object("keys/0.json")));
        for object in objects {
            let given = Arc::new(AtomicU64::new(0));
            let way = Way::Endless(given.clone());
            let strange = Strange { inner: inner.clone(), object: object.clone(), way };
            let reading = async {
                let open = OpenOptions { keys: keys.clone(), allow_unsealed: false };
                let archive = Archive::open(Arc::new(strange), &id, &open).await?;
                let outcome = verify(&archive, VerifyMode::Full).await?;
                if outcome.is_sound() { Ok(()) } else { Err(Error::corrupt(format!("{:?}", outcome.findings))) }
            };
            let ended = tokio::time::timeout(Duration::from_secs(30), reading).await;
            let error = ended.unwrap_or_else(|_| panic!("{object}: never ends")).expect_err(object.as_str());
            assert_eq!(error.class(), ErrorClass::Corrupt, "{object}: {}", error.chain());
            let given = given.load(Ordering::Relaxed);
            assert!(given <= 64 << 20, "{object}: {} MiB were taken", given >> 20);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_the_disk_cannot_read_is_a_finding_and_the_others_are_looked_at() {
    let inner = MemoryDestination::new("destination");
    let id = archive_of(1, &inner, Codec::Zstd, &None).await;
    let volumes = below(&inner, &id, "data");
    inner.corrupt(&volumes[2], Damage::Flip { at: 100, mask: 1 });
    let way = Way::Unreadable;
    let strange = Strange { inner: inner.clone(), object: volumes[0].clone(), way };
    let archive = Archive::open(Arc::new(strange), &id, &OpenOptions::default()).await.unwrap();
    for mode in [VerifyMode::Full, VerifyMode::Sample { percent: 100.0 }] {
        let found = verify(&archive, mode).await.unwrap();
        for volume in [&volumes[0], &volumes[2]] {
            let about = |f: &Finding| f.object.as_deref().is_some_and(|object| volume.as_str().ends_with(object));
            assert!(found.findings.iter().any(about), "{mode:?} {volume}: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_slice_of_a_group_that_is_taken_whole_is_restored_all_the_same() {
    let group = |name: &str, content| MemoryEntry {
        group: Some(GroupName("dump".into())),
        ..MemoryEntry::new(name, EntryKind::Slice, content)
    };
    let (first, second) = (Blob::pattern(1, 17 << 20), Blob::pattern(2, 1000));
    let source = MemorySource::new("source")
        .entry(group("dump/0", MemoryContent::Stored(first.clone())))
        .entry(group("dump/1", MemoryContent::Inline(second.clone())));
    let destination = MemoryDestination::new("destination");
    let mut request = backup_request(source, destination.clone());
    request.options = BackupOptions { volume_size: Some(4 << 20), frame_size: 1 << 20, ..request.options };
    let id = back_up(&MemoryStore::new(), request).await;
    let target = MemoryTarget::new("target").with_granularity(Granularity::Whole);
    let outcome = restore(&MemoryStore::new(), &destination, &id, target.clone(), &None).await;
    assert!(matches!(outcome, Ok(Outcome::Completed { warnings: 0, .. })), "{outcome:?}");
    assert!(target.content("dump").unwrap() == [first.bytes(), second.bytes()].concat());
}
