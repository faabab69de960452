//! The local adapter keeps every promise of the traits.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::local::{
    LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig, local_identity,
};
use backup_core::model::EntryName;
use backup_testkit::conformance::destination::{self, DestinationFixture, DestinationPlace};
use backup_testkit::conformance::restore_target::{self, Samples, SeenItem, TargetFixture, TargetPlace};
use backup_testkit::conformance::source::{self, Disturbance, KnownItem, SourceFixture, SourcePart, SourcePlace};
use backup_testkit::doubles::Blob;
use bytes::Bytes;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

struct Local;

struct Place {
    temp: TempDir,
    items: Vec<KnownItem>,
}

impl Place {
    fn new() -> Self {
        Self { temp: TempDir::new().unwrap(), items: Vec::new() }
    }

    /// Does not exist at first, so that something that escapes from it lands in the directory of this place.
    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn path(&self, name: &EntryName) -> PathBuf {
        self.root().join(OsStr::from_bytes(name.as_bytes()))
    }
}

/// Every path below a directory, relative to it, directories only if they are empty.
fn walk(root: &Path, below: &Path, into: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(below) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            walk(root, &entry.path(), into);
        } else {
            into.push(entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned());
        }
    }
}

fn paths(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    walk(root, root, &mut all);
    all
}

#[async_trait]
impl DestinationFixture for Local {
    async fn place(&self) -> Result<Box<dyn DestinationPlace>> {
        Ok(Box::new(Place::new()))
    }
    fn many(&self) -> usize {
        1200
    }
}

#[async_trait]
impl DestinationPlace for Place {
    fn destination(&self) -> Arc<dyn Destination> {
        Arc::new(LocalDestination::new(self.root()).unwrap())
    }
    async fn again(&self) -> Result<Arc<dyn Destination>> {
        Ok(Arc::new(LocalDestination::new(self.root())?))
    }
    async fn plant(&self, path: &str, bytes: Bytes) -> Result<bool> {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        Ok(true)
    }
    async fn paths(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(paths(&self.root())))
    }
}

#[tokio::test]
async fn the_destination_keeps_its_promises() {
    destination::run_all(&Local).await.assert_passed(&[
        "identity_and_debug_carry_no_secret",
        "wrong_credentials_are_unauthorized",
        "a_full_place_is_no_space_and_leaves_nothing",
        "a_broken_connection_is_an_error",
    ]);
}

#[async_trait]
impl SourceFixture for Local {
    async fn place(&self) -> Result<Box<dyn SourcePlace>> {
        let mut place = Place::new();
        let root = place.root();
        fs::create_dir_all(root.join("docs/deep")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        std::os::unix::fs::symlink("docs/a", root.join("link")).unwrap();
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        place.items = vec![
            KnownItem::directory("docs"),
            KnownItem::directory("docs/deep"),
            KnownItem::directory("empty"),
            KnownItem::symlink("link", "docs/a"),
            KnownItem::skipped("socket"),
        ];
        for (name, size) in [("docs/a", 10), ("docs/deep/b", 100_000), ("large", 3 << 20), ("zero", 0), ("docs!", 5)] {
            let content = Blob::pattern(size, size).bytes();
            fs::write(root.join(name), &content).unwrap();
            place.items.push(KnownItem::file(name, content));
        }
        Ok(Box::new(place))
    }
    async fn many(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        let mut place = Place::new();
        fs::create_dir(place.root()).unwrap();
        for n in 0..20_000 {
            let name = format!("{n:06}");
            fs::write(place.root().join(&name), "x").unwrap();
            place.items.push(KnownItem::file(&name, "x"));
        }
        Ok(Some(Box::new(place)))
    }
    async fn missing(&self) -> Result<Option<Arc<dyn Source>>> {
        let root = PathBuf::from("/nonexistent/place");
        Ok(Some(Arc::new(LocalSource::new(LocalSourceConfig { root, ..Default::default() })?)))
    }
}

#[async_trait]
impl SourcePlace for Place {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(LocalSource::new(LocalSourceConfig { root: self.root(), ..Default::default() }).unwrap())
    }
    async fn again(&self) -> Result<Arc<dyn Source>> {
        Ok(self.source())
    }
    fn items(&self) -> Vec<KnownItem> {
        self.items.clone()
    }
    fn part(&self) -> Option<SourcePart> {
        let names = vec!["docs".into(), "docs/a".into(), "docs/deep".into(), "docs/deep/b".into()];
        Some(SourcePart { identity: local_identity(self.root().join("docs")).unwrap(), names })
    }
    async fn disturb(&self, item: &EntryName, how: Disturbance) -> Result<bool> {
        let path = self.path(item);
        match how {
            Disturbance::Remove => fs::remove_file(path).unwrap(),
            Disturbance::Change(content) => fs::write(path, content).unwrap(),
            Disturbance::Shorten(to) => fs::File::options().write(true).open(path).unwrap().set_len(to).unwrap(),
            Disturbance::Deny => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
                // The superuser may read everything.
                return Ok(fs::File::open(&path).is_err());
            }
        }
        Ok(true)
    }
}

