//! Names of staged files, and how they become what they are to be.

use super::Shared;
use crate::adapter::{RestorePlan, Written};
use crate::local::beneath::{Place, Root};
use crate::local::publish::{io_error, remove_file, rename_error, rename_new};
use crate::model::{EntryName, STAGE_PREFIX};
use crate::{Digest, Error, Result};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;
use std::sync::atomic::{AtomicU64, Ordering};

/// A longer tag is shortened to its digest, so that the whole fits a file name.
const MAX_TAG: usize = 128;

/// Makes names of staged files: `.backup-tmp-<tag>-s<random of the process>-<number>` for small entries, and
/// `.backup-tmp-<tag>-l<digest of the path>-<attempt>-<random of the process>-<number>` for large ones, which a later attempt takes over.
/// No two writers ever use one name, so a writer that was taken for dead cannot publish what its successor is writing.
#[derive(Debug)]
pub(super) struct StageNames {
    random: u32,
    next: AtomicU64,
}

impl StageNames {
    pub(super) fn new() -> Self {
        Self { random: rand::random(), next: AtomicU64::new(0) }
    }

    /// A name that no other process uses.
    pub(super) fn fresh(&self, tag: &str) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}s{:08x}-{number}", start(tag), self.random)
    }

    /// A name for a large entry of this path, which no other call uses.
    pub(super) fn large(&self, plan: &RestorePlan, path: &EntryName) -> LargeStage {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        LargeStage { start: large_start(&plan.tag, path), attempt: plan.attempt, random: self.random, number }
    }
}

/// Name of the staged file of a large entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LargeStage {
    start: String,
    attempt: u64,
    random: u32,
    number: u64,
}

impl LargeStage {
    pub(super) fn name(&self) -> String {
        format!("{}{:x}-{:08x}-{}", self.start, self.attempt, self.random, self.number)
    }

    /// Whether a name is of a staged file of the same entry whose writer came before this one.
    pub(super) fn may_take_over(&self, name: &[u8]) -> bool {
        let Some(rest) = name.strip_prefix(self.start.as_bytes()) else { return false };
        match parse_large(rest) {
            Some((attempt, random, number)) => {
                attempt < self.attempt || (attempt == self.attempt && random == self.random && number < self.number)
            }
            None => false,
        }
    }
}

fn large_start(tag: &str, path: &EntryName) -> String {
    format!("{}l{:.32}-", start(tag), Digest::of(path.as_bytes()).to_string())
}

/// Attempt, random and number, from the end of the name of a large entry's staged file.
fn parse_large(rest: &[u8]) -> Option<(u64, u32, u64)> {
    let mut parts = std::str::from_utf8(rest).ok()?.split('-');
    let attempt = u64::from_str_radix(parts.next()?, 16).ok()?;
    let random = u32::from_str_radix(parts.next().filter(|random| random.len() == 8)?, 16).ok()?;
    let number = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((attempt, random, number))
}

fn start(tag: &str) -> String {
    let is_plain = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if is_plain && tag.len() <= MAX_TAG {
        format!("{STAGE_PREFIX}{tag}-")
    } else {
        format!("{STAGE_PREFIX}{:.32}-", Digest::of(tag.as_bytes()).to_string())
    }
}

