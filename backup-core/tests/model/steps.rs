//! What can happen, as values that can be drawn at random and made smaller.

use super::data::Twist;
use backup_core::ErrorClass;
use backup_core::adapter::Granularity;
use backup_testkit::faulty::{Fault, Rule, Script, When};
use proptest::prelude::*;
use std::time::Duration;

/// One thing that somebody does. Operations and archives are named by a number that is taken modulo how many there are.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Backup {
        seed: u64,
        twist: Twist,
        sealed: bool,
        zstd: bool,
        volume: u64,
        run: Run,
    },
    Restore {
        archive: usize,
        slices: Granularity,
        run: Run,
    },
    Resume {
        operation: usize,
        now: bool,
        run: Run,
    },
    /// Through the store, as another process would.
    RequestPause {
        operation: usize,
    },
    Cancel {
        operation: usize,
        faults: Option<u64>,
        dies: Option<u8>,
    },
    Delete {
        archive: usize,
        faults: Option<u64>,
        dies: Option<u8>,
    },
    Sweep {
        min_age: u64,
        faults: Option<u64>,
        dies: Option<u8>,
    },
    /// Seconds on the clocks of store and destination.
    Advance {
        store: u64,
        destination: u64,
    },
}

/// How one worker fares.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Which process works.
    pub(crate) holder: u32,
    /// Passing faults of source, destination and target, from this seed.
    pub(crate) faults: Option<u64>,
    /// Faults of the store, which nobody retries for the worker.
    pub(crate) store_faults: Option<u64>,
    /// Its puts may arrive late, with delays from this seed.
    pub(crate) late: Option<u64>,
    pub(crate) end: End,
    /// After a death, the target also loses what was not synced.
    pub(crate) power: bool,
}

/// How the caller's interest in a worker ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Wait,
    /// It goes on beside the next steps.
    Leave,
    /// A pause is asked for after so many turns of the scheduler.
    Pause(u16),
    /// The worker is shut down after so many turns.
    HandOver(u16),
    /// The handle is dropped after so many turns.
    Drop(u16),
    /// A call never returns, and then the handle is dropped.
    Hang {
        part: Part,
        call: u8,
        all: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Source,
    Destination,
    Target,
    Store,
}

/// The scripts of one worker's adapters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scripts {
    pub(crate) source: Script,
    pub(crate) destination: Script,
    pub(crate) target: Script,
    pub(crate) store: Script,
}

const RATE: f64 = 0.15;
const STORE_RATE: f64 = 0.1;

impl Scripts {
    pub(crate) fn of(run: &Run) -> Self {
        let random = |salt: u64| run.faults.map_or_else(Script::new, |seed| Script::random(seed ^ salt, RATE));
        let store = run.store_faults.map_or_else(Script::new, |seed| Script::random(seed, STORE_RATE));
        let scripts = Self { source: random(1), destination: random(2), target: random(3), store };
        if let End::Hang { part, call, all } = &run.end {
            let call = u64::from(*call) + 1;
            let when = if *all { When::From(call) } else { When::Nth(call) };
            scripts.part(*part).add(Rule::any(when, Fault::Hang));
        }
        scripts
    }

    fn part(&self, part: Part) -> &Script {
        match part {
            Part::Source => &self.source,
            Part::Destination => &self.destination,
            Part::Target => &self.target,
            Part::Store => &self.store,
        }
    }

    fn all(&self) -> [&Script; 4] {
        [&self.source, &self.destination, &self.target, &self.store]
    }

    /// Whether anything failed. A delay is no failure.
    pub(crate) fn met_faults(&self) -> bool {
        self.all().iter().any(|script| script.fired().iter().any(|f| !matches!(f.fault, Fault::Delay(_))))
    }

    pub(crate) fn clear(&self) {
        self.all().iter().for_each(|script| script.clear());
    }

    /// Waits until a call hangs.
    pub(crate) async fn hung(&self) {
        while !self.all().iter().any(|script| hangs(script)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) fn hangs(script: &Script) -> bool {
    script.fired().iter().any(|fired| fired.fault == Fault::Hang)
}

/// The script of a caller that removes something.
pub(crate) fn removing(faults: Option<u64>, dies: Option<u8>) -> Script {
    let script = faults.map_or_else(Script::new, |seed| Script::random(seed, RATE));
    match dies {
        Some(call) => script.rule(Rule::any(When::From(u64::from(call) + 1), Fault::Hang)),
        None => script,
    }
}

/// What a store may answer whose reply was lost.
pub(crate) fn is_passing(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::Transient | ErrorClass::Throttled { .. })
}

fn end() -> impl Strategy<Value = End> {
    let part = prop_oneof![
        4 => Just(Part::Destination),
        2 => Just(Part::Source),
        2 => Just(Part::Target),
        3 => Just(Part::Store),
    ];
    prop_oneof![
        4 => Just(End::Wait),
        3 => Just(End::Leave),
        2 => (0u16..3000).prop_map(End::Pause),
        1 => (0u16..3000).prop_map(End::HandOver),
        2 => (0u16..3000).prop_map(End::Drop),
        6 => (part, 0u8..30, any::<bool>()).prop_map(|(part, call, all)| End::Hang { part, call, all }),
    ]
}

fn sometimes() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![2 => Just(None), 1 => any::<u64>().prop_map(Some)]
}

fn rarely() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![4 => Just(None), 1 => any::<u64>().prop_map(Some)]
}

fn dies() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![2 => Just(None), 1 => (0u8..20).prop_map(Some)]
}

fn run() -> impl Strategy<Value = Run> {
    (0u32..3, sometimes(), rarely(), sometimes(), end(), any::<bool>()).prop_map(
        |(holder, faults, store_faults, late, end, power)| Run { holder, faults, store_faults, late, end, power },
    )
}

fn backup() -> impl Strategy<Value = Step> {
    let twist = prop_oneof![
        5 => Just(Twist::None),
        1 => Just(Twist::Changes),
        1 => Just(Twist::Vanishes),
        1 => Just(Twist::Denied),
    ];
    (any::<u64>(), twist, proptest::bool::weighted(0.3), any::<bool>(), 5_000u64..60_000, run())
        .prop_map(|(seed, twist, sealed, zstd, volume, run)| Step::Backup { seed, twist, sealed, zstd, volume, run })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let slices = prop_oneof![Just(Granularity::Slice), Just(Granularity::OrderedSlices), Just(Granularity::Whole)];
    prop_oneof![
        6 => backup(),
        4 => (any::<usize>(), slices, run())
            .prop_map(|(archive, slices, run)| Step::Restore { archive, slices, run }),
        10 => (any::<usize>(), any::<bool>(), run())
            .prop_map(|(operation, now, run)| Step::Resume { operation, now, run }),
        1 => any::<usize>().prop_map(|operation| Step::RequestPause { operation }),
        3 => (any::<usize>(), rarely(), dies())
            .prop_map(|(operation, faults, dies)| Step::Cancel { operation, faults, dies }),
        2 => (any::<usize>(), rarely(), dies())
            .prop_map(|(archive, faults, dies)| Step::Delete { archive, faults, dies }),
        3 => (0u64..100, rarely(), dies()).prop_map(|(min_age, faults, dies)| Step::Sweep { min_age, faults, dies }),
        2 => (0u64..150, 0u64..8000).prop_map(|(store, destination)| Step::Advance { store, destination }),
    ]
}

/// A first backup, so that there is something to work with, and then anything.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    (backup(), proptest::collection::vec(step(), 1..12)).prop_map(|(first, mut more)| {
        more.insert(0, first);
        more
    })
}
