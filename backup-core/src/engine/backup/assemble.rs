//! Decides what becomes of each entry: stored as it is, read again, filled up, or skipped with a warning.

use super::checkpoint::OpenEntry;
use super::read::{Abandoned, GO_ON, RangeRead, Reader, Step};
use super::stream::{Stopped, StreamWriter, weight};
use crate::adapter::{Content, Cursor, SourceEntry, SourceEvent, Version};
use crate::archive::{MAX_NAME, ObjectNames};
use crate::budget::ByteBudget;
use crate::engine::session::Session;
use crate::model::{EntryKind, EntryName, LogRecord};
use crate::{Error, ErrorClass, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often an entry that changes under the reader's hands is read before it is given up.
const TRIES: u32 = 3;
/// Bytes of name, target and metadata that an entry may have: its index line must fit an index piece, together with others.
const MAX_WEIGHT: usize = 4 << 20;

/// How the stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The source has been read to its end, and the stream is complete.
    Complete,
    /// On request, at a position from which it goes on.
    Paused,
    /// The source failed, at a position from which it goes on.
    Broken(Error),
}

/// Why an entry's treatment breaks off.
enum Halt {
    Stopped,
    /// The source as a whole is in trouble.
    Source(Error),
    /// A pause cut the reading of a large entry short.
    Paused,
    /// The reading ended before the entry did: by a pause, or in an error that it knows.
    ReadingEnded,
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

#[derive(Debug)]
pub(super) struct Assembler {
    pub(super) stream: StreamWriter,
    pub(super) session: Arc<Session>,
    pub(super) reader: Reader,
    /// Memory of its own for reading an entry again, which read-ahead must not be able to take away.
    pub(super) budget: ByteBudget,
    pub(super) abandoned: Abandoned,
    /// The objects of this archive.
    pub(super) own: ObjectNames,
    /// An entry was given up for errors that should pass, and nothing has been read since.
    pub(super) gave_one_up: bool,
    pub(super) steps: mpsc::Receiver<Vec<Step>>,
    pub(super) queue: VecDeque<Step>,
}

/// Trouble of one entry, as opposed to trouble of the source as a whole.
fn is_about_the_entry(error: &Error) -> bool {
    use ErrorClass as C;
    matches!(error.class(), C::NotFound | C::Changed | C::Corrupt | C::Invalid | C::Unsupported | C::Permanent)
}

impl Assembler {
    /// Follows the steps until they end. `source_ended` tells afterwards how the reading ended.
    pub(super) async fn run(mut self, source_ended: impl Future<Output = Result<()>>) -> Result<Ended> {
        let halt = self.follow().await;
        let ended = match halt {
            Ok(()) => match source_ended.await {
                Err(error) => Ended::Broken(error),
                Ok(()) if self.reader.ctx.stop.is_cancelled() => Ended::Paused,
                Ok(()) => Ended::Complete,
            },
            Err(Halt::ReadingEnded) => source_ended.await.map_or_else(Ended::Broken, |()| Ended::Paused),
            Err(Halt::Source(error)) => Ended::Broken(error),
            Err(Halt::Paused) => Ended::Paused,
            Err(Halt::Stopped) => return Err(Error::cancelled("the backup was stopped")),
        };
        let finish = async {
            if matches!(ended, Ended::Complete) {
                self.stream.end().await?;
            }
            self.stream.finish().await
        };
        finish.await.map_err(|Stopped| Error::cancelled("the backup was stopped"))?;
        Ok(ended)
    }

    async fn follow(&mut self) -> Result<(), Halt> {
        if let Some(open) = self.stream.position.open.clone() {
            let entry = from_open(&open);
            if open.broken {
                // An attempt ended while it filled the entry up.
                self.broke_off(entry, open.tries, Error::changed("could not be read to its end")).await?;
            } else {
                self.ranges(&entry, GO_ON, open.tries).await?;
            }
        }
        while let Some(step) = self.next().await? {
            match step {
                Step::Event(event) => self.event(event).await?,
                Step::Start { entry, serial } => self.stored(*entry, serial).await?,
                // What was still under way of an abandoned entry.
                Step::Range { .. } => {}
            }
        }
        Ok(())
    }

