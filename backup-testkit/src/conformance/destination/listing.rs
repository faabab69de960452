//! Cases about listing.

use super::fixture::DestinationFixture;
use super::place::ready;
use crate::conformance::suite::{bytes, ensure};
use crate::conformance::{Outcome, Stop};
use backup_core::Result;
use backup_core::adapter::{Destination, Payload};
use backup_core::model::{ObjectName, STAGE_PREFIX};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;

/// The nth object has n % 100 bytes.
async fn put_all(destination: &dyn Destination, names: &[ObjectName]) -> Result<()> {
    let mut at = 0;
    for some in names.chunks(8) {
        let mut puts = Vec::new();
        for name in some {
            puts.push(destination.put(name, Payload::from(bytes(0, at % 100))));
            at += 1;
        }
        futures::future::try_join_all(puts).await?;
    }
    Ok(())
}

fn names(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Vec<ObjectName>> {
    texts.into_iter().map(ObjectName::new).collect()
}

/// The listing in order, after a check that nothing came twice.
async fn listed(destination: &dyn Destination, prefix: Option<&str>) -> Outcome<Vec<(String, u64)>> {
    let prefix = prefix.map(ObjectName::new).transpose()?;
    let mut listing = destination.list(prefix.as_ref());
    let mut found = BTreeMap::new();
    while let Some(info) = listing.next().await.transpose()? {
        let twice = found.insert(info.name.to_string(), info.size);
        ensure!(twice.is_none(), "{} came twice", info.name);
    }
    Ok(found.into_iter().collect())
}

pub(super) async fn each_object_is_listed_once(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let mut all = names((0..fixture.many()).map(|n| format!("many/data/{n:08}")))?;
    all.extend(names(["many/header.json", "many2/x", "many-x", "one/two/three/four/five"])?);
    put_all(&*destination, &all).await?;
    for (prefix, below) in [
        (None, ""),
        (Some("many"), "many/"),
        (Some("many/data"), "many/data/"),
        (Some("many2"), "many2/"),
        (Some("one/two"), "one/two/"),
    ] {
        let sized = all.iter().enumerate().map(|(n, name)| (name.to_string(), n as u64 % 100));
        let mut expected: Vec<_> = sized.filter(|(name, _)| name.starts_with(below)).collect();
        expected.sort();
        let found = listed(&*place.again().await?, prefix).await?;
        let (found_all, expected_all) = (found.len(), expected.len());
        ensure!(found == expected, "below {prefix:?} {found_all} objects are listed instead of {expected_all}");
    }
    Ok(())
}

pub(super) async fn objects_that_stay_are_listed_while_others_go(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let all = names((0..fixture.many()).map(|n| format!("going/{n:08}")))?;
    put_all(&*destination, &all).await?;
    let prefix = ObjectName::new("going")?;
    let mut listing = destination.list(Some(&prefix));
    let mut found = BTreeMap::new();
    let mut gone = all.iter().step_by(2);
    while let Some(info) = listing.next().await.transpose()? {
        *found.entry(info.name).or_insert(0) += 1;
        if let Some(name) = gone.next() {
            destination.delete(name).await?;
        }
    }
    for name in all.iter().skip(1).step_by(2) {
        let times = found.get(name).copied().unwrap_or(0);
        ensure!(times == 1, "{name} stays, and was listed {times} times");
    }
    Ok(())
}

pub(super) async fn staged_and_foreign_names_are_left_out(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    put_all(&*destination, &names(["mixed/a", "mixed/data/b"])?).await?;
    let staged = [format!("mixed/{STAGE_PREFIX}1"), format!("mixed/data/{STAGE_PREFIX}2"), format!("{STAGE_PREFIX}3")];
    for path in staged.iter().map(String::as_str).chain(["mixed/with space", "mixed/data/ünï", "lost+found/x"]) {
        if !place.plant(path, bytes(1, 10)).await? {
            return Err(Stop::Skipped("the fixture cannot plant foreign names"));
        }
    }
    for prefix in [None, Some("mixed")] {
        let found = listed(&*destination, prefix).await?;
        ensure!(found == [("mixed/a".to_owned(), 0), ("mixed/data/b".to_owned(), 1)], "listed: {found:?}");
    }
    Ok(())
}

pub(super) async fn nothing_below_a_prefix_is_an_empty_listing(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    ensure!(listed(&*destination, None).await?.is_empty(), "an empty place has objects");
    ensure!(listed(&*destination, Some("nothing")).await?.is_empty(), "an empty place has objects");
    put_all(&*destination, &names(["thing", "thing2/a"])?).await?;
    for prefix in ["nothing", "thing", "thing2/a", "thin", "thing2/a/b"] {
        let found = listed(&*destination, Some(prefix)).await?;
        ensure!(found.is_empty(), "below {prefix}: {found:?}");
    }
    Ok(())
}

pub(super) async fn each_root_is_listed_once(fixture: &dyn DestinationFixture) -> Outcome {
    let place = ready(fixture.place().await?).await?;
    let destination = place.destination();
    let roots: Vec<String> = destination.list_roots().try_collect().await?;
    ensure!(roots.is_empty(), "an empty place has roots: {roots:?}");
    let mut all = names((0..fixture.many()).map(|n| format!("root{:03}/data/{n:08}", n % 20)))?;
    all.extend(names(["root000-x/a", "single"])?);
    put_all(&*destination, &all).await?;
    let mut found: Vec<String> = destination.list_roots().try_collect().await?;
    found.sort();
    let mut expected: Vec<String> =
        all.iter().map(|name| name.as_str().split('/').next().unwrap_or_default().to_owned()).collect();
    expected.sort();
    expected.dedup();
    ensure!(found == expected, "roots: {found:?}");
    Ok(())
}
