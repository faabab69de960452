//! Keeps account of what is done, so that a checkpoint can say from where a restore goes on.

use crate::adapter::{EntryProgress, SavedProgress, Written};
use crate::engine::session::Session;
use crate::model::{Entry, EntryName, GroupName, LogRecord};
use crate::{Error, ErrorClass, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Names of entries that were not restored are kept up to this number.
const MAX_LEFT: usize = 1000;

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
    left: Vec<EntryName>,
    warnings: u64,
}

/// Work under way; dropping it without [`Work::done`] leaves it to be done again.
#[derive(Debug)]
pub(super) struct Work {
    ledger: Arc<Ledger>,
    start: u64,
}

/// What a checkpoint takes from the ledger.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) done: u64,
    pub(super) large: Vec<(u64, SavedProgress)>,
    pub(super) groups: Vec<GroupName>,
    pub(super) left: Vec<EntryName>,
    pub(super) warnings: u64,
}

impl Ledger {
    pub(super) fn new(session: Arc<Session>, start: Account) -> Arc<Self> {
        let large = start.large.iter().cloned().map(|(n, saved)| (n, EntryProgress::resumed(Some(saved)))).collect();
        let Account { done, large: _, groups, left, warnings } = start;
        let groups = groups.into_iter().collect();
        let inner = Inner { next: done, large, groups, left, warnings, ..Inner::default() };
        Arc::new(Self { session, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work begins whose first entry has this ordinal.
    pub(super) fn begin(self: &Arc<Self>, start: u64) -> Work {
        *self.lock().under_way.entry(start).or_default() += 1;
        Work { ledger: self.clone(), start }
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

    pub(super) fn account(&self) -> Account {
        let inner = self.lock();
        let done = inner.under_way.keys().next().copied().unwrap_or(inner.next);
        let large = inner.large.iter().filter_map(|(n, progress)| Some((*n, progress.saved()?))).collect();
        let groups = inner.groups.iter().cloned().collect();
        Account { done, large, groups, left: inner.left.clone(), warnings: inner.warnings }
    }

    /// A group that is taken as a whole is done.
    pub(super) fn group_done(&self, group: GroupName) {
        self.lock().groups.insert(group);
    }

    /// Whether an entry was left out with a warning, as far as that is known.
    pub(super) fn may_have_left(&self, name: &EntryName) -> bool {
        let inner = self.lock();
        inner.left.len() >= MAX_LEFT || inner.left.contains(name)
    }

    /// Counts an entry, or records why it could not be restored. Trouble of the target as a whole is an error.
    pub(super) fn written(&self, entry: &Entry, result: Result<Written>) -> Result<()> {
        use ErrorClass as C;
        match result {
            Ok(_) => {
                self.session.meter.update(|p| {
                    p.entries += 1;
                    p.bytes += entry.size;
                });
                Ok(())
            }
            Err(e) if matches!(e.class(), C::Conflict | C::Invalid | C::Unsupported | C::Permanent | C::NotFound) => {
                self.warn(Some(&entry.name), &format!("not restored: {}", e.chain()));
                Ok(())
            }
            Err(e) => Err(e.on(&entry.name)),
        }
    }

    pub(super) fn warn(&self, name: Option<&EntryName>, message: &str) {
        let mut inner = self.lock();
        inner.warnings += 1;
        if let Some(name) = name.filter(|_| inner.left.len() < MAX_LEFT) {
            inner.left.push(name.clone());
        }
        drop(inner);
        self.session.meter.update(|p| p.warnings += 1);
        let text = name.map(|name| format!("{name}: {message}")).unwrap_or_else(|| message.to_owned());
        self.session.log(LogRecord::warning("transfer", text));
    }

    /// An error that names an entry.
    pub(super) fn damaged(entry: &Entry) -> Error {
        Error::corrupt("the content's SHA-256 is not the recorded one; the archive is damaged").on(&entry.name)
    }
}

impl Work {
    /// The work is done; `large` names the entry whose progress is not needed any more.
    pub(super) fn done(self, large: Option<u64>) {
        let mut inner = self.ledger.lock();
        if let Some(ordinal) = large {
            inner.large.remove(&ordinal);
        }
        if let Some(count) = inner.under_way.get_mut(&self.start) {
            *count -= 1;
            if *count == 0 {
                inner.under_way.remove(&self.start);
            }
        }
    }
}
