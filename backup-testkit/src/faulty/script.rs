//! Which call meets which fault.

use crate::Method;
use crate::doubles::mix;
use backup_core::{Error, ErrorClass, Result};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails before anything is done.
    Fail(ErrorClass),
    /// What it delivers breaks off with an error, unless it ends before. A call that delivers no stream fails at once; of
    /// `RestoreTarget::write_large` it is the content that breaks off.
    Break {
        /// After so many bytes of a body, or so many items of `events`, `list` and `list_roots`.
        after: u64,
        /// The error's class.
        class: ErrorClass,
    },
    /// What it delivers ends early, as if that were the end: no adapter may do that. A call that delivers no stream is not touched.
    Short {
        /// After so many bytes or items.
        after: u64,
    },
    /// What it delivers stops coming, without an end. A call that delivers no stream hangs at once.
    Stall {
        /// After so many bytes or items.
        after: u64,
    },
    /// One bit of what it delivers is another: no adapter may do that. Only bodies are touched.
    Flip {
        /// In which byte of what is delivered.
        at: u64,
    },
    /// It is done, but the caller gets an error. A call that delivers a stream fails at its end.
    LostReply(ErrorClass),
    /// It waits first.
    Delay(Duration),
    /// It does nothing and never returns.
    Hang,
}

/// Which of the calls that a rule covers meet its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// Only this one; the first is 1.
    Nth(u64),
    /// This one and all after it.
    From(u64),
    /// The first so many.
    First(u64),
    /// Each so manieth: `Every(3)` is the 3rd, 6th, …
    Every(u64),
}

impl When {
    pub(crate) fn covers(self, call: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Nth(n) => call == n,
            Self::From(n) => call >= n,
            Self::First(n) => call <= n,
            Self::Every(n) => call.is_multiple_of(n.max(1)),
        }
    }
}

/// One line of a [`Script`].
#[derive(Clone, Debug)]
pub struct Rule {
    method: Option<Method>,
    about: Option<String>,
    when: When,
    fault: Fault,
    /// Calls covered so far.
    calls: u64,
}

impl Rule {
    /// Some of the calls of a method meet a fault.
    pub fn new(method: Method, when: When, fault: Fault) -> Self {
        Self { method: Some(method), about: None, when, fault, calls: 0 }
    }

    /// Some of the calls of all methods meet a fault; for `When::From` with [`Fault::Hang`] this is the death of the service.
    pub fn any(when: When, fault: Fault) -> Self {
        Self { method: None, about: None, when, fault, calls: 0 }
    }

    /// Covers only calls about a thing (an object, an entry, an operation) with this text in its name.
    #[must_use]
    pub fn about(mut self, text: &str) -> Self {
        self.about = Some(text.to_owned());
        self
    }

    fn covers(&self, method: Method, subject: &str) -> bool {
        self.method.is_none_or(|m| m == method) && self.about.as_deref().is_none_or(|text| subject.contains(text))
    }
}

/// A fault that was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The method.
    pub method: Method,
    /// What the call was about; empty when it is about nothing in particular.
    pub subject: String,
    /// The fault.
    pub fault: Fault,
}

/// Which calls meet which faults. Cloning shares it, with its counts, so that a test can change it while it is in use.
///
/// Each rule counts the calls that it covers. The first rule that applies decides; rules come before random faults.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    random: Option<Random>,
    fired: Vec<Fired>,
}

struct Random {
    seed: u64,
    rate: f64,
    calls: HashMap<Method, u64>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let mut out = f.debug_struct("Script");
        out.field("rules", &state.rules);
        if let Some(random) = &state.random {
            out.field("seed", &random.seed).field("rate", &random.rate);
        }
        out.field("fired", &state.fired.len()).finish()
    }
}

impl Script {
    /// A script without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Each call fails with probability `rate`, in a way that suits its method and that a correct caller survives by trying again:
    /// passing errors before or after the effect, streams that break off, short delays. The same seed gives the nth call of
    /// a method the same fault, whatever happens beside it.
    pub fn random(seed: u64, rate: f64) -> Self {
        let script = Self::new();
        script.lock().random = Some(Random { seed, rate, calls: HashMap::new() });
        script
    }

    /// Adds a rule.
    #[must_use]
    pub fn rule(self, rule: Rule) -> Self {
        self.add(rule);
        self
    }

