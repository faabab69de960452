//! Reading tar streams as this library writes them, strictly: to compare an archive's stream with its index.
//!
//! It reads what [`write_header`](super::write_header) writes and refuses the rest of what tar knows: other types of
//! entries, global headers, GNU's own ways.

use super::padding;
use super::tar::{BASE64_NAME, MAGIC, TAR_BLOCK, checksum, field};
use crate::model::EntryName;
use crate::{Error, Result};
use base64::Engine as _;

/// The longest pax header; our longest holds a path and a name of 64 KiB, encoded.
const MAX_PAX: u64 = 1 << 20;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarHeader {
    /// The path, without a `/` at the end.
    pub path: Vec<u8>,
    /// The entry's name, when it is not the path.
    pub true_name: Option<EntryName>,
    /// `0` file, `1` hard link, `2` symbolic link, `5` directory, in ASCII.
    pub typeflag: u8,
    /// Where a link points.
    pub link: Vec<u8>,
    /// Length of the content.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Number of the owner.
    pub uid: u64,
    /// Number of the group.
    pub gid: u64,
    /// Last modification in seconds since 1970.
    pub mtime: i64,
    /// Where the content starts in the stream.
    pub offset: u64,
}

/// What comes next in a tar stream.
#[derive(Debug, PartialEq, Eq)]
pub enum TarEvent<'a> {
    /// An entry starts.
    Entry(Box<TarHeader>),
    /// More content of the entry.
    Content(&'a [u8]),
    /// The archive is complete.
    End,
}

/// Reads a tar stream that comes in portions of any size. Holds one header at most.
#[derive(Debug, Default)]
pub struct TarReader {
    state: State,
    /// The part of a header that has come.
    held: Vec<u8>,
    pax: Option<Pax>,
    position: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Header,
    Pax {
        length: usize,
    },
    Content {
        left: u64,
        padding: usize,
    },
    Padding {
        left: usize,
    },
    SecondEndBlock,
    End,
}

impl TarReader {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes of the stream were used so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What comes next; takes the bytes that it used off the front of `input`. `None`: all of it was used, more is needed.
    ///
    /// # Errors
    /// `Corrupt` when it is not such a stream; the reader is of no use after that.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<TarEvent<'a>>> {
        loop {
            match self.state {
                State::Header => {
                    let Some(block) = self.hold(input, TAR_BLOCK) else { return Ok(None) };
                    if block.iter().all(|b| *b == 0) {
                        if self.pax.is_some() {
                            return Err(Error::corrupt("a pax header in the tar stream has no entry"));
                        }
                        self.state = State::SecondEndBlock;
                        continue;
                    }
                    let header = Block::parse(&block)?;
                    if header.typeflag == b'x' {
                        if self.pax.is_some() || header.size > MAX_PAX {
                            return Err(Error::corrupt("a pax header in the tar stream is too long or doubled"));
                        }
                        self.state = State::Pax { length: header.size as usize };
                        continue;
                    }
                    let header = header.entry(self.pax.take().unwrap_or_default(), self.position)?;
                    self.state = State::Content { left: header.size, padding: padding(header.size) };
                    return Ok(Some(TarEvent::Entry(Box::new(header))));
                }
                State::Pax { length } => {
                    let Some(records) = self.hold(input, length + padding(length as u64)) else { return Ok(None) };
                    let (records, rest) = records.split_at(length);
                    all_zero(rest)?;
                    self.pax = Some(Pax::parse(records)?);
                    self.state = State::Header;
                }
                State::Content { left: 0, padding } => self.state = State::Padding { left: padding },
                State::Content { left, padding } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    self.state = State::Content { left: left - now as u64, padding };
                    return Ok(Some(TarEvent::Content(self.take(input, now))));
                }
                State::Padding { left: 0 } => self.state = State::Header,
                State::Padding { left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let now = left.min(input.len());
                    all_zero(self.take(input, now))?;
                    self.state = State::Padding { left: left - now };
                }
                State::SecondEndBlock => {
                    let Some(block) = self.hold(input, TAR_BLOCK) else { return Ok(None) };
                    all_zero(&block)?;
                    self.state = State::End;
                    return Ok(Some(TarEvent::End));
                }
                State::End if input.is_empty() => return Ok(None),
                State::End => return Err(Error::corrupt("something follows the end of the tar stream")),
            }
        }
    }

    /// Confirms that the stream was complete.
    ///
    /// # Errors
    /// `Corrupt` when its end is missing.
    pub fn finish(self) -> Result<()> {
        match self.state {
            State::End => Ok(()),
            _ => Err(Error::corrupt("the tar stream ends early")),
        }
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (now, later) = input.split_at(length);
        *input = later;
        self.position += length as u64;
        now
    }

    /// So many bytes, once they have all come.
    fn hold(&mut self, input: &mut &[u8], length: usize) -> Option<Vec<u8>> {
        let now = (length - self.held.len()).min(input.len());
        let now = self.take(input, now);
        self.held.extend_from_slice(now);
        (self.held.len() == length).then(|| std::mem::take(&mut self.held))
    }
}

