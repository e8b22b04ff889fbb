//! Locks that belong to an open file rather than to a process (fcntl(2), "open file description
//! locks").

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::check;

/// What a byte range is locked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Reading: others may hold it too (`F_RDLCK`).
    Shared,
    /// Writing: nobody else (`F_WRLCK`).
    Exclusive,
    /// Not at all (`F_UNLCK`).
    Nothing,
}

impl Hold {
    /// From the number that fcntl(2) and FUSE use.
    pub fn from_raw(raw: u32) -> Option<Self> {
        [Hold::Shared, Hold::Exclusive, Hold::Nothing].into_iter().find(|hold| hold.raw() == raw)
    }

    /// The number that fcntl(2) and FUSE use.
    pub fn raw(self) -> u32 {
        let raw = match self {
            Hold::Shared => libc::F_RDLCK,
            Hold::Exclusive => libc::F_WRLCK,
            Hold::Nothing => libc::F_UNLCK,
        };
        u32::try_from(raw).unwrap_or(0)
    }
}

/// A lock on the bytes from `start` to `end`, both included; `end` is `i64::MAX` for "to the end
/// of the file, however long".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeLock {
    /// What for.
    pub hold: Hold,
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
}

/// Sets or releases a lock without waiting (`F_OFD_SETLK`): `EAGAIN` if somebody else holds it.
pub fn set(file: impl AsFd, lock: RangeLock) -> Result<(), Errno> {
    let mut raw = to_raw(lock)?;
    call(file, libc::F_OFD_SETLK, &mut raw)
}

/// Waits until it has the lock (`F_OFD_SETLKW`): `EINTR` if a signal comes to this thread.
pub fn wait(file: impl AsFd, lock: RangeLock) -> Result<(), Errno> {
    let mut raw = to_raw(lock)?;
    call(file, libc::F_OFD_SETLKW, &mut raw)
}

/// The lock that would be in the way of `lock` (`F_OFD_GETLK`), or `None`.
pub fn test(file: impl AsFd, lock: RangeLock) -> Result<Option<RangeLock>, Errno> {
    let mut raw = to_raw(lock)?;
    call(file, libc::F_OFD_GETLK, &mut raw)?;
    let hold = u32::try_from(raw.l_type).ok().and_then(Hold::from_raw).ok_or(Errno::INVAL)?;
    if hold == Hold::Nothing {
        return Ok(None);
    }
    let start = u64::try_from(raw.l_start).unwrap_or(0);
    let end = match u64::try_from(raw.l_len) {
        Ok(length) if length > 0 => start.saturating_add(length - 1),
        _ => i64::MAX.unsigned_abs(),
    };
    Ok(Some(RangeLock { hold, start, end }))
}

fn to_raw(lock: RangeLock) -> Result<libc::flock64, Errno> {
    let to_the_end = lock.end >= i64::MAX.unsigned_abs();
    let length = if to_the_end { 0 } else { lock.end.wrapping_sub(lock.start).wrapping_add(1) };
    Ok(libc::flock64 {
        l_type: i16::try_from(lock.hold.raw()).map_err(|_| Errno::INVAL)?,
        l_whence: 0, // SEEK_SET
        l_start: i64::try_from(lock.start).map_err(|_| Errno::OVERFLOW)?,
        l_len: i64::try_from(length).map_err(|_| Errno::OVERFLOW)?,
        l_pid: 0, // these locks must have none
    })
}

fn call(file: impl AsFd, command: i32, lock: &mut libc::flock64) -> Result<(), Errno> {
    // SAFETY: all three commands take a pointer to a `struct flock64`, which `lock` is.
    let ret = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut *lock) };
    check(ret).map(drop)
}
