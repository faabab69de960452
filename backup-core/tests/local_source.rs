//! The local source keeps every promise of `Source`.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use async_trait::async_trait;
use backup_core::adapter::Source;
use backup_core::local::{LocalSource, LocalSourceConfig, local_identity};
use backup_core::model::{EntryKind, EntryName};
use backup_core::{Error, Result};
use backup_testkit::conformance::source::{
    CASES, Disturbance, KnownItem, SourceFixture, SourcePart, SourcePlace, run_all,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Trees;

struct Tree {
    directory: tempfile::TempDir,
    items: Vec<KnownItem>,
}

fn source(root: &Path) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(LocalSource::new(LocalSourceConfig { root: root.into(), ..LocalSourceConfig::default() })?))
}

fn failed(e: std::io::Error) -> Error {
    Error::io(e, "the fixture failed")
}

/// Bytes without a pattern that a shift would hide.
fn bytes(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect()
}

fn varied(root: &Path) -> std::io::Result<Vec<KnownItem>> {
    fs::create_dir_all(root.join("docs/none"))?;
    fs::create_dir(root.join("part"))?;
    symlink("docs/small", root.join("link"))?;
    // Just too large to be read inline, and as much again of another file.
    let (large, larger) = (bytes((1 << 20) + 1), bytes(3_000_000));
    let files: [(&str, &[u8]); 7] = [
        ("docs/empty", b""),
        ("docs/small", b"small"),
        ("large", &large),
        ("larger", &larger),
        ("middle", &larger[..300_000]),
        ("part/inside", b"in the part"),
        ("z", b"last"),
    ];
    for (name, content) in &files {
        fs::write(root.join(name), content)?;
    }
    fs::hard_link(root.join("docs/small"), root.join("hard"))?;
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket"))?;
    let hard = EntryKind::HardLink { target: "docs/small".into() };
    let mut items = vec![
        KnownItem::directory("docs"),
        KnownItem::directory("docs/none"),
        KnownItem::directory("part"),
        KnownItem::symlink("link", "docs/small"),
        KnownItem::Entry { name: "hard".into(), kind: hard, content: Some(b"small".as_slice().into()) },
        KnownItem::skipped("socket"),
    ];
    items.extend(files.map(|(name, content)| KnownItem::file(name, content.to_vec())));
    Ok(items)
}

#[async_trait]
impl SourceFixture for Trees {
    async fn place(&self) -> Result<Box<dyn SourcePlace>> {
        let directory = tempfile::tempdir().map_err(failed)?;
        let items = varied(directory.path()).map_err(failed)?;
        Ok(Box::new(Tree { directory, items }))
    }

    async fn many(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        let directory = tempfile::tempdir().map_err(failed)?;
        let mut items = Vec::new();
        for i in 0..20_000 {
            let name = format!("{i:05}");
            fs::write(directory.path().join(&name), &name).map_err(failed)?;
            items.push(KnownItem::file(&name, name.clone()));
        }
        Ok(Some(Box::new(Tree { directory, items })))
    }

    async fn missing(&self) -> Result<Option<Arc<dyn Source>>> {
        source(Path::new("/no/such/place")).map(Some)
    }
}

#[async_trait]
impl SourcePlace for Tree {
    fn source(&self) -> Arc<dyn Source> {
        source(self.directory.path()).unwrap()
    }

    async fn again(&self) -> Result<Arc<dyn Source>> {
        source(self.directory.path())
    }

    fn items(&self) -> Vec<KnownItem> {
        self.items.clone()
    }

    fn part(&self) -> Option<SourcePart> {
        let identity = local_identity(self.directory.path().join("part")).unwrap();
        Some(SourcePart { identity, names: vec!["part".into(), "part/inside".into()] })
    }

    async fn disturb(&self, item: &EntryName, how: Disturbance) -> Result<bool> {
        let path = self.directory.path().join(item.as_str().unwrap());
        let file = || fs::File::options().write(true).open(&path);
        match how {
            Disturbance::Remove => fs::remove_file(&path),
            Disturbance::Change(content) => fs::write(&path, content),
            Disturbance::Shorten(length) => file().and_then(|file| file.set_len(length)),
            Disturbance::Deny => fs::set_permissions(&path, fs::Permissions::from_mode(0o000)),
        }
        .map_err(failed)?;
        Ok(true)
    }
}

/// The name of the test below.
const TEST: &str = "the_local_source_keeps_every_promise";

#[tokio::test(flavor = "multi_thread")]
async fn the_local_source_keeps_every_promise() {
    // Permissions mean nothing to root, so that somebody else has to test what is denied.
    if rustix::process::geteuid().is_root() {
        let directory = tempfile::tempdir().unwrap();
        let exe: PathBuf = directory.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
        for path in [directory.path(), &exe] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let test = std::process::Command::new(exe).args([TEST, "--exact"]).gid(65534).uid(65534).output().unwrap();
        let said = String::from_utf8_lossy(&test.stdout);
        assert!(test.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let report = run_all(&Trees).await;
    // A file tree has no secrets, no credentials and no connection.
    let skipped =
        ["identity_and_debug_carry_no_secret", "wrong_credentials_are_unauthorized", "a_broken_connection_is_an_error"];
    assert_eq!(report.assert_passed(&skipped), CASES.len() - skipped.len());
}
