//! What is backed up, and what must come back.

use backup_core::adapter::{ContentReader, Granularity};
use backup_core::engine::{Archive, Selection};
use backup_core::model::{EntryKind, EntryName};
use backup_core::{Digest, Result, Sha256};
use backup_testkit::doubles::{Blob, MemorySource, OnResume, Trouble, TroubleAt};
use bytes::Bytes;
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Contents by name; entries without content are empty.
pub(crate) type Contents = BTreeMap<EntryName, Bytes>;

/// What is special about an entry of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    /// A stored file gets another content while it is read.
    Changes,
    /// A stored file vanishes before it is read.
    Vanishes,
    /// A stored file may not be read.
    Denied,
}

/// One picture of the source.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) source: Arc<MemorySource>,
    pub(crate) contents: Contents,
    /// The entry that the archive may have otherwise, or not at all.
    pub(crate) twisted: Option<EntryName>,
}

/// The n-th number of a seed, below `bound`.
fn draw(seed: u64, n: u64, bound: u64) -> u64 {
    let digest = Digest::of(format!("{seed} {n}").as_bytes());
    u64::from_le_bytes(digest.0[..8].try_into().unwrap()) % bound
}

/// A source of some hundred KB: directories, a link, small and larger files, two groups.
pub(crate) fn picture(seed: u64, twist: Twist) -> Picture {
    let mut source = MemorySource::new("source").directory("dir").symlink("dir/link", "a0");
    let mut contents = Contents::new();
    contents.insert("dir".into(), Bytes::new());
    contents.insert("dir/link".into(), Bytes::new());
    for n in 0..2 + draw(seed, 0, 6) {
        let name = format!("dir/a{n}");
        let blob = Blob::pattern(seed ^ n, draw(seed, 10 + n, 3000));
        contents.insert((&*name).into(), blob.bytes());
        source = source.file(&name, blob);
    }
    for (group, on_resume) in [("shop.orders", OnResume::Continue), ("shop.users", OnResume::Supersede)] {
        let salt = group.len() as u64;
        let slices: Vec<Blob> = (0..draw(seed, 20 + salt, 5))
            .map(|n| Blob::pattern(seed ^ (n << 8) ^ salt, draw(seed, 30 + salt * 10 + n, 20_000)))
            .collect();
        for (n, slice) in slices.iter().enumerate() {
            contents.insert((&*format!("{}/{n:06}.bin", group.replace('.', "/"))).into(), slice.bytes());
        }
        source = source.group(group, slices, on_resume);
    }
    for n in 0..1 + draw(seed, 1, 3) {
        let name = format!("z{n}");
        let blob = Blob::pattern(!seed ^ n, draw(seed, 200 + n, 150_000));
        contents.insert((&*name).into(), blob.bytes());
        source = source.stored(&name, blob);
    }
    let at = TroubleAt { read: 1, after: 61_441 };
    let planned = match twist {
        Twist::None => false,
        Twist::Changes => source.at_read("z0", at, Trouble::Change(Blob::pattern(seed + 1, draw(seed, 2, 150_000)))),
        Twist::Vanishes => source.at_read("z0", TroubleAt::read(1), Trouble::Vanish),
        Twist::Denied => source.at_read("z0", TroubleAt::read(1), Trouble::Deny),
    };
    assert!(planned || twist == Twist::None);
    Picture { source: Arc::new(source), contents, twisted: planned.then(|| "z0".into()) }
}

/// What a complete archive holds, by a way of reading that no restore takes. `groups` is how a target takes slices.
pub(crate) async fn archived(archive: &Archive, groups: Granularity) -> Result<Contents> {
    let mut contents = Contents::new();
    let mut entries = archive.entries(&Selection::default())?;
    while let Some(entry) = entries.try_next().await? {
        let mut whole = Vec::new();
        if entry.size > 0 {
            let stream = archive.content(&entry);
            let mut reader = ContentReader::new(stream, Sha256::default(), Some(entry.size), entry.sha256);
            while let Some(piece) = reader.next().await? {
                whole.extend_from_slice(&piece);
            }
            reader.finish()?;
        }
        match &entry.group {
            Some(group) if groups == Granularity::Whole && entry.kind == EntryKind::Slice => {
                let before = contents.entry(EntryName::from(&*group.0)).or_default();
                *before = [&before[..], &whole].concat().into();
            }
            _ => {
                let before = contents.insert(entry.name.clone(), whole.into());
                assert!(before.is_none(), "{} is in the archive twice", entry.name);
            }
        }
    }
    Ok(contents)
}
