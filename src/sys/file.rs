//! Calls on files that rustix leaves out.

use std::ffi::CString;

use rustix::io::Errno;

use super::check;

/// Sets a file's size by path (truncate(2)): the only way where no writable descriptor is at hand.
pub fn truncate(path: &str, size: u64) -> Result<(), Errno> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let size = libc::off64_t::try_from(size).map_err(|_| Errno::FBIG)?;
    // SAFETY: `path` is a valid C string that outlives the call.
    check(unsafe { libc::truncate64(path.as_ptr(), size) }).map(drop)
}

/// Closes a descriptor and says what close(2) said: dropping one would not.
pub fn close(fd: std::os::fd::OwnedFd) -> Result<(), Errno> {
    use std::os::fd::IntoRawFd;
    let raw = fd.into_raw_fd();
    // SAFETY: the descriptor was owned here and is given up by this very call.
    check(unsafe { libc::close(raw) }).map(drop)
}
