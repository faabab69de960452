//! Two workers on one database run many operations while they are killed and stopped at random moments.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;
#[path = "../../../backup-store-sqlx/tests/databases/mod.rs"]
mod databases;

use common::{PATIENCE, Place, files_below, noise, signal, wait};
use databases::Server;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const OPERATIONS: usize = 50;
const SOURCES: usize = 5;
/// After so long without a sign of life a worker's operations are free for others.
const LEASE: Duration = Duration::from_secs(3);
/// So many processes are killed, and so many stopped for longer than their lease, at least.
const KILLS: u32 = 12;
const STOPS: u32 = 4;
/// So many operations are taken over, one by one, from a worker that is stopped and wakes up while another has them.
const TAKEOVERS: usize = 2;
/// Repeats a run's choice of moments.
const SEED: &str = "BACKUP_KILL_SEED";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

struct Workers {
    place: Place,
    url: String,
}

impl Workers {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.env("BACKUP_STORE", &self.url).env("USER", "tester");
        command
    }

    #[track_caller]
    fn ends(&self, code: i32, args: &[&str]) -> common::Run {
        let run = wait(self.command(args).spawn().unwrap());
        assert_eq!(run.code, Some(code), "backup {}\n{}\n{}", args.join(" "), run.stdout, run.stderr);
        run
    }

    fn worker(&self) -> Child {
        let lease = LEASE.as_secs().to_string();
        let args = ["worker", "--lease", &lease, "--look-every", "0.2", "--per-connection", "4"];
        self.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn states(&self) -> BTreeMap<String, (String, Value)> {
        let run = self.ends(0, &["--json", "history", "--limit", "1000"]);
        let history = run.last();
        let of = |operation: &Value| {
            let text = |name: &str| operation[name].as_str().unwrap().to_owned();
            (text("id"), (text("state"), operation.clone()))
        };
        history["operations"].as_array().unwrap().iter().map(of).collect()
    }

    fn run(&self) {
        let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            u64::from(Instant::now().elapsed().subsec_nanos()) ^ u64::from(std::process::id()) << 20 | 1
        });
        println!("{SEED}={seed}");
        let mut random = Random(seed);
        for number in 0..SOURCES {
            let source = format!("source{number}");
            for file in 0..12 {
                self.place.write(&format!("{source}/{file}.bin"), noise(150_000, (number * 100 + file) as u64));
            }
            let path = format!("path={}", self.place.arg(&source));
            self.ends(0, &["connection", "add", &source, "--kind", "local", "--set", &path]);
        }
        let path = format!("path={}", self.place.arg("archives"));
        self.ends(0, &["connection", "add", "disk", "--kind", "local", "--set", &path, "--check-as", "destination"]);
        for number in 0..OPERATIONS {
            let source = format!("source{}", number % SOURCES);
            let args = ["create", "--source", &source, "--destination", "disk", "--volume-size", "128KiB"];
            self.ends(0, &[&args[..], &["--limit-read", "1MiB", "--detach"]].concat());
        }

        let mut workers = [self.worker(), self.worker()];
        let (mut kills, mut stops) = (0, 0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            std::thread::sleep(Duration::from_millis(200 + random.below(500)));
            let states = self.states();
            let left = states.values().filter(|(state, _)| state != "completed").count();
            if left == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{left} operations are left: {states:?}");
            let chosen = &mut workers[random.below(2) as usize];
            if stops < STOPS && random.below(4) == 0 {
                // Longer than its lease: the other one takes over, and this one wakes up.
                signal(chosen, "STOP");
                std::thread::sleep(LEASE + Duration::from_millis(500 + random.below(1000)));
                signal(chosen, "CONT");
                stops += 1;
            } else if kills < KILLS * 2 {
                signal(chosen, "KILL");
                chosen.wait().unwrap();
                *chosen = self.worker();
                kills += 1;
            }
        }
        println!("{kills} killed, {stops} stopped");
        assert!(kills >= KILLS && stops >= 1, "{kills} killed, {stops} stopped: too few");
        let more = self.stop_holders(&workers);
        for worker in &mut workers {
            signal(worker, "INT");
            assert!(worker.wait().unwrap().success(), "a worker does not end on Ctrl-C as it should");
        }
        self.look_at_the_result(OPERATIONS + more);
    }

    /// Stops the worker that holds an operation until the other one has taken it, and lets it go on while that one works. Nothing else is
    /// to be done meanwhile, so that it was nothing else that the other one took. Returns how many operations that took.
    fn stop_holders(&self, workers: &[Child]) -> usize {
        let (mut taken, mut made) = (0, 0);
        while taken < TAKEOVERS {
            assert!(made < TAKEOVERS * 4, "{taken} of {made} operations were taken over");
            let args = ["--json", "create", "--source", "source0", "--destination", "disk", "--volume-size", "128KiB"];
            let created = self.ends(0, &[&args[..], &["--limit-read", "256KiB", "--detach"]].concat()).last();
            let id = created["operation"].as_str().unwrap();
            made += 1;
            let now = || self.states().remove(id).unwrap();
            let wait_for = |patience: Duration, done: &dyn Fn(&str, &Value) -> bool| {
                let deadline = Instant::now() + patience;
                loop {
                    let (state, operation) = now();
                    if done(&state, &operation) {
                        return Some(operation);
                    } else if Instant::now() > deadline {
                        return None;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            };
            let begun = |state: &str, operation: &Value| {
                state == "completed" || operation["progress"]["stored_bytes"].as_u64() > Some(0)
            };
            let before = wait_for(PATIENCE, &begun).unwrap();
            let holder = workers.iter().find(|worker| before["holder"]["pid"] == worker.id());
            if let Some(holder) = holder {
                signal(holder, "STOP");
                // One that is stopped inside of a transaction keeps the row.
                let other =
                    wait_for(LEASE * 5, &|_, operation| operation["attempt"].as_u64() > before["attempt"].as_u64());
                signal(holder, "CONT");
                if other.is_some_and(|operation| operation["holder"]["pid"] != holder.id()) {
                    taken += 1;
                }
            }
            wait_for(PATIENCE, &|state, _| state == "completed").unwrap();
        }
        println!("{taken} of {made} operations were taken over from a worker that was stopped");
        made
    }

    fn look_at_the_result(&self, operations: usize) {
        let states = self.states();
        assert_eq!(states.len(), operations);
        let mut attempts = 0;
        for (id, (state, operation)) in &states {
            assert_eq!(state, "completed", "{id}");
            assert_eq!(operation["created_by"], "tester");
            attempts += operation["attempt"].as_u64().unwrap();
            let log = self.ends(0, &["--json", "logs", id]).lines();
            let ends = log.iter().filter(|record| record["step"] == "done").count();
            assert_eq!(ends, 1, "{id} ended {ends} times: {log:?}");
            let archive = operation["archive"].as_str().unwrap();
            self.ends(0, &["verify", archive, "--at", "archives"]);
            // What lies there is what is named, and nothing of an attempt that was cut off.
            let data = self.place.path(&format!("archives/{archive}"));
            let named: BTreeSet<String> =
                std::fs::read_to_string(data.join("volumes.txt")).unwrap().lines().map(str::to_owned).collect();
            let there: BTreeSet<String> = files_below(&data.join("data"))
                .iter()
                .map(|path| path.strip_prefix(&data).unwrap().to_str().unwrap().to_owned())
                .collect();
            assert_eq!(there, named, "{archive}");
            let manifest: Value = serde_json::from_slice(&std::fs::read(data.join("manifest.json")).unwrap()).unwrap();
            let piece = |piece: &Value| piece["name"].as_str().unwrap().to_owned();
            let named: BTreeSet<String> = manifest["pieces"].as_array().unwrap().iter().map(piece).collect();
            let there: BTreeSet<String> = files_below(&data.join("index"))
                .iter()
                .map(|path| path.strip_prefix(&data).unwrap().to_str().unwrap().to_owned())
                .collect();
            assert_eq!(there, named, "{archive}");
        }
        println!("{attempts} attempts for {operations} operations");
        assert!(attempts > (operations + TAKEOVERS) as u64, "nothing was ever broken off");
        let archives = std::fs::read_dir(self.place.path("archives")).unwrap().count();
        assert_eq!(archives, operations, "an archive for each operation");
        let leftovers: Vec<_> = files_below(&self.place.path("archives"))
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".backup-tmp-"))
            .collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }
}

fn killed_and_stopped_workers_end_every_operation_once(server: Server) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = runtime.block_on(server.new_database());
    Workers { place: Place::new(), url }.run();
    runtime.block_on(server.drop_databases());
}

#[test]
fn on_postgresql() {
    killed_and_stopped_workers_end_every_operation_once(Server::postgres());
}

#[test]
fn on_mariadb() {
    killed_and_stopped_workers_end_every_operation_once(Server::mysql());
}
