//! The one error type, and the classes by which engine and caller decide what to do.

use std::borrow::Cow;
use std::time::Duration;

/// What an error means for the work that met it.
///
/// The class is set where the error arises, by the code that knows; nobody has to look at texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// A passing fault (network, 5xx): the same call may work when it is repeated.
    Transient,
    /// The service asks for less; repeat after the given time, or after the usual backoff.
    Throttled {
        /// How long the service asks to wait, if it says so.
        after: Option<Duration>,
    },
    /// The credentials are missing, wrong or expired: a human must act.
    Unauthorized,
    /// The named thing does not exist.
    NotFound,
    /// The named thing is not the version that was asked for any more.
    Changed,
    /// Something else is already there, or another worker was faster.
    Conflict,
    /// Data is damaged: a digest, a length or a structure is wrong.
    Corrupt,
    /// No space or quota is left.
    NoSpace,
    /// The caller's input cannot be right.
    Invalid,
    /// Valid, but this build, format version or adapter cannot do it.
    Unsupported,
    /// The source cannot give one consistent picture any more: somebody must choose to start again or to go on without.
    ConsistencyLost,
    /// The caller cancelled the work.
    Cancelled,
    /// Any other failure that repeating does not mend.
    Permanent,
}

type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of this library or of an adapter.
///
/// `Display` gives the thing and what went wrong with it, never the cause: that is in
/// [`source`](std::error::Error::source), so that a report that walks the chain (see
/// [`Error::chain`]) prints each part once.
#[derive(thiserror::Error)]
#[error("{}{message}", subject.as_ref().map(|s| format!("{s}: ")).unwrap_or_default())]
pub struct Error {
    class: ErrorClass,
    subject: Option<String>,
    message: Cow<'static, str>,
    #[source]
    cause: Option<Cause>,
}

/// `Result` with the [`Error`] of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a class, with a message that says what went wrong and, where possible, what to do.
    pub fn new(class: ErrorClass, message: impl Into<Cow<'static, str>>) -> Self {
        Self { class, subject: None, message: message.into(), cause: None }
    }

    /// Names the thing that the error is about (an object, a file, an operation).
    /// The name set first stays, because the place that knows best is the innermost.
    #[must_use]
    pub fn on(mut self, subject: impl std::fmt::Display) -> Self {
        self.subject.get_or_insert_with(|| subject.to_string());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Wraps this error in a message of a wider context; the class stays.
    #[must_use]
    pub fn context(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self { class: self.class, subject: None, message: message.into(), cause: Some(Box::new(self)) }
    }

    /// The class, by which to decide what to do.
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// Whether repeating the same call may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self.class, ErrorClass::Transient | ErrorClass::Throttled { .. })
    }

    /// This error and all its causes, outermost first, as one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    /// Classifies an I/O error by its kind and keeps it as the cause.
    pub fn io(cause: std::io::Error, message: impl Into<Cow<'static, str>>) -> Self {
        use std::io::ErrorKind as K;
        let class = match cause.kind() {
            K::NotFound | K::NotADirectory => ErrorClass::NotFound,
            K::PermissionDenied | K::ReadOnlyFilesystem => ErrorClass::Permanent,
            K::AlreadyExists | K::DirectoryNotEmpty => ErrorClass::Conflict,
            K::StorageFull | K::QuotaExceeded => ErrorClass::NoSpace,
            K::InvalidInput | K::InvalidFilename | K::IsADirectory => ErrorClass::Invalid,
            K::UnexpectedEof | K::InvalidData => ErrorClass::Corrupt,
            // Too large for this file system (FAT) or process; there may be room enough for other files.
            K::Unsupported | K::FileTooLarge => ErrorClass::Unsupported,
            K::Interrupted
            | K::TimedOut
            | K::WouldBlock
            | K::ConnectionReset
            | K::ConnectionAborted
            | K::ConnectionRefused
            | K::BrokenPipe
            | K::NotConnected
            | K::StaleNetworkFileHandle
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown => ErrorClass::Transient,
            _ => ErrorClass::Permanent,
        };
        Self::new(class, message).because(cause)
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $class:expr;)*) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<Cow<'static, str>>) -> Self { Self::new($class, message) })*
        }
    };
}
constructors! {
    /// A [`Transient`](ErrorClass::Transient) error.
    transient => ErrorClass::Transient;
    /// An [`Unauthorized`](ErrorClass::Unauthorized) error.
    unauthorized => ErrorClass::Unauthorized;
    /// A [`NotFound`](ErrorClass::NotFound) error.
    not_found => ErrorClass::NotFound;
    /// A [`Changed`](ErrorClass::Changed) error.
    changed => ErrorClass::Changed;
    /// A [`Conflict`](ErrorClass::Conflict) error.
    conflict => ErrorClass::Conflict;
    /// A [`Corrupt`](ErrorClass::Corrupt) error.
    corrupt => ErrorClass::Corrupt;
    /// A [`NoSpace`](ErrorClass::NoSpace) error.
    no_space => ErrorClass::NoSpace;
    /// An [`Invalid`](ErrorClass::Invalid) error.
    invalid => ErrorClass::Invalid;
    /// An [`Unsupported`](ErrorClass::Unsupported) error.
    unsupported => ErrorClass::Unsupported;
    /// A [`ConsistencyLost`](ErrorClass::ConsistencyLost) error.
    consistency_lost => ErrorClass::ConsistencyLost;
    /// A [`Cancelled`](ErrorClass::Cancelled) error.
    cancelled => ErrorClass::Cancelled;
    /// A [`Permanent`](ErrorClass::Permanent) error.
    permanent => ErrorClass::Permanent;
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.class, self.chain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_the_thing_and_leaves_the_cause_to_the_chain() {
        let e = Error::not_found("the file vanished").on("a/b").because(std::io::Error::other("ENOENT"));
        assert_eq!(e.to_string(), "a/b: the file vanished");
        assert_eq!(e.chain(), "a/b: the file vanished: ENOENT");
        let outer = e.context("the restore stopped");
        assert_eq!(outer.class(), ErrorClass::NotFound);
        assert_eq!(outer.chain(), "the restore stopped: a/b: the file vanished: ENOENT");
    }

    #[test]
    fn the_innermost_subject_stays() {
        assert_eq!(Error::corrupt("bad").on("inner").on("outer").to_string(), "inner: bad");
    }

    #[test]
    fn io_errors_get_their_class() {
        let full = Error::io(std::io::Error::from(std::io::ErrorKind::StorageFull), "cannot write");
        assert_eq!(full.class(), ErrorClass::NoSpace);
        assert!(Error::io(std::io::Error::from(std::io::ErrorKind::ConnectionReset), "x").is_retryable());
        // EFBIG is about one file; waiting for room would not help it.
        let large = Error::io(std::io::Error::from_raw_os_error(27), "cannot write");
        assert_eq!(large.class(), ErrorClass::Unsupported);
    }
}
