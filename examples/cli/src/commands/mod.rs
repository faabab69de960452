//! The commands, a file each or a few that belong together.

mod connection;
mod create;
mod export;
mod gdrive;
mod history;
mod keygen;
mod list;
mod logs;
mod operations;
mod rekey;
mod remove;
mod restore;
mod resume;
mod show;
mod verify;
mod worker;

use crate::app::App;
use crate::args::{Cli, Command};
use crate::failure::{Exit, Failure};
use clap::CommandFactory;

/// Runs the command that the arguments name.
///
/// # Errors
/// Why it did not come to its end.
pub(crate) async fn run(app: &App, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Create(args) => create::run(app, args).await,
        Command::List(args) => list::run(app, args).await,
        Command::Show(args) => show::run(app, args).await,
        Command::Verify(args) => verify::run(app, args).await,
        Command::Restore(args) => restore::run(app, args).await,
        Command::Export(args) => export::run(app, args).await,
        Command::Delete(args) => remove::delete(app, args).await,
        Command::Sweep(args) => remove::sweep(app, args).await,
        Command::Operations(args) => operations::list(app, args).await,
        Command::History(args) => history::run(app, args).await,
        Command::Connection(command) => connection::run(app, command).await,
        Command::Worker(args) => worker::run(app, args).await,
        Command::Pause(args) => operations::pause(app, args).await,
        Command::Cancel(args) => operations::cancel(app, args).await,
        Command::Resume(args) => resume::run(app, args).await,
        Command::Logs(args) => logs::run(app, args).await,
        Command::Keygen(args) => keygen::run(app, args),
        Command::Gdrive(args) => gdrive::run(app, args).await,
        Command::Rekey(args) => rekey::run(app, args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "backup", &mut script);
            let script = String::from_utf8_lossy(&script);
            crate::output::write_line(script.trim_end()).map_err(crate::output::output_error)?;
            Ok(Exit::Done)
        }
    }
}
