//! Keeps account of what is done, so that a checkpoint can say from where a restore goes on.

use super::checkpoint::{Account, Tally};
use super::left::Names;
use super::plan::Losses;
use crate::adapter::{EntryProgress, MismatchKind, SavedProgress, Warning, Written};
use crate::archive::PieceRecord;
use crate::engine::handle::AbortOnDrop;
use crate::engine::session::Session;
use crate::model::{Entry, EntryName, GroupName, LogRecord};
use crate::{Error, ErrorClass, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// What is done and what is under way.
#[derive(Debug)]
pub(super) struct Ledger {
    session: Arc<Session>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Entries before this ordinal have been handed out.
    next: u64,
    /// Lowest ordinals of what is under way, with how many works begin there.
    under_way: BTreeMap<u64, u32>,
    large: BTreeMap<u64, EntryProgress>,
    groups: BTreeSet<GroupName>,
    /// Figures of all that is done before everything under way.
    settled: Tally,
    /// Figures of what is done behind something that is under way, by first ordinal.
    unsettled: BTreeMap<u64, Tally>,
    /// Warnings in all.
    warnings: u64,
    /// Entries that were left out, each with a warning.
    left: Names,
    /// Entries with a warning of the target, such as about their metadata.
    noted: Names,
    /// How many such warnings there are, without those of the end.
    notes: u64,
    /// Entries whose warnings of the target stand in the checkpoint of an earlier attempt. What that did behind its checkpoint is
    /// done again, and warned of again.
    noted_before: Names,
    /// Index pieces that are damaged.
    lost_pieces: BTreeSet<usize>,
}

/// Work under way; dropping it without [`Work::done`] leaves it to be done again.
#[derive(Debug)]
pub(super) struct Work {
    ledger: Arc<Ledger>,
    start: u64,
    tally: Tally,
}

impl Ledger {
    pub(super) fn new(session: Arc<Session>, start: Account) -> Result<Arc<Self>> {
        let Account { done, large, groups, tally, left, noted, notes, lost_pieces } = start;
        let inner = Inner {
            next: done,
            large: large.into_iter().map(|(n, saved)| (n, EntryProgress::resumed(Some(saved)))).collect(),
            groups: groups.into_iter().collect(),
            settled: tally,
            warnings: tally.warnings + notes + lost_pieces.len() as u64,
            left: Names::read(&left)?,
            noted: Names::read(&noted)?,
            notes,
            noted_before: Names::read(&noted)?,
            lost_pieces,
            ..Inner::default()
        };
        Ok(Arc::new(Self { session, inner: Mutex::new(inner) }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work begins whose first entry has this ordinal.
    pub(super) fn begin(self: &Arc<Self>, start: u64) -> Work {
        *self.lock().under_way.entry(start).or_default() += 1;
        Work { ledger: self.clone(), start, tally: Tally::default() }
    }

    /// All entries before this ordinal have been begun.
    pub(super) fn handed_out(&self, before: u64) {
        let mut inner = self.lock();
        inner.next = inner.next.max(before);
    }

    /// The progress of a large entry, as an earlier attempt left it.
    pub(super) fn progress(&self, ordinal: u64) -> EntryProgress {
        self.lock().large.entry(ordinal).or_default().clone()
    }

    /// The large entry has to be started over.
    pub(super) fn forget_progress(&self, ordinal: u64) -> EntryProgress {
        let fresh = EntryProgress::default();
        self.lock().large.insert(ordinal, fresh.clone());
        fresh
    }

    /// What a checkpoint says at this moment.
    pub(super) fn account(&self) -> Account {
        let mut inner = self.lock();
        let done = inner.done();
        inner.settle();
        Account {
            done,
            large: inner.large.iter().filter_map(|(n, progress)| Some((*n, progress.saved()?))).collect(),
            groups: inner.groups.iter().cloned().collect(),
            tally: inner.settled,
            left: inner.left.save(),
            noted: inner.noted.save(),
            notes: inner.notes,
            lost_pieces: inner.lost_pieces.clone(),
        }
    }

    /// What large entries have recorded that are not done.
    pub(super) fn unfinished(&self) -> Vec<SavedProgress> {
        self.lock().large.values().filter_map(EntryProgress::saved).collect()
    }

    /// Runs what writes at the target. Whoever ends the attempt waits for it.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> AbortOnDrop<T> {
        AbortOnDrop(self.session.writers.spawn(work))
    }

    /// Groups that are taken as a whole and are done.
    pub(super) fn groups(&self) -> BTreeSet<GroupName> {
        self.lock().groups.clone()
    }

    /// Warnings in all.
    pub(super) fn warnings(&self) -> u64 {
        self.lock().warnings
    }

    /// A group that is taken as a whole is done.
    pub(super) fn group_done(&self, group: GroupName) {
        self.lock().groups.insert(group);
    }

    /// Slices of a group that could not be restored as a whole; the group has its warning.
    pub(super) fn left_out_too(&self, slice: &EntryName) {
        self.lock().left.insert(slice);
    }

    /// Fails when another worker may have taken over.
    pub(super) fn ensure_held(&self) -> Result<()> {
        self.session.ensure_held()
    }

    fn count(&self, tally: Tally) {
        self.session.meter.update(|p| {
            p.entries += tally.entries;
            p.bytes += tally.bytes;
            p.warnings += tally.warnings;
        });
    }

    /// Whether somebody was told how an entry differs.
    pub(super) fn known_to_differ(&self, name: &EntryName) -> Option<MismatchKind> {
        let inner = self.lock();
        if inner.left.contains(name) {
            Some(MismatchKind::Content)
        } else {
            inner.noted.contains(name).then_some(MismatchKind::Metadata)
        }
    }

    /// Whether entries were left out that are not known by name.
    pub(super) fn has_left_out_more(&self) -> bool {
        self.lock().left.has_more()
    }

    /// Takes a warning of the target about what was written. It stands in the next checkpoint.
    pub(super) fn noted(&self, warning: &Warning) {
        let mut inner = self.lock();
        match (&warning.name, warning.left_out) {
            (Some(name), _) if inner.noted_before.contains(name) => return,
            (Some(name), true) => inner.left.insert(name),
            (Some(name), false) => inner.noted.insert(name),
            (None, true) => inner.left.more(),
            (None, false) => {}
        }
        inner.notes += 1;
        drop(inner);
        self.warn("transfer", 1, &said(warning.name.as_ref(), &warning.message));
    }

    /// Brings the warnings so far to the store when there are many.
    pub(super) async fn log_pressure(&self) -> Result<()> {
        self.session.log_pressure().await
    }

    /// Takes a warning of the end of a restore. It belongs to no work: a resume does the end again, and is warned again.
    pub(super) fn finished_with(&self, warning: &Warning) {
        let mut inner = self.lock();
        match (&warning.name, warning.left_out) {
            (Some(name), true) => inner.left.insert(name),
            (Some(name), false) => inner.noted.insert(name),
            (None, true) => inner.left.more(),
            (None, false) => {}
        }
        drop(inner);
        self.warn("finish", 1, &said(warning.name.as_ref(), &warning.message));
    }

    /// Counts warnings, and tells of them in one record.
    pub(super) fn warn(&self, step: &'static str, count: u64, text: &str) {
        self.lock().warnings += count;
        self.count(Tally { warnings: count, ..Tally::default() });
        self.session.log(LogRecord::warning(step, text.to_owned()));
    }

    /// An error that names an entry.
    pub(super) fn damaged(entry: &Entry) -> Error {
        Error::corrupt("the content's SHA-256 is not the recorded one; the archive is damaged").on(&entry.name)
    }
}

impl Losses for Ledger {
    fn lost_piece(&self, number: usize, record: &PieceRecord, error: &Error) {
        if self.lock().lost_pieces.insert(number) {
            let text = format!(
                "a part of the archive's index is damaged, and its {} entries are not restored, whatever their names are: {}",
                record.entries,
                error.chain()
            );
            self.warn("transfer", 1, &text);
        }
    }
}

impl Inner {
    fn done(&self) -> u64 {
        self.under_way.keys().next().copied().unwrap_or(self.next)
    }

    /// Adds up what nothing that is under way comes before any more.
    fn settle(&mut self) {
        let done = self.done();
        let later = self.unsettled.split_off(&done);
        for tally in std::mem::replace(&mut self.unsettled, later).into_values() {
            self.settled += tally;
        }
    }
}

impl Work {
    /// Counts an entry, or records why it could not be restored: it is left out with a warning, unless trying again may help.
    ///
    /// # Errors
    /// When the attempt should end.
    pub(super) fn written(&mut self, entry: &Entry, result: Result<Written>) -> Result<()> {
        match result {
            Ok(_) => {
                // An earlier attempt may have left it out and not have come to save that it was done.
                self.ledger.lock().left.remove(&entry.name);
                let tally = Tally { entries: 1, bytes: entry.size, warnings: 0 };
                self.tally += tally;
                self.ledger.count(tally);
                Ok(())
            }
            // Whoever resumes when the trouble is over gets the entry.
            Err(e) if e.is_retryable() || matches!(e.class(), ErrorClass::Unauthorized | ErrorClass::Cancelled) => {
                Err(e.on(&entry.name))
            }
            Err(e) => {
                self.left_out(entry, &e.chain());
                Ok(())
            }
        }
    }

    /// The same for all entries of a batch.
    ///
    /// # Errors
    /// When the attempt should end.
    pub(super) fn all_written(&mut self, entries: &[Entry], results: Vec<Result<Written>>) -> Result<()> {
        if results.len() != entries.len() {
            return Err(Error::permanent("the target did not answer for each entry of a batch"));
        }
        entries.iter().zip(results).try_for_each(|(entry, result)| self.written(entry, result))
    }

    /// Leaves an entry out, with a warning.
    pub(super) fn left_out(&mut self, entry: &Entry, why: &str) {
        self.tally.warnings += 1;
        self.ledger.lock().left.insert(&entry.name);
        // Most errors name the entry themselves.
        let why = why.strip_prefix(&format!("{}: ", entry.name)).unwrap_or(why);
        self.ledger.warn("transfer", 1, &said(Some(&entry.name), &format!("not restored: {why}")));
    }

    /// Counts the other slices of a group that was written as a whole.
    pub(super) fn slices(&mut self, tally: Tally) {
        self.tally += tally;
        self.ledger.count(tally);
    }

    /// The work is done; `large` names the entry whose progress is not needed any more.
    pub(super) fn done(self, large: Option<u64>) {
        let mut inner = self.ledger.lock();
        if let Some(ordinal) = large {
            inner.large.remove(&ordinal);
        }
        *inner.unsettled.entry(self.start).or_default() += self.tally;
        if let Some(count) = inner.under_way.get_mut(&self.start) {
            *count -= 1;
            if *count == 0 {
                inner.under_way.remove(&self.start);
            }
        }
        inner.settle();
    }
}

fn said(name: Option<&EntryName>, message: &str) -> String {
    name.map(|name| format!("{name}: {message}")).unwrap_or_else(|| message.to_owned())
}
