//! The rules by which every store changes an operation.
//!
//! A store loads what it keeps of an operation, applies one of these functions, and writes the result under the condition
//! that the row has not changed meanwhile. Nothing here does I/O, and `now` is always the store's own clock, so that two
//! stores cannot disagree on what a claim or a change of state means.

use crate::model::{
    ArchiveId, ClaimNext, ClaimOver, ClaimRequest, Fence, Guard, LogPosition, LogQuery, LogRecord, NewOperation,
    Operation, OperationId, Progress, Request, Transition,
};
use crate::state::{Event, State};
use crate::{Error, Result};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// The most records that one [`LogQuery`] may ask for.
pub const MAX_LOG_PAGE: u32 = 10_000;

/// How many operations a listing gives when the caller names no number.
pub const DEFAULT_QUERY_LIMIT: u32 = 100;

/// What a store keeps of an operation, besides its checkpoint and its log.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredOperation {
    /// The operation; its `lease_running` counts only in what [`StoredOperation::at`] returns.
    pub operation: Operation,
    /// When the lease runs out; `None` when nobody has one.
    pub lease_until: Option<Timestamp>,
}

impl StoredOperation {
    /// An operation as it is created, and its first log record.
    pub fn create(new: NewOperation, now: Timestamp) -> (Self, LogRecord) {
        let log = LogRecord { time: now, ..LogRecord::info("created", "The operation was created.") };
        let operation = Operation {
            new,
            state: State::Pending,
            version: 1,
            attempt: 0,
            nonce: 0,
            holder: None,
            lease_running: false,
            request: None,
            progress: Progress::default(),
            created_at: now,
            updated_at: now,
            finished_at: None,
        };
        (Self { operation, lease_until: None }, log)
    }

    /// The operation as it is to be shown at this moment.
    pub fn at(mut self, now: Timestamp) -> Operation {
        self.operation.lease_running = self.lease_runs(now);
        self.operation
    }

    /// Whether somebody's lease runs at this moment.
    pub fn lease_runs(&self, now: Timestamp) -> bool {
        self.lease_until.is_some_and(|until| until > now)
    }

    /// The operation after a claim with these random bits, and the log record of it.
    ///
    /// # Errors
    /// `Conflict` when the state cannot be claimed or another holds it.
    pub fn claim(&self, request: &ClaimRequest, nonce: u32, now: Timestamp) -> Result<(Self, LogRecord)> {
        let state = self.operation.state.after(&Event::Claim).map_err(|e| e.on(self.id()))?;
        let may_go_over = match request.over {
            ClaimOver::Nobody => false,
            ClaimOver::Holder { version } => version == self.operation.version,
        };
        if self.lease_runs(now) && !may_go_over {
            return Err(Error::conflict("another worker holds the operation").on(self.id()));
        }
        let mut next = self.clone();
        let operation = &mut next.operation;
        let was = std::mem::replace(&mut operation.state, state);
        operation.version += 1;
        operation.attempt += 1;
        operation.nonce = nonce;
        operation.holder = Some(request.holder.clone());
        operation.request = None;
        operation.updated_at = now;
        operation.finished_at = None;
        next.lease_until = Some(lease_end(now, request.lease));

        let holder = &request.holder;
        let attempt = next.operation.attempt;
        let log = LogRecord::info(
            "claim",
            format!("Attempt {attempt} by process {} on {}; the operation was {was}.", holder.pid, holder.host),
        )
        .with(serde_json::json!({ "attempt": attempt, "host": holder.host, "pid": holder.pid, "was": was.name() }));
        Ok((next, LogRecord { time: now, ..log }))
    }

