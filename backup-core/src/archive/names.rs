//! Names of an archive's objects.

use super::Codec;
use crate::model::{ArchiveId, ObjectName};
use crate::{Error, Result};

/// What the name of a volume or index piece says: its number, and which claim on the operation wrote it, so that
/// what a late writer leaves behind has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// Number of the volume or piece; the first is 0.
    pub number: u64,
    /// Number of the claim.
    pub attempt: u64,
    /// Random bits of the claim.
    pub nonce: u32,
}

impl Attempted {
    fn text(self) -> String {
        format!("{:08}-{}x{:08x}", self.number, self.attempt, self.nonce)
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, claim) = text.split_once('-')?;
        let (attempt, nonce) = claim.split_once('x')?;
        let read = Self {
            number: number.parse().ok()?,
            attempt: attempt.parse().ok()?,
            nonce: u32::from_str_radix(nonce, 16).ok()?,
        };
        // One number has one spelling.
        (read.text() == text).then_some(read)
    }
}

/// Makes the names of one archive's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectNames {
    archive: ArchiveId,
    codec: Codec,
    sealed: bool,
}

impl ObjectNames {
    /// The names of an archive.
    pub fn new(archive: ArchiveId, codec: Codec, sealed: bool) -> Self {
        Self { archive, codec, sealed }
    }

    /// The archive.
    pub fn archive(&self) -> &ArchiveId {
        &self.archive
    }

    /// What comes before the `/` in all of them.
    pub fn root(&self) -> ObjectName {
        valid(ObjectName::new(self.archive.as_str()))
    }

    /// `header.json`, the first object.
    pub fn header(&self) -> ObjectName {
        self.named("header.json")
    }

    /// `keys/0.json`, the wraps of a sealed archive's key; each change of keys counts up.
    pub fn keys(&self, number: u64) -> ObjectName {
        self.named(&format!("keys/{number}.json"))
    }

    /// `keys`, below which the wraps are.
    pub fn keys_folder(&self) -> ObjectName {
        self.named("keys")
    }

    /// The number of an object with wraps of this archive; `None` for other objects.
    pub fn parse_keys(&self, name: &ObjectName) -> Option<u64> {
        let number = self.relative(name)?.strip_prefix("keys/")?.strip_suffix(".json")?.parse().ok()?;
        // One number has one spelling.
        (self.keys(number) == *name).then_some(number)
    }

    /// `data/00000000-1x7f3a9c00.tar.zst`, a volume.
    pub fn volume(&self, attempted: Attempted) -> ObjectName {
        self.named(&format!("data/{}.tar{}{}", attempted.text(), self.codec_ending(), self.seal_ending()))
    }

    /// `index/00000000-1x7f3a9c00.jsonl.zst`, an index piece.
    pub fn index(&self, attempted: Attempted) -> ObjectName {
        self.named(&format!("index/{}.jsonl{}{}", attempted.text(), self.codec_ending(), self.seal_ending()))
    }

    /// `index/00000512-1x7f3a9c00.pieces.zst`, records of the pieces before this number: what a backup needs that is going on, and
    /// no archive that is complete.
    pub fn chapter(&self, attempted: Attempted) -> ObjectName {
        self.named(&format!("index/{}.pieces{}{}", attempted.text(), self.codec_ending(), self.seal_ending()))
    }

    /// `volumes.txt`, the volumes in order, for people; only archives that are not sealed have it.
    pub fn volumes_txt(&self) -> ObjectName {
        self.named("volumes.txt")
    }

    /// `manifest.json`, the object that completes the archive.
    pub fn manifest(&self) -> ObjectName {
        self.named(&format!("manifest.json{}", self.seal_ending()))
    }

    /// `swept.json`, which says that the archive is being removed.
    pub fn swept(&self) -> ObjectName {
        self.named("swept.json")
    }

    /// The part behind the archive id, as manifest, index and sealing use it; `None` for an object of another archive.
    pub fn relative<'a>(&self, name: &'a ObjectName) -> Option<&'a str> {
        name.as_str().strip_prefix(self.archive.as_str())?.strip_prefix('/')
    }

    /// The full name of an object that manifest or index name.
    ///
    /// # Errors
    /// `Corrupt` when an archive cannot have an object of this name.
    pub fn object(&self, relative: &str) -> Result<ObjectName> {
        self.root().join(relative).map_err(|e| {
            Error::corrupt("the archive names an object that cannot exist").on(relative.escape_default()).because(e)
        })
    }

    /// What the name of a volume or index piece says, of any archive; `None` for other objects.
    pub fn parse_attempt(name: &ObjectName) -> Option<Attempted> {
        let mut levels = name.as_str().split('/');
        let (_, Some("data" | "index"), Some(file), None) =
            (levels.next(), levels.next(), levels.next(), levels.next())
        else {
            return None;
        };
        Attempted::parse(file.split_once('.')?.0)
    }

    fn named(&self, relative: &str) -> ObjectName {
        valid(ObjectName::new(format!("{}/{relative}", self.archive)))
    }

    fn codec_ending(&self) -> String {
        match self.codec.extension() {
            "" => String::new(),
            extension => format!(".{extension}"),
        }
    }

    fn seal_ending(&self) -> &'static str {
        if self.sealed { ".sealed" } else { "" }
    }
}

