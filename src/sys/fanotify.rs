//! fanotify(7): hearing of changes to a file system.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::check;

bitflags::bitflags! {
    /// What events are about (`FAN_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mask: u64 {
        /// Contents were written, or the size was changed.
        const MODIFY = libc::FAN_MODIFY;
        /// Mode, owner, times, links or extended attributes were changed.
        const ATTRIB = libc::FAN_ATTRIB;
        /// A file that was open for writing was closed.
        const CLOSE_WRITE = libc::FAN_CLOSE_WRITE;
        /// A file was opened.
        const OPEN = libc::FAN_OPEN;
        /// A name was made.
        const CREATE = libc::FAN_CREATE;
        /// A name was removed.
        const DELETE = libc::FAN_DELETE;
        /// A name was given up for another one.
        const MOVED_FROM = libc::FAN_MOVED_FROM;
        /// A name came from another one.
        const MOVED_TO = libc::FAN_MOVED_TO;
        /// The last name of what is marked was removed, and nobody uses it any more.
        const DELETE_SELF = libc::FAN_DELETE_SELF;
        /// What is marked goes by another name.
        const MOVE_SELF = libc::FAN_MOVE_SELF;
        /// Directories too; in an event: it is about a directory.
        const ONDIR = libc::FAN_ONDIR;
        /// Of a directory that is watched: also what happens to whatever has a name in it, if it happens
        /// through that name.
        const ON_CHILDREN = libc::FAN_EVENT_ON_CHILD;
        /// Events have been lost.
        const OVERFLOW = libc::FAN_Q_OVERFLOW;
    }
}

/// What [`watch_inode`] does.
pub const MARK_INODE: u32 = libc::FAN_MARK_ADD;
/// What [`ignore_inode`] and [`end_ignoring`] do.
pub const IGNORE_INODE: u32 = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORE_SURV;
/// See [`IGNORE_INODE`].
pub const END_IGNORING: u32 = libc::FAN_MARK_REMOVE | libc::FAN_MARK_IGNORE;
/// What [`forget_inodes`] does.
pub const FORGET_MARKS: u32 = libc::FAN_MARK_FLUSH;

/// Makes a group (fanotify_init(2)), whose descriptor never blocks, and whose events name the directory,
/// the name in it, and the inode behind that (Linux 5.17). Its queue is limited, as
/// `/proc/sys/fs/fanotify/max_queued_events` says. `EMFILE` where the user has too many groups
/// (`max_user_groups`, beside it).
pub fn group() -> Result<OwnedFd, Errno> {
    let report = libc::FAN_REPORT_DFID_NAME_TARGET;
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | report;
    let event_flags = libc::O_RDONLY.cast_unsigned();
    // SAFETY: the call takes two numbers.
    let fd = check(unsafe { libc::fanotify_init(flags, event_flags) })?;
    // SAFETY: the kernel has just made this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Leaves out events of what is done through the mount that `on` is on (Linux 6.0). Only `MODIFY`, `CLOSE_WRITE` and the like have a
/// mount; `EINVAL` for others. Needs CAP_SYS_ADMIN.
pub fn ignore_mount(group: impl AsFd, on: impl AsFd, mask: Mask) -> Result<(), Errno> {
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT | libc::FAN_MARK_IGNORE_SURV;
    let group = group.as_fd().as_raw_fd();
    // SAFETY: without a path the call takes numbers alone.
    let ret = unsafe {
        libc::fanotify_mark(group, flags, mask.bits(), on.as_fd().as_raw_fd(), std::ptr::null())
    };
    check(ret).map(drop)
}

/// Watches one inode, which has to be readable (`EACCES`), for as long as it has a name or a user: the
/// mark keeps it in the kernel's memory. `path` is relative to `dir`. `ENOSPC` where the user has too
/// many marks (`/proc/sys/fs/fanotify/max_user_marks`). Needs no privilege from Linux 5.13 on.
pub fn watch_inode(
    group: impl AsFd,
    dir: BorrowedFd<'_>,
    path: &CStr,
    mask: Mask,
) -> Result<(), Errno> {
    mark(group.as_fd(), MARK_INODE, mask, dir, path)
}

/// Leaves out events of one inode, whatever else is watched (Linux 6.0), until [`end_ignoring`]. `path` is
/// relative to `dir`.
pub fn ignore_inode(
    group: impl AsFd,
    dir: BorrowedFd<'_>,
    path: &CStr,
    mask: Mask,
) -> Result<(), Errno> {
    mark(group.as_fd(), IGNORE_INODE, mask, dir, path)
}

/// Ends what [`ignore_inode`] has begun. `ENOENT` if nothing is left out.
pub fn end_ignoring(
    group: impl AsFd,
    dir: BorrowedFd<'_>,
    path: &CStr,
    mask: Mask,
) -> Result<(), Errno> {
    mark(group.as_fd(), END_IGNORING, mask, dir, path)
}

fn mark(
    group: BorrowedFd<'_>,
    flags: u32,
    mask: Mask,
    dir: BorrowedFd<'_>,
    path: &CStr,
) -> Result<(), Errno> {
    let (group, dir) = (group.as_raw_fd(), dir.as_raw_fd());
    // SAFETY: `path` is a C string that outlives the call.
    let ret = unsafe { libc::fanotify_mark(group, flags, mask.bits(), dir, path.as_ptr()) };
    check(ret).map(drop)
}

/// Takes all back that [`watch_inode`] has done.
pub fn forget_inodes(group: impl AsFd) -> Result<(), Errno> {
    let group = group.as_fd().as_raw_fd();
    // SAFETY: without a path the call takes numbers alone.
    let ret =
        unsafe { libc::fanotify_mark(group, FORGET_MARKS, 0, libc::AT_FDCWD, std::ptr::null()) };
    check(ret).map(drop)
}
