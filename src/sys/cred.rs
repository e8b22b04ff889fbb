//! Credentials of the calling thread alone: fsuid, fsgid, supplementary groups, umask scope.

use rustix::io::Errno;

use super::check;

/// Sets the thread's fsuid (setfsuid(2)) and says whether the kernel took it.
///
/// The system call never reports failure: it returns the old id, and a second call with an
/// invalid id returns the present one without changing it. That is how the result is checked.
pub fn set_fsuid(uid: u32) -> Result<(), Errno> {
    // SAFETY: setfsuid takes an integer, touches no memory and acts on this thread only (the raw
    // system call; no library wrapper that would broadcast it to other threads).
    let now = unsafe {
        libc::syscall(libc::SYS_setfsuid, uid);
        libc::syscall(libc::SYS_setfsuid, u32::MAX)
    };
    if now == i64::from(uid) { Ok(()) } else { Err(Errno::PERM) }
}

/// Sets the thread's fsgid (setfsgid(2)); see [`set_fsuid`].
pub fn set_fsgid(gid: u32) -> Result<(), Errno> {
    // SAFETY: as in `set_fsuid`.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsgid, u32::MAX)
    };
    if now == i64::from(gid) { Ok(()) } else { Err(Errno::PERM) }
}

/// Sets the thread's supplementary groups (setgroups(2), the raw call: this thread only).
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the pointer and the length describe `groups`, which outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(ret).map(drop)
}

/// Gives the thread its own working directory, root and umask (`unshare(CLONE_FS)`), so that
/// `umask` changes no other thread.
pub fn unshare_fs() -> Result<(), Errno> {
    // SAFETY: CLONE_FS only separates this thread's fs_struct; no memory or descriptor is shared
    // or unshared, so no Rust invariant can be broken.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
}
