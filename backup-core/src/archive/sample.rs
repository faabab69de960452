//! Whole small archives, made of the building blocks alone, and what others make of them: the second reader, GNU tar.

use super::*;
use crate::model::{ArchiveId, Entry, EntryKind, EntryName, GroupName, Identity, Metadata, Owner, Timestamp, Xattr};
use crate::{Digest, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FRAME: usize = 3000;
const FRAMES_IN_VOLUME: usize = 4;
const VOLUMES_IN_PIECE: usize = 2;

/// Bytes that compress neither well nor badly.
fn words(seed: u32, length: usize) -> Bytes {
    let mut state = seed;
    let step = |s: &mut u32| {
        *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"etaoin shrdlu\n"[(*s >> 28) as usize % 14]
    };
    (0..length).map(|_| step(&mut state)).collect()
}

struct Item {
    name: &'static [u8],
    kind: EntryKind,
    content: Bytes,
    group: Option<&'static str>,
    superseded: bool,
}

fn items() -> Vec<Item> {
    let file =
        |name: &'static [u8], content| Item { name, kind: EntryKind::File, content, group: None, superseded: false };
    let none = |name, kind| Item { kind, ..file(name, Bytes::new()) };
    let slice = |name, content| Item { kind: EntryKind::Slice, group: Some("shop.orders"), ..file(name, content) };
    vec![
        file(b"/absolute", words(1, 10)),
        file(b"100% sure", words(2, 512)),
        file(b"BACKUP-WARNINGS.txt", words(3, 5)),
        file(b"a", words(4, 100)),
        file(b"a/b", words(5, 700)),
        file(b"big", words(6, 60_000)),
        file(b"caf\xe9", words(7, 1)),
        none(b"dir", EntryKind::Directory),
        file(b"dir/empty", Bytes::new()),
        file(b"dir/torn", Bytes::from(vec![0; 2000])),
        file(b"dir/torn", words(8, 2000)),
        none(b"dir/to-file", EntryKind::Symlink { target: Bytes::from_static(b"empty") }),
        none(b"dir/to-nowhere", EntryKind::Symlink { target: Bytes::from_static(b"/n/\xff") }),
        none(b"dir/twin", EntryKind::HardLink { target: "big".into() }),
        file(format!("{}/{}", "d".repeat(120), "f".repeat(250)).leak().as_bytes(), words(9, 20)),
        slice(b"shop/orders/000000.bson", words(10, 9000)),
        slice(b"shop/orders/000000.bson", words(11, 9000)),
        slice(b"shop/orders/000001.bson", words(12, 400)),
        file("größe/日本".as_bytes(), words(13, 30)),
    ]
    .into_iter()
    .enumerate()
    .map(|(n, item)| Item { superseded: n == 9, ..item })
    .collect()
}

/// The names under which the second reader extracts what is not void, with their contents.
fn extracted() -> BTreeMap<Vec<u8>, Bytes> {
    let paths: BTreeMap<&[u8], &[u8]> = BTreeMap::from([
        (&b"/absolute"[..], &b"%2Fabsolute"[..]),
        (b"a/b", b"a%2Fb"),
        (b"BACKUP-WARNINGS.txt", b"%42ACKUP-WARNINGS.txt"),
    ]);
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(250));
    let mut files: BTreeMap<Vec<u8>, Bytes> = items()
        .into_iter()
        .filter(|item| matches!(item.kind, EntryKind::File | EntryKind::Slice) && item.name != long.as_bytes())
        .map(|item| (paths.get(item.name).copied().unwrap_or(item.name).to_vec(), item.content))
        .collect();
    files.insert(b"dir/twin".to_vec(), words(6, 60_000));
    files
}

/// All objects of an archive, by their names relative to it.
struct Sample {
    names: ObjectNames,
    objects: BTreeMap<String, Vec<u8>>,
}

