//! The ioctls of /dev/fuse.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::check;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// `FUSE_DEV_IOC_BACKING_OPEN`.
pub const BACKING_OPEN: u32 = 0x4010_e501; // _IOW(229, 1, struct fuse_backing_map)
/// `FUSE_DEV_IOC_BACKING_CLOSE`.
pub const BACKING_CLOSE: u32 = 0x4004_e502; // _IOW(229, 2, u32)

/// Registers a lower file with a connection (`FUSE_DEV_IOC_BACKING_OPEN`, Linux 6.9); returns its
/// id. An `O_PATH` descriptor will do.
pub fn backing_open(device: impl AsFd, file: impl AsFd) -> Result<i32, Errno> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the request reads one `struct fuse_backing_map`, which `map` is.
    check(unsafe {
        libc::ioctl(device.as_fd().as_raw_fd(), libc::Ioctl::from(BACKING_OPEN), &raw const map)
    })
}

/// Takes the registration back (`FUSE_DEV_IOC_BACKING_CLOSE`).
pub fn backing_close(device: impl AsFd, id: i32) -> Result<(), Errno> {
    // SAFETY: the request reads one 32-bit id.
    let ret = unsafe {
        libc::ioctl(device.as_fd().as_raw_fd(), libc::Ioctl::from(BACKING_CLOSE), &raw const id)
    };
    check(ret).map(drop)
}
