//! Whole reads and writes on open files.

use bytes::Bytes;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::io::IoSlice;

/// The step in which files are read, in bytes.
pub(super) const STEP: usize = 1 << 20;

/// How many pieces go into one `writev`; the kernel takes 1,024.
const PIECES_AT_ONCE: usize = 256;

/// Writes all pieces, one after the other, in as few calls as possible.
pub(super) fn write_pieces(file: BorrowedFd<'_>, pieces: &[Bytes]) -> rustix::io::Result<()> {
    let mut skip = 0; // Bytes of the first piece that are written already.
    let mut next = 0;
    while next < pieces.len() {
        let slices: Vec<IoSlice<'_>> = pieces[next..]
            .iter()
            .take(PIECES_AT_ONCE)
            .enumerate()
            .map(|(i, piece)| IoSlice::new(if i == 0 { &piece[skip..] } else { piece }))
            .collect();
        if slices.iter().all(|slice| slice.is_empty()) {
            next += slices.len();
            skip = 0;
            continue;
        }
        let mut written = match rustix::io::writev(file, &slices) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        while written > 0 {
            let rest = pieces[next].len() - skip;
            if written < rest {
                skip += written;
                break;
            }
            written -= rest;
            skip = 0;
            next += 1;
        }
    }
    Ok(())
}

/// Writes all bytes at an offset.
pub(super) fn write_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Holes are made of whole blocks of this size.
const BLOCK: usize = 4096;

/// Writes bytes at an offset, but for the blocks of the file that would be all zeros. Who calls it sets the length of the file in the end.
pub(super) fn write_sparse(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> rustix::io::Result<()> {
    let mut start = 0; // Of what is to be written next.
    let mut at = 0;
    while at < bytes.len() {
        let into_block = ((offset + at as u64) % BLOCK as u64) as usize;
        let end = (at + BLOCK - into_block).min(bytes.len());
        if end - at == BLOCK && bytes[at..end] == [0; BLOCK] {
            write_at(file, &bytes[start..at], offset + start as u64)?;
            start = end;
        }
        at = end;
    }
    write_at(file, &bytes[start..], offset + start as u64)
}

/// Fills `buffer` from `offset` on; answers less than its length only at the end of the file.
pub(super) fn read_full(file: BorrowedFd<'_>, mut offset: u64, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match rustix::io::pread(file, &mut buffer[have..], offset) {
            Ok(0) => break,
            Ok(n) => {
                have += n;
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

/// Tells whether a file holds exactly these pieces, one after the other.
pub(super) fn holds(file: BorrowedFd<'_>, pieces: &[Bytes]) -> rustix::io::Result<bool> {
    let longest = pieces.iter().map(Bytes::len).max().unwrap_or(0);
    let mut buffer = vec![0; longest.clamp(1, STEP)];
    let mut offset = 0;
    for part in pieces.iter().flat_map(|piece| piece.chunks(STEP)) {
        let read = read_full(file, offset, &mut buffer[..part.len()])?;
        if buffer[..read] != *part {
            return Ok(false);
        }
        offset += read as u64;
    }
    Ok(read_full(file, offset, &mut buffer[..1])? == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn pieces_are_written_whole_and_in_order_whatever_their_number_and_size() {
        let mut pieces = vec![Bytes::new(); 300];
        pieces.extend((0..700_u32).map(|i| Bytes::from(i.to_le_bytes().repeat(i as usize % 7))));
        pieces.push(Bytes::from(vec![7; 3 << 20]));
        let file = tempfile::tempfile().unwrap();
        write_pieces(file.as_fd(), &pieces).unwrap();
        assert!(holds(file.as_fd(), &pieces).unwrap());
        let whole = pieces.concat();
        let mut read = vec![0; whole.len() + 1];
        assert_eq!(read_full(file.as_fd(), 0, &mut read).unwrap(), whole.len());
        assert!(read[..whole.len()] == whole);
    }

    #[test]
    fn blocks_of_zeros_become_holes_and_everything_else_is_written() {
        use std::os::unix::fs::MetadataExt as _;
        let mut whole = vec![0; 64 * BLOCK];
        whole[5 * BLOCK + 7] = 1;
        whole[40 * BLOCK..42 * BLOCK].fill(2);
        for cut in [0, 1, BLOCK, 5 * BLOCK + 8, 33 * BLOCK + 5] {
            let file = tempfile::tempfile().unwrap();
            write_sparse(file.as_fd(), &whole[..cut], 0).unwrap();
            write_sparse(file.as_fd(), &whole[cut..], cut as u64).unwrap();
            file.set_len(whole.len() as u64).unwrap();
            assert!(holds(file.as_fd(), &[Bytes::from(whole.clone())]).unwrap(), "{cut}");
            assert!(file.metadata().unwrap().blocks() * 512 <= 5 * BLOCK as u64, "{cut}");
        }
    }

    #[test]
    fn a_file_that_is_longer_shorter_or_different_does_not_hold_the_pieces() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abcdef").unwrap();
        let holds = |text: &'static [u8]| holds(file.as_fd(), &[Bytes::from_static(text)]).unwrap();
        assert!(holds(b"abcdef"));
        assert!(!holds(b"abcde"));
        assert!(!holds(b"abcdefg"));
        assert!(!holds(b"abcdeF"));
        assert!(!super::holds(file.as_fd(), &[]).unwrap());
    }
}
