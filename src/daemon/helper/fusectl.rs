//! The mount's connection to its server, seen from outside.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

use crate::host::mountinfo;
use crate::lower::proc_path;

/// A mount, and what ends its connection.
pub(super) struct Connection {
    mount: u64,
    /// The file of the connection in the `fusectl` file system: writing to it ends that, or does
    /// nothing where it has ended. `None` where the user may not.
    abort: Option<File>,
    /// It had been taken away before anybody could make use of it.
    was_gone: bool,
}

impl Connection {
    /// The connection of the mount with this number, which has just been put there.
    pub(super) fn of(mount: u64, mountpoint: &Path, fusectl: &Result<OwnedFd, Errno>) -> Self {
        let abort = abort_file(mount, mountpoint, fusectl);
        if let Err(errno) = &abort {
            tracing::debug!(%errno, mount, "no fusectl");
        }
        let was_gone = abort.as_ref().is_err_and(|errno| *errno == Errno::NOENT);
        Self { mount, abort: abort.ok(), was_gone }
    }

    pub(super) fn mount(&self) -> u64 {
        self.mount
    }

    /// Ends it, and leaves the mount where it is: nobody is to write below it by mistake. Whatever the
    /// server does or does not do, requests fail from then on.
    pub(super) fn end(&self, mountpoint: &Path) -> Result<(), Errno> {
        match &self.abort {
            Some(abort) => (&mut &*abort)
                .write_all(b"1")
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            None if self.was_gone => Ok(()),
            None => self.end_by_force(mountpoint),
        }
    }

    fn end_by_force(&self, mountpoint: &Path) -> Result<(), Errno> {
        // As long as this is open the mount is busy, and a forced unmount does no more than end
        // the connection (`fuse_umount_begin`). By the descriptor, since another mount may take the
        // place at any moment.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::open(mountpoint, flags, Mode::empty())?;
        if mountinfo::id_of(&held)? != self.mount {
            return Err(Errno::STALE);
        }
        match rustix::mount::unmount(proc_path(&held), UnmountFlags::FORCE) {
            Ok(()) | Err(Errno::BUSY) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// The number of a connection is that of its device.
fn abort_file(
    mount: u64,
    mountpoint: &Path,
    fusectl: &Result<OwnedFd, Errno>,
) -> Result<File, Errno> {
    let device = match shown(mount, mountpoint) {
        Ok(device) => device,
        // Something else lies on it.
        Err(_) => listed(mount)?,
    };
    if rustix::fs::major(device) != 0 {
        return Err(Errno::NODEV);
    }
    let fusectl = fusectl.as_ref().map_err(|errno| *errno)?;
    let number = rustix::fs::minor(device);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(fusectl, format!("{number}/abort"), flags, Mode::empty()).map(File::from)
}

/// The device of a mount, if its mount point shows it.
fn shown(mount: u64, mountpoint: &Path) -> Result<u64, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(mountpoint, flags, Mode::empty())?;
    if mountinfo::id_of(&held)? != mount {
        return Err(Errno::STALE);
    }
    mountinfo::device_of(&held)
}

/// The device of a mount, wherever it is.
fn listed(mount: u64) -> Result<u64, Errno> {
    let mounts = mountinfo::read().map_err(|_| Errno::NOENT)?;
    mounts.iter().find(|one| one.id == mount).map(|one| one.device).ok_or(Errno::NOENT)
}

/// A mount of `fusectl` of one's own: the host's may be missing, or covered. It takes a while.
pub(super) fn fusectl() -> Result<OwnedFd, Errno> {
    let context = match rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC) {
        // Before Linux 5.2.
        Err(Errno::NOSYS) => return of_the_host(),
        context => context?,
    };
    rustix::mount::fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

fn of_the_host() -> Result<OwnedFd, Errno> {
    const FUSECTL: u64 = 0x6573_5543; // FUSE_CTL_SUPER_MAGIC of fs/fuse/control.c
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::open("/sys/fs/fuse/connections", flags, Mode::empty())?;
    let is_there = rustix::fs::fstatfs(&found)?.f_type.cast_unsigned() == FUSECTL;
    if is_there { Ok(found) } else { Err(Errno::NODEV) }
}
