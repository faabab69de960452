//! What the benches work on. `benches/compare` is the comparison with other tools.

use backup_core::Digest;
use backup_core::model::{Entry, EntryKind, EntryName, Metadata, Owner, Timestamp};
use bytes::Bytes;

/// Bytes of a log, `size` of them: text that compresses about as well as what people have.
pub fn text(size: usize) -> Bytes {
    const WORDS: [&str; 16] = [
        "info", "warn", "user", "order", "paid", "cache", "miss", "shard", "retry", "token", "index", "page", "write",
        "flush", "merge", "queue",
    ];
    let mut out = String::with_capacity(size + 128);
    let mut state = 42_u64;
    while out.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = |shift: u32| WORDS[(state >> shift) as usize % WORDS.len()];
        let (id, ms) = (state >> 40, (state >> 20) % 2000);
        out.push_str(&format!(
            "{{\"id\":{id},\"level\":\"{}\",\"ms\":{ms},\"msg\":\"{} {} {}\"}}\n",
            word(33),
            word(37),
            word(45),
            word(53)
        ));
    }
    out.truncate(size);
    out.into()
}

/// The entry of a small file, as the local source delivers it and the index records it.
pub fn entry(number: u64, content: &Bytes) -> Entry {
    let owner = || Some(Owner { id: 1000, name: Some("backup".into()) });
    let size = content.len() as u64;
    Entry {
        name: EntryName::from(format!("d{:03}/f{number:06}.json", number / 200).as_str()),
        kind: EntryKind::File,
        size,
        mtime: Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 }),
        metadata: Metadata { mode: Some(0o644), user: owner(), group: owner(), ..Metadata::default() },
        sha256: Some(Digest::of(content)),
        offset: number * (512 + size.next_multiple_of(512)) + 512,
        ordinal: number,
        group: None,
        inconsistent: false,
        superseded: false,
    }
}
