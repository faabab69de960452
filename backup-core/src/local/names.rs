//! The names in a directory, in order and in bounded memory.
//!
//! A directory gives its names in any order and may hold any number of them. One pass over it keeps the smallest names
//! above a given one, as many as fit; when there are more, the next pass goes on above the last.

use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;

/// Bytes of one slot beside the name itself.
const SLOT: usize = size_of::<Slot>();

/// Unused memory that is not worth giving back.
const WASTE: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u32,
    length: u16,
    /// What the directory says of its type.
    kind: FileType,
}

/// Some of a directory's names, in byte order.
#[derive(Debug, Default)]
pub(crate) struct Names {
    text: Vec<u8>,
    slots: Vec<Slot>,
    next: usize,
    /// There were names behind the last one here that did not fit.
    pub(crate) more: bool,
}

impl Names {
    /// Just this name.
    pub(crate) fn single(name: &[u8]) -> Self {
        let mut names = Self::default();
        names.push(name, FileType::Unknown);
        names
    }

    /// Makes one pass over a directory and keeps the smallest names above `after` that fit `bound` bytes.
    pub(crate) fn list(directory: BorrowedFd<'_>, after: Option<&[u8]>, bound: usize) -> Result<Self, Errno> {
        let mut names = Self::default();
        // Names from here on did not fit.
        let mut end: Option<Vec<u8>> = None;
        rustix::fs::seek(directory, SeekFrom::Start(0))?;
        each_name(directory, |name, kind| {
            let below_end = end.as_ref().is_none_or(|end| name < end.as_slice());
            if after.is_some_and(|after| name <= after) || !below_end {
                return;
            }
            names.push(name, kind);
            if names.used() > bound && names.slots.len() > 1 {
                end = Some(names.drop_largest());
            }
        })?;
        names.more = end.is_some();
        names.sort();
        if names.more || names.memory() > WASTE {
            names.text.shrink_to_fit();
            names.slots.shrink_to_fit();
        }
        Ok(names)
    }

    fn push(&mut self, name: &[u8], kind: FileType) {
        // No file system has names near these limits, and the bound keeps the text small.
        let (Ok(start), Ok(length)) = (u32::try_from(self.text.len()), u16::try_from(name.len())) else { return };
        self.slots.push(Slot { start, length, kind });
        self.text.extend_from_slice(name);
    }

    fn text_of(text: &[u8], slot: Slot) -> &[u8] {
        &text[slot.start as usize..][..usize::from(slot.length)]
    }

    fn used(&self) -> usize {
        self.text.len() + self.slots.len() * SLOT
    }

    fn sort(&mut self) {
        let text = &self.text;
        self.slots.sort_unstable_by(|a, b| Self::text_of(text, *a).cmp(Self::text_of(text, *b)));
        // A directory that is changed meanwhile may give a name twice.
        self.slots.dedup_by(|a, b| Self::text_of(text, *a) == Self::text_of(text, *b));
    }

    /// Keeps the smaller three quarters; returns the smallest name dropped.
    fn drop_largest(&mut self) -> Vec<u8> {
        let keep = (self.slots.len() * 3 / 4).max(1);
        let text = &self.text;
        let (_, first_dropped, _) =
            self.slots.select_nth_unstable_by(keep, |a, b| Self::text_of(text, *a).cmp(Self::text_of(text, *b)));
        let end = Self::text_of(text, *first_dropped).to_vec();
        self.slots.truncate(keep);
        // Moved together where they are: a second buffer would double the memory for a moment.
        self.slots.sort_unstable_by_key(|slot| slot.start);
        let mut used = 0;
        for slot in &mut self.slots {
            let start = slot.start as usize;
            self.text.copy_within(start..start + usize::from(slot.length), used);
            slot.start = used as u32;
            used += usize::from(slot.length);
        }
        self.text.truncate(used);
        end
    }

    /// Bytes of memory that it occupies.
    pub(crate) fn memory(&self) -> usize {
        self.text.capacity() + self.slots.capacity() * SLOT
    }

    /// The next name and its type as far as the directory told.
    pub(crate) fn next(&mut self) -> Option<(&[u8], FileType)> {
        let slot = *self.slots.get(self.next)?;
        self.next += 1;
        Some((Self::text_of(&self.text, slot), slot.kind))
    }

    /// The name that was given last.
    pub(crate) fn last(&self) -> Option<&[u8]> {
        Some(Self::text_of(&self.text, *self.slots.get(self.next.checked_sub(1)?)?))
    }

    /// Whether all names here have been given.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.next >= self.slots.len()
    }
}

/// Calls `each` for every name but `.` and `..`, in the directory's own order.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn each_name(directory: BorrowedFd<'_>, mut each: impl FnMut(&[u8], FileType)) -> Result<(), Errno> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 32 << 10];
    let mut entries = rustix::fs::RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            entry => entry?,
        };
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, entry.file_type());
        }
    }
    Ok(())
}

/// Calls `each` for every name but `.` and `..`, in the directory's own order.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn each_name(directory: BorrowedFd<'_>, mut each: impl FnMut(&[u8], FileType)) -> Result<(), Errno> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, entry.file_type());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::identity::os;
    use rand::seq::SliceRandom;
    use std::os::fd::AsFd;

    #[test]
    fn any_bound_gives_all_names_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut expected: Vec<Vec<u8>> = (0..700_u32)
            .map(|i| match i % 3 {
                0 => format!("{i}").into_bytes(),
                1 => format!("name-{}", i.wrapping_mul(2_654_435_761)).into_bytes(),
                _ => [&b"\xff\x01"[..], &vec![b'x'; i as usize % 90], i.to_string().as_bytes()].concat(),
            })
            .collect();
        expected.shuffle(&mut rand::rng());
        for name in &expected {
            std::fs::write(dir.path().join(os(name)), "").unwrap();
        }
        expected.sort();
        let handle = std::fs::File::open(dir.path()).unwrap();
        for bound in [1, 100, 1000, 10_000, 8 << 20] {
            let mut found = Vec::new();
            let mut passes = 0;
            loop {
                let mut names = Names::list(handle.as_fd(), found.last().map(Vec::as_slice), bound).unwrap();
                assert!(names.used() <= bound || names.slots.len() == 1);
                assert!(names.memory() <= bound.max(300), "what is counted is what is held");
                while let Some((name, kind)) = names.next() {
                    assert!(matches!(kind, FileType::RegularFile | FileType::Unknown));
                    found.push(name.to_vec());
                }
                assert_eq!(names.last(), found.last().map(Vec::as_slice));
                passes += 1;
                if !names.more {
                    break;
                }
            }
            assert_eq!(found, expected, "bound {bound}");
            assert_eq!(passes == 1, bound > 1_000_000, "bound {bound}: {passes} passes");
        }
    }
}
