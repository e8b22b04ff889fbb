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
    /// The lower offset of the entry at `start`.
    position: u64,
    offsets: Offsets,
}

/// What a directory's offsets are.
///
/// The mount's callers must be able to keep them in 31 bits: readdir(3) of a 32-bit program fails
/// otherwise (`EOVERFLOW`), or seekdir(3) goes to a wrong place. They are, on most file systems. An
/// ext4 takes a hash of 63 bits from its 64-bit callers, such as this server, whose upper half is
/// what it would give a 32-bit one. That half is what is told here. It says nearly always as much: of
/// 100,000 names some two pairs share it, and then a return to between the two gives the first of
/// them once more. Going on where a listing stands is not concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Offsets {
    #[default]
    Unknown,
    /// They are told as they are.
    Plain,
    /// The hashes of an ext4.
    Hashes,
}

/// The end of an ext4 directory (`EXT4_HTREE_EOF_64BIT`, and `…_32BIT`).
const END: u64 = 0x7fff_ffff_ffff_ffff;
const SHORT_END: u64 = 0x7fff_ffff;

impl Offsets {
    /// Learns from the first record: an offset in the directory's bytes is small. An overlay passes
    /// on what its layer says.
    fn of(first: &Dirent<'_>, dir: BorrowedFd<'_>) -> Self {
        const HASHING: [i64; 2] = [libc::EXT4_SUPER_MAGIC, libc::OVERLAYFS_SUPER_MAGIC];
        let is_long = u32::try_from(first.next).is_err();
        if is_long && rustix::fs::fstatfs(dir).is_ok_and(|fs| HASHING.contains(&fs.f_type)) {
            Offsets::Hashes
        } else {
            Offsets::Plain
        }
    }

    /// A lower offset as it is told.
    fn told(self, lower: u64) -> u64 {
        match self {
            Offsets::Hashes if lower == END => SHORT_END,
            Offsets::Hashes => lower >> 32,
            Offsets::Plain | Offsets::Unknown => lower,
        }
    }

    /// The lower offset for one that was told.
    fn lower(self, told: u64) -> u64 {
        match self {
            Offsets::Hashes if told == SHORT_END => END,
            Offsets::Hashes if told < SHORT_END => told << 32,
            _ => told,
        }
    }
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
        if offset == 0 || offset != self.offsets.told(self.position) {
            self.seek(dir, offset)?;
        }
        loop {
            if self.start >= self.buffer.len() && !self.fill(dir)? {
                return Ok(());
            }
            let rest = &self.buffer[self.start..];
            let Some((mut dirent, after)) = parse(rest) else {
                self.start = self.buffer.len();
                continue;
            };
            let (next, length) = (dirent.next, rest.len() - after.len());
            if self.position == 0 {
                self.offsets = Offsets::of(&dirent, dir);
            }
            dirent.next = self.offsets.told(next);
            if !visit(dirent)? {
                return Ok(());
            }
            self.start += length;
            self.position = next;
        }
    }

    fn seek(&mut self, dir: BorrowedFd<'_>, offset: u64) -> Result<(), FsError> {
        self.start = 0;
        if offset != 0 && self.offsets == Offsets::Unknown {
            // Told by another server, or to another reader: what it means the beginning tells.
            self.start_at(dir, 0)?;
            self.fill(dir)?;
            let first = parse(&self.buffer).map(|(first, _)| first);
            self.offsets = first.map_or(Offsets::Plain, |first| Offsets::of(&first, dir));
        }
        self.start_at(dir, self.offsets.lower(offset))
    }

    fn start_at(&mut self, dir: BorrowedFd<'_>, position: u64) -> Result<(), FsError> {
        rustix::fs::seek(dir, SeekFrom::Start(position)).call("lseek")?;
        self.buffer.clear();
        self.position = position;
        Ok(())
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

    #[test]
    fn offsets_that_are_hashes_are_told_in_31_bits() {
        let hashes = Offsets::Hashes;
        for (lower, told) in
            [(0, 0), (1 << 32, 1), (0x7fff_fffe_1234_5678, 0x7fff_fffe), (END, SHORT_END)]
        {
            assert_eq!(hashes.told(lower), told);
            assert_eq!(hashes.lower(told) >> 32, lower >> 32);
        }
        assert_eq!((hashes.lower(SHORT_END), hashes.lower(END)), (END, END));
        assert_eq!((Offsets::Plain.told(END), Offsets::Plain.lower(7)), (END, 7));
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
