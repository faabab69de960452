//! Which requests meet which faults.

use super::{Operation, S3Buckets};
use crate::faulty::When;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// It is answered with an error, and nothing is done. A body that came with it is read first, so that the client sees the answer.
    Fail {
        /// The HTTP status.
        status: u16,
        /// The code of the API, e.g. `AccessDenied`. A HEAD has the status alone.
        code: &'static str,
        /// `Retry-After`, in whole seconds.
        after: Option<Duration>,
    },
    /// The connection is closed, and nothing is done.
    Drop,
    /// The connection is closed after so many bytes of the request's body, and nothing is done.
    BreakRequest {
        /// Bytes of the body that are read.
        after: u64,
    },
    /// It is done, and the connection is closed instead of an answer.
    LostReply,
    /// It is done, and answered with an error.
    FailAfter {
        /// The HTTP status.
        status: u16,
        /// The code of the API.
        code: &'static str,
    },
    /// It is answered with status 200 and an error in the body, as CompleteMultipartUpload can be.
    FailWith200 {
        /// The code of the API.
        code: &'static str,
        /// Whether it is done all the same.
        done: bool,
    },
    /// The connection is closed after so many bytes of the answer's body.
    Break {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// The answer's body ends after so many bytes, as if that were all: no server may do that.
    Short {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// The answer's body stops coming after so many bytes; the connection stays open.
    Stall {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// The answer's body comes in pieces of so many bytes with pauses between them.
    Slow {
        /// Bytes of a piece, at least one.
        piece: usize,
        /// The pause before each piece.
        pause: Duration,
    },
    /// One bit of the answer's body is another: no server may do that.
    Flip {
        /// In which byte of the body.
        at: u64,
    },
    /// It waits first.
    Delay(Duration),
    /// It is never answered, and nothing is done.
    Hang,
    /// Something happens first, e.g. another client replaces an object; then the request is served as usual.
    Act(Act),
}

impl Fault {
    /// An error.
    pub fn fail(status: u16, code: &'static str) -> Self {
        Self::Fail { status, code, after: None }
    }

    /// 503 SlowDown, without a `Retry-After`.
    pub fn slow_down() -> Self {
        Self::fail(503, "SlowDown")
    }

    /// 403 AccessDenied.
    pub fn denied() -> Self {
        Self::fail(403, "AccessDenied")
    }

    /// Something that happens to the buckets before the request is served.
    pub fn act(act: impl Fn(&S3Buckets) + Send + Sync + 'static) -> Self {
        Self::Act(Act(Arc::new(act)))
    }
}

/// What [`Fault::Act`] does.
#[derive(Clone)]
pub struct Act(pub(super) Arc<dyn Fn(&S3Buckets) + Send + Sync>);

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Act")
    }
}

/// One line of the script.
#[derive(Clone, Debug)]
pub struct Rule {
    operation: Option<Operation>,
    about: Option<String>,
    when: When,
    fault: Fault,
    /// Requests covered so far.
    calls: u64,
}

impl Rule {
    /// Some of the requests of an operation meet a fault.
    pub fn new(operation: Operation, when: When, fault: Fault) -> Self {
        Self { operation: Some(operation), about: None, when, fault, calls: 0 }
    }

    /// Some of all requests meet a fault; `When::From` with [`Fault::Drop`] is the death of the server.
    pub fn any(when: When, fault: Fault) -> Self {
        Self { operation: None, about: None, when, fault, calls: 0 }
    }

    /// Covers only requests with this text in their `bucket/key`.
    #[must_use]
    pub fn about(mut self, text: &str) -> Self {
        self.about = Some(text.to_owned());
        self
    }

    fn covers(&self, operation: Operation, subject: &str) -> bool {
        // A key of a batch is no request: only rules that name it cover it.
        let named = self.operation.map_or(operation != Operation::DeleteObjectsKey, |named| named == operation);
        named && self.about.as_deref().is_none_or(|text| subject.contains(text))
    }
}

/// A fault that was met.
#[derive(Clone, Debug)]
pub struct Fired {
    /// The operation.
    pub operation: Operation,
    /// `bucket/key`, or the bucket alone.
    pub subject: String,
    /// The fault.
    pub fault: Fault,
}

/// The script. Cloning shares it.
///
/// Each rule counts the requests that it covers. The first rule that applies decides.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    fired: Vec<Fired>,
    skew: Duration,
    session_token: Option<String>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Faults").field("rules", &state.rules).field("fired", &state.fired.len()).finish()
    }
}

impl Faults {
    /// Adds a rule.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// From now on nothing fails, and the clock is right.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.skew = Duration::ZERO;
    }

    /// Puts the server's clock forward. By more than 15 minutes, requests fail with 403 RequestTimeTooSkewed unless the client follows the
    /// `Date` of the answers.
    pub fn skew_clock(&self, by: Duration) {
        self.lock().skew = by;
    }

    /// From now on the keys are those of a session with this token: requests without it fail with 400 InvalidToken, and so does a token
    /// while there is to be none.
    pub fn require_session_token(&self, token: Option<&str>) {
        self.lock().session_token = token.map(str::to_owned);
    }

    /// The faults that were met so far, in order: a test of a fault shows with it that the fault did happen.
    pub fn fired(&self) -> Vec<Fired> {
        self.lock().fired.clone()
    }

    pub(super) fn session_token(&self) -> Option<String> {
        self.lock().session_token.clone()
    }

    pub(super) fn skew(&self) -> Duration {
        self.lock().skew
    }

    /// The fault of the next request of `operation` about `subject`.
    pub(super) fn decide(&self, operation: Operation, subject: &str) -> Option<Fault> {
        let mut state = self.lock();
        let mut fault = None;
        for rule in state.rules.iter_mut().filter(|rule| rule.covers(operation, subject)) {
            rule.calls += 1;
            if rule.when.covers(rule.calls) {
                fault = fault.or_else(|| Some(rule.fault.clone()));
            }
        }
        let fired = fault.clone().map(|fault| Fired { operation, subject: subject.to_owned(), fault });
        state.fired.extend(fired);
        fault
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_the_requests_that_they_cover() {
        let faults = Faults::default();
        faults.add(Rule::new(Operation::GetObject, When::Nth(2), Fault::Drop).about("/a"));
        let hits = |operation, subject| faults.decide(operation, subject).is_some();
        assert!(!hits(Operation::GetObject, "b/a"));
        assert!(!hits(Operation::GetObject, "b/x"));
        assert!(!hits(Operation::HeadObject, "b/a"));
        assert!(hits(Operation::GetObject, "b/a"));
        assert!(!hits(Operation::GetObject, "b/a"));
        assert_eq!(faults.fired().len(), 1);
        faults.clear();
        faults.add(Rule::any(When::Always, Fault::Drop));
        assert!(faults.decide(Operation::HeadObject, "").is_some());
        assert!(faults.decide(Operation::DeleteObjectsKey, "b/a").is_none());
    }
}