fn all_zero(bytes: &[u8]) -> Result<()> {
    if bytes.iter().all(|b| *b == 0) {
        Ok(())
    } else {
        Err(Error::corrupt("there is something in the tar stream where zeros should be"))
    }
}

/// A header block by itself.
struct Block {
    path: Vec<u8>,
    link: Vec<u8>,
    typeflag: u8,
    size: u64,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: i64,
}

impl Block {
    /// `block` has the length of one.
    fn parse(block: &[u8]) -> Result<Self> {
        let sum = block[field::CHECKSUM].strip_suffix(b" ").map(octal);
        if sum != Some(Ok(checksum(block).into())) || block[field::MAGIC] != MAGIC[..] {
            return Err(Error::corrupt("a header in the tar stream is damaged"));
        }
        let [prefix, name] = [&block[field::PREFIX], &block[field::NAME]].map(text);
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        let number = |range: std::ops::Range<usize>| {
            octal(&block[range])
                .map_err(|()| Error::corrupt("a header in the tar stream has no number where one should be"))
        };
        Ok(Self {
            path,
            link: text(&block[field::LINK]).to_vec(),
            typeflag: block[field::TYPE],
            size: number(field::SIZE)?,
            mode: number(field::MODE)? as u32,
            uid: number(field::UID)?,
            gid: number(field::GID)?,
            mtime: number(field::MTIME)? as i64,
        })
    }

    fn entry(self, pax: Pax, offset: u64) -> Result<TarHeader> {
        let wrong = |what: &'static str| Err(Error::corrupt(what));
        let mut path = pax.path.unwrap_or(self.path);
        let size = pax.size.unwrap_or(self.size);
        let link = pax.link.unwrap_or(self.link);
        match self.typeflag {
            b'0' if link.is_empty() => {}
            b'1' | b'2' if size == 0 => {}
            b'5' if size == 0 && link.is_empty() && path.ends_with(b"/") => {
                path.pop();
            }
            _ => return wrong("an entry in the tar stream is of a kind that archives do not hold"),
        }
        if path.is_empty() || path.ends_with(b"/") {
            return wrong("an entry in the tar stream has no name");
        }
        Ok(TarHeader {
            path,
            true_name: pax.true_name,
            typeflag: self.typeflag,
            link,
            size,
            mode: self.mode,
            uid: pax.uid.unwrap_or(self.uid),
            gid: pax.gid.unwrap_or(self.gid),
            mtime: pax.mtime.unwrap_or(self.mtime),
            offset,
        })
    }
}

/// The text in a field, up to its first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits and a zero byte.
fn octal(field: &[u8]) -> Result<u64, ()> {
    let digits = field.strip_suffix(b"\0").ok_or(())?;
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | u64::from(digit - b'0')),
        _ => Err(()),
    })
}

