//! Verify: does the archive hold what it says?

use super::archive::{Archive, is_damage};
use super::fetch::{Decoded, Fetcher, RawFrame, VolumeDigest, chunks_of};
use crate::archive::{
    TAR_BLOCK, TarEntry, TarEvent, TarHeader, TarKind, TarPaths, TarReader, VolumeRecord, WARNINGS_FILE, write_header,
};
use crate::limit::RateLimit;
use crate::model::{Entry, EntryKind, EntryName, Phase, Progress};
use crate::{Error, Result, Sha256};
use futures::{StreamExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// Findings that are kept; more are only counted.
const MAX_FINDINGS: usize = 1000;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum VerifyMode {
    /// Every named object exists with its size; index pieces are read and compared.
    Quick,
    /// Every byte is read and every digest compared, also the tar headers with the index.
    Full,
    /// As full, for this share of the volumes, chosen at random; quick for the others.
    Sample {
        /// Above 0, at most 100.
        percent: f64,
    },
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object that it is about, relative to the archive.
    pub object: Option<String>,
    /// The entry that it is about.
    pub entry: Option<EntryName>,
    /// What is wrong.
    pub message: String,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyOutcome {
    /// Objects looked at.
    pub objects: u64,
    /// Stored bytes read.
    pub bytes: u64,
    /// Entries whose content was compared.
    pub entries: u64,
    /// The first 1,000 findings.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub finding_count: u64,
}

impl VerifyOutcome {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.finding_count == 0
    }

    fn find(&mut self, object: Option<&str>, entry: Option<&EntryName>, message: impl Into<String>) {
        self.finding_count += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                object: object.map(str::to_owned),
                entry: entry.cloned(),
                message: message.into(),
            });
        }
    }
}

/// So many entries of the stream wait for their records at most.
const MAX_PASSED: usize = 100_000;

/// Memory for what is read and not yet compared.
const MEMORY: u64 = 96 << 20;

impl Archive {
    /// Verifies the archive. Header, keys and manifest were compared when it was opened.
    ///
    /// # Errors
    /// When the destination cannot be read. Damage is no error but a finding.
    pub async fn verify(&self, mode: VerifyMode, progress: &watch::Sender<Progress>) -> Result<VerifyOutcome> {
        if let VerifyMode::Sample { percent } = mode
            && !(percent > 0.0 && percent <= 100.0)
        {
            return Err(Error::invalid("a sample must be more than 0 and at most 100 percent"));
        }
        let mut run = Run {
            archive: self,
            mode,
            progress,
            outcome: VerifyOutcome::default(),
            sizes: self.listed_sizes().await?,
            walker: Some(Walker::default()),
            names: Some(Sha256::new()),
        };
        progress.send_modify(|p| {
            p.phase = Phase::Verifying;
            p.bytes_total = (mode == VerifyMode::Full).then_some(self.manifest().totals.stored_bytes);
        });
        run.all().await?;
        progress.send_modify(|p| p.phase = Phase::Done);
        Ok(run.outcome)
    }

    /// Stored sizes of all objects of the archive, by their relative names.
    async fn listed_sizes(&self) -> Result<HashMap<String, u64>> {
        let inner = &self.inner;
        let root = inner.names.root();
        let mut listed = inner.destination.list(Some(&root));
        let mut sizes = HashMap::new();
        while let Some(object) = listed.try_next().await? {
            if let Some(relative) = inner.names.relative(&object.name) {
                sizes.insert(relative.to_owned(), object.size);
            }
        }
        Ok(sizes)
    }
}

