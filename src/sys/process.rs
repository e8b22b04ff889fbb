//! The descriptors of this process as a whole.

use std::os::fd::RawFd;

use rustix::io::Errno;

use super::check;

/// `CLOSE_RANGE_CLOEXEC` of `linux/close_range.h`.
const CLOEXEC: libc::c_uint = 4;

/// Marks every descriptor from `first` on to be closed by the next exec (close_range(2); `ENOSYS`
/// before Linux 5.9, `EINVAL` before 5.11). Closes none in this process.
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call changes a flag of descriptors and closes none, so
    // no owner of one can notice.
    let ret = unsafe {
        libc::syscall(libc::SYS_close_range, first.unsigned_abs(), libc::c_uint::MAX, CLOEXEC)
    };
    check(ret).map(drop)
}
