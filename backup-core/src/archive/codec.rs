//! Compression of frames: each frame stands alone, so that frames compress and decompress in parallel.

use crate::{Error, Result};
use bytes::Bytes;
use flate2::{Compress, Crc, Decompress, FlushCompress, FlushDecompress, Status};
use serde::{Deserialize, Serialize};
use std::fmt;
use zstd::zstd_safe::{
    self, CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective, get_error_name, zstd_sys::ZSTD_EndDirective,
};

/// The most bytes that a frame, or an index piece, may decompress to.
pub const MAX_FRAME: usize = 64 << 20;

/// No codec makes more bytes than this of so many: those that cannot be compressed stay as they are, with some framing.
pub const fn max_packed(raw: u64) -> u64 {
    raw.saturating_add(raw / 64).saturating_add(64 << 10)
}

/// How frames are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Codec {
    /// A zstd frame with checksum and content size (RFC 8878).
    #[default]
    Zstd,
    /// A gzip member (RFC 1952).
    Gzip,
    /// As it is.
    None,
}

impl Codec {
    /// The ending of names of objects in this codec: `zst`, `gz`, or nothing.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Gzip => "gz",
            Self::None => "",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::None => "none",
        })
    }
}

impl std::str::FromStr for Codec {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "zstd" => Ok(Self::Zstd),
            "gzip" => Ok(Self::Gzip),
            "none" => Ok(Self::None),
            _ => Err(Error::invalid("not a codec (zstd, gzip or none)").on(s.escape_default())),
        }
    }
}

/// A codec and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "CompressionForm", into = "CompressionForm")]
pub struct Compression {
    codec: Codec,
    level: i32,
}

#[derive(Serialize, Deserialize)]
struct CompressionForm {
    codec: Codec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<i32>,
}

impl Compression {
    /// A codec at a level; `None` is the codec's default (zstd 3, gzip 6).
    ///
    /// # Errors
    /// `Invalid` when the codec has no such level (zstd 1 to 19, gzip 1 to 9, none has no levels).
    pub fn new(codec: Codec, level: Option<i32>) -> Result<Self> {
        let (default, levels) = match codec {
            Codec::Zstd => (3, 1..=19),
            Codec::Gzip => (6, 1..=9),
            Codec::None if level.is_none() => (0, 0..=0),
            Codec::None => return Err(Error::invalid("without compression there is no level to choose")),
        };
        let level = level.unwrap_or(default);
        if levels.contains(&level) {
            Ok(Self { codec, level })
        } else {
            let (first, last) = levels.into_inner();
            Err(Error::invalid(format!("{codec} has no level {level}: choose {first} to {last}")))
        }
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The level; `None` without compression.
    pub fn level(&self) -> Option<i32> {
        (self.codec != Codec::None).then_some(self.level)
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self { codec: Codec::Zstd, level: 3 }
    }
}

impl TryFrom<CompressionForm> for Compression {
    type Error = Error;
    fn try_from(form: CompressionForm) -> Result<Self> {
        Self::new(form.codec, form.level)
    }
}

impl From<Compression> for CompressionForm {
    fn from(compression: Compression) -> Self {
        Self { codec: compression.codec, level: compression.level() }
    }
}

/// Fixed header of our gzip members: deflate, no flags, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// CRC-32 and length.
const GZIP_TRAILER: usize = 8;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Compresses frames, one after the other; keeps its working memory, so keep one per thread.
pub struct Compressor {
    state: CompressorState,
    /// The frame is written here, where there is room for incompressible data, and then copied to its size.
    out: Vec<u8>,
}

enum CompressorState {
    Zstd(CCtx<'static>),
    Gzip(Compress),
    None,
}

impl Compressor {
    /// A compressor.
    ///
    /// # Errors
    /// `Permanent` when there is no memory for it.
    pub fn new(compression: Compression) -> Result<Self> {
        let state = match compression.codec {
            Codec::Zstd => {
                let mut context = CCtx::try_create().ok_or_else(|| Error::permanent("no memory for a compressor"))?;
                for parameter in [
                    CParameter::CompressionLevel(compression.level),
                    CParameter::ChecksumFlag(true),
                    CParameter::ContentSizeFlag(true),
                ] {
                    context.set_parameter(parameter).map_err(zstd_failed)?;
                }
                CompressorState::Zstd(context)
            }
            Codec::Gzip => {
                CompressorState::Gzip(Compress::new(flate2::Compression::new(compression.level.unsigned_abs()), false))
            }
            Codec::None => CompressorState::None,
        };
        Ok(Self { state, out: Vec::new() })
    }

