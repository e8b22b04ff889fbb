//! Typed system calls that `rustix` does not offer: the only room with `unsafe`.
//!
//! Descriptors come in as `BorrowedFd` and go out as `OwnedFd`; what fails returns a bare
//! [`rustix::io::Errno`]. Nothing here knows what the calls are for.

pub mod apart;
pub mod cred;
pub mod dirents;
pub mod fanotify;
pub mod file;
pub mod fuse_device;
pub mod handle;
pub mod idmapped;
pub mod ioctl;
pub mod kernel;
pub mod lock;
pub mod memory;
pub mod namespace;
pub mod nsfs;
pub mod process;
pub mod seccomp;
pub mod shared;
pub mod uring;
pub mod users;
pub mod wake;

use rustix::io::Errno;

/// The calling thread's errno, after a call that returned -1.
fn last_errno() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(raw)
}

/// Turns the return value of a libc call (-1 means errno) into a result.
fn check<T: PartialEq + From<i8>>(ret: T) -> Result<T, Errno> {
    if ret == T::from(-1) { Err(last_errno()) } else { Ok(ret) }
}
