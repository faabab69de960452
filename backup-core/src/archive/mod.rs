//! Archive format 1: its building blocks, pure and synchronous, without any I/O.
//!
//! The engine reads and writes; what the bytes mean is decided here alone. The specification for people
//! who write another reader is `docs/FORMAT.md`. Nothing in here trusts what it parses: a damaged or hostile archive
//! gives an error, never a panic, and memory is bounded by what the caller hands in.

mod codec;
mod document;
mod header;
mod index;
mod key_file;
mod keys;
mod manifest;
mod names;
mod passphrase;
mod path;
#[cfg(test)]
mod sample;
mod sealed;
mod tar;
mod tar_reader;

pub use codec::{Codec, Compression, Compressor, Decompressor, MAX_FRAME, max_packed};
pub use document::READER_VERSION;
pub use header::Header;
pub use index::{FrameSpan, IndexDecoder, IndexEncoder, IndexRecord, VolumeRecord};
pub(crate) use key_file::parse_key_file;
pub use key_file::{KeyFileProvider, generate_key_file};
pub use keys::{ArchiveKey, KeyProvider, KeyWrap, KeyWraps};
pub(crate) use keys::{random_bytes, seal_cipher};
pub use manifest::{Manifest, PieceRecord, Previous, SupersededGroup, Totals};
pub use names::{Attempted, ObjectNames};
pub use passphrase::{PassphraseParameters, PassphraseProvider};
pub use path::{MAX_NAME, TarPaths, WARNINGS_FILE};
pub use sealed::{
    SEALED_HEAD, Sealer, Unsealer, plain_length, seal, seal_checkpoint, sealed_length, unseal, unseal_checkpoint,
};
pub use tar::{END_OF_ARCHIVE, TAR_BLOCK, TarEntry, TarKind, header_length, padding, write_end, write_header};
pub use tar_reader::{TarEvent, TarHeader, TarReader};
