//! Calls on files that rustix leaves out.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::check;

/// Sets a file's size by path (truncate(2)): the only way where no writable descriptor is at hand.
pub fn truncate(path: &str, size: u64) -> Result<(), Errno> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let size = libc::off64_t::try_from(size).map_err(|_| Errno::FBIG)?;
    // SAFETY: `path` is a valid C string that outlives the call.
    check(unsafe { libc::truncate64(path.as_ptr(), size) }).map(drop)
}

/// Sets the permission bits of the file behind a descriptor, `O_PATH` or not (fchmodat2(2), Linux
/// 6.6): `ENOSYS` before that.
pub fn chmod(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, the empty path a valid C string that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            mode.as_raw_mode(),
            libc::AT_EMPTY_PATH,
        )
    };
    check(result).map(drop)
}

/// Reads up to `size` bytes from `offset` on to the end of `buffer` (pread(2)), no matter how much
/// room it has; returns how many there were.
pub fn append_at(
    fd: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    size: usize,
    offset: u64,
) -> Result<usize, Errno> {
    buffer.try_reserve_exact(size).map_err(|_| Errno::NOMEM)?;
    let room = buffer.spare_capacity_mut().get_mut(..size).ok_or(Errno::INVAL)?;
    let (read, _) = rustix::io::pread(fd, room, offset)?;
    let length = read.len();
    // SAFETY: these bytes, right after the present ones, have just been written to.
    unsafe { buffer.set_len(buffer.len() + length) };
    Ok(length)
}

/// Closes a descriptor and says what close(2) said: dropping one would not.
pub fn close(fd: std::os::fd::OwnedFd) -> Result<(), Errno> {
    use std::os::fd::IntoRawFd;
    let raw = fd.into_raw_fd();
    // SAFETY: the descriptor was owned here and is given up by this very call.
    check(unsafe { libc::close(raw) }).map(drop)
}