    /// The operation after a claim of what is due, and the log record of it. A wish for a pause that its worker did not live to see to
    /// stays, unless it is completing.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_due(&self, next: &ClaimNext, nonce: u32, now: Timestamp) -> Result<(Self, LogRecord)> {
        let ClaimNext { holder, lease, per_connection: _, able: _ } = next.clone();
        let (mut claimed, log) = self.claim(&ClaimRequest { holder, lease, over: ClaimOver::Nobody }, nonce, now)?;
        // What is completing cannot pause.
        let running = self.operation.state == State::Running;
        claimed.operation.request = self.operation.request.filter(|request| running && *request == Request::Pause);
        Ok((claimed, log))
    }

    /// The operation with its lease extended from now on.
    ///
    /// # Errors
    /// `Conflict` when the fence is void.
    pub fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>, now: Timestamp) -> Result<Self> {
        self.check_fence(fence)?;
        let mut next = self.clone();
        next.lease_until = Some(lease_end(now, lease));
        next.operation.updated_at = now;
        if let Some(progress) = progress {
            next.operation.progress = presentable(progress);
        }
        Ok(next)
    }

    /// The operation after a change of state.
    ///
    /// # Errors
    /// - `Conflict` when the guard does not hold, or when the table of [`state`](crate::state) has no such change.
    /// - `Invalid` for [`Event::Claim`]: a claim has a method of its own.
    pub fn transition(&self, transition: &Transition, now: Timestamp) -> Result<Self> {
        if transition.event == Event::Claim {
            return Err(Error::invalid("a claim is made with `claim`, not as a transition").on(self.id()));
        }
        match &transition.guard {
            Guard::Fence(fence) => self.check_newest(fence)?,
            Guard::Version(version) => self.check_version(*version)?,
        }
        let state = self.operation.state.after(&transition.event).map_err(|e| e.on(self.id()))?;
        if let Guard::Fence(fence) = &transition.guard {
            self.check_fence(fence)?;
        }

        let mut next = self.clone();
        let operation = &mut next.operation;
        operation.version += 1;
        operation.updated_at = now;
        if self.operation.state.is_held() && !state.is_held() {
            operation.holder = None;
            operation.request = None;
            next.lease_until = None;
        }
        // From here on it cannot pause any more.
        if transition.event == Event::Commit {
            operation.request = None;
        }
        if transition.event == Event::Cancel {
            operation.attempt += 1;
            operation.request = None;
        }
        if let Some(progress) = &transition.progress {
            operation.progress = presentable(progress);
        }
        let ended = state.is_final() || matches!(state, State::Failed { .. });
        operation.finished_at = ended.then_some(now);
        operation.state = state;
        Ok(next)
    }

    /// Since when any worker may take it, if one may: what is `Pending`, held under a lease that ends or has ended then, due to go
    /// on at a time, or asked to. Only operations with connections are for every worker.
    pub fn due_at(&self) -> Option<Timestamp> {
        let Operation { new, state, request, updated_at, .. } = &self.operation;
        new.connections.as_ref()?;
        match state {
            State::Pending => Some(*updated_at),
            State::Running | State::Committing => self.lease_until,
            State::Paused { .. } | State::Failed { .. } if *request == Some(Request::Resume) => Some(*updated_at),
            State::Paused { resume_at, .. } => resume_at.map(stored_time),
            State::Failed { .. } | State::Completed { .. } | State::Cancelled => None,
        }
    }

    /// The operation with a wish beside its state.
    ///
    /// # Errors
    /// `Conflict` when its state does not take such a wish.
    pub fn request(&self, request: Request, now: Timestamp) -> Result<Self> {
        let state = &self.operation.state;
        let taken = match request {
            Request::Pause => *state == State::Running,
            Request::Resume => matches!(state, State::Paused { .. } | State::Failed { .. }),
        };
        if !taken {
            let wish = match request {
                Request::Pause => "paused",
                Request::Resume => "resumed",
            };
            let text = format!("an operation that is {state} cannot be {wish}");
            return Err(Error::new(crate::ErrorClass::Conflict, text).on(self.id()));
        }
        let mut next = self.clone();
        next.operation.request = Some(request);
        next.operation.version += 1;
        next.operation.updated_at = now;
        Ok(next)
    }

    /// Whether this is the right to work on the operation.
    ///
    /// # Errors
    /// `Conflict` when it is not the newest claim, or when the operation is not held any more.
    pub fn check_fence(&self, fence: &Fence) -> Result<()> {
        self.check_newest(fence)?;
        if self.operation.state.is_held() {
            return Ok(());
        }
        let text = format!("the operation is {}, its worker has given it back", self.operation.state);
        Err(Error::new(crate::ErrorClass::Conflict, text).on(self.id()))
    }

    /// The fence of the newest claim.
    pub fn fence(&self) -> Fence {
        let Operation { new, attempt, nonce, .. } = &self.operation;
        Fence { operation: new.id.clone(), attempt: *attempt, nonce: *nonce }
    }

    fn check_newest(&self, fence: &Fence) -> Result<()> {
        if *fence == self.fence() {
            return Ok(());
        }
        let text = format!("attempt {} is not the newest claim of the operation", fence.attempt);
        Err(Error::new(crate::ErrorClass::Conflict, text).on(self.id()))
    }

    fn check_version(&self, version: u64) -> Result<()> {
        if version == self.operation.version {
            return Ok(());
        }
        let text = format!("the operation has changed: version {version} became {}", self.operation.version);
        Err(Error::new(crate::ErrorClass::Conflict, text).on(self.id()))
    }

    fn id(&self) -> &OperationId {
        &self.operation.new.id
    }
}

/// The error for an operation that a store does not have.
pub fn no_such_operation(id: &OperationId) -> Error {
    Error::not_found("there is no such operation in the store").on(id)
}

