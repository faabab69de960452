//! Fuzz targets: whatever bytes a destination gives, a reader answers with an error and never panics, hangs or takes memory
//! that the bytes do not justify.
//!
//! Inputs are mutations of valid objects, so that they get past the first check. In a plain test run each target takes a
//! second; `scripts/fuzz 60` gives each a minute. The targets are [bolero](https://camshaft.github.io/bolero) tests, so that
//! `cargo bolero test` can drive them with libFuzzer as well.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

use backup_core::Digest;
use backup_core::archive::{
    ArchiveKey, Codec, Compression, Compressor, Decompressor, Header, IndexDecoder, IndexEncoder, IndexRecord,
    KeyWraps, Manifest, PieceRecord, TarEntry, TarKind, TarPaths, TarReader, Totals, Unsealer, VolumeRecord,
    plain_length, seal, unseal, write_end, write_header,
};
use backup_core::model::{ArchiveId, Entry, EntryKind, EntryName, Identity, Metadata, Timestamp};
use bytes::Bytes;
use std::time::Duration;

/// A change of an input: where, what, and with which byte.
type Change = (u16, u8, u8);

fn fuzz(target: impl Fn(&[Change]) + std::panic::RefUnwindSafe) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    bolero::check!()
        .with_type::<Vec<Change>>()
        .with_iterations(usize::MAX)
        .with_test_time(Duration::from_secs(seconds))
        .for_each(|changes| target(changes));
}

/// Applies changes to valid bytes: flips, replacements, insertions, removals, copies, cuts.
fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    const TOKENS: [&[u8]; 10] = [
        b"18446744073709551615",
        b"-1",
        b"0",
        b"null",
        b"[]",
        b"{\"b64\":\"/w==\"}",
        b"\"..\"",
        b"1e99",
        b"\n",
        b"4294967296",
    ];
    for (place, kind, value) in changes.iter().take(8) {
        let length = bytes.len();
        if length == 0 {
            bytes.push(*value);
            continue;
        }
        let at = usize::from(*place) * length / (usize::from(u16::MAX) + 1);
        match kind % 8 {
            0 => bytes[at] ^= 1 << (value % 8),
            1 => bytes[at] = *value,
            2 => bytes.insert(at, *value),
            3 => drop(bytes.drain(at..length.min(at + 1 + usize::from(*value)))),
            4 => bytes.truncate(at),
            5 => {
                let copy = bytes[at..length.min(at + 1 + usize::from(*value))].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                // A number or word in place of what stands there.
                let token = TOKENS[usize::from(*value) % TOKENS.len()];
                let word = |b: &u8| b.is_ascii_alphanumeric();
                let end = bytes[at..].iter().position(|b| !word(b)).map_or(length, |n| at + n);
                bytes.splice(at..end, token.iter().copied());
            }
            _ => bytes.extend_from_slice(&[*value; 16]),
        }
    }
    bytes
}

/// Gives a changed document the checksum that fits, so that what is behind the checksum is reached.
fn with_right_checksum(document: Vec<u8>) -> Vec<u8> {
    let key = b",\"sha256\":\"";
    let Some(at) = document.windows(key.len()).rposition(|window| window == key) else { return document };
    let mut out = document[..at].to_vec();
    let digest = Digest::of(&out);
    out.extend_from_slice(key);
    out.extend_from_slice(digest.to_string().as_bytes());
    out.extend_from_slice(b"\"}\n");
    out
}

fn id() -> ArchiveId {
    "20261120T061500Z-1a2b3c4d".parse().unwrap()
}

fn header() -> Header {
    let source = Identity::new("local", "/data");
    Header::new(id(), "name", source, jiff::Timestamp::UNIX_EPOCH, Compression::default(), true)
}

fn manifest() -> Manifest {
    let header = header();
    let piece = |n: u64| PieceRecord {
        name: format!("index/{n:08}-1x00000001.jsonl.zst"),
        size: 10,
        sha256: Digest::of(b"x"),
        raw_size: 100,
        raw: n * 1000..(n + 1) * 1000,
        first_entry: n * 5,
        entries: 5,
        first_volume: n,
        volumes: 1,
        first_name: Some("a".into()),
        last_name: Some("b".into()),
        sorted: true,
    };
    Manifest {
        format: header.format,
        min_reader: header.min_reader,
        features: header.features.clone(),
        header_sha256: Digest::of(b"header"),
        id: header.id.clone(),
        source: header.source.clone(),
        codec: header.codec,
        started_at: header.started_at,
        finished_at: header.started_at,
        totals: Totals { entries: 10, bytes: 50, raw_bytes: 2000, stored_bytes: 20, volumes: 2, ..Totals::default() },
        consistency: serde_json::json!({"kind": "snapshot"}),
        group_digests: Default::default(),
        superseded: Vec::new(),
        previous: None,
        references: Vec::new(),
        pieces: vec![piece(0), piece(1)],
    }
}

fn entry(n: u64) -> Entry {
    Entry {
        name: EntryName::from(format!("dir/file{n}").as_str()),
        kind: EntryKind::File,
        size: 100 * n,
        mtime: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        metadata: Metadata { mode: Some(0o644), ..Metadata::default() },
        sha256: Some(Digest::of(&n.to_be_bytes())),
        offset: 512 + n * 1024,
        ordinal: n,
        group: None,
        inconsistent: false,
        superseded: false,
    }
}

