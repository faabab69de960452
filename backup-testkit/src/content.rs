//! Looking into the content of a large entry on its way to a target.

use backup_core::Result;
use backup_core::adapter::{ByteStream, ContentReader, EntryProgress};
use bytes::Bytes;
use futures::StreamExt;

/// The same content, its bytes passed through `change`. Length and digest are checked before the new end.
pub(crate) fn rewrap(
    mut content: ContentReader,
    progress: &EntryProgress,
    change: impl FnOnce(ByteStream) -> ByteStream,
) -> ContentReader {
    // A content that does not start at 0 goes on from saved progress, which has the hash up to there.
    let start = content.position();
    let hash = progress.saved().map(|saved| saved.hash).filter(|hash| hash.length() == start);
    let stream = async_stream::stream! {
        let end: Result<Option<Bytes>> = loop {
            match content.next().await {
                Ok(Some(bytes)) => yield Ok(bytes),
                end => break end,
            }
        };
        if let Err(error) = end.and_then(|_| content.finish()) {
            yield Err(error);
        }
    };
    ContentReader::new(change(stream.boxed()), hash.unwrap_or_default(), None, None)
}
