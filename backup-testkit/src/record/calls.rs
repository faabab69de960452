//! What was called.

use crate::Method;
use backup_core::{ErrorClass, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, Stream};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It runs, or its stream is being read.
    Running,
    /// It succeeded; its stream was read to the end.
    Done,
    /// It, or its stream, failed.
    Failed(ErrorClass),
    /// Its caller dropped it, or its stream, before the end.
    Dropped,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// What it was about: an object, an entry, an operation; several are separated by spaces. Empty for nothing in particular.
    pub subject: String,
    /// The range that was asked for.
    pub range: Option<Range<u64>>,
    /// Bytes that went through: of a body, as far as it was delivered; of a payload or batch, all of it.
    pub bytes: u64,
    /// How it went.
    pub outcome: CallOutcome,
}

/// Figures of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls begun.
    pub calls: u64,
    /// Calls that failed, themselves or in their stream.
    pub failed: u64,
    /// Bytes that went through.
    pub bytes: u64,
    /// Calls that run now, counting streams that are being read.
    pub running: u64,
    /// The most calls that ran at once.
    pub most_running: u64,
}

/// Counts and remembers calls. Cloning shares it; several wrappers may share one.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    counts: BTreeMap<Method, Count>,
    calls: Vec<Call>,
    entries: Vec<String>,
    room: usize,
    complete: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), calls: Vec::new(), entries: Vec::new(), room: 100_000, complete: true }
    }
}

impl Recorder {
    /// Remembers the first 100,000 calls and as many entries; counts all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers the first `room` calls and as many entries; counts all.
    pub fn with_room(room: usize) -> Self {
        Self(Arc::new(Mutex::new(State { room, ..State::default() })))
    }

    /// The figures of a method.
    pub fn count(&self, method: Method) -> Count {
        self.lock().counts.get(&method).copied().unwrap_or_default()
    }

    /// The calls in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// The calls of a method.
    pub fn calls_of(&self, method: Method) -> Vec<Call> {
        self.lock().calls.iter().filter(|call| call.method == method).cloned().collect()
    }

    /// The names of the entries that `Source::events` delivered, in order.
    pub fn entries(&self) -> Vec<String> {
        self.lock().entries.clone()
    }

    /// Whether all calls and entries could be remembered.
    pub fn is_complete(&self) -> bool {
        self.lock().complete
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut state = self.lock();
        *state = State { room: state.room, ..State::default() };
    }

    /// How many bytes were delivered of a thing by `Source::read` and `Destination::get`.
    pub fn bytes_read(&self, subject: &str) -> u64 {
        self.lock().calls.iter().filter(|c| c.method.has_body() && c.subject == subject).map(|c| c.bytes).sum()
    }

    /// What `Source::read`, `Destination::get` and `Source::events` delivered more than once, with the number of bytes that came
    /// again. An entry that is delivered again without a content counts with 0.
    #[must_use]
    pub fn read_twice(&self) -> Vec<(String, u64)> {
        let state = self.lock();
        let mut twice: BTreeMap<String, u64> = BTreeMap::new();
        let mut parts: BTreeMap<&str, Vec<Range<u64>>> = BTreeMap::new();
        for call in state.calls.iter().filter(|call| call.method.has_body() && call.bytes > 0) {
            let start = call.range.as_ref().map_or(0, |range| range.start);
            parts.entry(&call.subject).or_default().push(start..start + call.bytes);
        }
        for (subject, mut parts) in parts {
            parts.sort_by_key(|part| part.start);
            let mut reached = 0;
            for part in parts {
                let again = reached.min(part.end).saturating_sub(part.start);
                if again > 0 {
                    *twice.entry(subject.to_owned()).or_default() += again;
                }
                reached = reached.max(part.end);
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for entry in state.entries.iter().filter(|entry| !seen.insert(entry.as_str())) {
            twice.entry(entry.clone()).or_default();
        }
        twice.into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entry(&self, name: impl Display, inline: u64) {
        let mut state = self.lock();
        state.counts.entry(Method::Events).or_default().bytes += inline;
        if state.entries.len() < state.room {
            state.entries.push(name.to_string());
        } else {
            state.complete = false;
        }
    }

    /// A call begins.
    pub(super) fn begin(&self, method: Method, subject: impl Display, range: Option<Range<u64>>) -> Running {
        let mut state = self.lock();
        let count = state.counts.entry(method).or_default();
        count.calls += 1;
        count.running += 1;
        count.most_running = count.most_running.max(count.running);
        let index = state.calls.len();
        let kept = index < state.room;
        if kept {
            let call = Call { method, subject: subject.to_string(), range, bytes: 0, outcome: CallOutcome::Running };
            state.calls.push(call);
        }
        state.complete &= kept;
        Running { recorder: self.clone(), method, index: kept.then_some(index), ended: false }
    }

    /// Makes a call that delivers no stream and moves `bytes`.
    pub(super) async fn call<T>(
        &self,
        method: Method,
        subject: impl Display,
        bytes: u64,
        act: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let mut running = self.begin(method, subject, None);
        running.bytes(bytes);
        let answer = act.await;
        running.end(&answer);
        answer
    }
}

/// A call that runs; one that is dropped before its end counts as dropped.
pub(super) struct Running {
    recorder: Recorder,
    method: Method,
    index: Option<usize>,
    ended: bool,
}

impl Running {
    pub(super) fn bytes(&mut self, bytes: u64) {
        self.change(|count, call| {
            count.bytes += bytes;
            if let Some(call) = call {
                call.bytes += bytes;
            }
        });
    }

    pub(super) fn end<T>(&mut self, answer: &Result<T>) {
        self.outcome(match answer {
            Ok(_) => CallOutcome::Done,
            Err(error) => CallOutcome::Failed(error.class()),
        });
    }

    fn outcome(&mut self, outcome: CallOutcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.change(|count, call| {
            count.running = count.running.saturating_sub(1);
            count.failed += u64::from(matches!(outcome, CallOutcome::Failed(_)));
            if let Some(call) = call {
                call.outcome = outcome;
            }
        });
    }

    fn change(&self, act: impl FnOnce(&mut Count, Option<&mut Call>)) {
        let mut state = self.recorder.lock();
        let State { counts, calls, .. } = &mut *state;
        act(counts.entry(self.method).or_default(), self.index.and_then(|index| calls.get_mut(index)));
    }

    /// A body, counted as it is delivered; the call ends with it.
    pub(super) fn body(
        self,
        stream: impl Stream<Item = Result<Bytes>> + Send + 'static,
    ) -> BoxStream<'static, Result<Bytes>> {
        self.items(stream.boxed(), |running, bytes| running.bytes(bytes.len() as u64))
    }

    /// A stream of items; the call ends with it.
    pub(super) fn items<'a, T: Send + 'a>(
        mut self,
        mut stream: BoxStream<'a, Result<T>>,
        see: impl Fn(&mut Self, &T) + Send + 'a,
    ) -> BoxStream<'a, Result<T>> {
        async_stream::stream! {
            while let Some(item) = stream.next().await {
                match &item {
                    Ok(item) => see(&mut self, item),
                    Err(_) => self.end(&item),
                }
                yield item;
            }
            self.outcome(CallOutcome::Done);
        }
        .boxed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.outcome(CallOutcome::Dropped);
    }
}
