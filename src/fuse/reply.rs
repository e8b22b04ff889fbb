//! Putting replies together: attributes, entries, listings as the protocol wants them.

use std::ffi::OsStr;
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::{FileType, StatxFlags};
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::wire::{AttrOut, AttrWire, Dirent, EntryOut, StatxOut, SxTime};
use crate::fs::{Attr, DirEntry, KnownAttr, Valid};
use crate::lower::stat::{Timestamp, decode_rdev};
use crate::lower::table::ROOT_ID;

/// Attributes, for `GETATTR` and within entries.
fn attr_wire(attr: &Attr) -> AttrWire {
    AttrWire {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.sec,
        mtime: attr.mtime.sec,
        ctime: attr.ctime.sec,
        atimensec: attr.atime.nsec,
        mtimensec: attr.mtime.nsec,
        ctimensec: attr.ctime.nsec,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// The answer to `GETATTR` and `SETATTR`.
pub(super) fn attr_out(KnownAttr { attr, valid }: &KnownAttr) -> AttrOut {
    AttrOut {
        attr_valid: valid.as_secs(),
        attr_valid_nsec: valid.subsec_nanos(),
        dummy: 0,
        attr: attr_wire(attr),
    }
}

/// A name and what it stands for. A nodeid is not given to a second file while the kernel knows the
/// first; for handles that outlive that there is the generation.
pub(super) fn entry_out(nodeid: u64, attr: &Attr, valid: Valid) -> EntryOut {
    EntryOut {
        nodeid,
        // The kernel has made the root itself, and calls it the first.
        generation: if nodeid == ROOT_ID { 0 } else { attr.generation.into() },
        entry_valid: valid.name.as_secs(),
        attr_valid: valid.attr.as_secs(),
        entry_valid_nsec: valid.name.subsec_nanos(),
        attr_valid_nsec: valid.attr.subsec_nanos(),
        attr: attr_wire(attr),
    }
}

/// The nodeid in an answer that begins with an entry, if that is a regular file.
pub(super) fn regular_file(payload: &[u8]) -> Option<u64> {
    let word = |at: usize| payload.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let mode = word(offset_of!(EntryOut, attr) + offset_of!(AttrWire, mode))?;
    let nodeid = u64::from_ne_bytes(payload.get(..8)?.try_into().ok()?);
    (mode & libc::S_IFMT == libc::S_IFREG).then_some(nodeid)
}

/// A name that is not there, for the kernel to remember.
pub(super) fn negative_entry(timeout: Duration) -> EntryOut {
    EntryOut {
        entry_valid: timeout.as_secs(),
        entry_valid_nsec: timeout.subsec_nanos(),
        ..EntryOut::default()
    }
}

/// The answer to `STATX`: the basic attributes, and the time of birth where there is one.
pub(super) fn statx_out(KnownAttr { attr, valid }: &KnownAttr) -> StatxOut {
    let birth = if attr.btime.is_some() { StatxFlags::BTIME } else { StatxFlags::empty() };
    let (rdev_major, rdev_minor) = decode_rdev(attr.rdev);
    StatxOut {
        attr_valid: valid.as_secs(),
        attr_valid_nsec: valid.subsec_nanos(),
        mask: (StatxFlags::BASIC_STATS | birth).bits(),
        blksize: attr.blksize,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: u16::try_from(attr.mode).unwrap_or(0),
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: sx_time(attr.atime),
        btime: sx_time(attr.btime.unwrap_or_default()),
        ctime: sx_time(attr.ctime),
        mtime: sx_time(attr.mtime),
        rdev_major,
        rdev_minor,
        ..StatxOut::default()
    }
}

fn sx_time(time: Timestamp) -> SxTime {
    SxTime { sec: time.sec, nsec: time.nsec, reserved: 0 }
}

/// Where answers go.
pub(super) trait Sink {
    /// Takes the answer to the request `unique`: an errno, or this payload. `Err(NOENT)` means that
    /// nobody waits for it any more.
    fn answer(&mut self, unique: u64, errno: Option<Errno>, payload: &[u8]) -> Result<(), Errno>;
}

/// A reply's payload while it grows.
#[derive(Default)]
pub(super) struct Payload {
    pub(super) bytes: Vec<u8>,
}

impl Payload {
    /// Adds a protocol struct.
    pub(super) fn push<T: IntoBytes + Immutable>(&mut self, value: &T) {
        self.bytes.extend_from_slice(value.as_bytes());
    }

    /// Adds a directory entry, with what it stands for in a listing with attributes; false if it
    /// would make the payload longer than `limit`.
    pub(super) fn push_dirent(
        &mut self,
        entry: &DirEntry<'_>,
        plus: Option<&EntryOut>,
        limit: usize,
    ) -> bool {
        let name = entry.name.as_bytes();
        let before = plus.map_or(0, |_| size_of::<EntryOut>());
        let length = (before + size_of::<Dirent>() + name.len()).next_multiple_of(8);
        let end = self.bytes.len() + length;
        if end > limit {
            return false;
        }
        if let Some(plus) = plus {
            self.push(plus);
        }
        let namelen = u32::try_from(name.len()).unwrap_or(0);
        let kind = dirent_type(entry.kind);
        self.push(&Dirent { ino: entry.ino, off: entry.next, namelen, kind });
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }
}

/// `DT_*`: the type bits of a mode, shifted (readdir(3)).
fn dirent_type(kind: FileType) -> u32 {
    if kind == FileType::Unknown { 0 } else { kind.as_raw_mode() >> 12 }
}

/// Whether it is `.` or `..`, which are listed but are no lookups.
pub(super) fn is_dot(name: &OsStr) -> bool {
    matches!(name.as_bytes(), b"." | b"..")
}
