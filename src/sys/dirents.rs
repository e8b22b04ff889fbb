//! Reading directories: getdents64(2) into a caller's buffer.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::check;

/// Fills `buf` with `struct linux_dirent64` records and returns how many bytes they take; 0 at
/// the end of the directory.
pub fn getdents(dir: impl AsFd, buf: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the pointer and the length describe `buf`, which the kernel fills with plain bytes.
    let ret = unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_fd().as_raw_fd(), buf.as_mut_ptr(), buf.len())
    };
    usize::try_from(check(ret)?).map_err(|_| Errno::IO)
}