    /// Adds a rule while the script is in use.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// From now on nothing fails.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.random = None;
    }

    /// The faults that were met so far, in order: a test of a fault shows with it that the fault did happen.
    pub fn fired(&self) -> Vec<Fired> {
        self.lock().fired.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault of the next call of `method` about `subject`.
    pub(super) fn decide(&self, method: Method, subject: impl fmt::Display) -> Option<Fault> {
        let subject = subject.to_string();
        let mut state = self.lock();
        let mut fault = None;
        for rule in state.rules.iter_mut().filter(|rule| rule.covers(method, &subject)) {
            rule.calls += 1;
            if rule.when.covers(rule.calls) {
                fault = fault.or(Some(rule.fault));
            }
        }
        let fault = fault.or_else(|| state.random.as_mut()?.decide(method));
        state.fired.extend(fault.map(|fault| Fired { method, subject, fault }));
        fault
    }

    /// Makes a call that delivers no stream.
    pub(super) async fn call<T>(
        &self,
        method: Method,
        subject: impl fmt::Display,
        act: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        Self::apply(self.decide(method, subject), act).await
    }

    /// Makes a call that delivers no stream, with a fault.
    pub(super) async fn apply<T>(fault: Option<Fault>, act: impl Future<Output = Result<T>> + Send) -> Result<T> {
        Self::before(fault).await?;
        let answer = act.await?;
        match fault {
            Some(Fault::LostReply(class)) => Err(error(class)),
            _ => Ok(answer),
        }
    }

    /// The part of a fault that comes before a call that delivers no stream.
    async fn before(fault: Option<Fault>) -> Result<()> {
        match fault {
            None | Some(Fault::LostReply(_) | Fault::Short { .. } | Fault::Flip { .. }) => Ok(()),
            Some(Fault::Fail(class) | Fault::Break { class, .. }) => Err(error(class)),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Some(Fault::Hang | Fault::Stall { .. }) => std::future::pending().await,
        }
    }

    /// Opens a stream of bytes: what comes before it happens here, and the fault that is left for the stream is returned.
    pub(super) async fn open(&self, method: Method, subject: impl fmt::Display) -> Result<Option<Fault>> {
        let fault = self.decide(method, subject);
        match fault {
            Some(Fault::Fail(_) | Fault::Delay(_) | Fault::Hang) => Self::before(fault).await.map(|()| None),
            _ => Ok(fault),
        }
    }
}

impl Random {
    fn decide(&mut self, method: Method) -> Option<Fault> {
        let calls = self.calls.entry(method).or_default();
        *calls += 1;
        let draw = mix(mix(self.seed ^ mix(method as u64)) ^ *calls);
        if (draw >> 11) as f64 / (1u64 << 53) as f64 >= self.rate {
            return None;
        }
        let detail = mix(draw);
        let transient = ErrorClass::Transient;
        Some(match detail % 5 {
            0 if method.has_effect() => Fault::LostReply(transient),
            1 if method.has_body() => Fault::Break { after: mix(detail) % 100_000, class: transient },
            1 | 2 if method == Method::Events => Fault::Break { after: mix(detail) % 20, class: transient },
            3 => Fault::Fail(ErrorClass::Throttled { after: Some(Duration::from_millis(mix(detail) % 50)) }),
            4 => Fault::Delay(Duration::from_millis(mix(detail) % 20)),
            _ => Fault::Fail(transient),
        })
    }
}

/// The error of a fault.
pub(super) fn error(class: ErrorClass) -> Error {
    Error::new(class, "a fault of the test's script")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAIL: Fault = Fault::Fail(ErrorClass::Transient);

    fn hits(script: &Script, method: Method, subject: &str, calls: usize) -> Vec<bool> {
        (0..calls).map(|_| script.decide(method, subject).is_some()).collect()
    }

    #[test]
    fn rules_count_the_calls_that_they_cover() {
        let script = Script::new()
            .rule(Rule::new(Method::Put, When::Nth(2), FAIL))
            .rule(Rule::new(Method::Get, When::Every(2), FAIL).about("data/"));
        assert_eq!(hits(&script, Method::Put, "a", 3), [false, true, false]);
        assert_eq!(hits(&script, Method::Get, "index/1", 2), [false, false]);
        assert_eq!(hits(&script, Method::Get, "data/1", 4), [false, true, false, true]);
        assert_eq!(script.fired().len(), 3);
        script.clear();
        script.add(Rule::any(When::From(2), FAIL));
        assert_eq!(hits(&script, Method::Stat, "", 1), [false]);
        assert_eq!(hits(&script, Method::Put, "", 2), [true, true]);
    }

    #[test]
    fn a_seed_gives_the_same_faults_again_and_is_printed() {
        let draw = |seed| hits(&Script::random(seed, 0.3), Method::Get, "", 1000);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let hit = draw(1).iter().filter(|hit| **hit).count();
        assert!((200..400).contains(&hit), "{hit}");
        assert!(format!("{:?}", Script::random(4711, 0.5)).contains("4711"));
    }

    #[test]
    fn random_faults_of_a_method_do_not_depend_on_other_calls() {
        let alone = hits(&Script::random(5, 0.5), Method::Get, "", 50);
        let script = Script::random(5, 0.5);
        let beside: Vec<bool> = (0..50)
            .map(|_| {
                script.decide(Method::Stat, "");
                script.decide(Method::Get, "").is_some()
            })
            .collect();
        assert_eq!(alone, beside);
    }
}
