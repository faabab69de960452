//! `manifest.json`, the object that completes an archive.

use super::{Codec, Header, MAX_FRAME, document};
use crate::model::{ArchiveId, Entry, EntryName, GroupName, Identity, ObjectName};
use crate::{Digest, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

const WHAT: &str = "manifest.json";

/// An index piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRecord {
    /// Name relative to the archive.
    pub name: String,
    /// Stored length, after sealing.
    pub size: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: Digest,
    /// Length of its lines, uncompressed.
    pub raw_size: u64,
    /// What its volumes cover of the raw tar stream.
    pub raw: Range<u64>,
    /// Ordinal of its first entry; that of the next one when it has none.
    pub first_entry: u64,
    /// Number of entries in it.
    pub entries: u64,
    /// Number of its first volume; that of the next one when it has none.
    pub first_volume: u64,
    /// Number of volumes in it.
    pub volumes: u64,
    /// Smallest name of an entry in it, by bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<EntryName>,
    /// Greatest name of an entry in it, by bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_name: Option<EntryName>,
    /// Whether its entries come in ascending order of their names.
    pub sorted: bool,
}

impl PieceRecord {
    /// Whether an entry of this name can be in it.
    pub fn may_hold(&self, name: &EntryName) -> bool {
        matches!((&self.first_name, &self.last_name), (Some(first), Some(last)) if first <= name && name <= last)
    }

    /// Whether an entry can be in it whose name starts so.
    pub fn may_hold_prefix(&self, prefix: &[u8]) -> bool {
        match (&self.first_name, &self.last_name) {
            (Some(first), Some(last)) => {
                last.as_bytes() >= prefix && (first.as_bytes() <= prefix || first.as_bytes().starts_with(prefix))
            }
            _ => false,
        }
    }
}

/// Sums over an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Entries, void ones too.
    pub entries: u64,
    /// Bytes of content of all entries.
    pub bytes: u64,
    /// Length of the raw tar stream.
    pub raw_bytes: u64,
    /// Stored length of all volumes and index pieces.
    pub stored_bytes: u64,
    /// Number of volumes.
    pub volumes: u64,
    /// Things that went wrong without stopping the backup.
    pub warnings: u64,
    /// Entries that changed while they were read.
    pub inconsistent: u64,
    /// Entries that a later one of the same name replaces.
    pub superseded: u64,
}

/// Entries of a group that are void, because the group was read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededGroup {
    /// The group.
    pub group: GroupName,
    /// All its entries are void from this ordinal on …
    pub first: u64,
    /// … up to and including this one.
    pub last: u64,
}

/// The source's archive before this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The archive.
    pub archive: ArchiveId,
    /// SHA-256 of its manifest object as stored.
    pub manifest_sha256: Digest,
}

/// What completes an archive: an archive without it is not one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// As in the header.
    pub format: u32,
    /// As in the header.
    pub min_reader: u32,
    /// As in the header.
    pub features: Vec<String>,
    /// SHA-256 of the header object.
    pub header_sha256: Digest,
    /// As in the header.
    pub id: ArchiveId,
    /// As in the header.
    pub source: Identity,
    /// As in the header.
    pub codec: Codec,
    /// As in the header.
    pub started_at: jiff::Timestamp,
    /// When everything but the manifest was durable.
    pub finished_at: jiff::Timestamp,
    /// Sums.
    pub totals: Totals,
    /// In what sense the entries belong to one moment, as the source says it.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub consistency: serde_json::Value,
    /// Digests of groups over all their entries, as the source defines them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub group_digests: BTreeMap<GroupName, String>,
    /// Void parts of groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<SupersededGroup>,
    /// The source's archive before this one, if one was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// Archives whose volumes this one uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<ArchiveId>,
    /// The index pieces in order.
    pub pieces: Vec<PieceRecord>,
}

