//! The states of an operation, and the one table of what may follow what.

use crate::{Error, ErrorClass, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an operation is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PauseReason {
    /// Somebody asked for it.
    Requested,
    /// The archive is sealed and the worker has no key for it.
    KeyNeeded,
    /// Credentials were refused; a human must connect again.
    Unauthorized,
    /// The destination or target has no space left.
    NoSpace,
    /// The service has a quota that frees itself later.
    Quota,
    /// The source can no longer give one consistent picture; restart or accept best effort.
    ConsistencyLost,
}

/// The state of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Waits for a worker. Next: a claim.
    Pending,
    /// A worker has it, or had it when it died. Next: its end, or a claim once the lease ran out.
    Running,
    /// All data is durable and the manifest's bytes are saved. Next: the manifest is put, whoever does it.
    Committing,
    /// Stands still with its checkpoint. Next: a claim goes on.
    Paused {
        /// Why.
        reason: PauseReason,
        /// When it may go on by itself, if it may.
        resume_at: Option<jiff::Timestamp>,
    },
    /// Done.
    Completed {
        /// How many warnings it met.
        warnings: u64,
    },
    /// Broke off. Next: a claim goes on from the checkpoint.
    Failed {
        /// The whole chain of causes, without secrets.
        error: String,
    },
    /// Given up on request; its archive is removed.
    Cancelled,
}

impl State {
    /// The state's name, as stores and filters use it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Committing => "committing",
            Self::Paused { .. } => "paused",
            Self::Completed { .. } => "completed",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether a worker holds it, or held it when it died.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Running | Self::Committing)
    }

    /// Whether nothing can follow.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Cancelled)
    }

    /// The state after an event.
    ///
    /// # Errors
    /// `Conflict`, with "already" in the text when the event has happened before and with the states' names when it cannot happen here.
    pub fn after(&self, event: &Event) -> Result<State> {
        match step(self, event) {
            Step::To(state) => Ok(state),
            Step::Already => Err(Error::new(ErrorClass::Conflict, format!("the operation is already {}", self.name()))),
            Step::No if matches!((self, event), (Self::Committing, Event::Cancel)) => {
                Err(Error::conflict("the operation is already completing and cannot be cancelled any more"))
            }
            Step::No => Err(Error::new(
                ErrorClass::Conflict,
                format!("an operation that is {} cannot {}", self.name(), event.name()),
            )),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can happen to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker takes it.
    Claim,
    /// Everything is durable; only the manifest is missing.
    Commit,
    /// It is done.
    Complete {
        /// Warnings met.
        warnings: u64,
    },
    /// It stands still.
    Pause {
        /// Why.
        reason: PauseReason,
        /// When it may go on by itself.
        resume_at: Option<jiff::Timestamp>,
    },
    /// Its worker shuts down and leaves it to another.
    HandOver,
    /// It broke off.
    Fail {
        /// The whole chain of causes, without secrets.
        error: String,
    },
    /// It is given up.
    Cancel,
}

impl Event {
    /// The event as a verb.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claim => "be claimed",
            Self::Commit => "commit",
            Self::Complete { .. } => "complete",
            Self::Pause { .. } => "pause",
            Self::HandOver => "be handed over",
            Self::Fail { .. } => "fail",
            Self::Cancel => "be cancelled",
        }
    }
}

enum Step {
    To(State),
    Already,
    No,
}

/// The table. Claims of held operations (`Running`, `Committing`) are for whoever takes over; whether the lease allows it is the store's to judge.
/// A restore or verify completes from `Running`, a backup only from `Committing`.
fn step(state: &State, event: &Event) -> Step {
    use Event as E;
    use State as S;
    use Step::{Already, No, To};
    match (state, event) {
        (S::Pending | S::Running | S::Paused { .. } | S::Failed { .. }, E::Claim) => To(S::Running),
        (S::Committing, E::Claim) => To(S::Committing),

        (S::Running, E::Commit) => To(S::Committing),
        (S::Committing, E::Commit) => Already,

        (S::Running | S::Committing, E::Complete { warnings }) => To(S::Completed { warnings: *warnings }),
        (S::Completed { .. }, E::Complete { .. }) => Already,

        (S::Running, E::Pause { reason, resume_at }) => To(S::Paused { reason: reason.clone(), resume_at: *resume_at }),
        (S::Paused { .. }, E::Pause { .. }) => Already,

        (S::Running, E::HandOver) => To(S::Pending),
        (S::Pending, E::HandOver) => Already,

        (S::Running | S::Committing, E::Fail { error }) => To(S::Failed { error: error.clone() }),
        (S::Failed { .. }, E::Fail { .. }) => Already,

        (S::Pending | S::Running | S::Paused { .. } | S::Failed { .. }, E::Cancel) => To(S::Cancelled),
        (S::Cancelled, E::Cancel) => Already,

        _ => No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> Vec<State> {
        vec![
            State::Pending,
            State::Running,
            State::Committing,
            State::Paused { reason: PauseReason::Requested, resume_at: None },
            State::Completed { warnings: 0 },
            State::Failed { error: String::new() },
            State::Cancelled,
        ]
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Claim,
            Event::Commit,
            Event::Complete { warnings: 0 },
            Event::Pause { reason: PauseReason::Requested, resume_at: None },
            Event::HandOver,
            Event::Fail { error: String::new() },
            Event::Cancel,
        ]
    }

    #[test]
    fn the_whole_matrix() {
        let mut lines = Vec::new();
        for state in states() {
            let row: Vec<&str> = events()
                .iter()
                .map(|event| match step(&state, event) {
                    Step::To(next) => next.name(),
                    Step::Already => "already",
                    Step::No => "-",
                })
                .collect();
            lines.push(format!("{}: {}", state.name(), row.join(" ")));
        }
        // Columns: claim, commit, complete, pause, hand over, fail, cancel.
        assert_eq!(
            lines,
            [
                "pending: running - - - already - cancelled",
                "running: running committing completed paused pending failed cancelled",
                "committing: committing already completed - - failed -",
                "paused: running - - already - - cancelled",
                "completed: - - already - - - -",
                "failed: running - - - - already cancelled",
                "cancelled: - - - - - - already",
            ]
        );
    }

    #[test]
    fn cancel_of_a_completing_operation_says_so() {
        let error = State::Committing.after(&Event::Cancel).unwrap_err();
        assert!(error.to_string().contains("already completing"), "{error}");
    }
}