    /// One frame that decompresses to the pieces, one after the other.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_FRAME`] bytes; `Permanent` when the compressor fails.
    pub fn compress(&mut self, pieces: &[Bytes]) -> Result<Vec<u8>> {
        let mut out = std::mem::take(&mut self.out);
        let result = self.compress_into(pieces, &mut out).map(|()| out.to_vec());
        self.out = out;
        result
    }

    /// As [`compress`](Compressor::compress), but the frame takes the place of what is in `out`, whose memory is used again.
    ///
    /// # Errors
    /// As `compress`.
    pub fn compress_into(&mut self, pieces: &[Bytes], out: &mut Vec<u8>) -> Result<()> {
        let length = pieces.iter().map(Bytes::len).sum();
        if length > MAX_FRAME {
            return Err(Error::invalid(format!("a frame of {length} bytes is longer than the format allows")));
        }
        out.clear();
        match &mut self.state {
            CompressorState::Zstd(context) => compress_zstd(context, pieces, length, out),
            CompressorState::Gzip(context) => compress_gzip(context, pieces, length, out),
            CompressorState::None => {
                pieces.iter().for_each(|piece| out.extend_from_slice(piece));
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            CompressorState::Zstd(_) => "Compressor(zstd)",
            CompressorState::Gzip(_) => "Compressor(gzip)",
            CompressorState::None => "Compressor(none)",
        })
    }
}

fn zstd_failed(code: usize) -> Error {
    Error::permanent(format!("zstd failed: {}", get_error_name(code)))
}

fn compress_zstd(context: &mut CCtx<'static>, pieces: &[Bytes], length: usize, out: &mut Vec<u8>) -> Result<()> {
    out.reserve(zstd_safe::compress_bound(length));
    if let [whole] = pieces {
        context.compress2(out, whole).map_err(zstd_failed)?;
        return Ok(());
    }
    // An earlier call may have failed in the middle of a frame.
    context.reset(ResetDirective::SessionOnly).map_err(zstd_failed)?;
    context.set_pledged_src_size(Some(length as u64)).map_err(zstd_failed)?;
    let mut to = OutBuffer::around(out);
    for piece in pieces {
        let mut from = InBuffer::around(piece);
        while from.pos() < piece.len() {
            context.compress_stream2(&mut to, &mut from, ZSTD_EndDirective::ZSTD_e_continue).map_err(zstd_failed)?;
        }
    }
    let mut nothing = InBuffer::around(&[]);
    match context.compress_stream2(&mut to, &mut nothing, ZSTD_EndDirective::ZSTD_e_end).map_err(zstd_failed)? {
        0 => Ok(()),
        // The bound holds for the whole frame, so that there is always room.
        rest => Err(Error::permanent(format!("zstd kept back {rest} bytes"))),
    }
}

fn compress_gzip(context: &mut Compress, pieces: &[Bytes], length: usize, out: &mut Vec<u8>) -> Result<()> {
    let failed = |e| Error::permanent("gzip failed").because(e);
    context.reset();
    let mut crc = Crc::new();
    // Deflate's worst case: five bytes more a block of 16 KiB, and some.
    out.reserve(GZIP_HEADER.len() + length + length / 2048 + 64 + GZIP_TRAILER);
    out.extend_from_slice(&GZIP_HEADER);
    // Each call costs; what is small goes in together.
    const STEP: usize = 64 << 10;
    let mut gathered = Vec::new();
    let mut add = |mut bytes: &[u8]| -> Result<()> {
        crc.update(bytes);
        while !bytes.is_empty() {
            out.reserve(64);
            let before = context.total_in();
            context.compress_vec(bytes, out, FlushCompress::None).map_err(failed)?;
            bytes = &bytes[(context.total_in() - before) as usize..];
        }
        Ok(())
    };
    for piece in pieces {
        if gathered.len() + piece.len() > STEP {
            add(&gathered)?;
            gathered.clear();
        }
        if piece.len() < STEP { gathered.extend_from_slice(piece) } else { add(piece)? }
    }
    add(&gathered)?;
    loop {
        out.reserve(64);
        if context.compress_vec(&[], out, FlushCompress::Finish).map_err(failed)? == Status::StreamEnd {
            break;
        }
    }
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(())
}

/// Decompresses frames, one after the other; keeps its working memory.
pub struct Decompressor(DecompressorState);

enum DecompressorState {
    Zstd(DCtx<'static>),
    Gzip(Decompress),
    None,
}

impl Decompressor {
    /// A decompressor.
    ///
    /// # Errors
    /// `Permanent` when there is no memory for it.
    pub fn new(codec: Codec) -> Result<Self> {
        Ok(Self(match codec {
            Codec::Zstd => DecompressorState::Zstd(
                DCtx::try_create().ok_or_else(|| Error::permanent("no memory for a decompressor"))?,
            ),
            Codec::Gzip => DecompressorState::Gzip(Decompress::new(false)),
            Codec::None => DecompressorState::None,
        }))
    }

