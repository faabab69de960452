//! The store: where operations, their checkpoints and logs are kept between two runs of this program.

use crate::failure::Failure;
use backup_core::adapter::Store;
use backup_store_sqlx::SqlxStore;
use std::path::PathBuf;
use std::sync::Arc;

/// Which store is meant.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// An SQLite file.
    File(PathBuf),
    /// Whatever the store's own crate understands.
    Url(String),
}

/// Opens the store, and makes it if it is not there yet; what is made for it is this user's alone.
///
/// # Errors
/// When it cannot be made or opened.
pub(crate) async fn open(url: Option<&str>) -> Result<Arc<dyn Store>, Failure> {
    open_place(place(url)?).await
}

/// Opens the store only if it is there.
///
/// # Errors
/// When it is there and cannot be opened.
pub(crate) async fn open_if_there(url: Option<&str>) -> Result<Option<Arc<dyn Store>>, Failure> {
    match place(url)? {
        Place::File(path) if !path.exists() => Ok(None),
        place => open_place(place).await.map(Some),
    }
}

async fn open_place(place: Place) -> Result<Arc<dyn Store>, Failure> {
    let store = match place {
        Place::File(path) => SqlxStore::open_file(path).await,
        Place::Url(url) => SqlxStore::open(&url).await,
    };
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Failure::from(error).hint("another store can be named with --store or BACKUP_STORE")),
    }
}

fn place(url: Option<&str>) -> Result<Place, Failure> {
    match url.filter(|url| !url.is_empty()) {
        Some(url) if has_scheme(url) => Ok(Place::Url(url.into())),
        Some(path) => Ok(Place::File(path.into())),
        None => match default_place(std::env::var_os("XDG_DATA_HOME").map(PathBuf::from), std::env::home_dir()) {
            Some(path) => Ok(Place::File(path)),
            None => Err(Failure::Usage(
                "there is no home directory to keep operations in; name a store with --store FILE".into(),
            )),
        },
    }
}

fn has_scheme(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(scheme, _)| scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// `$XDG_DATA_HOME/backup/store.db`; by the XDG specification a relative path there does not count.
fn default_place(data: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let data = data.filter(|d| d.is_absolute());
    let data = data.or_else(|| home.filter(|h| h.is_absolute()).map(|h| h.join(".local/share")))?;
    Some(data.join("backup/store.db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_file_or_a_url() {
        assert_eq!(place(Some("/x/s.db")).unwrap(), Place::File("/x/s.db".into()));
        assert_eq!(place(Some("./a:b")).unwrap(), Place::File("./a:b".into()));
        assert_eq!(place(Some("sqlite:s.db")).unwrap(), Place::Url("sqlite:s.db".into()));
    }

    #[test]
    fn the_default_follows_the_xdg_specification() {
        let home = || Some(PathBuf::from("/home/u"));
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(default_place(path("/d"), home()), path("/d/backup/store.db"));
        assert_eq!(default_place(path("d"), home()), path("/home/u/.local/share/backup/store.db"));
        assert_eq!(default_place(None, home()), path("/home/u/.local/share/backup/store.db"));
        assert_eq!(default_place(None, None), None);
    }
}
