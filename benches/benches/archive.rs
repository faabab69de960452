//! The costs of the archive format, one by one: framing, compression, digests, sealing, the index, and the way back.
//!
//! ```text
//! cargo bench -p backup-benches
//! ```

use backup_benches::{entry, text};
use backup_core::archive::{
    ArchiveKey, Compression, Compressor, Decompressor, IndexDecoder, IndexEncoder, TarEntry, TarEvent, TarKind,
    TarPaths, TarReader, header_length, padding, seal, unseal, write_header,
};
use backup_core::model::{ArchiveId, Entry};
use backup_core::{Digest, Error, Result};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// Raw bytes of a frame.
const FRAME: usize = 4 << 20;
/// Entries of a bench; 2 KiB each, two thirds of a frame.
const ENTRIES: u64 = 1000;

fn tar_entry(entry: &Entry) -> TarEntry<'_> {
    TarEntry {
        path: entry.name.as_str().unwrap_or_default(),
        true_name: None,
        kind: TarKind::File,
        size: entry.size,
        mtime: entry.mtime,
        metadata: &entry.metadata,
    }
}

/// Headers and contents of small entries as a piece of the tar stream.
fn frame_of(entries: &[Entry], content: &Bytes, raw: &mut Vec<u8>) {
    raw.clear();
    for entry in entries {
        write_header(&tar_entry(entry), raw);
        raw.extend_from_slice(content);
        raw.resize(raw.len() + padding(entry.size), 0);
    }
}

fn small_entries() -> (Bytes, Vec<Entry>) {
    let content = text(2 << 10);
    let entries = (0..ENTRIES).map(|number| entry(number, &content)).collect();
    (content, entries)
}

fn framing(c: &mut Criterion) {
    let (content, entries) = small_entries();
    let mut group = c.benchmark_group("framing");
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("choose 1000 tar paths", |b| {
        b.iter(|| {
            let mut paths = TarPaths::new();
            entries.iter().map(|entry| paths.next(&entry.name, &entry.kind).len()).sum::<usize>()
        });
    });
    group.bench_function("lengths of 1000 headers", |b| {
        b.iter(|| entries.iter().map(|entry| header_length(&tar_entry(entry))).sum::<u64>());
    });
    let mut raw = Vec::new();
    group.bench_function("write 1000 entries of 2 KiB", |b| {
        b.iter(|| frame_of(&entries, &content, black_box(&mut raw)));
    });
    group.bench_function("read 1000 entries of 2 KiB", |b| {
        frame_of(&entries, &content, &mut raw);
        b.iter(|| read_tar(black_box(&raw)));
    });
    group.finish();
}

fn compression(c: &mut Criterion) {
    let random = backup_testkit::doubles::Blob::pattern(1, FRAME as u64).bytes();
    let (content, entries) = small_entries();
    let mut small = Vec::new();
    frame_of(&entries, &content, &mut small);
    small.resize(FRAME, 0);
    for (kind, frame) in [("text", text(FRAME)), ("random", random), ("small entries", small.into())] {
        let mut group = c.benchmark_group(format!("frame of 4 MiB, {kind}"));
        group.throughput(Throughput::Bytes(FRAME as u64));
        group.sample_size(20);
        group.bench_function("digest", |b| b.iter(|| Digest::of(black_box(&frame))));
        let compression = Compression::default();
        let mut compressor = ready(Compressor::new(compression));
        let pieces = [frame];
        group.bench_function("compress", |b| b.iter(|| ready(compressor.compress(black_box(&pieces)))));
        let packed = ready(compressor.compress(&pieces));
        let mut decompressor = ready(Decompressor::new(compression.codec()));
        group.bench_function("decompress", |b| b.iter(|| ready(decompressor.decompress(black_box(&packed), FRAME))));
        group.finish();
    }
}

fn sealing(c: &mut Criterion) {
    const NAME: &str = "data/00000000-1x7f3a9c00.tar.zst.sealed";
    let id: ArchiveId = ready("20261120T061500Z-1a2b3c4d".parse());
    let key = ArchiveKey::from_bytes([7; 32]);
    let pieces: Vec<Bytes> = (0..8).map(|_| text(FRAME)).collect();
    let mut group = c.benchmark_group("object of 32 MiB");
    group.throughput(Throughput::Bytes(8 * FRAME as u64));
    group.sample_size(20);
    group.bench_function("seal", |b| b.iter(|| ready(seal(&key, &id, NAME, black_box(&pieces)))));
    let sealed = ready(seal(&key, &id, NAME, &pieces));
    group.bench_function("unseal", |b| b.iter(|| ready(unseal(&key, &id, NAME, black_box(&sealed)))));
    group.finish();
}

fn index(c: &mut Criterion) {
    let (_, entries) = small_entries();
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(ENTRIES));
    let mut lines = Vec::new();
    let write = |lines: &mut Vec<u8>| {
        lines.clear();
        let mut encoder = IndexEncoder::new();
        entries.iter().for_each(|entry| ready(encoder.entry(entry, lines)));
    };
    group.bench_function("write 1000 entries", |b| b.iter(|| write(black_box(&mut lines))));
    write(&mut lines);
    group.bench_function("read 1000 entries", |b| {
        b.iter(|| IndexDecoder::new(0).records(black_box(&lines)).map(ready).count());
    });
    let pieces = [Bytes::from(lines)];
    let mut compressor = ready(Compressor::new(Compression::default()));
    group.bench_function("compress 1000 entries", |b| b.iter(|| ready(compressor.compress(black_box(&pieces)))));
    group.finish();
}

/// A restore of one frame of small entries: decompressed, cut into entries, each digest compared.
fn restore(c: &mut Criterion) {
    let (content, entries) = small_entries();
    let mut raw = Vec::new();
    frame_of(&entries, &content, &mut raw);
    let (length, compression) = (raw.len(), Compression::default());
    let packed = ready(ready(Compressor::new(compression)).compress(&[raw.into()]));
    let mut lines = Vec::new();
    let mut encoder = IndexEncoder::new();
    entries.iter().for_each(|entry| ready(encoder.entry(entry, &mut lines)));
    let mut decompressor = ready(Decompressor::new(compression.codec()));
    let mut group = c.benchmark_group("restore");
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("decode 1000 entries of 2 KiB", |b| {
        b.iter(|| {
            let frame = Bytes::from(ready(decompressor.decompress(black_box(&packed), length)));
            let mut good = 0;
            for record in IndexDecoder::new(0).records(&lines) {
                if let backup_core::archive::IndexRecord::Entry(entry) = ready(record) {
                    let start = entry.offset as usize;
                    let content = frame.slice(start..start + entry.size as usize);
                    good += u64::from(entry.sha256 == Some(Digest::of(&content)));
                }
            }
            assert_eq!(good, ENTRIES, "what was restored is not what was stored");
        });
    });
    group.finish();
}

/// How many entries a piece of a tar stream holds.
fn read_tar(mut raw: &[u8]) -> usize {
    let mut reader = TarReader::new();
    let mut entries = 0;
    while let Some(event) = ready(reader.next(&mut raw)) {
        entries += usize::from(matches!(event, TarEvent::Entry(_)));
    }
    entries
}

/// What a bench prepares has to work.
#[allow(clippy::panic)]
fn ready<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{}", Error::chain(&error)),
    }
}

criterion_group!(benches, framing, compression, sealing, index, restore);
criterion_main!(benches);
