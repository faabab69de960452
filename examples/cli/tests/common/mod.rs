//! Runs the built program in a directory of its own.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A directory with a store, sources, archives and targets.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// A run that ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The path as an argument.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A small tree of files, directories and a link.
    pub(crate) fn tree(&self, name: &str) {
        self.write(&format!("{name}/a.txt"), "first\n");
        self.write(&format!("{name}/docs/b.txt"), "second\n");
        self.write(&format!("{name}/docs/deep/c.bin"), noise(300_000, 1));
        self.write(&format!("{name}/skip.tmp"), "not wanted\n");
        std::fs::create_dir_all(self.path(&format!("{name}/empty"))).unwrap();
        std::os::unix::fs::symlink("a.txt", self.path(&format!("{name}/link"))).unwrap();
    }

    /// Small files of 40 MiB together: at [`SLOW`] they take long enough to step in.
    pub(crate) fn large_tree(&self, name: &str) {
        let bytes = noise(64 << 10, 7);
        for i in 0..640 {
            self.write(&format!("{name}/{}/{i}.bin", i % 7), [&i.to_string().into_bytes()[..], &bytes].concat());
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backup"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("BACKUP_STORE", self.path("state/store.db"))
            .env("HOME", self.path("home"))
            .env_remove("XDG_DATA_HOME")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn backup(&self, args: &[&str]) -> Run {
        wait(self.command(args).spawn().unwrap())
    }

    /// Runs and expects this exit code.
    #[track_caller]
    pub(crate) fn ends(&self, code: i32, args: &[&str]) -> Run {
        let run = self.backup(args);
        assert_eq!(run.code, Some(code), "backup {}\n{}\n{}", args.join(" "), run.stdout, run.stderr);
        run
    }

    /// Backs `from` up to `to`, and gives the archive's id.
    #[track_caller]
    pub(crate) fn create(&self, from: &str, to: &str, more: &[&str]) -> String {
        let mut args = vec!["--json", "-q", "create", "--from", from, "--to", to];
        args.extend(more);
        self.ends(0, &args).last()["archive"].as_str().unwrap().to_string()
    }

    /// Starts a slow backup of a large tree and waits until it reads; gives the process and the operation's id.
    pub(crate) fn slow_backup(&self, from: &str, to: &str, json: bool) -> (Child, String) {
        self.large_tree(from);
        let mut args = vec!["create", "--from", from, "--to", to, "--limit-read", SLOW];
        if json {
            args.push("--json");
        }
        let child = self.command(&args).spawn().unwrap();
        match self.wait_for_running("backup") {
            Some(id) => (child, id),
            None => {
                signal(&child, "KILL");
                panic!("the backup does not start: {:?}", wait(child));
            }
        }
    }

    /// Waits until an operation of this kind runs and gives its id.
    pub(crate) fn wait_for_running(&self, kind: &str) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let run = self.backup(&["--json", "operations", "--state", "running"]);
            let run = run.last();
            let operation = run["operations"].as_array().and_then(|all| all.iter().find(|o| o["kind"] == kind));
            if let Some(operation) = operation {
                return operation["id"].as_str().map(str::to_string);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    pub(crate) fn state(&self, operation: &str) -> String {
        let run = self.ends(0, &["--json", "operations"]);
        let run = run.last();
        let found = run["operations"].as_array().unwrap().iter().find(|o| o["id"] == operation).unwrap();
        found["state"].as_str().unwrap().to_string()
    }

    /// What `diff -r` says: nothing when two trees are the same.
    #[track_caller]
    pub(crate) fn assert_same(&self, a: &str, b: &str) {
        let output =
            Command::new("diff").args(["-r", "--no-dereference"]).args([self.path(a), self.path(b)]).output().unwrap();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
}

/// A rate at which a large tree takes 40 seconds.
pub(crate) const SLOW: &str = "1MiB";

impl Run {
    /// The last line of standard output as JSON.
    #[track_caller]
    pub(crate) fn last(&self) -> Value {
        self.lines().pop().unwrap_or_else(|| panic!("no output; standard error: {}", self.stderr))
    }

    /// All lines of standard output as JSON.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }
}

/// Waits for a process to end by itself; ends it when it takes too long.
#[track_caller]
pub(crate) fn wait(child: Child) -> Run {
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            signal_pid(pid, "KILL");
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    watch.join().unwrap();
    Run { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

pub(crate) fn signal(child: &Child, name: &str) {
    signal_pid(child.id(), name);
}

fn signal_pid(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Bytes without any pattern.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
