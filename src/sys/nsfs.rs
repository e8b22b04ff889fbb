//! Questions to a user namespace through a descriptor of its file (ioctl_nsfs(2)).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::check;

// The numbers of include/uapi/linux/nsfs.h: `_IO(0xb7, n)`, without a size.
const NS_GET_PARENT: libc::Ioctl = 0xb702;
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;

/// Whether this is the file of a user namespace (Linux 4.11); `false` for any other file.
pub fn is_user_namespace(file: impl AsFd) -> bool {
    // SAFETY: the request takes no argument. The number is nobody else's (`0xb7` in the kernel's
    // ioctl-number.rst), so another file answers ENOTTY.
    let kind = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWUSER
}

/// The namespace that this user namespace was made in. `EPERM` for the initial one, and where the
/// parent is outside of the caller's own.
pub fn parent(namespace: impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the request takes no argument.
    let fd = check(unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_PARENT) })?;
    // SAFETY: the kernel has made this descriptor for us, close-on-exec; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user who made this user namespace, as the caller's own namespace numbers it; the overflow
/// uid if it has no number there. `EINVAL` for a namespace of another type.
pub fn owner(namespace: impl AsFd) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one uid_t behind the pointer, which lives across the call.
    check(unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) })?;
    Ok(uid)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn only_a_user_namespace_is_one() {
        let user = File::open("/proc/self/ns/user").unwrap();
        assert!(is_user_namespace(&user));
        owner(&user).unwrap();
        let mounts = File::open("/proc/self/ns/mnt").unwrap();
        assert!(!is_user_namespace(&mounts));
        assert_eq!(owner(&mounts), Err(Errno::INVAL));
        assert!(!is_user_namespace(File::open("/dev/null").unwrap()));
    }
}