    /// The next step.
    async fn next(&mut self) -> Result<Option<Step>, Halt> {
        loop {
            if let Some(step) = self.queue.pop_front() {
                self.stream.cut_if_old().await?;
                return Ok(Some(step));
            }
            let Some(steps) = patiently(&mut self.stream, self.steps.recv()).await? else { return Ok(None) };
            self.queue.extend(steps);
        }
    }

    /// The next range of an entry.
    async fn range(&mut self, wanted: u64) -> Result<Result<RangeRead>, Halt> {
        while let Some(step) = self.next().await? {
            match step {
                Step::Range { serial, mut read } if serial == wanted => {
                    return Ok(patiently(&mut self.stream, read.join()).await?);
                }
                Step::Range { .. } => {}
                other => {
                    self.queue.push_front(other);
                    return Err(Halt::Paused);
                }
            }
        }
        Err(Halt::ReadingEnded)
    }

    async fn event(&mut self, event: SourceEvent) -> Result<(), Halt> {
        match event {
            SourceEvent::Entry(entry) => self.ready(*entry).await,
            SourceEvent::Supersede { group } => {
                if self.stream.supersede(&group) {
                    let message = format!("the entries so far of group {group} are superseded");
                    self.session.log(LogRecord::warning("transfer", message));
                }
                Ok(())
            }
            SourceEvent::Warning(warning) => self.warn(warning.name.as_ref(), &warning.message).await,
            SourceEvent::Facts(facts) => {
                self.stream.facts(facts);
                Ok(())
            }
        }
    }

    /// An entry without stored content, or a hard link.
    async fn ready(&mut self, mut entry: SourceEntry) -> Result<(), Halt> {
        if self.is_left_out(&entry).await? {
            return Ok(());
        }
        if let EntryKind::HardLink { target } = &entry.kind {
            if !self.stream.position.unread.may_contain(target) {
                let kind = entry.kind.clone();
                return Ok(self.stream.whole(&entry, &kind, bytes::Bytes::new(), None).await?);
            }
            // Its content is in the archive under no other name: store it under this one.
            entry.kind = EntryKind::File;
            if !matches!(entry.content, Content::Inline { .. }) {
                return self.again(entry, 0, Error::changed("the other name of this file could not be read")).await;
            }
        }
        let (content, permit) = match std::mem::replace(&mut entry.content, Content::None) {
            Content::Inline { bytes, permit } => (bytes, permit),
            Content::None | Content::Stored { .. } => (bytes::Bytes::new(), None),
        };
        if entry.inconsistent {
            self.warn(Some(&entry.name), "changed while it was read; kept as it was read").await?;
        }
        let kind = entry.kind.clone();
        Ok(self.stream.whole(&entry, &kind, content, permit).await?)
    }

    /// Whether it is an object of this very archive. No identity tells so of a place that has several addresses; but nothing else has
    /// the archive's id for the name of a folder.
    fn is_own(&self, name: &EntryName) -> bool {
        name.as_bytes().split(|byte| *byte == b'/').any(|part| part == self.own.archive().as_str().as_bytes())
    }

    /// Passes over what is not to be stored, or cannot be, and tells why.
    async fn is_left_out(&mut self, entry: &SourceEntry) -> Result<bool, Halt> {
        let (length, weight) = (entry.name.as_bytes().len(), weight(entry));
        let message = if self.is_own(&entry.name) {
            // Each of them would make more of them, without end. Told once, of the first that is there.
            if !entry.name.as_bytes().ends_with(self.own.header().as_str().as_bytes()) {
                self.stream.passed(entry);
                return Ok(true);
            }
            "left out, with all of this archive: the destination lies inside of the source, under another address. Earlier archives there \
             are backed up; exclude their folder"
                .into()
        } else if !(1..=MAX_NAME).contains(&length) {
            format!("skipped: a name of {length} bytes cannot be stored; 1 to {MAX_NAME} are possible")
        } else if weight > MAX_WEIGHT {
            format!("skipped: {weight} bytes of metadata cannot be stored; at most {MAX_WEIGHT} are possible")
        } else {
            return Ok(false);
        };
        self.warn(Some(&entry.name), &message).await?;
        self.stream.passed(entry);
        Ok(true)
    }

