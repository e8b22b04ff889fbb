//! New namespaces for the calling process (unshare(2)).

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

/// Gives the process a mount namespace of its own, a copy of the present one. `EPERM` without
/// `CAP_SYS_ADMIN`. Only the calling thread moves: call it while there is but one,
/// or in one that is there for no more than what it does next.
pub fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: CLONE_NEWNS (which implies CLONE_FS) separates mounts, working directory and umask;
    // descriptors and memory stay shared, so nothing that Rust relies on changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}

/// Gives the process a user namespace and a mount namespace of its own. Until the maps of the user
/// namespace are written, all its ids are the overflow id. `EINVAL` if the process has more than
/// one thread, `EPERM`/`ENOSPC` where the system allows no (more) user namespaces.
pub fn unshare_user_and_mounts() -> Result<(), Errno> {
    // SAFETY: as above; CLONE_NEWUSER changes credentials, which Rust makes no assumptions about.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
}