impl Sample {
    async fn new(codec: Codec, provider: Option<&dyn KeyProvider>) -> Self {
        let id: ArchiveId = "20261120T061500Z-1a2b3c4d".parse().unwrap();
        let sealed = provider.is_some();
        let compression = Compression::new(codec, None).unwrap();
        let source = Identity::new("local", "/srv/data");
        let header =
            Header::new(id.clone(), "sample", source, "2026-11-20T06:15:00Z".parse().unwrap(), compression, sealed);
        let header_bytes = header.encode().unwrap();
        let names = ObjectNames::new(id, codec, sealed);
        let mut sample = Self { names: names.clone(), objects: BTreeMap::new() };
        let key = ArchiveKey::generate().unwrap();
        if let Some(provider) = provider {
            let wraps = KeyWraps::new(vec![provider.wrap(&key, &header_bytes).await.unwrap()]).encode().unwrap();
            let opened = KeyWraps::parse(&wraps).unwrap().open(provider, &header_bytes).await.unwrap();
            assert!(opened == key);
            sample.put(&names.keys(0), wraps);
        }
        sample.put(&names.header(), header_bytes.clone());

        let (raw, entries) = stream();
        let mut compressor = Compressor::new(compression).unwrap();
        let seal_if = |name: &crate::model::ObjectName, plain: Vec<u8>| match sealed {
            true => seal(&key, names.archive(), names.relative(name).unwrap(), &[plain.into()]).unwrap(),
            false => plain,
        };
        let mut waiting = entries.iter().peekable();
        let mut pieces: Vec<PieceRecord> = Vec::new();
        let mut stored_bytes = 0;
        let (mut at, mut volume_number) = (0, 0);
        while at < raw.len() {
            let (mut lines, first_raw, first_volume) = (Vec::new(), at, volume_number);
            let mut held: Vec<&Entry> = Vec::new();
            while at < raw.len() && volume_number < first_volume + VOLUMES_IN_PIECE as u64 {
                let (start, mut plain, mut frames) = (at, Vec::new(), Vec::new());
                while at < raw.len() && frames.len() < FRAMES_IN_VOLUME {
                    let part = raw.slice(at..raw.len().min(at + FRAME));
                    let frame = compressor.compress(std::slice::from_ref(&part)).unwrap();
                    frames.push((frame.len() as u32, part.len() as u32));
                    plain.extend_from_slice(&frame);
                    at += part.len();
                }
                let name = names.volume(Attempted { number: volume_number, attempt: 1, nonce: 7 });
                let stored = seal_if(&name, plain);
                let record = VolumeRecord {
                    name: names.relative(&name).unwrap().into(),
                    size: stored.len() as u64,
                    sha256: (!sealed).then(|| Digest::of(&stored)),
                    raw: start as u64,
                    frames,
                };
                stored_bytes += record.size;
                let mut encoder = IndexEncoder::new();
                encoder.volume(&record, &mut lines).unwrap();
                while let Some(entry) = waiting.next_if(|e| e.offset + e.size <= at as u64) {
                    encoder.entry(entry, &mut lines).unwrap();
                    held.push(entry);
                }
                sample.put(&name, stored);
                volume_number += 1;
            }
            let name = names.index(Attempted { number: pieces.len() as u64, attempt: 1, nonce: 7 });
            let raw_size = lines.len() as u64;
            let stored = seal_if(&name, compressor.compress(&[lines.into()]).unwrap());
            stored_bytes += stored.len() as u64;
            let in_piece: Vec<_> = held.iter().map(|e| &e.name).collect();
            pieces.push(PieceRecord {
                name: names.relative(&name).unwrap().into(),
                size: stored.len() as u64,
                sha256: Digest::of(&stored),
                raw_size,
                raw: first_raw as u64..at as u64,
                first_entry: pieces.last().map_or(0, |p| p.first_entry + p.entries),
                entries: held.len() as u64,
                first_volume,
                volumes: volume_number - first_volume,
                first_name: in_piece.iter().min().map(|n| (*n).clone()),
                last_name: in_piece.iter().max().map(|n| (*n).clone()),
                sorted: in_piece.is_sorted(),
            });
            sample.put(&name, stored);
        }
        assert!(waiting.next().is_none() && pieces.len() > 1);
        if !sealed {
            let volumes = sample.objects.keys().filter(|name| name.starts_with("data/"));
            let text = volumes.map(|name| format!("{name}\n")).collect::<String>();
            sample.put(&names.volumes_txt(), text.into_bytes());
        }
        let manifest = Manifest {
            format: 1,
            min_reader: 1,
            features: Vec::new(),
            header_sha256: Digest::of(&header_bytes),
            id: header.id.clone(),
            source: header.source.clone(),
            codec,
            started_at: header.started_at,
            finished_at: "2026-11-20T06:16:00Z".parse().unwrap(),
            totals: Totals {
                entries: entries.len() as u64,
                bytes: entries.iter().map(|e| e.size).sum(),
                raw_bytes: raw.len() as u64,
                stored_bytes,
                volumes: volume_number,
                warnings: 1,
                inconsistent: 0,
                superseded: 1,
            },
            consistency: serde_json::Value::Null,
            group_digests: BTreeMap::new(),
            superseded: vec![SupersededGroup { group: GroupName("shop.orders".into()), first: 15, last: 15 }],
            previous: None,
            references: Vec::new(),
            pieces,
        };
        manifest.check_against(&header, &Digest::of(&header_bytes)).unwrap();
        let name = names.manifest();
        let stored = seal_if(&name, manifest.encode().unwrap());
        sample.put(&name, stored);
        sample
    }

