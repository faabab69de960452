//! `backup`: makes, lists, verifies and restores archives on the command line.

mod accounts;
mod app;
mod args;
mod commands;
mod confirm;
mod failure;
mod keys;
mod locator;
mod managed;
mod operations;
mod output;
mod progress;
mod run;
mod secrets;
mod service;
mod signals;
mod spec;
mod store;
mod units;

/// What is taken on one thread is mostly given back on another here, down to the names of entries. The C library's allocator keeps a part
/// of that for each thread, so that the process takes far more memory than its budget; this one uses it again first.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use app::App;
use args::Cli;
use clap::Parser;
use failure::{Exit, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&without_secrets(error)),
    };
    let json = cli.global.json;
    start_tracing(cli.global.verbose);
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report(json);
            (&failure).into()
        }
    }
}

fn start(cli: Cli) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| backup_core::Error::io(e, "cannot start the runtime"))?;
    let result = runtime.block_on(async {
        let app = App::new(cli.global)?;
        // The futures of some commands are large; the heap has room for them.
        Box::pin(commands::run(&app, cli.command)).await
    });
    // After a stop at once, work on blocking threads must not hold the process back.
    runtime.shutdown_background();
    result
}

/// A locator that was refused for the credentials in it is not repeated.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && let Some(shown) = locator::shown(value)
    {
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    error
}

/// Says what is wrong with the arguments, or shows the help that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    // The arguments could not be read, so this option must be found by hand.
    if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
        let text = error.render().to_string();
        let failure = Failure::Usage(text.trim().trim_start_matches("error: ").to_string());
        failure.report(true);
        return (&failure).into();
    }
    // Nothing can be done about a reader of the help that is gone.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Diagnostics on standard error: warnings, more with `-v`; `RUST_LOG` says otherwise where it is set.
fn start_tracing(verbose: u8) {
    use tracing_subscriber::filter::{EnvFilter, filter_fn};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level = match verbose {
        0 => "warn",
        1 => "warn,backup=info,backup_core=info,backup_store_sqlx=info",
        _ => "info,backup=debug,backup_core=debug,backup_store_sqlx=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // Whatever RUST_LOG says: the AWS SDK's details are requests with the secrets in them.
    let harmless = filter_fn(|metadata| {
        *metadata.level() <= tracing::Level::INFO || !metadata.target().starts_with(backup_s3::SDK_LOG_TARGETS)
    });
    let written = tracing_subscriber::fmt::layer()
        .with_writer(|| LineWriter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry().with(filter).with(harmless).with(written).init();
}

/// Writes to standard error without tearing a progress bar apart.
struct LineWriter;

impl std::io::Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        progress::suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
