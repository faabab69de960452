//! MongoDB databases with the tool: backed up, killed, restored, exported.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod common;
#[path = "../../../backup-mongo/tests/support/mod.rs"]
mod support;

use common::{Place, Run, wait};
use std::process::Command;
use std::time::Duration;
use support::{SERVERS, Server, assert_equal, dataset, drop_databases, fresh};

/// So many processes are killed on each kind of server, backups and restores.
const KILLS: u32 = 25;
/// Rounds of a backup and a restore until that many were killed.
const MOST_ROUNDS: u32 = 12;
/// Repeats a run's choice of moments.
const SEED: &str = "BACKUP_KILL_SEED";

/// Hands the password over in a variable, and watches that nobody repeats it.
struct Tool {
    place: Place,
    server: Server,
}

impl Tool {
    fn new(server: Server) -> Self {
        Self { place: Place::new(), server }
    }

    /// The locator of a database, without the password.
    fn at(&self, database: &str) -> String {
        let uri = self.server.uri_of(database);
        match self.server.password() {
            Some(password) => uri.replacen(&format!(":{password}@"), "@", 1),
            None => uri,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        if let Some(password) = self.server.password() {
            command.env("TEST_PASSWORD", password);
            if ["create", "restore", "resume"].iter().any(|c| args.contains(c)) {
                command.args(["--mongodb-password-env", "TEST_PASSWORD"]);
            }
        }
        command
    }

    fn watched(&self, run: Run) -> Run {
        if let Some(password) = self.server.password() {
            assert!(!run.stdout.contains(&password) && !run.stderr.contains(&password), "{run:?}");
        }
        run
    }

    #[track_caller]
    fn ends(&self, code: i32, args: &[&str]) -> Run {
        let run = self.watched(wait(self.command(args).spawn().unwrap()));
        assert_eq!(run.code, Some(code), "backup {}\n{}\n{}", args.join(" "), run.stdout, run.stderr);
        run
    }

    /// Kills a process after a while; whether it had ended by itself before, and well.
    fn killed(&self, args: &[&str], after: Duration) -> Option<Run> {
        let mut child = self.command(args).spawn().unwrap();
        std::thread::sleep(after);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            self.watched(wait(child));
            return None;
        }
        Some(self.watched(wait(child)))
    }

    fn operations(&self) -> usize {
        self.place.backup(&["--json", "operations"]).stdout.matches("\"state\"").count()
    }

    /// Whether the latest operation is completed.
    fn is_done(&self) -> bool {
        self.ends(0, &["--json", "operations"]).last()["operations"][0]["state"] == "completed"
    }

