//! How far an operation has come: a bar on a terminal, plain lines elsewhere, JSON lines for machines.

use crate::output::{self, Output};
use crate::units;
use backup_core::model::{LogLevel, LogRecord, Phase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// All bars of this process, so that whoever writes lines can move them aside.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between two JSON lines.
const EVENT_EVERY: Duration = Duration::from_secs(1);
/// Warnings that are printed while it runs; all of them are in the job log.
const WARNINGS_SHOWN: u64 = 100;

/// Steps of records that end an operation: what they say is said when it has ended.
const ENDS: [&str; 2] = ["failed", "pause"];

/// Runs something that writes to the terminal while no bar stands in its way.
pub(crate) fn suspend<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// How often the progress of work is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Shows the progress of some work until it is done.
pub(crate) async fn with_progress<T>(
    out: Output,
    progress: watch::Receiver<Progress>,
    work: impl Future<Output = T>,
) -> T {
    let mut reporter = Reporter::new(out, false);
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = look.tick() => reporter.update(&progress.borrow().clone()),
        }
    }
}

/// Shows the progress of one operation.
#[derive(Debug)]
pub(crate) struct Reporter {
    out: Output,
    mode: Mode,
    verbose: bool,
    warnings: u64,
}

#[derive(Debug)]
enum Mode {
    None,
    Bar { bar: ProgressBar, with_total: Option<bool> },
    Lines { next: Instant, last: Option<String> },
    Events { next: Instant, last: Option<Progress> },
}

impl Reporter {
    /// Chooses the form by what the output is. `verbose` shows informative job log records too.
    pub(crate) fn new(out: Output, verbose: bool) -> Self {
        let now = Instant::now();
        let mode = if out.quiet {
            Mode::None
        } else if out.json {
            Mode::Events { next: now, last: None }
        } else if std::io::stderr().is_terminal() {
            Mode::Bar { bar: BARS.add(ProgressBar::new_spinner()), with_total: None }
        } else {
            // What is done within seconds needs no line on the way.
            Mode::Lines { next: now + LINE_EVERY, last: None }
        };
        Self { out, mode, verbose, warnings: 0 }
    }

    /// Takes the present progress; may be called often.
    pub(crate) fn update(&mut self, progress: &Progress) {
        let now = Instant::now();
        match &mut self.mode {
            Mode::None => {}
            Mode::Bar { bar, with_total } => {
                let total = progress.bytes_total.filter(|total| *total > 0);
                if *with_total != Some(total.is_some()) {
                    *with_total = Some(total.is_some());
                    bar.set_style(style(total.is_some()));
                }
                if let Some(total) = total {
                    // An estimate may be too low; a bar beyond its end would be odd.
                    bar.set_length(total.max(progress.bytes));
                    bar.set_position(progress.bytes);
                }
                bar.set_prefix(phase_name(progress.phase));
                bar.set_message(figures(progress));
                bar.tick();
            }
            Mode::Lines { next, last } => {
                if now < *next {
                    return;
                }
                let text = line(progress);
                if last.as_ref() != Some(&text) {
                    let _ = output::write_error(&text);
                    *last = Some(text);
                }
                *next = now + LINE_EVERY;
            }
            Mode::Events { next, last } => {
                if now < *next || last.as_ref() == Some(progress) {
                    return;
                }
                let mut event = json!(progress);
                event["event"] = "progress".into();
                // A reader that is gone does not stop the work.
                let _ = output::write_line(&event.to_string());
                *last = Some(progress.clone());
                *next = now + EVENT_EVERY;
            }
        }
    }

    /// Shows a job log record: warnings and errors, and all of them with `-v`.
    pub(crate) fn record(&mut self, record: &LogRecord) {
        if self.out.json {
            let mut event = json!(record);
            event["event"] = "log".into();
            let _ = output::write_line(&event.to_string());
            return;
        }
        if record.level <= LogLevel::Info {
            if self.verbose {
                let _ = output::write_error(&log_line(record));
            }
            return;
        }
        if ENDS.contains(&record.step.as_str()) {
            return;
        }
        self.warnings += 1;
        if self.warnings <= WARNINGS_SHOWN {
            let _ = output::write_error(&log_line(record));
        } else if self.warnings == WARNINGS_SHOWN + 1 {
            let _ = output::write_error("warning: there are more; `backup logs` shows all of them");
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Mode::Bar { bar, .. } = &self.mode {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
        self.mode = Mode::None;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A record as a line for people.
fn log_line(record: &LogRecord) -> String {
    match record.level {
        LogLevel::Debug | LogLevel::Info => format!("{}: {}", record.step, record.message),
        LogLevel::Warning => format!("warning: {}", record.message),
        LogLevel::Error => format!("{} failed: {}", record.step, record.message),
    }
}

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total { "{prefix} [{bar:25}] {percent:>3}%  {msg}" } else { "{prefix} {spinner}  {msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Transferring => "transferring",
        Phase::Finishing => "finishing",
        Phase::Verifying => "verifying",
        _ => "done",
    }
}

/// `transferring: 1,234 entries, 180 MiB of 1.5 GiB, 45.0 MiB/s, 12s left, 2 warnings`
fn line(progress: &Progress) -> String {
    format!("{}: {}", phase_name(progress.phase), figures(progress))
}

/// As much of the progress as is known, without the phase.
pub(crate) fn figures(progress: &Progress) -> String {
    let mut parts = vec![units::count(progress.entries, "entry")];
    parts.push(match progress.bytes_total.filter(|total| *total >= progress.bytes) {
        Some(total) if progress.phase != Phase::Done => {
            format!("{} of {}", units::bytes(progress.bytes), units::bytes(total))
        }
        _ => units::bytes(progress.bytes),
    });
    if progress.bytes_per_second >= 1.0 && progress.phase != Phase::Done {
        parts.push(format!("{}/s", units::bytes(progress.bytes_per_second as u64)));
    }
    if let Some(eta) = progress.eta_seconds.filter(|eta| *eta >= 1.0 && progress.phase != Phase::Done) {
        parts.push(format!("{} left", units::span(eta)));
    }
    if progress.warnings > 0 {
        parts.push(units::count(progress.warnings, "warning"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known_and_no_more() {
        let mut progress = Progress { entries: 1234, bytes: 180 << 20, ..Progress::default() };
        assert_eq!(line(&progress), "preparing: 1,234 entries, 180.0 MiB");
        progress.phase = Phase::Transferring;
        progress.bytes_total = Some(3 << 29);
        progress.bytes_per_second = 45.0 * 1024.0 * 1024.0;
        progress.eta_seconds = Some(12.3);
        progress.warnings = 2;
        assert_eq!(
            line(&progress),
            "transferring: 1,234 entries, 180.0 MiB of 1.5 GiB, 45.0 MiB/s, 12s left, 2 warnings"
        );
    }

    #[test]
    fn an_estimate_that_was_too_low_is_left_out() {
        let progress = Progress { bytes: 2048, bytes_total: Some(1024), ..Progress::default() };
        assert_eq!(figures(&progress), "0 entries, 2.0 KiB");
    }
}