    fn put(&mut self, name: &crate::model::ObjectName, bytes: Vec<u8>) {
        let relative = self.names.relative(name).unwrap().to_owned();
        assert!(self.objects.insert(relative, bytes).is_none());
    }

    fn write_to(&self, dir: &Path) -> PathBuf {
        let root = dir.join(self.names.archive().as_str());
        for (name, bytes) in &self.objects {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        root
    }
}

/// The raw tar stream of all items, and their entries.
fn stream() -> (Bytes, Vec<Entry>) {
    let (mut raw, mut entries, mut paths) = (Vec::new(), Vec::new(), TarPaths::new());
    for item in items() {
        let name = EntryName::new(item.name);
        let path = paths.next(&name, &item.kind).into_owned();
        let link_path = match &item.kind {
            EntryKind::HardLink { target } => paths.path(target).into_owned(),
            _ => String::new(),
        };
        let kind = match &item.kind {
            EntryKind::Directory => TarKind::Directory,
            EntryKind::Symlink { target } => TarKind::Symlink(target),
            EntryKind::HardLink { .. } => TarKind::HardLink(&link_path),
            _ => TarKind::File,
        };
        let owner = Some(Owner { id: 0, name: Some("root".into()) });
        let xattrs = vec![Xattr { name: Bytes::from_static(b"user.k"), value: Bytes::from_static(b"\xff") }];
        let metadata = Metadata {
            mode: Some(if kind == TarKind::Directory { 0o750 } else { 0o640 }),
            user: owner.clone(),
            group: owner,
            xattrs: if item.name == b"dir/empty" { xattrs } else { Vec::new() },
            ..Metadata::default()
        };
        let mtime = Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 });
        let size = item.content.len() as u64;
        let true_name = (path.as_bytes() != item.name).then_some(&name);
        let tar = TarEntry { path: &path, true_name, kind, size, mtime, metadata: &metadata };
        write_header(&tar, &mut raw);
        entries.push(Entry {
            name: name.clone(),
            sha256: matches!(item.kind, EntryKind::File | EntryKind::Slice).then(|| Digest::of(&item.content)),
            kind: item.kind.clone(),
            size,
            mtime,
            metadata: metadata.clone(),
            offset: raw.len() as u64,
            ordinal: entries.len() as u64,
            group: item.group.map(|g| GroupName(g.into())),
            inconsistent: false,
            superseded: item.superseded,
        });
        raw.extend_from_slice(&item.content);
        raw.resize(raw.len() + padding(size), 0);
    }
    let text = b"dir/torn was read twice\n";
    let metadata = Metadata::default();
    let (kind, size) = (TarKind::File, text.len() as u64);
    write_header(
        &TarEntry { path: WARNINGS_FILE, true_name: None, kind, size, mtime: None, metadata: &metadata },
        &mut raw,
    );
    raw.extend_from_slice(text);
    raw.resize(raw.len() + padding(size), 0);
    write_end(&mut raw);
    (raw.into(), entries)
}