/// One verification.
struct Run<'a> {
    archive: &'a Archive,
    mode: VerifyMode,
    progress: &'a watch::Sender<Progress>,
    outcome: VerifyOutcome,
    sizes: HashMap<String, u64>,
    /// Compares the tar stream with the index, as long as no part of it is missing.
    walker: Option<Walker>,
    /// What `volumes.txt` should be, as long as that is known.
    names: Option<Sha256>,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<()> {
        let manifest = self.archive.manifest();
        let mut raw = 0;
        for (number, record) in manifest.pieces.iter().enumerate() {
            if record.raw.start != raw {
                self.outcome.find(Some(&record.name), None, "the index pieces do not follow each other without a gap");
            }
            raw = record.raw.end;
            self.outcome.objects += 1;
            self.size(&record.name, record.size);
            match self.archive.piece(number).await {
                Ok(piece) => {
                    self.outcome.bytes += record.size;
                    for volume in piece.volumes.iter() {
                        if let Some(names) = &mut self.names {
                            names.update(format!("{}\n", volume.name).as_bytes());
                        }
                    }
                    self.volumes(&piece.volumes, piece.entries).await?;
                }
                Err(e) if self.is_finding(&e).await => {
                    if self.sizes.contains_key(&record.name) {
                        self.outcome.find(Some(&record.name), None, e.chain());
                    } // Else that it is missing has been said.
                    self.walker = None;
                    self.names = None;
                }
                Err(e) => return Err(e),
            }
        }
        if raw != manifest.totals.raw_bytes {
            self.outcome.find(None, None, "the volumes do not add up to the length that the manifest gives");
        }
        if self.mode == VerifyMode::Full
            && let Some(walker) = self.walker.take()
        {
            walker.finish(&mut self.outcome);
        }
        self.volumes_txt().await
    }

    /// Whether an error of reading one object is a finding: also one such as a bad sector is, if the destination as a whole can
    /// still be reached.
    async fn is_finding(&self, error: &Error) -> bool {
        is_damage(error) || self.archive.is_damaged_by(error).await
    }

    /// `volumes.txt` is for people with `tar`, but it should be right all the same.
    async fn volumes_txt(&mut self) -> Result<()> {
        let inner = &self.archive.inner;
        let Some(expected) = self.names.take().filter(|_| inner.key.is_none()) else { return Ok(()) };
        let expected = expected.finish();
        let name = inner.names.volumes_txt();
        let mut found = Sha256::new();
        let read = async {
            let mut stream = inner.destination.get(&name, None).await?;
            while let Some(bytes) = stream.try_next().await? {
                found.update(&bytes);
            }
            Ok::<_, Error>(())
        };
        self.outcome.objects += 1;
        let relative = inner.names.relative(&name).map(str::to_owned);
        match read.await {
            Ok(()) if found.finish() == expected => {}
            Ok(()) => self.outcome.find(relative.as_deref(), None, "it does not list the archive's volumes"),
            Err(e) if is_damage(&e) => self.outcome.find(relative.as_deref(), None, e.chain()),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Compares the length of an object with its record.
    fn size(&mut self, name: &str, recorded: u64) {
        match self.sizes.get(name) {
            Some(size) if *size == recorded => {}
            Some(size) => {
                let text = format!("it has {size} bytes where the archive's records say {recorded}");
                self.outcome.find(Some(name), None, text);
            }
            None => self.outcome.find(Some(name), None, "it is missing"),
        }
    }

    async fn volumes(&mut self, volumes: &Arc<Vec<VolumeRecord>>, entries: Vec<Entry>) -> Result<()> {
        let mut read = Vec::new();
        for volume in volumes.iter() {
            self.outcome.objects += 1;
            self.size(&volume.name, volume.size);
            let chosen = match self.mode {
                VerifyMode::Quick => false,
                VerifyMode::Full => true,
                VerifyMode::Sample { percent } => rand::random::<f64>() * 100.0 < percent,
            };
            if chosen {
                read.push(Arc::new(volume.clone()));
            }
        }
        match self.mode {
            VerifyMode::Quick => Ok(()),
            VerifyMode::Full => {
                if self.walker.as_ref().is_some_and(|walker| walker.expected.len() > MAX_PASSED) {
                    self.outcome.find(None, None, "the index has many entries that the tar stream has not");
                    self.walker = None;
                }
                if let Some(walker) = &mut self.walker {
                    walker.expected.extend(entries);
                }
                self.read_all(read).await
            }
            VerifyMode::Sample { .. } => {
                for volume in read {
                    let range = volume.raw_range();
                    let inside =
                        |e: &&Entry| e.sha256.is_some() && e.offset >= range.start && e.offset + e.size <= range.end;
                    let entries = entries.iter().filter(inside).cloned().collect();
                    self.sample(volume, entries).await?;
                }
                Ok(())
            }
        }
    }

    fn fetcher(&self) -> Fetcher {
        let mut fetcher = Fetcher::new(self.archive.clone(), MEMORY, RateLimit::default(), 3);
        fetcher.keep_stored = true;
        fetcher
    }

    async fn read_all(&mut self, volumes: Vec<Arc<VolumeRecord>>) -> Result<()> {
        let chunks: Vec<_> =
            volumes.iter().flat_map(|v| chunks_of(v, std::slice::from_ref(&v.raw_range()))).map(Ok).collect();
        let mut fetched = self.fetcher().run_each(futures::stream::iter(chunks));
        let mut digest = VolumeDigest::default();
        let mut broken: Option<String> = None;
        while let Some(item) = fetched.next().await {
            let (chunk, result) = item?;
            match result {
                Ok(decoded) => {
                    if broken.as_ref() != Some(&chunk.volume.name) {
                        self.digest(&mut digest, &decoded);
                    }
                    self.walk(decoded).await?;
                }
                Err(e) if self.is_finding(&e).await => {
                    // One finding a volume says enough.
                    if broken.as_ref() != Some(&chunk.volume.name) {
                        self.outcome.find(Some(&chunk.volume.name), None, e.chain());
                    }
                    broken = Some(chunk.volume.name.clone());
                    digest = VolumeDigest::default();
                    self.walker = None;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn digest(&mut self, digest: &mut VolumeDigest, decoded: &Decoded) {
        if digest.add(decoded) == Some(false) {
            let name = &decoded.chunk.volume.name;
            self.outcome.find(Some(name), None, "its SHA-256 is not the recorded one");
        }
        let stored: u64 = decoded.chunk.stored_length();
        self.outcome.bytes += stored;
        self.progress.send_modify(|p| {
            p.bytes += stored;
            p.entries = self.outcome.entries;
        });
    }

    /// Compares frames with the index, on a blocking thread.
    async fn walk(&mut self, decoded: Decoded) -> Result<()> {
        let Some(mut walker) = self.walker.take() else { return Ok(()) };
        let mut outcome = std::mem::take(&mut self.outcome);
        let walked = tokio::task::spawn_blocking(move || {
            let intact = decoded.frames.iter().try_for_each(|frame| walker.feed(&frame.bytes, &mut outcome));
            if let Err(e) = &intact {
                outcome.find(
                    Some(&decoded.chunk.volume.name),
                    None,
                    format!("its tar stream is not as it should be: {}", e.chain()),
                );
            }
            (intact.is_ok().then_some(walker), outcome)
        });
        (self.walker, self.outcome) = walked.await.map_err(super::archive::panicked)?;
        Ok(())
    }

    /// Reads one volume and compares the entries that lie in it.
    async fn sample(&mut self, volume: Arc<VolumeRecord>, entries: Vec<Entry>) -> Result<()> {
        let chunks = chunks_of(&volume, std::slice::from_ref(&volume.raw_range()));
        let mut fetched = self.fetcher().run(futures::stream::iter(chunks.into_iter().map(Ok)));
        let mut digest = VolumeDigest::default();
        let mut sampler = Sampler { entries: entries.into(), ..Sampler::default() };
        while let Some(decoded) = fetched.next().await {
            match decoded {
                Ok(decoded) => {
                    self.digest(&mut digest, &decoded);
                    let mut outcome = std::mem::take(&mut self.outcome);
                    let walked = tokio::task::spawn_blocking(move || {
                        decoded.frames.iter().for_each(|frame| sampler.feed(frame, &mut outcome));
                        (sampler, outcome)
                    });
                    (sampler, self.outcome) = walked.await.map_err(super::archive::panicked)?;
                }
                Err(e) if self.is_finding(&e).await => {
                    self.outcome.find(Some(&volume.name), None, e.chain());
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Follows the tar stream and compares each entry with the index.
#[derive(Debug, Default)]
struct Walker {
    tar: TarReader,
    /// The entry whose content is passing by.
    present: Option<Passing>,
    /// Entries that have passed and whose record has not come yet: it may stand in the next piece.
    passed: VecDeque<Passing>,
    /// Records of entries that have not passed yet.
    expected: VecDeque<Entry>,
    /// The paths of the entries that have been compared.
    paths: Paths,
}

/// Makes the tar paths of hard links' targets, as the writer did.
#[derive(Debug, Default)]
struct Paths(TarPaths);

impl Paths {
    /// Takes the next entry; the path that its header must link to, if it is a hard link.
    fn link_of(&mut self, entry: &Entry) -> Option<String> {
        self.0.next(&entry.name, &entry.kind);
        match &entry.kind {
            EntryKind::HardLink { target } => Some(self.0.path(target).into_owned()),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Passing {
    header: Box<TarHeader>,
    hash: Sha256,
}

impl Walker {
    fn feed(&mut self, mut bytes: &[u8], outcome: &mut VerifyOutcome) -> Result<()> {
        while let Some(event) = self.tar.next(&mut bytes)? {
            match event {
                TarEvent::Entry(header) => {
                    self.passed.extend(self.present.take());
                    if header.path != WARNINGS_FILE.as_bytes() {
                        self.present = Some(Passing { header, hash: Sha256::new() });
                    }
                }
                TarEvent::Content(content) => {
                    if let Some(present) = &mut self.present {
                        present.hash.update(content);
                    }
                }
                TarEvent::End => self.passed.extend(self.present.take()),
            }
        }
        self.compare(outcome);
        if self.passed.len() > MAX_PASSED {
            return Err(Error::corrupt("the index lacks records of what is in the stream"));
        }
        Ok(())
    }

    fn compare(&mut self, outcome: &mut VerifyOutcome) {
        while let (Some(passed), Some(entry)) = (self.passed.front(), self.expected.front()) {
            let link = self.paths.link_of(entry);
            if let Some(message) = difference(passed, entry, link.as_deref()) {
                outcome.find(None, Some(&entry.name), message);
            }
            outcome.entries += 1;
            self.passed.pop_front();
            self.expected.pop_front();
        }
    }

    fn finish(mut self, outcome: &mut VerifyOutcome) {
        self.passed.extend(self.present.take());
        self.compare(outcome);
        if let Err(e) = std::mem::take(&mut self.tar).finish() {
            outcome.find(None, None, format!("the tar stream is damaged: {}", e.chain()));
        }
        for entry in &self.expected {
            outcome.find(None, Some(&entry.name), "the index has it, the tar stream has not");
        }
        for passed in &self.passed {
            let name = EntryName::new(passed.header.path.clone());
            outcome.find(None, Some(&name), "the tar stream has it, the index has not");
        }
    }
}

/// What tar stream and index tell differently of an entry. `link` is where the header of a hard link must point.
fn difference(passed: &Passing, entry: &Entry, link: Option<&str>) -> Option<&'static str> {
    let there = &passed.header;
    let name = there.true_name.as_ref().map_or(&there.path[..], EntryName::as_bytes);
    if name != entry.name.as_bytes() {
        return Some("the tar stream has another name in its place");
    }
    if (there.offset, there.size) != (entry.offset, entry.size) {
        return Some("tar stream and index disagree on where it is");
    }
    let Some(expected) = header_of(entry, &there.path, link) else {
        return Some("its tar header cannot be as the index has it");
    };
    if there.typeflag != expected.typeflag {
        return Some("the tar stream has another kind of entry in its place");
    }
    if there.link != expected.link {
        return Some("tar stream and index disagree on where it links to");
    }
    if there.mode != expected.mode {
        return Some("tar stream and index disagree on its permissions");
    }
    if (there.uid, there.gid) != (expected.uid, expected.gid) {
        return Some("tar stream and index disagree on its owner");
    }
    if there.mtime != expected.mtime {
        return Some("tar stream and index disagree on when it was modified");
    }
    match entry.sha256 {
        Some(sha256) if passed.hash.clone().finish() != sha256 => Some("its content's SHA-256 is not the recorded one"),
        None if entry.size > 0 => Some("it has content but no digest"),
        _ => None,
    }
}

/// The header that an entry of the index has under a path, written and read again.
fn header_of(entry: &Entry, path: &[u8], link: Option<&str>) -> Option<TarHeader> {
    let kind = match &entry.kind {
        EntryKind::File | EntryKind::Slice => TarKind::File,
        EntryKind::Directory => TarKind::Directory,
        EntryKind::Symlink { target } => TarKind::Symlink(target),
        EntryKind::HardLink { .. } => TarKind::HardLink(link?),
    };
    let path = std::str::from_utf8(path).ok()?;
    let tar = TarEntry { path, true_name: None, kind, size: entry.size, mtime: entry.mtime, metadata: &entry.metadata };
    let mut bytes = Vec::with_capacity(TAR_BLOCK);
    write_header(&tar, &mut bytes);
    match TarReader::new().next(&mut &bytes[..]) {
        Ok(Some(TarEvent::Entry(header))) => Some(*header),
        _ => None,
    }
}

/// Compares the entries of a sampled volume.
#[derive(Debug, Default)]
struct Sampler {
    entries: VecDeque<Entry>,
    hash: Sha256,
}

impl Sampler {
    fn feed(&mut self, frame: &RawFrame, outcome: &mut VerifyOutcome) {
        let end = frame.start + frame.bytes.len() as u64;
        while let Some(entry) = self.entries.front() {
            let at = entry.offset + self.hash.length();
            if at > end || (at == end && entry.size > self.hash.length()) {
                return;
            }
            if at < frame.start {
                // The frame that has its first bytes has passed.
                outcome.find(None, Some(&entry.name), "the index places entries out of order");
                self.hash = Sha256::new();
                self.entries.pop_front();
                continue;
            }
            let stop = end.min(entry.offset + entry.size);
            // Both are offsets into a frame, which lies in memory.
            let (from, to) = ((at - frame.start) as usize, (stop - frame.start) as usize);
            self.hash.update(&frame.bytes[from..to]);
            if stop < entry.offset + entry.size {
                return;
            }
            let digest = std::mem::take(&mut self.hash).finish();
            if entry.sha256 != Some(digest) {
                outcome.find(None, Some(&entry.name), "its content's SHA-256 is not the recorded one");
            }
            outcome.entries += 1;
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::model::Metadata;

    fn entry(name: &str, offset: u64, content: &[u8]) -> Entry {
        Entry {
            name: name.into(),
            kind: EntryKind::File,
            size: content.len() as u64,
            mtime: None,
            metadata: Metadata::default(),
            sha256: Some(Digest::of(content)),
            offset,
            ordinal: 0,
            group: None,
            inconsistent: false,
            superseded: false,
        }
    }

    fn passing(entry: &Entry, link: Option<&str>) -> Passing {
        let mut header = header_of(entry, entry.name.as_bytes(), link).unwrap();
        header.offset = entry.offset;
        let mut hash = Sha256::new();
        hash.update(b"aaaa");
        Passing { header: Box::new(header), hash }
    }

    #[test]
    fn whatever_tar_stream_and_index_tell_differently_is_found() {
        let mut file = entry("f", 512, b"aaaa");
        file.mtime = Some(crate::model::Timestamp { seconds: -7, nanos: 5 });
        file.metadata.mode = Some(0o4751);
        file.metadata.user = Some(crate::model::Owner { id: 3_000_000_000, name: None });
        assert_eq!(difference(&passing(&file, None), &file, None), None);
        let mut symlink = Entry { kind: EntryKind::Symlink { target: "to".into() }, ..entry("l", 0, b"") };
        symlink.sha256 = None;
        assert_eq!(difference(&passing(&symlink, None), &symlink, None), None);
        let hard = Entry { kind: EntryKind::HardLink { target: "f".into() }, ..symlink.clone() };
        assert_eq!(difference(&passing(&hard, Some("f")), &hard, Some("f")), None);
        type Change = fn(&mut TarHeader);
        let changes: [(&Entry, Change, &str); 11] = [
            (&file, |h| h.path = b"g".to_vec(), "another name"),
            (&file, |h| h.offset += 512, "where it is"),
            (&file, |h| h.size += 1, "where it is"),
            (&file, |h| h.typeflag = b'5', "another kind"),
            (&file, |h| h.mode ^= 0o1, "permissions"),
            (&file, |h| h.mode ^= 0o4000, "permissions"),
            (&file, |h| h.uid -= 1, "owner"),
            (&file, |h| h.gid += 1, "owner"),
            (&file, |h| h.mtime += 1, "modified"),
            (&symlink, |h| h.link = b"tO".to_vec(), "links to"),
            (&hard, |h| h.link = b"g".to_vec(), "links to"),
        ];
        for (entry, change, told) in changes {
            let link = matches!(entry.kind, EntryKind::HardLink { .. }).then_some("f");
            let mut passed = passing(entry, link);
            change(&mut passed.header);
            let found = difference(&passed, entry, link);
            assert!(found.is_some_and(|found| found.contains(told)), "{told}: {found:?}");
        }
        let mut content = passing(&file, None);
        content.hash = Sha256::new();
        assert!(difference(&content, &file, None).unwrap().contains("SHA-256"));
    }

    #[test]
    fn a_sample_finds_entries_that_are_out_of_order_and_goes_on() {
        let entries = [entry("b", 110, b"bbbb"), entry("a", 20, b"aaaa"), entry("c", 196, b"cccccccc")];
        let mut sampler = Sampler { entries: entries.into(), ..Sampler::default() };
        let mut outcome = VerifyOutcome::default();
        for start in [0, 100, 200] {
            let mut bytes = vec![0; 100];
            match start {
                0 => bytes[20..24].fill(b'a'),
                100 => {
                    bytes[10..14].fill(b'b');
                    bytes[96..].fill(b'c');
                }
                _ => bytes[..4].fill(b'c'),
            }
            sampler.feed(&RawFrame { start, bytes: bytes.into() }, &mut outcome);
        }
        let found: Vec<_> = outcome.findings.iter().map(|f| (f.entry.clone().unwrap(), &f.message[..])).collect();
        assert_eq!(found, [("a".into(), "the index places entries out of order")]);
        assert_eq!(outcome.entries, 2);
    }
}