    /// An entry whose ranges follow.
    async fn stored(&mut self, mut entry: SourceEntry, serial: u64) -> Result<(), Halt> {
        let Content::Stored { size, version } = entry.content.clone() else { return Ok(()) };
        if self.is_left_out(&entry).await? {
            self.abandoned.store(serial, Ordering::Release);
            return Ok(());
        }
        let first = match self.range(serial).await? {
            Err(error) => self.insist(&entry.name, version.as_ref(), 0..size.min(self.reader.range), error).await?,
            read => read,
        };
        let first = match first {
            Ok(first) => first,
            Err(error) => {
                self.abandoned.store(serial, Ordering::Release);
                return self.again(entry, 0, error).await;
            }
        };
        let changed = first.size != size || (version.is_some() && first.version.is_some() && first.version != version);
        if changed {
            self.abandoned.store(serial, Ordering::Release);
            return self.again(entry, 0, Error::changed("changed since it was listed")).await;
        }
        if let Some(metadata) = &first.metadata {
            entry.metadata = metadata.clone();
        }
        let version = first.version.clone().or(version);
        if size <= self.reader.range && self.has_changed(&entry.name, version.as_ref()).await? {
            // Nothing of it is in the stream yet.
            self.abandoned.store(serial, Ordering::Release);
            return self.again(entry, 0, Error::changed("changed while it was read")).await;
        }
        self.stream.open(&entry, size, version, 0);
        if self.take(first).await? {
            return self.ranges(&entry, serial, 0).await;
        }
        self.abandoned.store(serial, Ordering::Release);
        self.close(&entry).await
    }

    /// Whether an item that has been read is another version by now. Reading tells the version only as of opening, so a source
    /// that does not pin the version is asked once more behind the last byte.
    async fn has_changed(&mut self, name: &EntryName, version: Option<&Version>) -> Result<bool, Halt> {
        let Some(version) = version.filter(|_| !self.reader.source.properties().pins_version) else { return Ok(false) };
        let look = async {
            let opened = self.reader.source.read(name, Some(version), 0..0, &self.reader.ctx).await?;
            Ok::<_, Error>(opened.version.is_some_and(|now| now != *version))
        };
        match patiently(&mut self.stream, look).await? {
            Ok(changed) => Ok(changed),
            Err(error) if error.class() == ErrorClass::Changed => Ok(true),
            // All of it has been read; that it is gone since does not change what it was.
            Err(error) if is_about_the_entry(&error) => Ok(false),
            Err(error) => {
                // Whether it has changed is not known if it cannot be opened while the source answers.
                let read = self.insist(name, Some(version), 0..0, error).await?;
                match read {
                    Ok(now) => Ok(now.version.is_some_and(|now| now != *version)),
                    Err(error) if is_about_the_entry(&error) => Ok(true),
                    Err(error) => Err(Halt::Source(error)),
                }
            }
        }
    }

    /// Deals with an error that should pass and has not, however often the read was repeated: it is trouble of the source as a whole,
    /// or of this entry alone, which must not keep the backup from its end for ever. Where the source answers, the range is read once
    /// more, since the trouble may have just passed; when that fails too, the error becomes one of the entry.
    async fn insist(
        &mut self,
        name: &EntryName,
        version: Option<&Version>,
        range: Range<u64>,
        error: Error,
    ) -> Result<Result<RangeRead>, Halt> {
        if error.class() != ErrorClass::Transient {
            return Ok(Err(error));
        }
        self.answers().await?;
        let permit = Arc::new(patiently(&mut self.stream, self.budget.take(range.end - range.start)).await?);
        let read = self.reader.read(name, version, range, permit);
        let error = match patiently(&mut self.stream, read).await? {
            Err(error) if error.class() == ErrorClass::Transient => error,
            read => return Ok(read),
        };
        self.answers().await?;
        // One after the other: no listing that works can tell that this is not the source as a whole.
        if std::mem::replace(&mut self.gave_one_up, true) {
            return Err(Halt::Source(error));
        }
        Ok(Err(Error::permanent("reading it fails time and again, while the source answers").because(error)))
    }

    /// Makes sure that the source as a whole can be reached.
    async fn answers(&mut self) -> Result<(), Halt> {
        patiently(&mut self.stream, self.reader.source.check()).await?.map_err(Halt::Source)
    }