/// The Python that has the second reader's packages: `scripts/test` names it.
fn python() -> Command {
    Command::new(std::env::var_os("BACKUP_TEST_PYTHON").unwrap_or_else(|| "python3".into()))
}

fn second_reader(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/read_archive.py");
    python().arg(script).args(arguments).env("SAMPLE_PASSPHRASE", "correct horse").output().unwrap()
}

fn must(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Regular files below a directory, by their paths.
fn files(root: &Path) -> BTreeMap<Vec<u8>, Bytes> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = left.pop() {
        for item in std::fs::read_dir(dir).unwrap() {
            let item = item.unwrap();
            if item.file_type().unwrap().is_dir() {
                left.push(item.path());
            } else if item.file_type().unwrap().is_file() {
                let name = item.path().strip_prefix(root).unwrap().as_os_str().as_encoded_bytes().to_vec();
                found.insert(name, std::fs::read(item.path()).unwrap().into());
            }
        }
    }
    found
}

#[tokio::test]
async fn the_second_reader_reads_every_codec_and_every_seal() {
    use std::os::unix::fs::MetadataExt;
    let text = generate_key_file().unwrap();
    let file = KeyFileProvider::parse(&text).unwrap();
    let cost = PassphraseParameters { memory_kib: 256, passes: 1, lanes: 2 };
    let passphrase = PassphraseProvider::with_parameters("correct horse".into(), cost).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key_path = dir.path().join("key").to_str().unwrap().to_owned();
    std::fs::write(&key_path, secrecy::ExposeSecret::expose_secret(&text)).unwrap();
    let by_file = ["--key-file", &key_path];
    let by_passphrase = ["--passphrase-env", "SAMPLE_PASSPHRASE"];
    let cases: [(Codec, Option<&dyn KeyProvider>, &[&str]); 5] = [
        (Codec::Zstd, None, &[]),
        (Codec::Gzip, None, &[]),
        (Codec::None, None, &[]),
        (Codec::Zstd, Some(&file), &by_file),
        (Codec::Gzip, Some(&passphrase), &by_passphrase),
    ];
    for (number, (codec, provider, key)) in cases.into_iter().enumerate() {
        let place = dir.path().join(number.to_string());
        let root = Sample::new(codec, provider).await.write_to(&place);
        let root = root.to_str().unwrap();
        let listed = must(second_reader(&[&["list", root], key].concat()));
        assert_eq!(listed.lines().count(), items().len() - 2, "{listed}");
        assert!(
            listed.contains("- ") && listed.contains(r"caf\xe9") && listed.contains("dir/to-file -> empty"),
            "{listed}"
        );
        let verified = must(second_reader(&[&["verify", root], key].concat()));
        assert!(verified.starts_with("19 entries in "), "{verified}");
        let out = place.join("out");
        let output = second_reader(&[&["extract", root, "--output", out.to_str().unwrap()], key].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        // A file system may have no extended attributes; the sample's component of 250 bytes is longer than 240 but fits.
        assert!(
            errors.lines().all(|line| line.contains("extended attribute") || line.contains("could not be")),
            "{errors}"
        );
        let mut found = files(&out);
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(250));
        assert_eq!(found.remove(long.as_bytes()), Some(words(9, 20)));
        assert!(found == extracted(), "{:?}", found.keys().map(|k| String::from_utf8_lossy(k)).collect::<Vec<_>>());
        let big = std::fs::metadata(out.join("big")).unwrap();
        assert_eq!(big.ino(), std::fs::metadata(out.join("dir/twin")).unwrap().ino());
        assert_eq!((big.mode() & 0o7777, big.mtime(), big.mtime_nsec()), (0o640, 1_700_000_000, 123_456_789));
        assert_eq!(std::fs::metadata(out.join("dir")).unwrap().mtime(), 1_700_000_000);
        assert_eq!(std::fs::read_link(out.join("dir/to-nowhere")).unwrap().as_os_str().as_encoded_bytes(), b"/n/\xff");
        if provider.is_some() {
            let output = second_reader(&["list", root]);
            assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("sealed"));
        }
    }
}

