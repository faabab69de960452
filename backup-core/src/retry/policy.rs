//! How often, and after what delay.

use crate::{Error, ErrorClass, Result};
use async_trait::async_trait;
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// How often a call is tried, and how long the pauses are.
///
/// The pause before the nth repetition is `initial * factor^(n-1)`, at most `max`, of which the part `jitter` is left to chance.
/// A service that says itself how long to wait is obeyed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The first pause.
    pub initial: Duration,
    /// By what each pause is longer than the one before, at least 1.
    pub factor: f64,
    /// The longest pause that this policy chooses.
    pub max: Duration,
    /// The part of a pause that is random, between 0 (none) and 1 (all): keeps clients that failed together from coming back together.
    pub jitter: f64,
    /// How often a call is made in all before its last error counts. Bytes and entries that arrive start the count anew.
    pub attempts: NonZeroU32,
    /// The longest wait that a service may ask for; one that asks for more gets no other try, and its error comes at once.
    pub max_throttle: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts within about ten seconds; a service may ask for two minutes.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(400),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: 0.5,
            attempts: NonZeroU32::MIN.saturating_add(5),
            max_throttle: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// # Errors
    /// `Invalid`, and what is wrong, when nobody could wait like this.
    pub(crate) fn check(&self) -> Result<()> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let wrong = |text: &'static str| Err(Error::invalid(text));
        if self.initial > DAY || self.max > DAY {
            return wrong("the pauses of a retry must be at most a day");
        }
        if self.max_throttle > 30 * DAY {
            return wrong("the wait that a service may ask for must be at most 30 days");
        }
        if !(self.factor >= 1.0 && self.factor.is_finite()) {
            return wrong("the factor of a retry must be a number from 1 on");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return wrong("the random part of a retry's pause must be 0 to 1");
        }
        Ok(())
    }

    /// The pause after so many failures in a row (at least 1), with a random number from 0 up to 1.
    fn pause(&self, failures: u32, random: f64) -> Duration {
        let growth = self.factor.max(1.0).powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX));
        let full = (self.initial.as_secs_f64() * growth).min(self.max.as_secs_f64());
        let jitter = self.jitter.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(full * (1.0 - jitter * random.clamp(0.0, 1.0))).unwrap_or(self.max)
    }
}

/// The clock and the chance of a retry, for tests to replace.
#[async_trait]
pub trait Backoff: Debug + Send + Sync + 'static {
    /// Waits.
    async fn sleep(&self, pause: Duration);

    /// A random number from 0 up to 1.
    fn random(&self) -> f64;
}

/// The clock of the runtime (which tests can pause) and random numbers of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemBackoff;

#[async_trait]
impl Backoff for SystemBackoff {
    async fn sleep(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
    }

    fn random(&self) -> f64 {
        rand::random()
    }
}

/// The attempts at one call: for adapters that repeat something by themselves, such as one part of an upload.
#[derive(Debug)]
pub struct Attempts {
    what: &'static str,
    policy: RetryPolicy,
    backoff: Arc<dyn Backoff>,
    /// Failures since the start or the last progress.
    failures: u32,
}

impl Attempts {
    /// At the start; `what` names the call in messages, e.g. `uploading a part`.
    pub fn new(what: &'static str, policy: RetryPolicy, backoff: Arc<dyn Backoff>) -> Self {
        Self { what, policy, backoff, failures: 0 }
    }

    /// Something arrived: the count starts anew.
    pub fn progress(&mut self) {
        self.failures = 0;
    }

    /// After a failure: waits until the next attempt is due.
    ///
    /// # Errors
    /// The failure, when there is to be no other attempt; if there were several, with a message that says how many.
    pub async fn failed(&mut self, error: Error) -> Result<()> {
        if self.wait(&error).await { Ok(()) } else { Err(self.give_up(error)) }
    }

    /// After a failure: waits until the next attempt is due, or says at once that there is to be none.
    pub async fn wait(&mut self, error: &Error) -> bool {
        self.failures += 1;
        let asked = match error.class() {
            ErrorClass::Throttled { after } => after,
            _ => None,
        };
        let too_long = asked.is_some_and(|asked| asked > self.policy.max_throttle);
        if !error.is_retryable() || too_long || self.failures >= self.policy.attempts.get() {
            return false;
        }
        let own = self.policy.pause(self.failures, self.backoff.random());
        let pause = asked.map_or(own, |asked| asked.max(own));
        tracing::debug!(what = self.what, failures = self.failures, ?pause, error = error.chain(), "trying again");
        self.backoff.sleep(pause).await;
        true
    }

    /// The error for the caller, when [`Attempts::wait`] said that there is no other attempt.
    pub fn give_up(&self, error: Error) -> Error {
        let (what, failures) = (self.what, self.failures);
        if failures <= 1 {
            return error;
        }
        tracing::warn!(what, failures, error = error.chain(), "gave up");
        error.context(format!("{what} failed {failures} times, the last time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_vary_downwards() {
        let policy = RetryPolicy { initial: Duration::from_secs(1), max: Duration::from_secs(5), ..Default::default() };
        let full: Vec<u64> = (1..=5).map(|n| policy.pause(n, 0.0).as_secs()).collect();
        assert_eq!(full, [1, 2, 4, 5, 5]);
        assert_eq!(policy.pause(1, 1.0), Duration::from_millis(500));
        assert_eq!(policy.pause(u32::MAX, 0.0).as_secs(), 5);
        let odd = RetryPolicy { factor: f64::NAN, jitter: f64::NAN, max: Duration::MAX, ..policy };
        assert_eq!(odd.pause(7, 0.5), Duration::MAX);
    }
}