    /// Starts an operation and goes on with it in new processes, all but the last of which are killed.
    fn journey(&self, args: &[&str], kills: u32, random: &mut dataset::Random) -> u32 {
        let begun = self.operations();
        let resume = ["resume", "latest", "--take-over"];
        let mut hit = 0;
        while hit < kills {
            let after = Duration::from_millis(60 + random.below(700 + 60 * u64::from(hit)));
            // It may be killed before it has begun anything.
            let is_there = self.operations() > begun;
            match self.killed(if is_there { &resume } else { args }, after) {
                None => hit += 1,
                Some(run) => {
                    // It may have been done when the one before was killed.
                    assert!(self.is_done(), "{run:?}");
                    return hit;
                }
            }
        }
        if self.operations() == begun {
            self.ends(0, args);
        } else if !self.is_done() {
            self.ends(0, &resume);
        }
        hit
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn databases_come_back_although_every_process_is_killed() {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("{SEED}={seed} repeats this choice of moments");
    let runtime = runtime();
    for server in SERVERS {
        let mut random = dataset::Random(seed);
        let client = runtime.block_on(server.client());
        let (from, to) = (fresh("cli-from"), fresh("cli-to"));
        runtime.block_on(dataset::fill(&client, &from, 6000));
        let mut hit = 0;
        for round in 0..MOST_ROUNDS {
            let tool = Tool::new(server);
            // A quarter in each of the first rounds; what these did not hit, at once.
            let rest = KILLS.saturating_sub(hit).div_ceil(4u32.saturating_sub(round).max(1)).max(2);
            let (here, there) = (tool.at(&from), tool.at(&to));
            let create =
                ["create", "--from", &here, "--to", "archives", "--volume-size", "256KiB", "--limit-read", "6MiB"];
            hit += tool.journey(&create, rest / 2, &mut random);
            let restore = ["restore", "latest", "--at", "archives", "--to", &there, "--limit-write", "4MiB", "--force"];
            hit += tool.journey(&restore, rest - rest / 2, &mut random);
            runtime.block_on(assert_equal((&client, &from), (&client, &to)));
            runtime.block_on(drop_databases(&client, &[&to]));
            if hit >= KILLS {
                break;
            }
        }
        assert!(hit >= KILLS, "only {hit} kills hit a running process");
        runtime.block_on(drop_databases(&client, &[&from, &to]));
    }
}

#[test]
fn a_database_is_exported_as_mongodump_lays_it_out_and_restored_from_there() {
    let runtime = runtime();
    let server = Server::ReplicaSet;
    let client = runtime.block_on(server.client());
    let (from, to) = (fresh("cli-from"), fresh("cli-to"));
    runtime.block_on(dataset::fill(&client, &from, 300));
    let tool = Tool::new(server);
    tool.ends(0, &["create", "--from", &tool.at(&from), "--to", "archives"]);
    let run = tool.ends(0, &["export", "latest", "--at", "archives", "--format", "mongodump", "--output", "dump"]);
    assert!(run.stdout.contains("dump:"), "{run:?}");
    assert!(tool.place.path("dump").join(&from).join("orders.bson").is_file());
    assert_eq!(tool.place.backup(&["export", "latest", "--at", "archives", "--format", "mongodump"]).code, Some(2));
    let run = tool.ends(0, &["restore", "--from-mongodump", "dump", "--to", &tool.at(&to)]);
    assert!(run.stdout.contains("verified") || run.stderr.contains("verified"), "{run:?}");
    runtime.block_on(assert_equal((&client, &from), (&client, &to)));
    // What is there is not touched.
    let run = tool.ends(3, &["restore", "--from-mongodump", "dump", "--to", &tool.at(&to), "--force"]);
    assert!(run.stderr.contains("there already"), "{run:?}");
    tool.ends(0, &["restore", "--from-mongodump", "dump", "--to", &tool.at(&to), "--overwrite"]);
    runtime.block_on(assert_equal((&client, &from), (&client, &to)));
    runtime.block_on(drop_databases(&client, &[&from, &to]));
}

#[test]
fn chosen_collections_are_restored_under_other_names_of_databases() {
    let runtime = runtime();
    let server = Server::Standalone;
    let client = runtime.block_on(server.client());
    let (from, to) = (fresh("cli-from"), fresh("cli-to"));
    runtime.block_on(dataset::fill(&client, &from, 60));
    let tool = Tool::new(server);
    let run = tool.place.backup(&["create", "--from", &tool.at(&from), "--to", "archives", "--exclude", "*.mixed_ids"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let rename = format!("{from}={to}");
    let everywhere = server.uri();
    let args = ["restore", "latest", "--at", "archives", "--to", &everywhere, "--rename", &rename, "--force"];
    let include = [format!("{from}.w*"), format!("{from}.sl*")];
    let mut args = args.to_vec();
    include.iter().for_each(|pattern| args.extend(["--include", pattern]));
    tool.ends(0, &args);
    let mut names = runtime.block_on(async { client.database(&to).list_collection_names().await }).unwrap();
    names.sort();
    assert_eq!(names, ["sl/ash", "system.buckets.weather", "system.views", "weather"]);
    runtime.block_on(drop_databases(&client, &[&from, &to]));
}

#[test]
fn a_wrong_password_is_said_and_not_shown() {
    let tool = Tool::new(Server::ReplicaSet);
    let locator = Server::ReplicaSet.uri_as(Some(("nobody", "s3cret-word")));
    let run = tool.place.backup(&["create", "--from", &locator, "--to", "archives"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("user or password") || run.stderr.contains("refuses"), "{run:?}");
    assert!(!format!("{run:?}").contains("s3cret-word"), "{run:?}");
    let file = tool.place.path("missing").to_string_lossy().into_owned();
    let run = tool.place.backup(&[
        "create",
        "--from",
        "mongodb://a@127.0.0.1/x",
        "--to",
        "y",
        "--mongodb-password-file",
        &file,
    ]);
    assert!(run.code != Some(0) && run.stderr.contains("missing"), "{run:?}");
}
