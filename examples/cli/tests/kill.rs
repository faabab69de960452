//! Backups and restores that are killed with SIGKILL at random moments, again and again, and go on in new processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod common;
mod trees;

use common::{Place, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use trees::{Keeps, Names, Random, Weight};

/// So many processes are killed before the test is content. What ended by itself before its moment came does not count.
const KILLS: u32 = 100;
/// Repeats a run's choice of moments.
const SEED: &str = "BACKUP_KILL_SEED";
/// Journeys at once: mostly they wait for their bandwidth limits.
const PARALLEL: u64 = 4;
/// More are not needed, unless the kills miss.
const MOST_JOURNEYS: u64 = 80;

#[test]
fn whatever_is_killed_whenever_goes_on_in_a_new_process_and_loses_nothing() {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("{SEED}={seed} repeats this choice of moments");
    let shared = Shared::new();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let number = shared.journeys.fetch_add(1, Ordering::Relaxed);
                    if shared.kills() >= KILLS || number >= MOST_JOURNEYS || shared.failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let _tell_the_others = Fails(&shared.failed);
                    Journey::new(&shared, seed, number).make();
                }
            });
        }
    });
    let met = shared.met.lock().unwrap();
    println!(
        "{} journeys in {:?}; kills by what they hit: {met:?}",
        shared.journeys.load(Ordering::Relaxed),
        start.elapsed()
    );
    assert!(shared.kills() >= KILLS, "only {} kills hit a running process", shared.kills());
    let joined = shared.joined.load(Ordering::Relaxed);
    assert!(joined >= 5, "only {joined} archives were written by several processes: resumed backups start over");
    for phase in ["backup running", "restore running"] {
        assert!(met.get(phase).is_some_and(|n| *n >= 20), "too few kills hit a {phase}");
    }
    let now = ["heavy", "light"].map(|tree| trees::marks(&shared.place.path(tree)));
    assert!(shared.marks == now, "a source is only ever read, but one was changed");
}

/// Says so when a journey does not come to a good end.
struct Fails<'a>(&'a AtomicBool);

impl Drop for Fails<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(std::thread::panicking(), Ordering::Relaxed);
    }
}

/// What all journeys have in common: the tree, and how long things take.
struct Shared {
    place: Place,
    marks: [Vec<trees::Mark>; 2],
    journeys: AtomicU64,
    failed: AtomicBool,
    kills: AtomicU32,
    /// Archives with volumes of several processes.
    joined: AtomicU32,
    met: Mutex<BTreeMap<String, u32>>,
    /// How long a backup and a restore took last that nobody killed: the machine may have other things to do as well.
    backup_time: Mutex<Option<Duration>>,
    restore_time: Mutex<Option<Duration>>,
}

impl Shared {
    fn new() -> Self {
        let place = Place::new();
        let marks = [("heavy", Weight::Heavy), ("light", Weight::Light)].map(|(name, weight)| {
            std::fs::create_dir(place.path(name)).unwrap();
            trees::make(&place.path(name), Names::Any, weight);
            trees::marks(&place.path(name))
        });
        place.ends(0, &["keygen", "key"]);
        Self {
            marks,
            place,
            journeys: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            kills: AtomicU32::new(0),
            joined: AtomicU32::new(0),
            met: Mutex::default(),
            backup_time: Mutex::default(),
            restore_time: Mutex::default(),
        }
    }

    fn kills(&self) -> u32 {
        self.kills.load(Ordering::Relaxed)
    }
}

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// So long after something of this kind has appeared at the destination.
    AfterObject(&'static str, Duration),
}

/// One archive: backed up with kills, verified, restored with kills, and compared.
struct Journey<'a> {
    shared: &'a Shared,
    place: Place,
    random: Random,
    /// Options of the key, for every command.
    key: Vec<String>,
    sealed: bool,
    codec: &'static str,
    story: String,
}

impl<'a> Journey<'a> {
    fn new(shared: &'a Shared, seed: u64, number: u64) -> Self {
        let place = Place::new();
        for directory in ["cwd", "tmp", "state"] {
            std::fs::create_dir(place.path(directory)).unwrap();
        }
        let key_file = || vec!["--key-file".into(), shared.place.arg("key")];
        let passphrase = || vec!["--passphrase-env".into(), "PASSPHRASE".into()];
        let (codec, key) = match number % 6 {
            0 => ("zstd", vec![]),
            1 => ("gzip", key_file()),
            2 => ("none", vec![]),
            3 => ("zstd", passphrase()),
            4 => ("gzip", vec![]),
            _ => ("zstd", key_file()),
        };
        let random = Random::new(Random::new(seed ^ (number << 32)).next());
        Self { shared, place, random, sealed: !key.is_empty(), codec, key, story: format!("journey {number}") }
    }

