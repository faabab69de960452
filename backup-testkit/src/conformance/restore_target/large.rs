//! Cases about large entries.

use super::fixture::{SeenItem, TargetFixture, TargetPlace};
use super::restore::{Ending, absent, check, reader, reader_expecting, write};
use super::sample::{Sample, plan};
use crate::conformance::suite::{bytes, ensure, given, refused};
use crate::conformance::{Outcome, Stop};
use backup_core::adapter::{EntryProgress, RestorePlan, RestoreTarget, SavedProgress, Written};
use backup_core::{Digest, Error, ErrorClass, Result, Sha256};
use std::sync::Arc;
use std::time::Duration;

async fn prepared(
    fixture: &dyn TargetFixture,
) -> Outcome<(Box<dyn TargetPlace>, Arc<dyn RestoreTarget>, Sample, RestorePlan)> {
    let large = given(fixture.samples().large, "the fixture has no large entry")?;
    let place = fixture.place().await?;
    let (target, plan) = (place.target(), plan([&large]));
    target.prepare(&plan).await?;
    Ok((place, target, large, plan))
}

async fn write_large(
    target: &dyn RestoreTarget,
    plan: &RestorePlan,
    sample: &Sample,
    progress: &EntryProgress,
    ending: Ending,
) -> Result<Written> {
    target.write_large(plan, &sample.entry, reader(&sample.content, progress, ending), progress).await.flatten()
}

pub(super) async fn nothing_is_visible_before_the_end(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, large, plan) = prepared(fixture).await?;
    for at in [0, large.entry.size / 2, large.entry.size] {
        let progress = EntryProgress::default();
        let writing = write_large(&*target, &plan, &large, &progress, Ending::Stall(at));
        let stalled = tokio::time::timeout(Duration::from_millis(500), writing).await;
        ensure!(stalled.is_err(), "the write ended before its content");
        absent(&*place, large.name()).await?;
    }
    // What the dropped calls left behind is in nobody's way.
    write_large(&*target, &plan, &large, &EntryProgress::default(), Ending::Whole).await?;
    check(&*place, &[large], &[], false).await
}

pub(super) async fn a_wrong_digest_or_length_is_not_published(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, large, plan) = prepared(fixture).await?;
    let (size, digest) = (large.entry.size, Digest::of(&large.content));
    for (size, digest) in [(size, Digest::of(b"other")), (size + 1, digest), (size - 1, digest)] {
        let progress = EntryProgress::default();
        let content = reader_expecting(&large.content, &progress, Ending::Whole, size, digest);
        let answer = target.write_large(&plan, &large.entry, content, &progress).await;
        refused(answer, &[ErrorClass::Corrupt], "a write of content that is not the recorded one")?;
        absent(&*place, large.name()).await?;
    }
    Ok(())
}

pub(super) async fn content_of_any_size_is_written(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, large, plan) = prepared(fixture).await?;
    for size in [0, 1, 4095, 65_536, (1 << 20) - 1] {
        let sample = Sample::new(&format!("sizes/{size}"), large.entry.kind.clone(), bytes(size, size as usize));
        let written = write_large(&*target, &plan, &sample, &EntryProgress::default(), Ending::Whole).await?;
        ensure!(written == Written::Created, "{size} bytes in an empty place are {written:?}");
        check(&*place, &[sample], &[], false).await?;
    }
    let written = write_large(&*target, &plan, &large, &EntryProgress::default(), Ending::Whole).await?;
    ensure!(written == Written::Created, "{} in an empty place is {written:?}", large.name());
    check(&*place, &[large], &[], false).await
}

pub(super) async fn an_item_in_the_way_is_the_inner_error(fixture: &dyn TargetFixture) -> Outcome {
    let (_place, target, large, plan) = prepared(fixture).await?;
    let mut other = Sample::new("", large.entry.kind.clone(), "another content");
    other.entry.name = large.name().clone();
    write(&*target, &plan, std::slice::from_ref(&other)).await?;
    let progress = EntryProgress::default();
    let content = reader(&large.content, &progress, Ending::Whole);
    match target.write_large(&plan, &large.entry, content, &progress).await {
        Ok(Err(error)) if error.class() == ErrorClass::Conflict => Ok(()),
        answer => Err(Stop::Failed(format!("an item in the way is answered with {answer:?}"))),
    }
}

