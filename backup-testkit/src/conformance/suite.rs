//! Cases, and how they are run.

use backup_core::adapter::ByteStream;
use backup_core::{Error, ErrorClass, Result};
use futures::StreamExt;
use futures::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// How long a case may take. Real services are slow, but a call that hangs must not stop the suite for ever.
const CASE_TIME: Duration = Duration::from_secs(300);

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The adapter did something else than it promises.
    Failed(String),
    /// The fixture has no means for this case; says which.
    Skipped(&'static str),
}

/// What a case gives.
pub type Outcome<T = ()> = std::result::Result<T, Stop>;

/// An error where the case expected none.
impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(format!("an error that should not be: {error:?}"))
    }
}

/// A task of the case did not come to its end.
impl From<tokio::task::JoinError> for Stop {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One case of a suite.
pub struct Case<F: ?Sized> {
    /// The method whose promise is tested.
    pub method: &'static str,
    /// How the promise starts in the method's documentation.
    pub promise: &'static str,
    /// What the case is called.
    pub name: &'static str,
    pub(super) run: for<'a> fn(&'a F) -> BoxFuture<'a, Outcome>,
}

impl<F: ?Sized> Case<F> {
    /// Runs it on a new place of the fixture.
    ///
    /// # Errors
    /// Why it did not pass; a case that takes more than five minutes has failed.
    pub async fn run(&self, fixture: &F) -> Outcome {
        let late = |_| Err(Stop::Failed(format!("not done after {} seconds", CASE_TIME.as_secs())));
        tokio::time::timeout(CASE_TIME, (self.run)(fixture)).await.unwrap_or_else(late)
    }
}

impl<F: ?Sized> fmt::Debug for Case<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method, self.name)
    }
}

/// A case that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its name.
    pub name: &'static str,
    /// The method and the promise that was broken.
    pub promise: String,
    /// What the adapter did.
    pub reason: String,
}

/// What came out of a suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases that passed, by name.
    pub passed: Vec<&'static str>,
    /// Cases that failed.
    pub failed: Vec<Failed>,
    /// Cases that the fixture had no means for: the name, and what was missing.
    pub skipped: Vec<(&'static str, &'static str)>,
}

impl Report {
    /// Asserts that nothing failed, and that exactly the named cases were skipped. Returns how many cases passed.
    ///
    /// # Panics
    /// With all failures, skipped cases that are not named, and named cases that were not skipped.
    #[track_caller]
    #[allow(clippy::panic, reason = "a suite reports as a test does")]
    pub fn assert_passed(&self, skipped: &[&str]) -> usize {
        let mut wrong = Vec::new();
        for Failed { name, promise, reason } in &self.failed {
            wrong.push(format!("{name} failed: {reason}\n    the promise: {promise}"));
        }
        for (name, missing) in self.skipped.iter().filter(|(name, _)| !skipped.contains(name)) {
            wrong.push(format!("{name} was skipped, which the test does not expect: {missing}"));
        }
        for name in skipped.iter().filter(|name| !self.skipped.iter().any(|(skipped, _)| skipped == *name)) {
            wrong.push(format!("{name} was not skipped, though the test expects it"));
        }
        let passed = self.passed.len();
        assert!(wrong.is_empty(), "{} wrong, {passed} cases passed:\n{}", wrong.len(), wrong.join("\n"));
        passed
    }

    /// The names of the cases that failed.
    pub fn failures(&self) -> Vec<&'static str> {
        self.failed.iter().map(|failed| failed.name).collect()
    }
}

/// Runs all cases, one after the other.
pub(super) async fn run<F: ?Sized>(cases: &[Case<F>], fixture: &F) -> Report {
    let mut report = Report::default();
    for case in cases {
        run_on(case, fixture, &mut report).await;
    }
    report
}

/// Runs one case.
pub(super) async fn run_on<F: ?Sized>(case: &Case<F>, fixture: &F, report: &mut Report) {
    match case.run(fixture).await {
        Ok(()) => report.passed.push(case.name),
        Err(Stop::Skipped(missing)) => report.skipped.push((case.name, missing)),
        Err(Stop::Failed(reason)) => {
            let promise = format!("{}: {}", case.method, case.promise);
            report.failed.push(Failed { name: case.name, promise, reason });
        }
    }
}

/// The list of a suite's cases: `method: "how the promise starts" => module::function;`
macro_rules! cases {
    ($fixture:ty; $($method:ident: $promise:literal => $module:ident::$name:ident;)*) => {
        /// All cases, in the order of the trait.
        pub static CASES: &[$crate::conformance::Case<$fixture>] = &[$($crate::conformance::Case {
            method: stringify!($method),
            promise: $promise,
            name: stringify!($name),
            run: |fixture| Box::pin($module::$name(fixture)),
        }),*];
    };
}
pub(super) use cases;