impl Manifest {
    /// The bytes of `manifest.json`, before sealing.
    ///
    /// # Errors
    /// `Invalid` when its parts do not fit each other.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|e| Error::invalid("such a manifest must not be written").because(e))?;
        document::encode(self, WHAT)
    }

    /// Reads the bytes of `manifest.json`, after opening the seal.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or contradicts itself; `Unsupported` when it asks for a newer reader.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = document::parse_versioned(bytes, WHAT)?;
        manifest.check().map_err(|e| e.on(WHAT))?;
        Ok(manifest)
    }

    /// Compares it with the header object of the archive that it should complete, and that object's SHA-256.
    ///
    /// # Errors
    /// `Corrupt`, and what differs, when they do not belong together.
    pub fn check_against(&self, header: &Header, header_sha256: &Digest) -> Result<()> {
        let differs = [
            ("format", self.format != header.format || self.min_reader != header.min_reader),
            ("features", self.features != header.features),
            ("archive id", self.id != header.id),
            ("source", self.source != header.source),
            ("codec", self.codec != header.codec),
            ("start", self.started_at != header.started_at),
            ("SHA-256", self.header_sha256 != *header_sha256),
        ];
        match differs.iter().find(|(_, differs)| *differs) {
            Some((what, _)) => {
                Err(Error::corrupt(format!("it belongs to another header.json: the {what} differs")).on(WHAT))
            }
            None => Ok(()),
        }
    }

    /// Whether a superseded group makes this entry void. Entries that are superseded by themselves are not asked for here.
    pub fn voids(&self, entry: &Entry) -> bool {
        self.superseded
            .iter()
            .any(|void| (void.first..=void.last).contains(&entry.ordinal) && entry.group.as_ref() == Some(&void.group))
    }

    /// Whether its parts fit each other: the pieces follow one another without gaps, and make up the totals.
    fn check(&self) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::corrupt(what));
        let (mut entries, mut volumes, mut raw, mut stored) = (0u64, 0u64, 0u64, 0u64);
        for piece in &self.pieces {
            if !piece.name.starts_with("index/") || ObjectName::new(&piece.name).is_err() {
                return wrong("it names an index piece that cannot exist");
            }
            if (piece.first_entry, piece.first_volume, piece.raw.start) != (entries, volumes, raw) {
                return wrong("an index piece does not start where the one before it ends");
            }
            let names = (piece.first_name.is_some(), piece.last_name.is_some());
            if piece.raw.end < raw
                || piece.raw_size > MAX_FRAME as u64
                || names != (piece.entries > 0, piece.entries > 0)
            {
                return wrong("the record of an index piece contradicts itself");
            }
            raw = piece.raw.end;
            let sums = [(entries, piece.entries), (volumes, piece.volumes), (stored, piece.size)];
            let [Some(e), Some(v), Some(s)] = sums.map(|(sum, more): (u64, u64)| sum.checked_add(more)) else {
                return wrong("it speaks of more than any archive holds");
            };
            (entries, volumes, stored) = (e, v, s);
        }
        let totals = &self.totals;
        if (entries, volumes, raw) != (totals.entries, totals.volumes, totals.raw_bytes) || stored > totals.stored_bytes
        {
            return wrong("its index pieces do not make up its totals");
        }
        if self.superseded.iter().any(|void| void.first > void.last || void.last >= entries) {
            return wrong("it voids entries that do not exist");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Compression;
    use super::*;
    use crate::ErrorClass;
    use proptest::prelude::*;

    fn header() -> Header {
        Header::new(
            "20261120T061500Z-1a2b3c4d".parse().unwrap(),
            "nightly",
            Identity::new("local", "/srv/data"),
            "2026-11-20T06:15:00Z".parse().unwrap(),
            Compression::default(),
            false,
        )
    }

    fn piece(number: u64) -> PieceRecord {
        PieceRecord {
            name: format!("index/{number:08}-1x7f3a9c00.jsonl.zst"),
            size: 1000 + number,
            sha256: Digest([number as u8; 32]),
            raw_size: 9000,
            raw: number * 100..(number + 1) * 100,
            first_entry: number * 10,
            entries: 10,
            first_volume: number * 2,
            volumes: 2,
            first_name: Some(format!("n{number:06}").as_str().into()),
            last_name: Some(format!("n{number:06}z").as_str().into()),
            sorted: true,
        }
    }

    fn manifest(pieces: u64) -> Manifest {
        let header = header();
        let pieces: Vec<_> = (0..pieces).map(piece).collect();
        let count = pieces.len() as u64;
        Manifest {
            format: header.format,
            min_reader: header.min_reader,
            features: header.features.clone(),
            header_sha256: Digest::of(&header.encode().unwrap()),
            id: header.id.clone(),
            source: header.source.clone(),
            codec: header.codec,
            started_at: header.started_at,
            finished_at: "2026-11-20T06:16:00Z".parse().unwrap(),
            totals: Totals {
                entries: count * 10,
                volumes: count * 2,
                raw_bytes: count * 100,
                stored_bytes: u64::MAX,
                ..Totals::default()
            },
            consistency: serde_json::json!({"kind": "snapshot"}),
            group_digests: BTreeMap::from([(GroupName("g".into()), "md5:00".into())]),
            superseded: Vec::new(),
            previous: Some(Previous {
                archive: "20261119T061500Z-1a2b3c4d".parse().unwrap(),
                manifest_sha256: Digest([5; 32]),
            }),
            references: Vec::new(),
            pieces,
        }
    }

    #[test]
    fn many_pieces_are_read_back() {
        for pieces in [0, 1, 13_000] {
            let manifest = manifest(pieces);
            let bytes = manifest.encode().unwrap();
            assert!(Manifest::parse(&bytes).unwrap() == manifest);
            assert!(bytes.len() as u64 <= 2000 + pieces * 450, "{} bytes", bytes.len());
        }
    }

    #[test]
    fn it_completes_the_archive_of_its_header_only() {
        let (manifest, header) = (manifest(1), header());
        let digest = Digest::of(&header.encode().unwrap());
        manifest.check_against(&header, &digest).unwrap();
        let mut others = vec![header.clone(); 4];
        others[0].id = "20261120T061500Z-1a2b3c4e".parse().unwrap();
        others[1].source = Identity::new("local", "/srv/other");
        others[2].codec = Codec::Gzip;
        others[3].started_at = "2026-11-20T06:15:01Z".parse().unwrap();
        for other in others {
            assert_eq!(manifest.check_against(&other, &digest).unwrap_err().class(), ErrorClass::Corrupt);
        }
        let error = manifest.check_against(&header, &Digest([0; 32])).unwrap_err();
        assert_eq!(error.to_string(), "manifest.json: it belongs to another header.json: the SHA-256 differs");
    }

    #[test]
    fn damage_and_contradictions_are_corrupt() {
        let bytes = manifest(2).encode().unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Manifest::parse(&changed).is_err(), "byte {at}");
            assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
        let changes: [fn(&mut Manifest); 9] = [
            |m| m.pieces.swap(0, 1),
            |m| m.pieces.truncate(1),
            |m| m.pieces[1].first_entry += 1,
            |m| m.pieces[1].raw.start += 1,
            |m| m.pieces[1].entries = u64::MAX,
            |m| m.pieces[0].name = "index/../../x".into(),
            |m| m.pieces[0].first_name = None,
            |m| m.pieces[0].raw_size = u64::MAX,
            |m| m.superseded.push(SupersededGroup { group: GroupName("g".into()), first: 3, last: 20 }),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = manifest(2);
            change(&mut changed);
            assert_eq!(changed.encode().unwrap_err().class(), ErrorClass::Invalid, "change {number}");
            let bytes = document::encode(&changed, WHAT).unwrap();
            assert_eq!(Manifest::parse(&bytes).unwrap_err().class(), ErrorClass::Corrupt, "change {number}");
        }
    }

    #[test]
    fn a_newer_manifest_is_named_as_such() {
        let newer = Manifest { min_reader: 2, ..manifest(1) };
        let error = Manifest::parse(&newer.encode().unwrap()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unsupported);
    }

    #[test]
    fn pieces_are_found_by_name_and_by_prefix() {
        let piece = PieceRecord { first_name: Some("b/x".into()), last_name: Some("d".into()), ..piece(0) };
        for (name, held) in [("b/x", true), ("c", true), ("d", true), ("b", false), ("d/a", false)] {
            assert_eq!(piece.may_hold(&name.into()), held, "{name}");
        }
        for (prefix, held) in [
            ("", true),
            ("b/", true),
            ("b", true),
            ("c", true),
            ("d", true),
            ("d/", false),
            ("a", false),
            ("b/z", true),
        ] {
            assert_eq!(piece.may_hold_prefix(prefix.as_bytes()), held, "{prefix}");
        }
        assert!(!PieceRecord { first_name: None, last_name: None, ..piece }.may_hold_prefix(b""));
    }

    #[test]
    fn a_superseded_group_voids_its_entries_within_the_range() {
        let mut manifest = manifest(1);
        manifest.superseded.push(SupersededGroup { group: GroupName("g".into()), first: 2, last: 4 });
        let entry = |ordinal, group: Option<&str>| Entry {
            name: "a".into(),
            kind: crate::model::EntryKind::Slice,
            size: 0,
            mtime: None,
            metadata: Default::default(),
            sha256: Some(Digest([0; 32])),
            offset: 512,
            ordinal,
            group: group.map(|g| GroupName(g.into())),
            inconsistent: false,
            superseded: false,
        };
        let voids = |ordinal, group| manifest.voids(&entry(ordinal, group));
        assert!(voids(2, Some("g")) && voids(4, Some("g")));
        assert!(!voids(1, Some("g")) && !voids(5, Some("g")) && !voids(3, Some("h")) && !voids(3, None));
    }

    proptest! {
        #[test]
        fn any_manifest_is_read_back(
            pieces in 0..5u64, first in any::<Vec<u8>>(), digest in any::<[u8; 32]>(), warnings in any::<u64>(),
            text in ".{0,20}", number in any::<i64>(),
        ) {
            let mut manifest = manifest(pieces);
            manifest.header_sha256 = Digest(digest);
            manifest.totals.warnings = warnings;
            manifest.source.location = text.clone();
            manifest.consistency = serde_json::json!({text: [number]});
            if let Some(piece) = manifest.pieces.first_mut() {
                piece.first_name = Some(EntryName::new(first));
            }
            prop_assert_eq!(Manifest::parse(&manifest.encode().unwrap()).unwrap(), manifest);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), pieces in proptest::collection::vec(any::<[u64; 8]>(), 0..4)) {
            let _ = Manifest::parse(&bytes);
            let mut changed = manifest(pieces.len() as u64);
            for (piece, n) in changed.pieces.iter_mut().zip(&pieces) {
                (piece.size, piece.raw_size, piece.raw) = (n[0], n[1], n[2]..n[3]);
                (piece.first_entry, piece.entries, piece.first_volume, piece.volumes) = (n[4], n[5], n[6], n[7]);
            }
            let _ = Manifest::parse(&document::encode(&changed, WHAT).unwrap());
        }
    }
}