/// Tells the staged files of one restore from everything else.
pub(super) fn is_stage_of(tag: &str, name: &[u8]) -> bool {
    let hex = |bytes: &[u8]| bytes.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    match name.strip_prefix(start(tag).as_bytes()) {
        Some([b'l', rest @ ..]) if rest.len() > 33 => {
            hex(&rest[..32]) && rest[32] == b'-' && parse_large(&rest[33..]).is_some()
        }
        Some([b's', rest @ ..]) if rest.len() > 9 => {
            hex(&rest[..8]) && rest[8] == b'-' && rest[9..].iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// A staged file that is removed again unless it is published.
pub(super) struct Staged<'a> {
    shared: &'a Shared,
    place: &'a Place<'a>,
    name: &'a [u8],
    kept: bool,
}

impl<'a> Staged<'a> {
    pub(super) fn new(shared: &'a Shared, place: &'a Place<'a>, name: &'a [u8]) -> Self {
        Self { shared, place, name, kept: false }
    }

    /// Gives the file its name. `None`, and the staged file is removed, when something is there that may not be replaced.
    pub(super) fn publish(mut self, root: &Root, overwrite: Option<Existing>) -> Result<Option<Written>> {
        let written = publish(root, self.place, self.name, overwrite)?;
        self.kept = written.is_some();
        Ok(written)
    }

    /// Leaves the file for a later attempt.
    pub(super) fn keep(mut self) {
        self.kept = true;
        self.shared.note_leftover();
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.kept && remove_file(&self.place.dir, self.name).is_err() {
            self.shared.note_leftover();
        }
    }
}

/// What lies under a name that is to be written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    Nothing,
    Something,
}

/// Gives a staged file its name; over what is there if `overwrite` says what that is. `None` when something is there and stays.
fn publish(root: &Root, place: &Place<'_>, stage: &[u8], overwrite: Option<Existing>) -> Result<Option<Written>> {
    let Some(existing) = overwrite else {
        return Ok(rename_new(place.dir.as_fd(), stage, place.last).map_err(rename_error)?.then_some(Written::Created));
    };
    let rename = || renameat(&place.dir, stage, &place.dir, place.last);
    match rename() {
        Ok(()) => {}
        Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
            // Only a directory with nothing in it makes room for a file.
            match unlinkat(&place.dir, place.last, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {
                    return Err(Error::conflict("a directory that is not empty is in the way"));
                }
                Err(e) => return Err(io_error(e, "cannot remove the directory that is in the way")),
            }
            root.forget(&place.path());
            rename().map_err(rename_error)?;
        }
        Err(e) => return Err(rename_error(e)),
    }
    Ok(Some(if existing == Existing::Nothing { Written::Created } else { Written::Replaced }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::target::tests::plan;

    #[test]
    fn staged_files_of_a_restore_are_told_from_those_of_another_and_from_everything_else() {
        let names = StageNames::new();
        let long = "t".repeat(300);
        let tags = ["x", "x-1", "20261120T061500Z-1a2b3c4d", "a/../b", &long];
        for tag in tags {
            let plan = RestorePlan { tag: tag.into(), ..plan(&[]) };
            for name in [names.fresh(tag), names.large(&plan, &"d/f".into()).name()] {
                assert!(name.starts_with(STAGE_PREFIX) && name.len() <= 255 && !name.contains('/'), "{name}");
                for other in tags {
                    assert_eq!(is_stage_of(other, name.as_bytes()), tag == other, "{other} {name}");
                }
            }
        }
        for not in
            ["", "x", ".backup-tmp-x", ".backup-tmp-x-", ".backup-tmp-x-s", ".backup-tmp-x-sx-1", ".backup-tmp-x-l12"]
        {
            assert!(!is_stage_of("x", not.as_bytes()), "{not}");
        }
        assert_ne!(names.fresh("x"), names.fresh("x"));
    }

    #[test]
    fn only_the_staged_file_of_an_earlier_writer_of_the_same_entry_may_be_taken_over() {
        let (here, there) = (StageNames { random: 1, next: 5.into() }, StageNames { random: 2, next: 5.into() });
        let of =
            |names: &StageNames, attempt, path: &str| names.large(&RestorePlan { attempt, ..plan(&[]) }, &path.into());
        let ours = [of(&here, 7, "f"), of(&here, 7, "f")];
        assert!(ours[1].may_take_over(ours[0].name().as_bytes()));
        assert!(!ours[0].may_take_over(ours[1].name().as_bytes()));
        assert!(!ours[0].may_take_over(ours[0].name().as_bytes()));
        for (other, before) in [
            (of(&there, 6, "f"), true),
            (of(&there, 7, "f"), false),
            (of(&there, 8, "f"), false),
            (of(&here, 8, "f"), false),
            (of(&here, 6, "f"), true),
            (of(&here, 6, "g"), false),
        ] {
            assert_eq!(ours[1].may_take_over(other.name().as_bytes()), before, "{other:?}");
        }
        for not in ["", "../outside/secret", &format!("{}1-00000001", ours[0].start), &ours[0].start] {
            assert!(!ours[1].may_take_over(not.as_bytes()), "{not}");
        }
    }
}
