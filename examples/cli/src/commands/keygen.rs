//! `backup keygen`

use crate::app::App;
use crate::args::Keygen;
use crate::failure::{Exit, Failure};
use crate::output::{output_error, write_line};
use backup_core::Error;
use backup_core::archive::generate_key_file;
use secrecy::ExposeSecret;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const KEEP: &str = "Keep this key in a safe place apart from the backups: archives sealed with it are lost without it.";

pub(super) fn run(app: &App, args: Keygen) -> Result<Exit, Failure> {
    let key = generate_key_file()?;
    match args.file {
        Some(path) => {
            write_new(&path, key.expose_secret())
                .map_err(|e| Error::io(e, "cannot make the key file").on(path.display()))?;
            app.out.document(&json!({ "key_file": path.to_string_lossy() }))?;
            app.out.line(format!("{}: a new key", path.display()))?;
        }
        None if app.out.json => app.out.document(&json!({ "key": key.expose_secret() }))?,
        None => write_line(key.expose_secret().trim_end()).map_err(output_error)?,
    }
    app.out.note(KEEP);
    Ok(Exit::Done)
}

/// Makes a file that was not there, durable and for this user alone.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is worse than none.
        let _ = std::fs::remove_file(path);
    }
    written?;
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}
