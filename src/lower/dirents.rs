//! Directory records (`struct linux_dirent64`) and the place where a listing stands.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, SeekFrom};

use crate::error::{CallExt, FsError};
use crate::sys::dirents::getdents;

/// How much of a directory is read in one call.
const CHUNK: usize = 32 * 1024;
/// The fixed part of a record: inode (8), offset (8), length (2), type (1).
const HEADER: usize = 19;

/// One entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// The inode number.
    pub ino: u64,
    /// Where reading goes on after this entry.
    pub next: u64,
    /// The type, where the file system says it here.
    pub kind: FileType,
    /// The name.
    pub name: &'a OsStr,
}

/// Takes the first record off `bytes`; `None` when nothing whole and sane is left.
pub fn parse(bytes: &[u8]) -> Option<(Dirent<'_>, &[u8])> {
    let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let kind = *bytes.get(18)?;
    let name = bytes.get(HEADER..length)?;
    let end = name.iter().position(|&b| b == 0)?;
    let dirent = Dirent {
        ino: number(0)?,
        next: number(8)?,
        kind: file_type(kind),
        name: OsStr::from_bytes(&name[..end]),
    };
    Some((dirent, &bytes[length..]))
}

fn file_type(kind: u8) -> FileType {
    // DT_* are the type bits of a mode (readdir(3), `IFTODT`).
    match kind {
        0 => FileType::Unknown,
        kind => FileType::from_raw_mode(u32::from(kind) << 12),
    }
}

/// What has been read ahead of an open directory.
#[derive(Default)]
pub struct DirStream {
    buffer: Vec<u8>,
    start: usize,
    /// The offset of the entry at `start`.
    position: u64,
}

impl DirStream {
    /// Visits entries from `offset` on until `visit` says that it has no room (returns false) or
    /// the directory ends. An entry that was refused is visited again next time.
    pub fn visit(
        &mut self,
        dir: BorrowedFd<'_>,
        offset: u64,
        mut visit: impl FnMut(Dirent<'_>) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        if offset != self.position || offset == 0 {
            rustix::fs::seek(dir, SeekFrom::Start(offset)).call("lseek")?;
            self.buffer.clear();
            self.start = 0;
            self.position = offset;
        }
        loop {
            if self.start >= self.buffer.len() && !self.fill(dir)? {
                return Ok(());
            }
            let rest = &self.buffer[self.start..];
            let Some((dirent, after)) = parse(rest) else {
                self.start = self.buffer.len();
                continue;
            };
            let (next, length) = (dirent.next, rest.len() - after.len());
            if !visit(dirent)? {
                return Ok(());
            }
            self.start += length;
            self.position = next;
        }
    }

    fn fill(&mut self, dir: BorrowedFd<'_>) -> Result<bool, FsError> {
        self.buffer.resize(CHUNK, 0);
        self.start = 0;
        let filled = getdents(dir, &mut self.buffer).call("getdents64");
        self.buffer.truncate(*filled.as_ref().unwrap_or(&0));
        Ok(filled? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(ino: u64, next: u64, kind: u8, name: &[u8]) -> Vec<u8> {
        let length = (HEADER + name.len() + 1).next_multiple_of(8);
        let mut bytes = Vec::new();
        bytes.extend(ino.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes.extend(u16::try_from(length).unwrap().to_ne_bytes());
        bytes.push(kind);
        bytes.extend(name);
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn records_are_read_one_after_another() {
        let bytes = [record(7, 1, 4, b"dir"), record(8, 2, 8, b"\xffodd\n")].concat();
        let (first, rest) = parse(&bytes).unwrap();
        assert_eq!(
            (first.ino, first.kind, first.name.as_bytes()),
            (7, FileType::Directory, &b"dir"[..])
        );
        let (second, rest) = parse(rest).unwrap();
        assert_eq!((second.next, second.name.as_bytes()), (2, &b"\xffodd\n"[..]));
        assert!(parse(rest).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_can_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut rest = &bytes[..];
            while let Some((_, after)) = parse(rest) {
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
        }

        #[test]
        fn what_was_written_is_read(ino: u64, next: u64, name in proptest::collection::vec(1..=255u8, 1..255)) {
            let bytes = record(ino, next, 8, &name);
            let (dirent, rest) = parse(&bytes).unwrap();
            prop_assert_eq!((dirent.ino, dirent.next, dirent.name.as_bytes()), (ino, next, &name[..]));
            prop_assert!(rest.is_empty());
        }
    }
}
