//! Files that are opened through a mount of their own.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::idmapped::{Change, MountAttrs, mount_setattr};

/// Opens a device, or a file in `/proc`, so that its descriptor is good for reading and writing alone:
/// nobody changes the file's mode, owner, times or attributes by it, nor opens the file once more.
/// Where the kernel or the user's rights do not allow that (Linux 5.12, `CAP_SYS_ADMIN`), as usual.
///
/// The file lies on a mount that nobody else sees, which is made read-only and nodev behind it. For a
/// regular file on a disk it would be `EBUSY` by then: such are not what this is for.
pub fn open(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_in_haste(path, flags).map(|(file, _)| file)
}

/// The same, and what is to be closed when there is time: the kernel takes a while to give a mount up.
pub fn open_in_haste(path: &str, flags: OFlags) -> Result<(OwnedFd, Option<OwnedFd>), Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let Ok(mount) = rustix::mount::open_tree(CWD, path, clone) else {
        return rustix::fs::open(path, flags, Mode::empty()).map(|file| (file, None));
    };
    let through = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let file = rustix::fs::open(through, flags, Mode::empty())
        .or_else(|_| rustix::fs::open(path, flags, Mode::empty()))?;
    let change = Change {
        set: MountAttrs::RDONLY | MountAttrs::NODEV | MountAttrs::NOSUID | MountAttrs::NOEXEC,
        clear: MountAttrs::empty(),
        private: true,
        userns: None,
        recursive: false,
    };
    match mount_setattr(mount.as_fd(), change) {
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => Ok((file, Some(mount))),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn a_device_can_be_used() {
        let null = open("/dev/null", OFlags::RDWR).unwrap();
        assert_eq!(rustix::io::write(&null, b"gone"), Ok(4));
        assert_eq!(open("/dev/nothing/at/all", OFlags::RDWR).unwrap_err(), Errno::NOENT);
    }
}