pub(super) async fn existing_items_are_treated_as_by_write_small(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, large, mut plan) = prepared(fixture).await?;
    let mut other = Sample::new("", large.entry.kind.clone(), "another content");
    other.entry.name = large.name().clone();
    write(&*target, &plan, std::slice::from_ref(&other)).await?;
    let answer = write_large(&*target, &plan, &large, &EntryProgress::default(), Ending::Whole).await;
    refused(answer, &[ErrorClass::Conflict], "a write where another item is")?;
    check(&*place, std::slice::from_ref(&other), &[], false).await?;
    plan.overwrite = true;
    for expected in [Written::Replaced, Written::AlreadyThere] {
        let written = write_large(&*target, &plan, &large, &EntryProgress::default(), Ending::Whole).await?;
        ensure!(written == expected, "{written:?} instead of {expected:?}");
        check(&*place, std::slice::from_ref(&large), &[], false).await?;
    }
    plan.overwrite = false;
    let written = write_large(&*target, &plan, &large, &EntryProgress::default(), Ending::Whole).await?;
    ensure!(written == Written::AlreadyThere, "the same item again is {written:?}");
    Ok(())
}

pub(super) async fn a_resumed_entry_is_as_without_interruption(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, large, mut plan) = prepared(fixture).await?;
    let mut target = target;
    let mut saved = None;
    for part in 1..6 {
        let progress = EntryProgress::resumed(saved.take());
        let start = progress.saved().map_or(0, |saved| saved.offset);
        let broken = Ending::Error((large.entry.size * part / 6).max(start), Error::transient("broken off"));
        let answer = write_large(&*target, &plan, &large, &progress, broken).await;
        refused(answer, &[ErrorClass::Transient], "a write whose content broke off")?;
        absent(&*place, large.name()).await?;
        // As the engine does: only what was synced goes into the checkpoint.
        saved = progress.saved();
        target.sync().await?;
        if let Some(saved) = &saved {
            let offset = saved.offset as usize;
            let matches = saved.hash.clone().finish() == Digest::of(&large.content[..offset]);
            ensure!(matches, "the progress at {offset} has the hash of other bytes");
        }
        // Another process, which knows only what was saved.
        target = place.again().await?;
        plan.resumed = true;
        plan.attempt += 1;
        target.prepare(&plan).await?;
    }
    let progress = EntryProgress::resumed(saved);
    let written = write_large(&*target, &plan, &large, &progress, Ending::Whole).await?;
    ensure!(written == Written::Created, "the resumed entry is {written:?}");
    check(&*place, &[large], &[], false).await
}

pub(super) async fn a_saved_state_of_no_use_is_changed(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, large, mut plan) = prepared(fixture).await?;
    plan.resumed = true;
    plan.attempt += 1;
    let mut hash = Sha256::new();
    hash.update(&large.content[..1000]);
    for state in [serde_json::Value::Null, serde_json::json!({ "nonsense": [1, 2, 3] }), serde_json::json!("../x")] {
        let saved = SavedProgress { offset: 1000, hash: hash.clone(), state };
        let progress = EntryProgress::resumed(Some(saved));
        let answer = write_large(&*target, &plan, &large, &progress, Ending::Whole).await;
        refused(answer, &[ErrorClass::Changed], "going on from a state that no target saved")?;
        absent(&*place, large.name()).await?;
    }
    write_large(&*target, &plan, &large, &EntryProgress::default(), Ending::Whole).await?;
    check(&*place, &[large], &[], false).await
}

pub(super) async fn an_error_of_the_reader_comes_back_and_nothing_is_published(fixture: &dyn TargetFixture) -> Outcome {
    let (place, target, large, plan) = prepared(fixture).await?;
    for (at, class) in [(0, ErrorClass::NotFound), (large.entry.size / 2, ErrorClass::Corrupt)] {
        let error = || Error::new(class, "the test's own error").on("volume 7");
        let (ending, progress) = (Ending::Error(at, error()), EntryProgress::default());
        let content = reader(&large.content, &progress, ending);
        let Err(answer) = target.write_large(&plan, &large.entry, content, &progress).await else {
            return Err(Stop::Failed("a write whose content broke off gave no outer error".to_owned()));
        };
        let same = answer.class() == class && answer.to_string() == error().to_string();
        ensure!(same, "the reader's error came back as {answer:?}");
        ensure!(!matches!(place.look(large.name()).await?, Some(SeenItem::Content(_))), "something was published");
    }
    Ok(())
}