/// The error for an archive that a store does not know.
pub fn unknown_archive(archive: &ArchiveId) -> Error {
    Error::not_found("the store does not know this archive at this destination").on(archive)
}

/// Checks a claim on whatever is due.
///
/// # Errors
/// `Invalid` when it allows no operation for a connection.
pub fn check_claim_next(request: &ClaimNext) -> Result<()> {
    if request.per_connection == 0 {
        return Err(Error::invalid("at least one operation at once must be allowed for a connection"));
    }
    Ok(())
}

/// The error for an operation that a store has already.
pub fn operation_exists(id: &OperationId) -> Error {
    Error::conflict("the store has an operation of this id already").on(id)
}

/// Checks the limits of a query for log records.
///
/// # Errors
/// `Invalid` when it asks for no records, or for more than [`MAX_LOG_PAGE`].
pub fn check_log_query(query: &LogQuery) -> Result<()> {
    if (1..=MAX_LOG_PAGE).contains(&query.limit) {
        return Ok(());
    }
    let text = format!("a page of a job log has 1 to {MAX_LOG_PAGE} records, not {}", query.limit);
    Err(Error::new(crate::ErrorClass::Invalid, text).on("log query"))
}

/// Those of a writer's records that a store does not have yet, when it has so many of them.
pub fn not_yet_added(at: LogPosition, records: &[LogRecord], has: u64) -> &[LogRecord] {
    let known = usize::try_from(has.saturating_sub(at.first)).unwrap_or(usize::MAX);
    records.get(known..).unwrap_or_default()
}

/// An instant as stores keep it: whole microseconds, which every database has.
pub fn stored_time(time: Timestamp) -> Timestamp {
    // The last instant of all can be told in microseconds, but not be made from them.
    let last = || Timestamp::from_second(Timestamp::MAX.as_second());
    Timestamp::from_microsecond(time.as_microsecond()).or_else(|_| last()).unwrap_or(time)
}

/// JSON has no numbers for "infinite" and "not a number", and nobody wants to see them.
fn presentable(progress: &Progress) -> Progress {
    let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
    Progress {
        bytes_per_second: finite(progress.bytes_per_second),
        eta_seconds: progress.eta_seconds.filter(|eta| eta.is_finite()),
        ..progress.clone()
    }
}

