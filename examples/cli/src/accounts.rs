//! Where this program keeps the Google accounts that somebody has signed in to: sealed files in the user's data directory, under a key in
//! the configuration directory.

use crate::secrets::{self, directory};
use backup_core::{Error, Result};
use backup_gdrive::account::AccountFile;
use std::sync::Arc;

/// The file of an account; `make` also makes the key if there is none yet.
///
/// # Errors
/// When the name is none, or the key cannot be read.
pub(crate) fn file(name: &str, make: bool) -> Result<AccountFile> {
    check(name)?;
    let data = directory("XDG_DATA_HOME", ".local/share")?;
    let missing = "nobody has signed in to Google Drive; run `backup gdrive login`";
    let ring = Arc::new(secrets::ring(make, missing)?);
    Ok(AccountFile::new(data.join("gdrive").join(format!("{name}.account")), ring))
}

/// Names of accounts are file names.
///
/// # Errors
/// `Invalid` with what may stand there.
pub(crate) fn check(name: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'@' | b'.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.bytes().all(fine) {
        return Err(Error::invalid("the name of an account has letters, digits, `-`, `_`, `@` and `.`")
            .on(name.escape_default()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_accounts_lead_nowhere_else() {
        for good in ["default", "me@example.org", "a_b-1"] {
            check(good).unwrap();
        }
        for bad in ["", "../x", "a/b", ".hidden", "ä"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