    fn make(mut self) {
        // Sealing is slow in a build for tests.
        let source = self.shared.place.arg(if self.sealed { "light" } else { "heavy" });
        let codec = self.codec;
        let volume = self.random.one_of(&["256KiB", "1MiB", "3MiB"]);
        let backups = self.place.arg("backups");
        let limit = self.random.one_of(&["--limit-read=24MiB", "--limit-write=16MiB"]);
        let create = [
            "create",
            "--from",
            &source,
            "--to",
            &backups,
            "--codec",
            codec,
            "--volume-size",
            volume,
            "--memory",
            "64MiB",
            limit,
        ];
        self.story +=
            &format!(", {codec}, volumes of {volume}, {limit}, {}", if self.sealed { "sealed" } else { "open" });
        self.until_done("backup", &create.map(String::from));
        self.check_archive();

        let target = self.place.arg("target");
        let limit = self.random.one_of(&["--limit-read=12MiB", "--limit-write=12MiB"]);
        let restore = ["restore", "latest", "--at", &backups, "--to", &target, limit];
        self.until_done("restore", &restore.map(String::from));
        let differences = trees::differences(Path::new(&source), Path::new(&target), Keeps::All);
        assert!(differences.is_empty(), "{}\n{differences:#?}", self.story);
        self.check_nothing_is_left_over();
        println!("{} ({} kills so far)", self.story, self.shared.kills());
    }

    /// Runs a command, kills it, and goes on, until it is done.
    fn until_done(&mut self, kind: &'static str, start: &[String]) {
        let time = match kind {
            "backup" => &self.shared.backup_time,
            _ => &self.shared.restore_time,
        };
        let usual = *time.lock().unwrap();
        // The first one tells how long it takes.
        let mut kills = if usual.is_none() { 0 } else { 1 + self.random.below(5) };
        let mut rest = usual.unwrap_or_default();
        loop {
            let (args, what): (Vec<String>, _) = match self.operation(kind) {
                None => (start.to_vec(), "start"),
                Some((_, state)) if state == "completed" => break,
                Some((id, _)) => (vec!["resume".into(), id], "resume"),
            };
            let began = Instant::now();
            let ended = || {
                if what == "start" {
                    *time.lock().unwrap() = Some(began.elapsed());
                }
            };
            let child = self.command(&args).spawn().unwrap();
            if kills == 0 || self.shared.kills() >= KILLS {
                let run = common::wait(child);
                self.expect_success(what, &run);
                ended();
                self.story += &format!("; {what} {kind} to its end");
                continue;
            }
            let moment = self.moment(kind, rest);
            rest = rest.mul_f64(0.7);
            let (child, status) = self.kill_at(child, moment);
            if status.signal() == Some(9) {
                kills -= 1;
                self.shared.kills.fetch_add(1, Ordering::Relaxed);
                let state = self.operation(kind).map_or("not begun".into(), |(_, state)| state);
                *self.shared.met.lock().unwrap().entry(format!("{kind} {state}")).or_default() += 1;
                self.story += &format!("; {what} {kind}, killed {moment:?}: {state}");
            } else {
                let output = child.wait_with_output().unwrap();
                let (stdout, stderr) = (common::text(&output.stdout), common::text(&output.stderr));
                self.expect_success(what, &Run { code: status.code(), stdout, stderr });
                ended();
                self.story += &format!("; {what} {kind} to its end before {moment:?}");
            }
        }
    }

    fn expect_success(&self, what: &str, run: &Run) {
        assert_eq!(run.code, Some(0), "{}; then {what} failed:\n{}\n{}", self.story, run.stdout, run.stderr);
    }

    /// Mostly any moment from the start to a little beyond the usual end; sometimes one at which something special goes on.
    fn moment(&mut self, kind: &str, rest: Duration) -> Moment {
        let soon = Duration::from_micros(self.random.below(40_000));
        match self.random.below(10) {
            0 => Moment::After(soon),
            1 | 2 if kind == "backup" => {
                Moment::AfterObject(self.random.one_of(&["header.json", "index", "volumes.txt", "manifest"]), soon)
            }
            1 => Moment::After(rest.mul_f64(0.8 + 0.3 * self.random.part())),
            _ => Moment::After(rest.mul_f64(self.random.part())),
        }
    }