/// What a pax header says.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
    uid: Option<u64>,
    gid: Option<u64>,
    true_name: Option<EntryName>,
}

impl Pax {
    fn parse(mut records: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while !records.is_empty() {
            let (key, value, rest) =
                record(records).ok_or_else(|| Error::corrupt("a pax header in the tar stream is damaged"))?;
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"size" => pax.size = Some(number(value)?),
                b"mtime" => pax.mtime = Some(number(value)?),
                b"uid" => pax.uid = Some(number(value)?),
                b"gid" => pax.gid = Some(number(value)?),
                b"comment" => pax.true_name = Some(true_name(value)?),
                // Names of owners, and what a newer writer may add: nothing depends on it.
                _ => {}
            }
            records = rest;
        }
        Ok(pax)
    }
}

/// Key and value of the first record, and the records behind it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(8).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Result<T> {
    let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Error::corrupt("a pax header in the tar stream has no number where one should be"))
}

fn true_name(value: &[u8]) -> Result<EntryName> {
    match value.strip_prefix(BASE64_NAME.as_bytes()) {
        None => Ok(EntryName::new(value.to_vec())),
        Some(encoded) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map(EntryName::new)
            .map_err(|e| Error::corrupt("a true name in the tar stream is not base64").because(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TarEntry, TarKind, write_end, write_header};
    use super::*;
    use crate::model::Metadata;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let name = EntryName::from("/a");
        let metadata = Metadata::default();
        let entry = |path, true_name, size| TarEntry {
            path,
            true_name,
            kind: TarKind::File,
            size,
            mtime: None,
            metadata: &metadata,
        };
        write_header(&entry("%2Fa", Some(&name), 3), &mut out);
        out.extend_from_slice(b"abc");
        out.resize(out.len() + padding(3), 0);
        write_header(&entry("b", None, 0), &mut out);
        write_end(&mut out);
        out
    }

    /// Reads to the end; how many entries there were.
    fn entries(mut stream: &[u8]) -> Result<usize> {
        let mut reader = TarReader::new();
        let mut entries = 0;
        while let Some(event) = reader.next(&mut stream)? {
            entries += usize::from(matches!(event, TarEvent::Entry(_)));
        }
        reader.finish()?;
        Ok(entries)
    }

    #[test]
    fn a_stream_that_ends_early_or_goes_on_is_corrupt() {
        let stream = sample();
        assert_eq!(entries(&stream).unwrap(), 2);
        for cut in 0..stream.len() {
            assert!(entries(&stream[..cut]).is_err(), "cut at {cut}");
        }
        assert!(entries(&[&stream[..], &[0; 512]].concat()).is_err());
    }

    #[test]
    fn changed_headers_and_padding_are_corrupt() {
        let stream = sample();
        // Everything but the records of the pax header, whose text is free, and the content.
        let free = |at: usize| (512..1024).contains(&at) || (1536..1539).contains(&at);
        for at in (0..stream.len()).filter(|at| !free(*at)) {
            let mut changed = stream.clone();
            changed[at] ^= 1;
            assert!(entries(&changed).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..1500),
            at in any::<prop::sample::Index>(), portion in 1..700usize,
        ) {
            let _ = entries(&bytes);
            let _ = Pax::parse(&bytes);
            // A sample with a stretch that was overwritten, its checksums mended so that more is reached.
            let mut stream = sample();
            let at = at.index(stream.len());
            for (to, from) in stream[at..].iter_mut().zip(&bytes) {
                *to = *from;
            }
            for block in stream.chunks_exact_mut(TAR_BLOCK) {
                if block[field::MAGIC] == MAGIC[..] {
                    let sum = format!("{:06o}\0 ", checksum(block));
                    block[field::CHECKSUM].copy_from_slice(sum.as_bytes());
                }
            }
            let mut reader = TarReader::new();
            'all: for mut now in stream.chunks(portion) {
                loop {
                    match reader.next(&mut now) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
            }
        }
    }
}
