//! How a command ends: exit codes, and errors as people and machines read them.

use backup_core::{Error, ErrorClass};
use serde_json::json;
use std::error::Error as _;
use std::process::ExitCode;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything is as it was asked for.
    Done,
    /// It ran to its end, and the answer is bad news that has been printed.
    Failed,
    /// It is done, and there are warnings to look at.
    Warnings,
    /// It stands still, or was handed over, and can be resumed.
    Paused,
}

impl Exit {
    /// The worse of two, for commands that do several things.
    pub(crate) fn worse(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Self::Done => 0,
            Self::Warnings => 1,
            Self::Paused => 2,
            Self::Failed => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Warnings => 3,
            Exit::Paused => 4,
        })
    }
}

/// Why a command did not come to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was asked for in a way that cannot be right.
    Usage(String),
    /// Something went wrong, and perhaps what to do next.
    Error {
        /// What.
        error: Error,
        /// What to do next.
        hint: Option<String>,
    },
    /// Nobody reads standard output any more (`backup list | head`).
    OutputClosed,
    /// A signal stopped it.
    Interrupted,
}

impl Failure {
    /// Why a new operation was not even begun: when what was asked for cannot be right, that is wrong usage.
    pub(crate) fn of_request(error: Error) -> Self {
        if error.class() == ErrorClass::Invalid { Self::Usage(error.chain()) } else { error.into() }
    }

    /// Adds what to do next.
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Error { error, hint: None } => Self::Error { error, hint: Some(text.into()) },
            other => other,
        }
    }

    /// Says it: as a JSON document on standard output, or as lines on standard error.
    pub(crate) fn report(&self, json: bool) {
        // When even this cannot be written, the exit code is all that is left.
        let _ = match self {
            Self::OutputClosed => Ok(()),
            _ if json => crate::output::write_line(&self.document().to_string()),
            _ => crate::output::write_error(&self.lines()),
        };
    }

    fn document(&self) -> serde_json::Value {
        match self {
            Self::Usage(message) => json!({ "error": { "class": "usage", "message": message, "causes": [] } }),
            Self::Error { error, hint } => {
                let mut document = json!({ "error": {
                    "class": class_name(error.class()), "message": error.to_string(), "causes": causes(error),
                } });
                if let Some(hint) = hint {
                    document["error"]["hint"] = hint.as_str().into();
                }
                document
            }
            Self::Interrupted => json!({ "error": { "class": "cancelled", "message": "interrupted", "causes": [] } }),
            Self::OutputClosed => serde_json::Value::Null,
        }
    }

    fn lines(&self) -> String {
        match self {
            Self::Usage(message) => format!("error: {message}"),
            Self::Error { error, hint } => {
                let mut text = format!("error: {error}");
                for cause in causes(error) {
                    text.push_str("\n  caused by: ");
                    text.push_str(&cause);
                }
                if let Some(hint) = hint {
                    text.push('\n');
                    text.push_str(hint);
                }
                text
            }
            Self::Interrupted => "interrupted".into(),
            Self::OutputClosed => String::new(),
        }
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> Self {
        Self::from(match failure {
            Failure::Usage(_) => 2,
            Failure::Error { .. } => 1,
            // The reader had enough: as little of a failure as with any other filter.
            Failure::OutputClosed => 0,
            // What a shell reports of a program that SIGINT ended.
            Failure::Interrupted => 130,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error { error, hint: None }
    }
}

/// The causes of an error, outermost first; one that only repeats what stands before it is left out.
fn causes(error: &Error) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut before = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if text != before {
            texts.push(text.clone());
        }
        before = text;
        next = cause.source();
    }
    texts
}

/// The class as machines read it.
pub(crate) fn class_name(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Transient => "transient",
        ErrorClass::Throttled { .. } => "throttled",
        ErrorClass::Unauthorized => "unauthorized",
        ErrorClass::NotFound => "not-found",
        ErrorClass::Changed => "changed",
        ErrorClass::Conflict => "conflict",
        ErrorClass::Corrupt => "corrupt",
        ErrorClass::NoSpace => "no-space",
        ErrorClass::Invalid => "invalid",
        ErrorClass::Unsupported => "unsupported",
        ErrorClass::Cancelled => "cancelled",
        _ => "permanent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        let io = Error::io(std::io::Error::other("disk on fire"), "cannot read").on("/x");
        Failure::from(io.context("the backup stopped")).hint("next: backup resume 1").hint("a later hint is left out")
    }

    #[test]
    fn each_cause_stands_on_a_line_once_and_the_hint_comes_last() {
        assert_eq!(
            failure().lines(),
            "error: the backup stopped\n  caused by: /x: cannot read\n  caused by: disk on fire\nnext: backup resume 1"
        );
    }

    #[test]
    fn machines_get_class_message_and_causes() {
        assert_eq!(
            failure().document().to_string(),
            r#"{"error":{"causes":["/x: cannot read","disk on fire"],"class":"permanent","hint":"next: backup resume 1","message":"the backup stopped"}}"#
        );
    }

    #[test]
    fn the_worst_of_several_ends_counts() {
        assert_eq!(Exit::Done.worse(Exit::Warnings).worse(Exit::Paused), Exit::Paused);
        assert_eq!(Exit::Failed.worse(Exit::Paused), Exit::Failed);
    }
}
