//! The list of warnings that an archive carries.

use super::archive::Archive;
use super::backup::has_content;
use crate::archive::{TarEvent, TarReader, WARNINGS_FILE, padding};
use crate::model::{Entry, EntryKind, Metadata};
use crate::{Error, Result};
use futures::TryStreamExt;

/// No writer makes what follows the last entry longer.
const MAX_TAIL: u64 = 16 << 20;

impl Archive {
    /// The text of `BACKUP-WARNINGS.txt`, with which the tar stream ends; `None` when no warning was met: what it may say then is of
    /// use only to whoever unpacks with `tar`. Reads the end of the
    /// archive only. The text holds names from the source: escape it before it reaches a terminal.
    ///
    /// # Errors
    /// `Corrupt` when the end of the archive is damaged; otherwise what reading the destination met.
    pub async fn warnings(&self) -> Result<Option<String>> {
        let totals = self.manifest().totals;
        if totals.warnings == 0 {
            return Ok(None);
        }
        let start = self.end_of_entries().await?;
        let length = totals.raw_bytes.saturating_sub(start);
        if length > MAX_TAIL {
            return Err(Error::corrupt("too much follows the last entry").on(self.id()));
        }
        let tail = Entry {
            name: WARNINGS_FILE.into(),
            kind: EntryKind::File,
            size: length,
            mtime: None,
            metadata: Metadata::default(),
            sha256: None,
            offset: start,
            ordinal: totals.entries,
            group: None,
            inconsistent: false,
            superseded: false,
        };
        let mut stream = self.content(&tail);
        let mut reader = TarReader::new();
        let mut found: Option<Vec<u8>> = None;
        while let Some(bytes) = stream.try_next().await? {
            let mut bytes = &bytes[..];
            while let Some(event) = reader.next(&mut bytes).map_err(|e| e.on(self.id()))? {
                match event {
                    TarEvent::Entry(header) if header.path == WARNINGS_FILE.as_bytes() => found = Some(Vec::new()),
                    TarEvent::Entry(_) => {
                        return Err(Error::corrupt("the tar stream has an entry that the index has not").on(self.id()));
                    }
                    TarEvent::Content(content) => found.get_or_insert_default().extend_from_slice(content),
                    TarEvent::End => {}
                }
            }
        }
        reader.finish().map_err(|e| e.on(self.id()))?;
        let text = found.ok_or_else(|| Error::corrupt(format!("{WARNINGS_FILE} is missing")).on(self.id()))?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// Where the last entry ends in the raw tar stream.
    async fn end_of_entries(&self) -> Result<u64> {
        let Some(number) = self.manifest().pieces.iter().rposition(|piece| piece.entries > 0) else { return Ok(0) };
        let piece = self.piece(number).await?;
        Ok(piece.entries.last().map_or(0, |entry| {
            if has_content(&entry.kind) {
                entry.offset.saturating_add(entry.size).saturating_add(padding(entry.size) as u64)
            } else {
                entry.offset
            }
        }))
    }
}
