//! Which requests meet which faults.

use super::DriveOperation;
use crate::faulty::When;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DriveFault {
    /// It is answered with an error, and nothing is done. A body that came with it is read first.
    Fail {
        /// The HTTP status.
        status: u16,
        /// The reason of the API, e.g. `userRateLimitExceeded`.
        reason: &'static str,
    },
    /// It is done, and answered with an error: a 5xx after the last byte was stored.
    FailAfter {
        /// The HTTP status.
        status: u16,
    },
    /// It is done, and the connection is closed instead of an answer.
    LostReply,
    /// The connection is closed, and nothing is done.
    Drop,
    /// The connection is closed after so many bytes of the request's body; an upload keeps whole multiples of 256 KiB of them.
    BreakRequest {
        /// Bytes of the body that are read.
        after: usize,
    },
    /// An upload keeps only so many bytes of a chunk, and says so.
    Partial {
        /// Bytes that are kept, a multiple of 256 KiB.
        kept: usize,
    },
    /// The session of the upload is gone: 404, or 410.
    SessionGone {
        /// The HTTP status.
        status: u16,
    },
    /// The connection is closed after so many bytes of the answer's body.
    Break {
        /// Bytes of the body that are sent.
        after: usize,
    },
    /// After so many bytes of the answer's body nothing more comes, and the connection stays open.
    StallBody {
        /// Bytes of the body that are sent.
        after: usize,
    },
    /// One bit of the request's body is another before it is taken: no server may do that.
    StoreFlipped {
        /// In which byte of the body.
        at: usize,
    },
    /// So many blanks come before the answer's body.
    Padded {
        /// The number of blanks.
        blanks: usize,
    },
    /// It is answered with an error and the time after which to ask again (`Retry-After`); nothing is done.
    Busy {
        /// The HTTP status.
        status: u16,
        /// The seconds.
        after_s: u64,
    },
    /// It is answered with status 200 and something that is no JSON.
    NotJson,
    /// The first page of a listing has no files, although more pages come: the service may do that.
    EmptyPage,
    /// It waits first.
    Delay(Duration),
    /// It is never answered, and nothing is done.
    Hang,
}

impl DriveFault {
    /// 403 with a reason that asks for fewer requests.
    pub fn rate_limit() -> Self {
        Self::Fail { status: 403, reason: "userRateLimitExceeded" }
    }

    /// 503, nothing done.
    pub fn unavailable() -> Self {
        Self::Fail { status: 503, reason: "backendError" }
    }
}

/// One line of the script.
#[derive(Debug)]
struct Rule {
    operation: DriveOperation,
    when: When,
    fault: DriveFault,
    calls: u64,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    fired: Vec<DriveOperation>,
}

/// The script. Cloning shares it. Each rule counts the requests of its operation; the first that applies decides.
#[derive(Clone, Debug, Default)]
pub struct DriveFaults(Arc<Mutex<Script>>);

impl DriveFaults {
    /// Some of the requests of an operation meet a fault.
    pub fn add(&self, operation: DriveOperation, when: When, fault: DriveFault) {
        self.lock().rules.push(Rule { operation, when, fault, calls: 0 });
    }

    /// From now on nothing fails.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// How many faults were met: a test of a fault shows with it that the fault did happen.
    pub fn fired(&self) -> usize {
        self.lock().fired.len()
    }

    pub(super) fn decide(&self, operation: DriveOperation) -> Option<DriveFault> {
        let mut script = self.lock();
        let mut fault = None;
        for rule in script.rules.iter_mut().filter(|rule| rule.operation == operation) {
            rule.calls += 1;
            if rule.when.covers(rule.calls) {
                fault = fault.or_else(|| Some(rule.fault.clone()));
            }
        }
        if fault.is_some() {
            script.fired.push(operation);
        }
        fault
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