/// Archive ids and our own names are made of what object names allow.
fn valid(name: Result<ObjectName>) -> ObjectName {
    match name {
        Ok(name) => name,
        Err(e) => unreachable!("{e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(codec: Codec, sealed: bool) -> ObjectNames {
        ObjectNames::new("20261120T061500Z-1a2b3c4d".parse().unwrap(), codec, sealed)
    }

    const FIRST: Attempted = Attempted { number: 0, attempt: 1, nonce: 0x7f3a_9c00 };

    #[test]
    fn objects_have_the_names_of_the_specification() {
        let id = "20261120T061500Z-1a2b3c4d";
        let zstd = names(Codec::Zstd, false);
        assert_eq!(zstd.header().as_str(), format!("{id}/header.json"));
        assert_eq!(zstd.chapter(FIRST).as_str(), format!("{id}/index/00000000-1x7f3a9c00.pieces.zst"));
        assert_eq!(ObjectNames::parse_attempt(&zstd.chapter(FIRST)), Some(FIRST));
        assert_eq!(zstd.keys(0).as_str(), format!("{id}/keys/0.json"));
        assert_eq!(zstd.keys(12).as_str(), format!("{id}/keys/12.json"));
        assert_eq!(zstd.parse_keys(&zstd.keys(12)), Some(12));
        for other in ["keys/012.json", "keys/00.json", "keys/1.json/2", "data/1.json", "keys/x.json"] {
            assert_eq!(zstd.parse_keys(&zstd.object(other).unwrap()), None, "{other}");
        }
        assert_eq!(zstd.volume(FIRST).as_str(), format!("{id}/data/00000000-1x7f3a9c00.tar.zst"));
        assert_eq!(zstd.index(FIRST).as_str(), format!("{id}/index/00000000-1x7f3a9c00.jsonl.zst"));
        assert_eq!(zstd.volumes_txt().as_str(), format!("{id}/volumes.txt"));
        assert_eq!(zstd.manifest().as_str(), format!("{id}/manifest.json"));
        assert_eq!(zstd.swept().as_str(), format!("{id}/swept.json"));
        let gzip = names(Codec::Gzip, true);
        assert_eq!(gzip.volume(FIRST).as_str(), format!("{id}/data/00000000-1x7f3a9c00.tar.gz.sealed"));
        assert_eq!(gzip.manifest().as_str(), format!("{id}/manifest.json.sealed"));
        assert_eq!(gzip.header().as_str(), format!("{id}/header.json"));
        assert_eq!(names(Codec::None, false).volume(FIRST).as_str(), format!("{id}/data/00000000-1x7f3a9c00.tar"));
    }

    #[test]
    fn relative_names_and_full_names_go_both_ways() {
        let names = names(Codec::Zstd, false);
        let volume = names.volume(FIRST);
        let relative = names.relative(&volume).unwrap();
        assert_eq!(relative, "data/00000000-1x7f3a9c00.tar.zst");
        assert_eq!(names.object(relative).unwrap(), volume);
        assert_eq!(names.relative(&ObjectName::new("20261120T061500Z-1a2b3c4dx/a").unwrap()), None);
        for bad in ["../other/data/0", "/etc/passwd", "", "a\nb"] {
            assert!(names.object(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_claim_is_read_back_from_any_name(
            number in prop_oneof![0..200_000_000u64, any::<u64>()], attempt in any::<u64>(), nonce in any::<u32>(),
            sealed in any::<bool>(),
        ) {
            let attempted = Attempted { number, attempt, nonce };
            for codec in [Codec::Zstd, Codec::Gzip, Codec::None] {
                let names = names(codec, sealed);
                prop_assert_eq!(ObjectNames::parse_attempt(&names.volume(attempted)), Some(attempted));
                prop_assert_eq!(ObjectNames::parse_attempt(&names.index(attempted)), Some(attempted));
            }
        }

        #[test]
        fn other_names_say_nothing(text in "[0-9a-z./x-]{1,40}") {
            if let Ok(name) = ObjectName::new(&text) {
                let _ = ObjectNames::parse_attempt(&name);
            }
        }
    }

    #[test]
    fn names_with_another_spelling_are_not_ours() {
        for text in [
            "a/data/0-1x7f3a9c00.tar",
            "a/data/00000000-+1x7f3a9c00.tar",
            "a/data/00000000-1x7F3A9C00.tar",
            "data/00000000-1x7f3a9c00.tar",
            "a/header.json",
        ] {
            assert_eq!(ObjectNames::parse_attempt(&ObjectName::new(text.replace('+', "0")).unwrap()), None, "{text}");
        }
    }
}