    /// The `raw_length` bytes that `frame` holds. Never takes more memory than that, whatever the frame claims.
    ///
    /// # Errors
    /// `Corrupt` when `frame` is not exactly one frame of exactly so many bytes, its checksum is wrong, or
    /// `raw_length` is above [`MAX_FRAME`].
    pub fn decompress(&mut self, frame: &[u8], raw_length: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.decompress_into(frame, raw_length, &mut out).map(|()| out)
    }

    /// As [`decompress`](Decompressor::decompress), but the bytes take the place of what is in `out`, whose memory is used again. After an
    /// error, what is in it means nothing.
    ///
    /// # Errors
    /// As `decompress`.
    pub fn decompress_into(&mut self, frame: &[u8], raw_length: usize, out: &mut Vec<u8>) -> Result<()> {
        if raw_length > MAX_FRAME {
            return Err(Error::corrupt(format!("a frame of {raw_length} bytes is longer than the format allows")));
        }
        out.clear();
        match &mut self.0 {
            DecompressorState::Zstd(context) => decompress_zstd(context, frame, raw_length, out),
            DecompressorState::Gzip(context) => decompress_gzip(context, frame, raw_length, out),
            DecompressorState::None if frame.len() == raw_length => {
                out.extend_from_slice(frame);
                Ok(())
            }
            DecompressorState::None => Err(wrong_length(raw_length)),
        }
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            DecompressorState::Zstd(_) => "Decompressor(zstd)",
            DecompressorState::Gzip(_) => "Decompressor(gzip)",
            DecompressorState::None => "Decompressor(none)",
        })
    }
}

fn wrong_length(expected: usize) -> Error {
    Error::corrupt(format!("a frame does not hold the {expected} bytes that the index says"))
}

fn decompress_zstd(context: &mut DCtx<'static>, frame: &[u8], raw_length: usize, out: &mut Vec<u8>) -> Result<()> {
    let damaged = |code| Error::corrupt(format!("a zstd frame is damaged: {}", get_error_name(code)));
    // Skippable frames have another magic; they would pass as frames of nothing.
    if !frame.starts_with(&ZSTD_MAGIC) {
        return Err(Error::corrupt("where a zstd frame should start there is something else"));
    }
    if zstd_safe::find_frame_compressed_size(frame).map_err(damaged)? != frame.len() {
        return Err(Error::corrupt("a zstd frame ends early, something else follows it"));
    }
    match zstd_safe::get_frame_content_size(frame) {
        Ok(Some(length)) if length == raw_length as u64 => {}
        _ => return Err(wrong_length(raw_length)),
    }
    // In one go zstd needs no window, so a frame that claims a large one gets no memory for it.
    out.reserve_exact(raw_length);
    context.decompress(out, frame).map_err(damaged)?;
    if out.len() == raw_length { Ok(()) } else { Err(wrong_length(raw_length)) }
}

fn decompress_gzip(context: &mut Decompress, frame: &[u8], raw_length: usize, out: &mut Vec<u8>) -> Result<()> {
    let cut = || Error::corrupt("a gzip member is cut short, or something follows it");
    let (header, rest) = frame.split_at_checked(GZIP_HEADER.len()).ok_or_else(cut)?;
    if header[..4] != GZIP_HEADER[..4] {
        return Err(Error::corrupt("where a gzip member should start there is something else"));
    }
    let (body, trailer) = rest.split_at_checked(rest.len().wrapping_sub(GZIP_TRAILER)).ok_or_else(cut)?;
    context.reset(false);
    // One byte more than needed: a longer content shows by using it.
    out.reserve_exact(raw_length + 1);
    let status = context
        .decompress_vec(body, out, FlushDecompress::Finish)
        .map_err(|e| Error::corrupt("a gzip member is damaged").because(e))?;
    if out.len() != raw_length {
        return Err(wrong_length(raw_length));
    }
    if status != Status::StreamEnd || context.total_in() != body.len() as u64 {
        return Err(cut());
    }
    let mut crc = Crc::new();
    crc.update(out);
    if trailer[..4] != crc.sum().to_le_bytes() || trailer[4..] != crc.amount().to_le_bytes() {
        return Err(Error::corrupt("the checksum of a gzip member is wrong"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use proptest::prelude::*;

    const ALL: [Codec; 3] = [Codec::Zstd, Codec::Gzip, Codec::None];

    fn compressor(codec: Codec) -> Compressor {
        Compressor::new(Compression::new(codec, None).unwrap()).unwrap()
    }

    fn is_corrupt<T: fmt::Debug>(result: Result<T>) -> bool {
        result.is_err_and(|e| e.class() == ErrorClass::Corrupt)
    }

    /// Text-like and random runs, cut into pieces.
    fn pieces() -> impl Strategy<Value = Vec<Bytes>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..3000),
            (any::<u8>(), 0..100_000usize).prop_map(|(byte, n)| vec![byte; n]),
        ];
        proptest::collection::vec(piece.prop_map(Bytes::from), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_decompress_to_the_pieces_and_contexts_can_be_reused(frames in proptest::collection::vec(pieces(), 1..4)) {
            for codec in ALL {
                let (mut to, mut from) = (compressor(codec), Decompressor::new(codec).unwrap());
                // Larger than some frames and smaller than others, and never empty.
                let mut used = vec![7; 1000];
                for pieces in &frames {
                    let raw = pieces.concat();
                    let frame = to.compress(pieces).unwrap();
                    from.decompress_into(&frame, raw.len(), &mut used).unwrap();
                    prop_assert_eq!(&used, &raw);
                    prop_assert!(from.decompress_into(&frame, raw.len() + 1, &mut used).is_err());
                    used.resize(used.len().max(1000), 7);
                    prop_assert_eq!(&from.decompress(&frame, raw.len()).unwrap(), &raw);
                    prop_assert!(is_corrupt(from.decompress(&frame, raw.len() + 1)));
                    if !raw.is_empty() {
                        prop_assert!(is_corrupt(from.decompress(&frame, raw.len() - 1)));
                    }
                    prop_assert!(is_corrupt(from.decompress(&[&frame[..], b"x"].concat(), raw.len())));
                }
            }
        }

        #[test]
        fn a_changed_or_truncated_frame_is_corrupt_or_gives_the_same_bytes(
            pieces in pieces(), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let raw = pieces.concat();
            for codec in [Codec::Zstd, Codec::Gzip] {
                let frame = compressor(codec).compress(&pieces).unwrap();
                let at = at.index(frame.len());
                let mut from = Decompressor::new(codec).unwrap();
                prop_assert!(is_corrupt(from.decompress(&frame[..at], raw.len())));
                let mut changed = frame;
                changed[at] ^= 1 << bit;
                // Some header bits say nothing about the content; the SHA-256 over stored bytes sees them.
                if let Ok(opened) = from.decompress(&changed, raw.len()) {
                    prop_assert!(opened == raw);
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), length in 0..100_000usize) {
            for codec in ALL {
                let mut from = Decompressor::new(codec).unwrap();
                let _ = from.decompress(&bytes, length);
                let _ = from.decompress(&[&ZSTD_MAGIC[..], &bytes].concat(), length);
                let _ = from.decompress(&[&GZIP_HEADER[..], &bytes].concat(), length);
            }
        }
    }

    #[test]
    fn one_piece_and_several_give_frames_with_size_and_checksum() {
        for pieces in [vec![Bytes::from_static(b"hello")], vec![Bytes::from_static(b"hel"), Bytes::from_static(b"lo")]]
        {
            let frame = compressor(Codec::Zstd).compress(&pieces).unwrap();
            assert_eq!(zstd_safe::get_frame_content_size(&frame).unwrap(), Some(5));
            assert_eq!(frame[4] & 4, 4, "checksum flag");
        }
    }

    #[test]
    fn more_than_one_frame_is_corrupt() {
        for codec in [Codec::Zstd, Codec::Gzip] {
            let frame = compressor(codec).compress(&[Bytes::from_static(b"hello")]).unwrap();
            let mut from = Decompressor::new(codec).unwrap();
            assert!(is_corrupt(from.decompress(&frame.repeat(2), 10)));
            assert!(is_corrupt(from.decompress(&frame.repeat(2), 5)));
        }
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        let mut from = Decompressor::new(Codec::Zstd).unwrap();
        assert!(is_corrupt(from.decompress(&skippable, 0)));
        let frame = compressor(Codec::Zstd).compress(&[Bytes::from_static(b"hello")]).unwrap();
        assert!(is_corrupt(from.decompress(&[&frame[..], &skippable].concat(), 5)));
    }

    #[test]
    fn a_bomb_gets_no_more_memory_than_the_index_allows() {
        let zeros = Bytes::from(vec![0; 8 << 20]);
        for codec in [Codec::Zstd, Codec::Gzip] {
            let bomb = compressor(codec).compress(std::slice::from_ref(&zeros)).unwrap();
            assert!(bomb.len() < 20_000);
            assert!(is_corrupt(Decompressor::new(codec).unwrap().decompress(&bomb, 1000)));
            assert!(is_corrupt(Decompressor::new(codec).unwrap().decompress(&bomb, MAX_FRAME + 1)));
        }
        // Window descriptor 0xff: almost 4 TiB; one raw block of nothing.
        let huge_window = [&ZSTD_MAGIC[..], &[0b1100_0000, 0xff], &0u64.to_le_bytes(), &[1, 0, 0]].concat();
        let opened = Decompressor::new(Codec::Zstd).unwrap().decompress(&huge_window, 0);
        assert!(opened.as_ref().is_ok_and(Vec::is_empty) || is_corrupt(opened));
    }

    #[test]
    fn levels_are_checked_and_codecs_have_their_names() {
        assert_eq!(Compression::default(), Compression::new(Codec::Zstd, None).unwrap());
        assert_eq!(Compression::new(Codec::Gzip, None).unwrap().level(), Some(6));
        for (codec, level) in [(Codec::Zstd, 0), (Codec::Zstd, 20), (Codec::Gzip, 10), (Codec::None, 1)] {
            assert_eq!(Compression::new(codec, Some(level)).unwrap_err().class(), ErrorClass::Invalid);
        }
        assert_eq!(
            Compression::new(Codec::Gzip, Some(12)).unwrap_err().to_string(),
            "gzip has no level 12: choose 1 to 9"
        );
        for codec in ALL {
            assert_eq!(codec.to_string().parse::<Codec>().unwrap(), codec);
            assert_eq!(serde_json::to_string(&codec).unwrap(), format!("\"{codec}\""));
            let compression = Compression::new(codec, None).unwrap();
            let json = serde_json::to_string(&compression).unwrap();
            assert_eq!(serde_json::from_str::<Compression>(&json).unwrap(), compression);
        }
        assert!(serde_json::from_str::<Compression>(r#"{"codec":"gzip","level":99}"#).is_err());
        assert!("lzma".parse::<Codec>().is_err());
    }

    #[test]
    #[ignore = "a measurement, for people"]
    fn speed_of_one_piece_and_of_many() {
        let raw: Vec<u8> = std::fs::read("/proc/self/exe").unwrap().into_iter().take(12 << 20).collect();
        for codec in [Codec::Zstd, Codec::Gzip] {
            let mut to = compressor(codec);
            let whole = [Bytes::from(raw.clone())];
            let parts: Vec<Bytes> = raw.chunks(3000).map(Bytes::copy_from_slice).collect();
            for (what, pieces) in [("one", &whole[..]), ("many", &parts), ("one", &whole), ("many", &parts)] {
                let start = std::time::Instant::now();
                let length = (0..5).map(|_| to.compress(pieces).unwrap().len()).max();
                eprintln!("{codec} {what}: {length:?} of {} in {:?}", raw.len(), start.elapsed() / 5);
            }
            let start = std::time::Instant::now();
            to.compress(&[parts.concat().into()]).unwrap();
            eprintln!("{codec} joined first: {:?}", start.elapsed());
        }
    }
}