    /// Kills a process at its moment, unless it ends before.
    fn kill_at(&self, mut child: Child, moment: Moment) -> (Child, ExitStatus) {
        let start = Instant::now();
        let mut appeared = None;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (child, status);
            }
            let is_due = match moment {
                Moment::After(time) => start.elapsed() >= time,
                Moment::AfterObject(part, time) => {
                    if appeared.is_none() && self.has_object(part) {
                        appeared = Some(Instant::now());
                    }
                    appeared.is_some_and(|at| at.elapsed() >= time)
                }
            };
            if is_due {
                child.kill().unwrap();
                let status = child.wait().unwrap();
                return (child, status);
            }
            assert!(start.elapsed() < common::PATIENCE, "{}; then it did not end", self.story);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the archive has an object, a directory of objects, or a staged one, whose name begins like this.
    fn has_object(&self, part: &str) -> bool {
        self.archives().iter().flat_map(|archive| names_in(archive)).any(|name| name.starts_with(part))
    }

    fn archives(&self) -> Vec<PathBuf> {
        let backups = self.place.path("backups");
        names_in(&backups).into_iter().map(|name| backups.join(name)).filter(|path| path.is_dir()).collect()
    }

    fn command(&self, args: &[String]) -> Command {
        let args: Vec<&str> = self.key.iter().chain(args).map(String::as_str).collect();
        let mut command = self.place.command(&args);
        command
            .current_dir(self.place.path("cwd"))
            .env("TMPDIR", self.place.path("tmp"))
            .env("PASSPHRASE", "open sesame");
        command
    }

    fn ends(&self, args: &[&str]) -> Run {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_string()).collect();
        let run = common::wait(self.command(&args).spawn().unwrap());
        assert_eq!(run.code, Some(0), "{}; then backup {args:?}:\n{}\n{}", self.story, run.stdout, run.stderr);
        run
    }

    /// Id and state of the only operation of this kind.
    fn operation(&self, kind: &str) -> Option<(String, String)> {
        let list = self.ends(&["--json", "operations"]).last();
        let found: Vec<_> =
            list["operations"].as_array().unwrap().iter().filter(|o| o["kind"] == kind).cloned().collect();
        assert!(found.len() <= 1, "{}: {found:?}", self.story);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        found.first().map(|operation| (text(&operation["id"]), text(&operation["state"])))
    }

    /// There is exactly one archive; it is complete and sound, and nothing lies about that it does not name.
    fn check_archive(&self) {
        let backups = self.place.arg("backups");
        let list = self.ends(&["--json", "list", "--at", &backups]).last();
        let archives = list["archives"].as_array().unwrap();
        assert!(archives.len() == 1 && archives[0]["status"] == "complete", "{}: {list}", self.story);
        self.ends(&["verify", "latest", "--at", &backups]);
        self.ends(&["verify", "latest", "--at", &backups, "--quick"]);

        let directories = self.archives();
        assert_eq!(directories.len(), 1, "{}", self.story);
        let manifest = &self.ends(&["--json", "show", "latest", "--at", &backups]).last()["manifest"];
        let volumes = names_in(&directories[0].join("data"));
        assert_eq!(Some(volumes.len() as u64), manifest["totals"]["volumes"].as_u64(), "{}: {volumes:?}", self.story);
        // `00000000-1x7f3a9c00.tar`: behind the number stands who wrote it.
        let writers: BTreeSet<&str> = volumes.iter().filter_map(|name| name[9..].split('.').next()).collect();
        self.shared.joined.fetch_add(u32::from(writers.len() > 1), Ordering::Relaxed);
        let pieces = names_in(&directories[0].join("index"));
        assert_eq!(Some(pieces.len()), manifest["pieces"].as_array().map(Vec::len), "{}: {pieces:?}", self.story);
        if !self.sealed {
            let text = std::fs::read_to_string(directories[0].join("volumes.txt")).unwrap();
            let mut named: Vec<&str> = text.lines().map(|line| line.strip_prefix("data/").unwrap()).collect();
            named.sort_unstable();
            assert_eq!(named, volumes, "{}", self.story);
        }
        self.check_nothing_is_left_over();
    }

    fn check_nothing_is_left_over(&self) {
        assert_eq!(trees::staged(&self.place.path(".")), Vec::<PathBuf>::new(), "{}", self.story);
        for directory in ["cwd", "tmp"] {
            assert_eq!(names_in(&self.place.path(directory)), Vec::<String>::new(), "in {directory}: {}", self.story);
        }
        let known = ["backups", "cwd", "home", "state", "target", "tmp"];
        let others: Vec<_> = names_in(&self.place.path(".")).into_iter().filter(|n| !known.contains(&&**n)).collect();
        assert_eq!(others, Vec::<String>::new(), "{}", self.story);
    }
}

/// The names in a directory, in order; none when there is no directory.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
