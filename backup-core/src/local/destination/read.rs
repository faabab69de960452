//! Gets: ranged reads in steps, one step ahead of the consumer.

use super::{Place, split};
use crate::adapter::ByteStream;
use crate::local::blocking::joined;
use crate::local::publish::io_error;
use crate::local::rw::{STEP, read_full};
use crate::model::ObjectName;
use crate::{Error, Result};
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;

impl Place {
    /// Opens an object and settles which bytes of it are to be read.
    pub(super) fn open(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<(OwnedFd, Range<u64>)> {
        let absent = || Error::not_found("there is no such object");
        let (parent, last) = split(name);
        let dir = self.dir(parent)?.ok_or_else(absent)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&dir, last, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT | Errno::LOOP | Errno::NXIO => absent(),
            e => io_error(e, "cannot open the object"),
        })?;
        let stat = fstat(&file).map_err(|e| io_error(e, "cannot look at the object"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(absent());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let range = range.unwrap_or(0..size);
        if range.start > range.end {
            return Err(Error::invalid(format!("the range {}..{} ends before it starts", range.start, range.end)));
        }
        if range.end > size {
            return Err(Error::corrupt(format!(
                "the object has {size} bytes where {}..{} are asked for",
                range.start, range.end
            )));
        }
        Ok((file, range))
    }
}

/// The bytes of a range. Holds at most two steps in memory: one that is delivered and one that is read meanwhile.
pub(super) fn stream(name: ObjectName, file: OwnedFd, range: Range<u64>) -> ByteStream {
    let file = Arc::new(file);
    let read = move |at: u64| {
        let (file, name, end) = (file.clone(), name.clone(), range.end);
        (at < end).then(|| tokio::task::spawn_blocking(move || step(&file, at, end).map_err(|e| e.on(name))))
    };
    Box::pin(async_stream::try_stream! {
        let mut at = range.start;
        let mut ahead = read(at);
        while let Some(reading) = ahead {
            let bytes = joined(reading.await)?;
            at += bytes.len() as u64;
            ahead = read(at);
            yield bytes;
        }
    })
}

fn step(file: &OwnedFd, at: u64, end: u64) -> Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(end - at).unwrap_or(STEP).min(STEP)];
    let read = read_full(file.as_fd(), at, &mut bytes).map_err(|e| io_error(e, "cannot read the object"))?;
    if read < bytes.len() {
        return Err(Error::corrupt("the object became shorter while it was read"));
    }
    Ok(bytes.into())
}