    /// Follows the ranges of the open entry to its end.
    async fn ranges(&mut self, entry: &SourceEntry, serial: u64, tries: u32) -> Result<(), Halt> {
        // What became another version since an earlier attempt is rather read afresh than mixed, while there are tries left.
        let mut mixes = serial != GO_ON || tries + 1 >= TRIES;
        while let Some(open) = self.stream.position.open.as_ref().filter(|open| open.offset < open.size) {
            let range = open.offset..open.size.min(open.offset + self.reader.range);
            let version = open.version.clone();
            let read = match self.range(serial).await? {
                Err(error) => self.insist(&entry.name, version.as_ref(), range, error).await?,
                read => read,
            };
            match read {
                Ok(read) if !mixes && self.is_other_version(&read) => {
                    self.abandoned.store(serial, Ordering::Release);
                    let error = Error::changed("changed since the backup was interrupted");
                    return self.broke_off(entry.clone(), tries, error).await;
                }
                Ok(read) => {
                    mixes = true;
                    if !self.take(read).await? {
                        self.abandoned.store(serial, Ordering::Release);
                        break;
                    }
                }
                Err(error) => {
                    self.abandoned.store(serial, Ordering::Release);
                    return self.broke_off(entry.clone(), tries, error).await;
                }
            }
        }
        self.close(entry).await
    }

    fn is_other_version(&self, read: &RangeRead) -> bool {
        let before = self.stream.position.open.as_ref().and_then(|open| open.version.as_ref());
        matches!((before, &read.version), (Some(before), Some(now)) if before != now)
    }

    /// Adds a range to the open entry; `false` when the item ended early and no more is to come.
    async fn take(&mut self, read: RangeRead) -> Result<bool, Halt> {
        let other = self.is_other_version(&read);
        self.gave_one_up = false;
        let Some(open) = &mut self.stream.position.open else { return Ok(false) };
        let expected = self.reader.range.min(open.size - open.offset);
        let short = read.length < expected;
        open.inconsistent |= other || short;
        for piece in read.pieces {
            self.stream.content(piece, &read.permit).await?;
        }
        Ok(!short)
    }

    /// Ends the open entry; what is missing of a shortened item is zeros.
    async fn close(&mut self, entry: &SourceEntry) -> Result<(), Halt> {
        // What lies in one range was looked at before it was opened in the stream.
        let look =
            self.stream.position.open.as_ref().filter(|open| open.size > self.reader.range && !open.inconsistent);
        if let Some(version) = look.map(|open| open.version.clone()) {
            let changed = self.has_changed(&entry.name, version.as_ref()).await?;
            if let Some(open) = &mut self.stream.position.open {
                open.inconsistent |= changed;
            }
        }
        self.stream.fill().await?;
        if self.stream.position.open.as_ref().is_some_and(|open| open.inconsistent) {
            self.warn(Some(&entry.name), "changed while it was read; kept at the size that it had at first").await?;
        }
        Ok(self.stream.close(false).await?)
    }

    /// The open entry cannot be read to its end: it is filled up, marked superseded, and read again if that makes sense.
    async fn broke_off(&mut self, entry: SourceEntry, tries: u32, error: Error) -> Result<(), Halt> {
        if !is_about_the_entry(&error) {
            return Err(Halt::Source(error));
        }
        if let Some(open) = &mut self.stream.position.open {
            open.broken = true;
        }
        self.stream.fill().await?;
        self.stream.close(true).await?;
        self.again(entry, tries + 1, error).await
    }