#[tokio::test]
async fn the_second_reader_notices_every_damaged_missing_or_swapped_object() {
    let cost = PassphraseParameters { memory_kib: 64, passes: 1, lanes: 1 };
    let passphrase = PassphraseProvider::with_parameters("correct horse".into(), cost).unwrap();
    let cases: [(Option<&dyn KeyProvider>, &[&str]); 2] =
        [(None, &[]), (Some(&passphrase), &["--passphrase-env", "SAMPLE_PASSPHRASE"])];
    for (provider, key) in cases {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::new(Codec::Zstd, provider).await;
        let root = sample.write_to(dir.path());
        let verify = || second_reader(&[&["verify", root.to_str().unwrap()], key].concat());
        must(verify());
        let first_of = |folder: &str| sample.objects.keys().find(|name| name.starts_with(folder)).unwrap();
        let last_of = |folder: &str| sample.objects.keys().rfind(|name| name.starts_with(folder)).unwrap();
        let manifest = last_of("manifest");
        for name in [first_of("header"), first_of("data"), last_of("data"), first_of("index"), manifest] {
            let (path, bytes) = (root.join(name), &sample.objects[name]);
            let mut flipped = bytes.clone();
            flipped[bytes.len() / 2] ^= 1;
            let swapped = &sample.objects[if name.starts_with("data") { first_of("index") } else { first_of("data") }];
            for damaged in [&flipped, &bytes[..bytes.len() - 1].to_vec(), swapped] {
                std::fs::write(&path, damaged).unwrap();
                let output = verify();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.code() == Some(1) && said.starts_with("error: "), "{name}: {said}");
            }
            std::fs::remove_file(&path).unwrap();
            assert!(!verify().status.success(), "{name} is missing");
            std::fs::write(&path, bytes).unwrap();
        }
        std::fs::write(root.join("swept.json"), "").unwrap();
        assert!(!verify().status.success());
    }
}

#[tokio::test]
async fn plain_tar_extracts_an_archive_that_is_not_sealed() {
    for (codec, option) in [(Codec::Zstd, "--zstd"), (Codec::Gzip, "-z"), (Codec::None, "-v")] {
        let dir = tempfile::tempdir().unwrap();
        let root = Sample::new(codec, None).await.write_to(dir.path());
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let script = format!("xargs cat < volumes.txt | tar {option} --no-same-owner -x -C ../out");
        let output = Command::new("sh").args(["-c", &script]).current_dir(&root).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let found = files(&out);
        assert_eq!(found[&b"dir/torn"[..]], words(8, 2000), "the later one wins");
        assert_eq!(found[&b"shop/orders/000000.bson"[..]], words(11, 9000));
        assert_eq!(found[&b"a"[..]], words(4, 100));
        assert_eq!(found[&b"a%2Fb"[..]], words(5, 700));
        assert_eq!(found[&b"caf%E9"[..]], words(7, 1));
        assert_eq!(found[&b"big"[..]], words(6, 60_000));
        assert!(found.contains_key(&b"BACKUP-WARNINGS.txt"[..]));
    }
}