fn lease_end(now: Timestamp, lease: Duration) -> Timestamp {
    let lease = SignedDuration::try_from(lease).unwrap_or(SignedDuration::MAX);
    stored_time(now.checked_add(lease).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use crate::model::{ArchiveId, Holder, Identity, OperationKind};
    use crate::state::PauseReason;

    const LEASE: Duration = Duration::from_secs(30);

    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn after(seconds: i64) -> Timestamp {
        start() + SignedDuration::from_secs(seconds)
    }

    fn pending() -> StoredOperation {
        let new = NewOperation {
            id: OperationId::generate(start()),
            kind: OperationKind::Backup,
            name: String::new(),
            source: Identity::new("memory", "a"),
            destination: Identity::new("memory", "b"),
            archive: ArchiveId::generate(start()),
            spec: serde_json::Value::Null,
            connections: None,
            created_by: String::new(),
        };
        StoredOperation::create(new, start()).0
    }

    fn request(over: ClaimOver) -> ClaimRequest {
        let holder = Holder { boot: "boot".into(), host: "host".into(), pid: 1, started: 2 };
        ClaimRequest { holder, lease: LEASE, over }
    }

    fn running() -> StoredOperation {
        pending().claim(&request(ClaimOver::Nobody), 7, start()).unwrap().0
    }

    fn transition(of: &StoredOperation, event: Event) -> Transition {
        Transition::new(of.id().clone(), Guard::Fence(of.fence()), event, LogRecord::info("test", "test"))
    }

    #[test]
    fn a_lease_ends_at_its_last_moment() {
        let op = running();
        assert!(op.lease_runs(after(29)));
        assert!(!op.lease_runs(after(30)), "the end itself is free");
        assert!(op.claim(&request(ClaimOver::Nobody), 8, after(29)).is_err());
        assert_eq!(op.claim(&request(ClaimOver::Nobody), 8, after(30)).unwrap().0.operation.attempt, 2);
    }

    #[test]
    fn a_lease_longer_than_time_itself_does_not_overflow() {
        let forever = ClaimRequest { lease: Duration::MAX, ..request(ClaimOver::Nobody) };
        let op = pending().claim(&forever, 7, start()).unwrap().0;
        assert!(op.lease_runs(after(1_000_000_000)));
    }

    #[test]
    fn every_stored_time_can_be_read_back_from_its_microseconds() {
        for time in [Timestamp::MIN, start(), start() + SignedDuration::from_nanos(1_999), Timestamp::MAX] {
            let stored = stored_time(time);
            assert_eq!(Timestamp::from_microsecond(stored.as_microsecond()).unwrap(), stored);
        }
    }

    #[test]
    fn going_over_a_holder_counts_only_at_the_version_that_was_seen() {
        let op = running();
        let version = op.operation.version;
        assert!(op.claim(&request(ClaimOver::Holder { version: version - 1 }), 8, after(1)).is_err());
        assert!(op.claim(&request(ClaimOver::Holder { version }), 8, after(1)).is_ok());
    }

    #[test]
    fn a_renewal_moves_the_end_of_the_lease_and_nothing_that_others_compare() {
        let op = running();
        let renewed = op.renew(&op.fence(), LEASE, None, after(20)).unwrap();
        assert!(renewed.lease_runs(after(49)));
        assert_eq!(renewed.operation.version, op.operation.version);
    }

    #[test]
    fn a_fence_stays_good_after_its_lease_until_the_next_claim() {
        let op = running();
        assert!(op.renew(&op.fence(), LEASE, None, after(31)).is_ok());
        let next = op.claim(&request(ClaimOver::Nobody), 8, after(31)).unwrap().0;
        assert_eq!(next.check_fence(&op.fence()).unwrap_err().class(), ErrorClass::Conflict);
        let other_bits = Fence { nonce: 9, ..next.fence() };
        assert!(next.check_fence(&other_bits).is_err(), "the same number with other random bits is another claim");
    }

    #[test]
    fn leaving_the_worker_ends_lease_holder_and_request() {
        let op = running().request(Request::Pause, after(1)).unwrap();
        let event = Event::Pause { reason: PauseReason::Requested, resume_at: None };
        let paused = op.transition(&transition(&op, event), after(2)).unwrap();
        assert_eq!(paused.lease_until, None);
        assert_eq!(paused.operation.holder, None);
        assert_eq!(paused.operation.request, None);
        assert!(paused.check_fence(&op.fence()).is_err());
        let cancel = paused.transition(&transition(&op, Event::Cancel), after(3));
        assert!(cancel.is_err(), "the worker has nothing to say any more");
    }

    #[test]
    fn committing_keeps_the_worker() {
        let op = running();
        let committing = op.transition(&transition(&op, Event::Commit), after(1)).unwrap();
        assert!(committing.lease_runs(after(2)));
        assert!(committing.check_fence(&op.fence()).is_ok());
        let done = committing.transition(&transition(&op, Event::Complete { warnings: 3 }), after(2)).unwrap();
        assert_eq!(done.operation.finished_at, Some(after(2)));
        let again = done.transition(&transition(&op, Event::Complete { warnings: 3 }), after(3)).unwrap_err();
        assert!(again.to_string().contains("already completed"), "{again}");
    }

    #[test]
    fn what_is_completing_is_not_asked_to_pause() {
        let op = running().request(Request::Pause, after(1)).unwrap();
        let mut committing = op.transition(&transition(&op, Event::Commit), after(1)).unwrap();
        assert_eq!(committing.operation.request, None);
        // As a program of before may have left it.
        committing.operation.request = Some(Request::Pause);
        let holder = request(ClaimOver::Nobody).holder;
        let next = ClaimNext { holder, lease: LEASE, per_connection: 1, able: None };
        assert_eq!(committing.claim_due(&next, 8, after(31)).unwrap().0.operation.request, None);
        let kept = op.claim_due(&next, 8, after(31)).unwrap().0;
        assert_eq!(kept.operation.request, Some(Request::Pause));
    }

    #[test]
    fn cancel_voids_the_fence() {
        let op = running();
        let cancelled = op.transition(&transition(&op, Event::Cancel), after(1)).unwrap();
        assert_eq!(cancelled.operation.attempt, op.operation.attempt + 1);
        assert!(cancelled.check_fence(&op.fence()).is_err());
    }

    #[test]
    fn a_failed_operation_that_goes_on_has_not_finished() {
        let op = running();
        let failed = op.transition(&transition(&op, Event::Fail { error: "x".into() }), after(1)).unwrap();
        assert!(failed.operation.finished_at.is_some());
        let again = failed.claim(&request(ClaimOver::Nobody), 8, after(2)).unwrap().0;
        assert_eq!(again.operation.finished_at, None);
    }

    #[test]
    fn a_claim_is_no_transition() {
        let op = running();
        let error = op.transition(&transition(&op, Event::Claim), after(1)).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
    }

    #[test]
    fn a_rate_that_is_no_number_is_not_stored() {
        let op = running();
        let odd = Progress { bytes_per_second: f64::NAN, eta_seconds: Some(f64::INFINITY), ..Progress::default() };
        let renewed = op.renew(&op.fence(), LEASE, Some(&odd), after(1)).unwrap();
        assert_eq!(renewed.operation.progress, Progress::default());
    }
}