#[test]
fn header_and_keys() {
    let document = header().encode().unwrap();
    let keys = br#"{"version":1,"wraps":[{"provider":"key-file","key_id":"00","parameters":{},"wrapped":"AAAA"}]}"#;
    fuzz(|changes| {
        let bytes = changed(document.clone(), changes);
        let _ = Header::parse(&bytes);
        let _ = Header::parse(&with_right_checksum(bytes));
        let _ = KeyWraps::parse(&changed(keys.to_vec(), changes));
    });
}

#[test]
fn manifests() {
    let document = manifest().encode().unwrap();
    let (header, digest) = (header(), Digest::of(b"header"));
    fuzz(|changes| {
        let bytes = changed(document.clone(), changes);
        let _ = Manifest::parse(&bytes);
        if let Ok(manifest) = Manifest::parse(&with_right_checksum(bytes)) {
            let _ = manifest.check_against(&header, &digest);
            let _ = manifest.voids(&entry(1));
        }
    });
}

#[test]
fn index_pieces() {
    let mut piece = Vec::new();
    let mut encoder = IndexEncoder::new();
    let volume = VolumeRecord {
        name: "data/00000000-1x00000001.tar.zst".into(),
        size: 300,
        sha256: Some(Digest::of(b"volume")),
        raw: 0,
        frames: vec![(100, 4096), (200, 4096)],
    };
    encoder.volume(&volume, &mut piece).unwrap();
    for n in 0..5 {
        encoder.entry(&entry(n), &mut piece).unwrap();
    }
    fuzz(|changes| {
        let bytes = changed(piece.clone(), changes);
        for record in IndexDecoder::new(0).records(&bytes) {
            match record {
                Ok(IndexRecord::Volume(volume)) => {
                    let _ = (volume.raw_range(), volume.locate(0..u64::MAX), volume.locate(5..5));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    });
}

#[test]
fn sealed_objects() {
    let key = ArchiveKey::from_bytes([7; 32]);
    let plain: Vec<u8> = (0..70_000u32).map(|n| n as u8).collect();
    let name = "data/00000000-1x00000001.tar.zst.sealed";
    let sealed = seal(&key, &id(), name, &[Bytes::from(plain.clone())]).unwrap();
    fuzz(|changes| {
        let bytes = changed(sealed.clone(), changes);
        if let Ok(opened) = unseal(&key, &id(), name, &bytes) {
            assert_eq!(opened, plain, "changed bytes opened to something else");
        }
        let _ = plain_length(bytes.len() as u64);
        let head = &bytes[..bytes.len().min(backup_core::archive::SEALED_HEAD)];
        if let Ok(unsealer) = Unsealer::new(&key, &id(), name, bytes.len() as u64, head) {
            let length = unsealer.plain_length();
            for range in [0..length, length / 2..length, 0..length.min(1), length..length, 0..u64::MAX] {
                let Ok(stored) = unsealer.sealed_range(range.clone()) else { continue };
                let Some(part) = bytes.get(stored.start as usize..stored.end as usize) else { continue };
                if let Ok(opened) = unsealer.open(range.clone(), part) {
                    let wanted = plain.get(range.start as usize..range.end as usize).unwrap_or_default();
                    assert_eq!(opened, wanted, "a range opened to something else");
                }
            }
        }
    });
}

#[test]
fn tar_streams() {
    let mut stream = Vec::new();
    let mut paths = TarPaths::new();
    for name in ["plain", "ünï", "a/b", "../x", &"long".repeat(80)] {
        let name = EntryName::from(name);
        let path = paths.next(&name, &EntryKind::File).into_owned();
        let metadata = Metadata { mode: Some(0o600), ..Metadata::default() };
        let true_name = (path.as_bytes() != name.as_bytes()).then_some(&name);
        let header =
            TarEntry { path: &path, true_name, kind: TarKind::File, size: 3, mtime: None, metadata: &metadata };
        write_header(&header, &mut stream);
        stream.extend_from_slice(b"abc");
        stream.resize(stream.len().next_multiple_of(512), 0);
    }
    write_end(&mut stream);
    fuzz(|changes| {
        let bytes = changed(stream.clone(), changes);
        let step = changes.first().map_or(512, |change| usize::from(change.0).max(1));
        let mut reader = TarReader::new();
        'all: for mut portion in bytes.chunks(step) {
            loop {
                match reader.next(&mut portion) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
        }
    });
}

#[test]
fn frames() {
    let raw: Vec<u8> = (0..20_000u32).flat_map(|n| (n % 977).to_be_bytes()).collect();
    let packed: Vec<(Codec, Vec<u8>)> = [Codec::Zstd, Codec::Gzip, Codec::None]
        .into_iter()
        .map(|codec| {
            let mut compressor = Compressor::new(Compression::new(codec, None).unwrap()).unwrap();
            (codec, compressor.compress(&[Bytes::from(raw.clone())]).unwrap())
        })
        .collect();
    fuzz(|changes| {
        for (codec, frame) in &packed {
            let bytes = changed(frame.clone(), changes);
            let mut decompressor = Decompressor::new(*codec).unwrap();
            let result = decompressor.decompress(&bytes, raw.len());
            // Uncompressed frames have no check of their own; the digests of volumes and entries find the change.
            if let (Ok(opened), false) = (result, *codec == Codec::None) {
                assert_eq!(opened, raw, "a changed {codec} frame gave other bytes without an error");
            }
        }
    });
}
