//! A mount namespace with nothing in it: what the server has open is all that it can reach.
//!
//! The root is an empty read-only directory. `/proc/self/fd`, by which descriptors are opened once
//! more, is there as a mount of its own: nothing leads from it up into `/proc`, where every process
//! has a link to the root directory of the host. The lower tree needs no place: it is open.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::os::fd::{AsFd, BorrowedFd};

use crate::host::mountinfo;
use crate::sys::idmapped::{Change, MountAttrs, mount_setattr};
use crate::sys::namespace;

/// Where the new root is mounted before it becomes the root: a directory that is there on every
/// machine that this program runs on.
const PLACE: &str = "/proc";
const FD: &str = "/proc/self/fd";

/// Leaves the file systems of the host behind. The error names the step that failed; then the
/// server may be in a mount namespace of its own, with everything still in it.
pub(super) fn move_in() -> Result<(), String> {
    let failed = |step: &'static str| move |errno: Errno| format!("{step}: {errno}");
    // It is found from here when something else lies on /proc.
    rustix::process::chdir(FD).map_err(failed("chdir(2)"))?;
    namespace::unshare_mounts().map_err(failed("unshare(2)"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(failed("mount(2) of / as private"))?;
    furnish().map_err(failed("mounting an empty directory"))?;
    rustix::process::chdir(PLACE).map_err(failed("chdir(2)"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root(2)"))?;
    // The old root now lies on the new one.
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("umount(2)"))?;
    rustix::process::chdir("/").map_err(failed("chdir(2)"))
}

fn furnish() -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("idshift", PLACE, "tmpfs", flags, c"mode=0755,size=4k,nr_inodes=8")?;
    for dir in ["/proc/proc", "/proc/proc/self", "/proc/proc/self/fd"] {
        rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755))?;
    }
    rustix::mount::mount_bind(".", "/proc/proc/self/fd")?;
    restrict("/proc/proc/self/fd", MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC)?;
    restrict(PLACE, MountAttrs::RDONLY)
}

fn restrict(mount: &str, set: MountAttrs) -> Result<(), Errno> {
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mount = rustix::fs::open(mount, open, Mode::empty())?;
    let clear = MountAttrs::empty();
    let change = Change { set, clear, private: false, userns: None, recursive: false };
    match mount_setattr(mount.as_fd(), change) {
        // Before Linux 5.12: the directory is empty all the same.
        Err(Errno::NOSYS) => Ok(()),
        result => result,
    }
}

/// Whether a descriptor is the root of a mount that no path leads to. From one that is not, `..` leads
/// up to everything that the mount holds; in another mount namespace, too.
pub(super) fn is_private(fd: BorrowedFd<'_>) -> bool {
    let Ok(mount) = mountinfo::id_of(fd) else { return false };
    mountinfo::read().is_ok_and(|all| all.iter().all(|one| one.id != mount)) && leads_nowhere_up(fd)
}

fn leads_nowhere_up(fd: BorrowedFd<'_>) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let identity = |fd: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(fd)?;
        Ok::<_, Errno>((stat.st_dev, stat.st_ino, mountinfo::id_of(fd)?))
    };
    match rustix::fs::openat(fd, "..", flags, Mode::empty()) {
        Ok(above) => identity(above.as_fd()) == identity(fd),
        // A single file.
        Err(errno) => errno == Errno::NOTDIR,
    }
}

/// Makes device nodes of the private lower tree impossible to open, for the server. Nobody else
/// sees that mount.
pub(super) fn close_devices(lower: BorrowedFd<'_>) -> Result<(), String> {
    let change = Change {
        set: MountAttrs::NODEV | MountAttrs::NOSUID,
        clear: MountAttrs::empty(),
        private: false,
        userns: None,
        recursive: true,
    };
    match mount_setattr(lower, change) {
        // Before Linux 5.12: the server opens none of its own accord (`lower::reopen`).
        Ok(()) | Err(Errno::NOSYS) => Ok(()),
        Err(errno) => Err(format!("mount_setattr(2): {errno}")),
    }
}