#[tokio::test]
async fn our_own_blocks_read_it_back() -> Result<()> {
    let file = KeyFileProvider::parse(&generate_key_file()?)?;
    let sample = Sample::new(Codec::Zstd, Some(&file)).await;
    let header = &sample.objects["header.json"];
    let key = KeyWraps::parse(&sample.objects["keys/0.json"])?.open(&file, header).await?;
    let archive = Header::parse(header)?.id;
    let manifest_name = "manifest.json.sealed";
    let manifest = Manifest::parse(&unseal(&key, &archive, manifest_name, &sample.objects[manifest_name])?)?;
    let mut decompressor = Decompressor::new(Codec::Zstd)?;
    let (mut raw, mut entries) = (Vec::new(), Vec::new());
    for piece in &manifest.pieces {
        let lines = unseal(&key, &archive, &piece.name, &sample.objects[&piece.name])?;
        let lines = decompressor.decompress(&lines, piece.raw_size as usize)?;
        for record in IndexDecoder::new(piece.first_entry).records(&lines) {
            let volume = match record? {
                IndexRecord::Entry(entry) => {
                    entries.push(*entry);
                    continue;
                }
                IndexRecord::Volume(volume) => volume,
            };
            let stored = &sample.objects[&volume.name];
            let unsealer = Unsealer::new(&key, &archive, &volume.name, volume.size, &stored[..SEALED_HEAD])?;
            let mut at = 0;
            for (length, raw_length) in &volume.frames {
                let plain = at..at + u64::from(*length);
                let range = unsealer.sealed_range(plain.clone())?;
                let frame = unsealer.open(plain, &stored[range.start as usize..range.end as usize])?;
                raw.extend(decompressor.decompress(&frame, *raw_length as usize)?);
                at += u64::from(*length);
            }
        }
    }
    let (expected_raw, expected) = stream();
    assert!(raw == expected_raw && entries == expected);
    Ok(())
}

#[test]
fn the_second_reader_makes_the_same_tar_paths() {
    use proptest::strategy::{Strategy, ValueTree};
    let parts: Vec<&'static [u8]> = vec![
        b"a",
        b"b",
        b"/",
        b"/",
        b".",
        b"%",
        b"~",
        b"\xff",
        b"\n",
        b"\xc3\xa4",
        b"\xc2\x85",
        b"\xe6\x97",
        &[b'x'; 205],
        b"~00112233445566778899aabbccddeeff",
        WARNINGS_FILE.as_bytes(),
    ];
    let name = proptest::collection::vec(proptest::sample::select(parts), 1..7).prop_map(|parts| parts.concat());
    let names = proptest::collection::vec((name, proptest::bool::weighted(0.2)), 3000);
    let drawn = names.new_tree(&mut proptest::test_runner::TestRunner::deterministic()).unwrap().current();
    let names: BTreeMap<Vec<u8>, bool> = drawn.into_iter().collect();
    let mut paths = TarPaths::new();
    let (mut asked, mut expected) = (String::new(), String::new());
    for (name, is_directory) in &names {
        let kind = if *is_directory { EntryKind::Directory } else { EntryKind::File };
        asked.push_str(&format!("{} {}\n", hex::encode(name), u8::from(*is_directory)));
        expected.push_str(&format!("{}\n", paths.next(&EntryName::new(name.clone()), &kind)));
    }
    let script = "
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from read_archive import TarPaths
paths = TarPaths()
for line in open(sys.argv[2]):
    name, is_directory = line.split()
    print(paths.next(bytes.fromhex(name), is_directory == '1'))
";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("asked"), asked).unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let answered =
        must(python().args(["-X", "utf8", "-c", script]).arg(docs).arg(dir.path().join("asked")).output().unwrap());
    let differing = answered.lines().zip(expected.lines()).find(|(theirs, ours)| theirs != ours);
    assert_eq!(differing, None);
    assert_eq!(answered.lines().count(), names.len());
}