#[tokio::test]
async fn the_source_keeps_its_promises() {
    let report = source::run_all(&Local).await;
    let root = rustix::process::geteuid().is_root();
    let mut skipped = vec![
        "identity_and_debug_carry_no_secret",
        "wrong_credentials_are_unauthorized",
        "a_broken_connection_is_an_error",
    ];
    if root {
        skipped.extend([
            "an_item_that_may_not_be_read_does_not_end_the_run",
            "a_denied_item_is_permanent_or_unauthorized",
        ]);
    }
    report.assert_passed(&skipped);
}

#[async_trait]
impl TargetFixture for Local {
    async fn place(&self) -> Result<Box<dyn TargetPlace>> {
        Ok(Box::new(Place::new()))
    }
    fn samples(&self) -> Samples {
        Samples::files()
    }
}

#[async_trait]
impl TargetPlace for Place {
    fn target(&self) -> Arc<dyn RestoreTarget> {
        Arc::new(LocalTarget::new(LocalTargetConfig::new(self.root())).unwrap())
    }
    async fn again(&self) -> Result<Arc<dyn RestoreTarget>> {
        Ok(self.target())
    }
    async fn look(&self, name: &EntryName) -> Result<Option<SeenItem>> {
        let path = self.path(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(None) };
        Ok(Some(if metadata.is_dir() {
            SeenItem::Directory
        } else if metadata.is_symlink() {
            SeenItem::Symlink(Bytes::copy_from_slice(fs::read_link(&path).unwrap().as_os_str().as_bytes()))
        } else {
            SeenItem::Content(fs::read(&path).unwrap().into())
        }))
    }
    async fn staged(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(paths(&self.root()).into_iter().filter(|path| path.contains(".backup-tmp-")).collect()))
    }
    async fn escaped(&self) -> Result<Option<Vec<String>>> {
        let mut outside: Vec<String> = fs::read_dir(self.temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "root")
            .collect();
        for path in ["/tmp/.backup-conformance-escaped".into(), self.root().join("dir/through")] {
            outside.extend(fs::symlink_metadata(&path).is_ok().then(|| path.display().to_string()));
        }
        Ok(Some(outside))
    }
    async fn spoil(&self, name: &EntryName) -> Result<bool> {
        let mut bytes = fs::read(self.path(name)).unwrap();
        bytes[0] ^= 1;
        fs::write(self.path(name), bytes).unwrap();
        Ok(true)
    }
    async fn lose(&self, name: &EntryName) -> Result<bool> {
        fs::remove_file(self.path(name)).unwrap();
        Ok(true)
    }
}

#[tokio::test]
async fn the_target_keeps_its_promises() {
    restore_target::run_all(&Local)
        .await
        .assert_passed(&["identity_and_debug_carry_no_secret", "wrong_credentials_are_unauthorized"]);
}