/// Ends a case as failed unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Stop::Failed(format!($($text)+)));
        }
    };
}
pub(super) use ensure;

/// What the fixture gives, or the end of the case as skipped.
pub(super) fn given<T>(means: Option<T>, missing: &'static str) -> Outcome<T> {
    means.ok_or(Stop::Skipped(missing))
}

/// A class without its details, to compare by.
fn same_class(a: ErrorClass, b: ErrorClass) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

/// An error of one of these classes, or the end of the case as failed.
pub(super) fn refused<T>(answer: Result<T>, classes: &[ErrorClass], what: &str) -> Outcome {
    match answer {
        Ok(_) => Err(Stop::Failed(format!("{what} succeeded instead of failing as one of {classes:?}"))),
        Err(error) if classes.iter().any(|class| same_class(*class, error.class())) => Ok(()),
        Err(error) => Err(Stop::Failed(format!("{what} failed as {error:?} instead of as one of {classes:?}"))),
    }
}

/// All bytes of a stream.
pub(super) async fn collect(mut stream: ByteStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await.transpose()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Polls a future so many times, each time when it wants to be, and drops it if it is not done by then.
pub(super) async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending if left <= 1 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Ends a case as failed when a secret stands in a text.
pub(super) fn without_secret(secrets: &[String], texts: &[String]) -> Outcome {
    given((!secrets.is_empty()).then_some(()), "the fixture names no secret")?;
    for text in texts {
        ensure!(
            !secrets.iter().any(|secret| text.contains(secret)),
            "a secret stands in what the adapter says of itself"
        );
    }
    Ok(())
}

/// Different bytes for each seed.
pub(super) fn bytes(seed: u64, size: usize) -> bytes::Bytes {
    crate::doubles::Blob::pattern(seed, size as u64).bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// (method, bullet) of every "# Behavior" bullet of a trait, read from its source.
    fn bullets(source: &str, name: &str) -> Vec<(String, String)> {
        let (mut all, mut waiting) = (Vec::new(), Vec::new());
        let head = format!("pub trait {name}");
        for line in source.lines().skip_while(|line| !line.contains(&head)).map(str::trim) {
            if let Some(bullet) = line.strip_prefix("/// - ") {
                waiting.push(bullet.to_owned());
            } else if let Some(rest) = line.strip_prefix("async fn ").or(line.strip_prefix("fn ")) {
                let method = rest.split('(').next().unwrap_or_default();
                all.extend(waiting.drain(..).map(|bullet| (method.to_owned(), bullet)));
            }
        }
        all
    }

    /// Every bullet has a case, or a reason why nobody can test it from outside; every case has a bullet.
    pub(in crate::conformance) fn check_list<F: ?Sized>(
        cases: &[Case<F>],
        source: &str,
        name: &str,
        untestable: &[(&str, &str, &str)],
    ) {
        let bullets = bullets(source, name);
        assert!(bullets.len() > 10, "the trait's bullets were not found");
        let listed = |method: &str, bullet: &str| {
            cases.iter().any(|case| case.method == method && bullet.starts_with(case.promise))
                || untestable.iter().any(|(m, promise, _)| *m == method && bullet.starts_with(promise))
        };
        let missing: Vec<_> = bullets.iter().filter(|(method, bullet)| !listed(method, bullet)).collect();
        assert!(missing.is_empty(), "no case for {missing:#?}");
        let promised = |method: &str, promise: &str| {
            bullets.iter().any(|(m, bullet)| m == method && !promise.is_empty() && bullet.starts_with(promise))
        };
        let stale: Vec<_> = cases.iter().filter(|case| !promised(case.method, case.promise)).collect();
        assert!(stale.is_empty(), "no bullet for {stale:#?}");
        let stale: Vec<_> = untestable.iter().filter(|(method, promise, _)| !promised(method, promise)).collect();
        assert!(stale.is_empty(), "no bullet for {stale:#?}");
        let mut names: Vec<_> = cases.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len(), "two cases have one name");
    }

    #[test]
    fn a_failure_an_unexpected_skip_and_an_unused_allowance_are_all_wrong() {
        let failed = Failed { name: "f", promise: "p".into(), reason: "r".into() };
        let good = Report { passed: vec!["a"], skipped: vec![("s", "no means")], failed: vec![] };
        assert_eq!(good.assert_passed(&["s"]), 1);
        for (report, skipped) in [
            (Report { failed: vec![failed], ..good.clone() }, vec!["s"]),
            (good.clone(), vec![]),
            (good.clone(), vec!["s", "a"]),
        ] {
            assert!(std::panic::catch_unwind(|| report.assert_passed(&skipped)).is_err());
        }
    }
}
