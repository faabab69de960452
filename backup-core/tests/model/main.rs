//! Random sequences of everything that can be done with backups and restores, over adapters that fail, with workers that die,
//! hang and are taken over; after each step the promises of the engine must hold.
//!
//! Time is virtual, and everything but CPU work runs on one thread: a sequence that failed is printed, made smaller, and kept in
//! `tests/model.proptest-regressions`. Compression on its threads, and the random parts of ids, are all that can differ when it
//! is run again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod data;
mod late;
mod steps;
mod watch;
mod world;

use proptest::test_runner::{Config, FileFailurePersistence, TestError, TestRunner};
use std::time::{Duration, Instant};
use world::World;

/// How many sequences are tried …
const CASES: u32 = 256;
/// … unless this time is over: then the others are left out.
const TIME: Duration = Duration::from_secs(30);

#[test]
fn whatever_happens_archives_and_restores_stay_sound() {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|text| text.parse().ok());
    let time = if cases.is_some() { Duration::MAX } else { TIME };
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model.proptest-regressions"))),
        max_shrink_iters: 400,
        ..Config::default()
    };
    let start = Instant::now();
    let tried = std::cell::Cell::new(0);
    let result = TestRunner::new(config).run(&(steps::steps(), proptest::bits::u8::ANY), |(steps, cancel)| {
        if start.elapsed() > time && tried.get() > 0 {
            return Ok(());
        }
        tried.set(tried.get() + 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for (n, step) in steps.iter().enumerate() {
                world.step(step).await;
                world.check(&format!("after step {n}")).await;
            }
            world.settle(cancel).await;
        });
        Ok(())
    });
    println!("{} sequences in {:?}", tried.get(), start.elapsed());
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, (steps, cancel))) => {
            panic!("{reason}\nsteps: {steps:?}\ncancelled at the end: {cancel:#010b}")
        }
        Err(error) => panic!("{error}"),
    }
}
