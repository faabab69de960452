//! Who this process is, whether another one still lives, and the clock that counts suspension.

use crate::model::Holder;
use std::time::Duration;

/// This process as the holder of leases.
pub fn this_process() -> Holder {
    let pid = std::process::id();
    Holder {
        boot: boot_id(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid,
        started: started(pid).unwrap_or(0),
    }
}

/// Whether a holder is known to be dead: a process of this boot of this host (and of this process id namespace) that has
/// ended. `false` whenever that cannot be told.
pub fn holder_is_dead(holder: &Holder) -> bool {
    let here = boot_id();
    if here.is_empty() || holder.boot != here {
        return false;
    }
    match started(holder.pid) {
        Some(started) => started != holder.started,
        None => is_gone(holder.pid),
    }
}

/// Whether there is surely no such process, or only its zombie; `/proc` may hide the processes of other users.
fn is_gone(pid: u32) -> bool {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // Readable, and yet no start time: a zombie.
        return !stat.is_empty();
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

/// Changes with each boot, and differs between process id namespaces; empty where the system does not tell.
fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if boot.trim().is_empty() {
        return String::new();
    }
    format!("{} {}", boot.trim(), namespace.to_string_lossy())
}

/// Start time of a running process in clock ticks since boot (`proc(5)`, `/proc/PID/stat`, field 22); `None` when there is
/// no such process or only its zombie.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, field 2, may contain anything; the last `)` ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Time since boot, including time in which the system was suspended.
pub(crate) fn boot_time() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_dead_and_an_ended_one_is() {
        let me = this_process();
        assert!(!holder_is_dead(&me));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let held = Holder { pid: child.id(), started: started(child.id()).unwrap(), ..me.clone() };
        assert!(!holder_is_dead(&held));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(holder_is_dead(&held));
        assert!(holder_is_dead(&Holder { started: me.started + 1, ..me.clone() }), "a reused process id");
        assert!(
            !holder_is_dead(&Holder { boot: "another".into(), pid: u32::MAX, ..me }),
            "another host: nobody can tell"
        );
    }
}
