//! Questions before something that cannot be undone.

use crate::failure::Failure;
use crate::output::Output;
use backup_core::Error;
use std::io::Write;

/// Asks a yes-or-no question on the terminal; without one, refuses and says which option answers it.
///
/// # Errors
/// `Usage` without a terminal; an error when the answer is not yes.
pub(crate) fn confirm(out: Output, question: &str, option: &str) -> Result<(), Failure> {
    if !out.is_interactive() {
        return Err(Failure::Usage(format!("{question} There is no terminal to ask on: add {option}")));
    }
    let mut answer = String::new();
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question} [y/N] ")
        .and_then(|()| stderr.flush())
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|e| Error::io(e, "cannot ask on the terminal"))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::cancelled("nothing was done, as you did not say yes").into()),
    }
}