    /// Reads an entry afresh, as it is now, after `error`; skips it when that does not work either.
    async fn again(&mut self, mut entry: SourceEntry, tries: u32, error: Error) -> Result<(), Halt> {
        if !is_about_the_entry(&error) {
            return Err(Halt::Source(error));
        }
        if error.class() != ErrorClass::Changed || tries >= TRIES {
            return self.skip(entry, &error).await;
        }
        let last = tries + 1 == TRIES;
        // Opening it without a range tells size and version of now.
        let permit = Arc::new(self.budget.take(0).await);
        let look = self.reader.read(&entry.name, None, 0..0, permit);
        let now = match patiently(&mut self.stream, look).await? {
            Err(error) => self.insist(&entry.name, None, 0..0, error).await?,
            now => now,
        };
        let now = match now {
            Ok(now) => now,
            Err(error) => return Box::pin(self.again(entry, tries + 1, error)).await,
        };
        if let Some(metadata) = now.metadata {
            entry.metadata = metadata;
        }
        entry.mtime = now.mtime.or(entry.mtime);
        entry.content = Content::Stored { size: now.size, version: now.version.clone() };
        let mut opened = false;
        let mut offset = 0;
        loop {
            let range = offset..now.size.min(offset + self.reader.range);
            offset = range.end;
            let expected = range.end - range.start;
            // The unfinished frame may hold all of this memory; it is sent off when that is so.
            let permit = Arc::new(patiently(&mut self.stream, self.budget.take(expected)).await?);
            let read = self.reader.read(&entry.name, now.version.as_ref(), range.clone(), permit);
            let read = match patiently(&mut self.stream, read).await? {
                Err(error) => self.insist(&entry.name, now.version.as_ref(), range, error).await?,
                read => read,
            };
            let torn = match &read {
                Ok(read) if !opened && !last => {
                    read.length < expected
                        || read.version != now.version
                        || (offset >= now.size && self.has_changed(&entry.name, now.version.as_ref()).await?)
                }
                _ => false,
            };
            match read {
                // Nothing of it is in the stream yet: the next try may find it at rest.
                Ok(_) if torn => {
                    return Box::pin(self.again(entry, tries + 1, Error::changed("keeps changing"))).await;
                }
                Ok(read) => {
                    if !opened {
                        self.stream.open(&entry, now.size, now.version.clone(), tries);
                        opened = true;
                    }
                    if !self.take(read).await? || offset >= now.size {
                        return self.close(&entry).await;
                    }
                    // What was read ahead behind it has to be read again then; waiting for its end could take hours.
                    if self.reader.ctx.stop.is_cancelled() {
                        return Err(Halt::Paused);
                    }
                }
                Err(error) if opened => return Box::pin(self.broke_off(entry, tries, error)).await,
                Err(error) => return Box::pin(self.again(entry, tries + 1, error)).await,
            }
        }
    }

    async fn skip(&mut self, entry: SourceEntry, error: &Error) -> Result<(), Halt> {
        let message = match error.class() {
            ErrorClass::NotFound => "skipped: it vanished before it could be read".to_owned(),
            ErrorClass::Changed => "skipped: it changed each time it was read".to_owned(),
            _ => format!("skipped: it cannot be read: {}", error.chain()),
        };
        self.warn(Some(&entry.name), &message).await?;
        Arc::make_mut(&mut self.stream.position.unread).add(entry.name.clone());
        self.stream.passed(&entry);
        Ok(())
    }

    async fn warn(&mut self, name: Option<&EntryName>, message: &str) -> Result<(), Halt> {
        let line = match name {
            Some(name) => format!("{name}: {message}"),
            None => message.to_owned(),
        };
        self.stream.warn(line.clone());
        self.session.log(LogRecord::warning("transfer", line));
        self.session.log_pressure().await.map_err(Halt::Source)
    }
}

/// Waits for something from the source. Meanwhile an old volume is ended, and after a while a frame that is not full is sent off;
/// soon when it holds memory for which the source waits.
async fn patiently<T>(stream: &mut StreamWriter, wait: impl Future<Output = T>) -> Result<T, Stopped> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const LOOK: Duration = Duration::from_millis(20);
    let start = Instant::now();
    let mut wait = std::pin::pin!(wait);
    let mut flushed = false;
    loop {
        tokio::select! {
            biased;
            done = &mut wait => return Ok(done),
            () = tokio::time::sleep(LOOK), if !flushed => {
                if start.elapsed() >= PATIENCE || stream.keeps_wanted_memory() {
                    stream.flush(false).await?;
                    flushed = true;
                }
            }
            () = tokio::time::sleep_until(stream.cut_at) => stream.cut_if_old().await?,
        }
    }
}

/// The entry that a resumed backup goes on with, as the source had delivered it.
fn from_open(open: &OpenEntry) -> SourceEntry {
    SourceEntry {
        name: open.name.clone(),
        kind: open.kind.clone(),
        mtime: open.mtime,
        group: open.group.clone(),
        metadata: open.metadata.clone(),
        content: Content::Stored { size: open.size, version: open.version.clone() },
        inconsistent: open.inconsistent,
        cursor: Cursor(open.cursor.0.clone()),
    }
}
