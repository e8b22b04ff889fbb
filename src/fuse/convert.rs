//! Between the library's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, Request, TimeOrNow};
use rustix::fs::FileType as LowerType;

use crate::error::FsError;
use crate::fs::{Attr, Caller, SetTime};
use crate::lower::stat::Timestamp;
use crate::shift::id::{INVALID, Id};

/// The caller as a request names it. The kernel sends the ids of the mount's user namespace, and
/// −1 for one that has none there.
pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: Id::new(request.uid()), gid: Id::new(request.gid()), tid: request.pid() }
}

/// The errno that goes back.
pub(super) fn errno(error: FsError) -> Errno {
    tracing::trace!(%error, "request failed");
    Errno::from_i32(error.errno().raw_os_error())
}

/// Attributes as the library wants them. It sends one number as nodeid and as `st_ino`.
pub(super) fn file_attr(ino: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// What goes with `.` and `..` in a listing with attributes: the kernel looks at the number only.
pub(super) fn dot_attr(ino: u64) -> FileAttr {
    let nothing = Attr {
        ino,
        kind: LowerType::Directory,
        mode: 0,
        nlink: 1,
        uid: INVALID,
        gid: INVALID,
        size: 0,
        blocks: 0,
        blksize: 0,
        rdev: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
    };
    file_attr(ino, &nothing)
}

/// The file type; one that a listing leaves open is found out by the kernel's lookup.
pub(super) fn file_type(kind: LowerType) -> FileType {
    match kind {
        LowerType::Directory => FileType::Directory,
        LowerType::Symlink => FileType::Symlink,
        LowerType::Fifo => FileType::NamedPipe,
        LowerType::Socket => FileType::Socket,
        LowerType::CharacterDevice => FileType::CharDevice,
        LowerType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nsec.into());
    match u64::try_from(time.sec) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.sec.unsigned_abs()) + nanos,
    }
}

/// A time to set.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

/// Undoes the library's way with times before 1970: of `(-2 s, 5 ns)` it makes a point 2 s and 5 ns
/// before 1970, where the kernel means 5 ns after -2 s. Its replies are right.
fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { sec: seconds(after), nsec: after.subsec_nanos() },
        // The library has made it by taking the nanoseconds away, where they should be added: so
        // they are given back as they came.
        Err(error) => {
            let before = error.duration();
            Timestamp { sec: -seconds(before), nsec: before.subsec_nanos() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_what_the_kernel_sent() {
        for (sec, nsec) in [(0_i64, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 999_999_999)] {
            // What fuser 0.18 makes of a SETATTR's time.
            let decoded = match u64::try_from(sec) {
                Ok(sec) => UNIX_EPOCH + Duration::new(sec, nsec),
                Err(_) => UNIX_EPOCH - Duration::new(sec.unsigned_abs(), nsec),
            };
            assert_eq!(timestamp(decoded), Timestamp { sec, nsec });
        }
    }

    #[test]
    fn times_before_1970_are_shown() {
        let shown = system_time(Timestamp { sec: -2, nsec: 5 });
        assert_eq!(shown, UNIX_EPOCH - Duration::new(1, 999_999_995));
    }
}
