//! The FUSE mount itself: /dev/fuse, mount(2), and taking it down again.

use std::fmt::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags as Flags, UnmountFlags};

use crate::config::{MountConfig, MountFlags};
use crate::error::StartError;
use crate::fuse::session::Connection;
use crate::lower::proc_path;
use crate::plain;

use super::detached::Detached;
use super::fusermount;

/// The type that /proc/mounts shows.
pub const FS_TYPE: &str = "fuse.idshift";

/// A mount whose requests nobody answers yet.
pub(super) struct Mounted {
    /// The connection's descriptor.
    pub(super) device: OwnedFd,
    /// What has still to be attached to the mount point.
    pub(super) detached: Option<Detached>,
}

/// Mounts: with fsmount(2), with mount(2), or through `fusermount3` if the user may not.
pub(super) fn mount(config: &MountConfig) -> Result<Mounted, StartError> {
    let device = open_device()?;
    if let Ok(detached) = Detached::new(config, &device, open_mountpoint(config)?) {
        return Ok(Mounted { device, detached: Some(detached) });
    }
    let device = match mount_directly(config)? {
        Some(device) => device,
        None => fusermount::mount(config)?,
    };
    Ok(Mounted { device, detached: None })
}

/// Shows the root directory at the mount point, if that has not been done yet.
pub(super) fn attach(
    connection: &Connection,
    detached: Detached,
    config: &MountConfig,
) -> Result<(), StartError> {
    let failed = |errno: Errno| {
        let point = plain::path(&config.mountpoint);
        StartError::Mount(format!("attaching the file system to '{point}': {errno}"))
    };
    let shown = connection.answer_during(|| detached.shown()).map_err(failed)?;
    let shown = shown.inspect_err(|errno| tracing::debug!(%errno, "shown by its own root")).ok();
    detached.attach(shown.as_ref()).map_err(failed)
}

fn mount_directly(config: &MountConfig) -> Result<Option<OwnedFd>, StartError> {
    let device = open_device()?;
    let mountpoint = open_mountpoint(config)?;
    let Ok(data) = std::ffi::CString::new(kernel_options(config, &device)) else {
        return Err(StartError::Mount("an option holds a zero byte".into()));
    };
    let mounted = rustix::mount::mount(
        config.source.as_str(),
        proc_path(&mountpoint),
        FS_TYPE,
        mount_flags(config.flags),
        &*data,
    );
    match mounted {
        Ok(()) => Ok(Some(device)),
        Err(Errno::PERM) => Ok(None),
        Err(errno) => Err(StartError::Mount(format!(
            "mount(2) of type {FS_TYPE} on '{}': {errno}",
            plain::path(&config.mountpoint)
        ))),
    }
}

fn open_mountpoint(config: &MountConfig) -> Result<OwnedFd, StartError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(&config.mountpoint, flags, Mode::empty()).map_err(|errno| StartError::Path {
        role: "mount point",
        path: config.mountpoint.clone(),
        why: errno.to_string(),
    })
}

fn open_device() -> Result<OwnedFd, StartError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/dev/fuse", flags, Mode::empty()).map_err(|errno| {
        let hint = match errno {
            Errno::NOENT | Errno::NXIO | Errno::NODEV => {
                "load the module with 'modprobe fuse'; in a container, pass the device in with \
                 '--device /dev/fuse'"
            }
            _ => "ask for read and write permission on it",
        };
        StartError::Path {
            role: "FUSE device",
            path: "/dev/fuse".into(),
            why: format!("{errno}; {hint}"),
        }
    })
}

/// The options that the kernel's FUSE takes as text.
fn kernel_options(config: &MountConfig, device: &OwnedFd) -> String {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if config.allow_other && write!(options, ",allow_other").is_err() {
        tracing::error!("cannot add an option"); // a String never fails
    }
    options
}

fn mount_flags(flags: MountFlags) -> Flags {
    [
        (flags.read_only, Flags::RDONLY),
        (flags.nosuid, Flags::NOSUID),
        (flags.nodev, Flags::NODEV),
        (flags.noexec, Flags::NOEXEC),
        (flags.noatime, Flags::NOATIME),
        (flags.nodiratime, Flags::NODIRATIME),
        (flags.strictatime, Flags::STRICTATIME),
        (flags.sync, Flags::SYNCHRONOUS),
        (flags.dirsync, Flags::DIRSYNC),
        (flags.lazytime, Flags::LAZYTIME),
        (flags.nosymfollow, Flags::NOSYMFOLLOW),
    ]
    .into_iter()
    .filter_map(|(on, flag)| on.then_some(flag))
    .fold(Flags::empty(), Flags::union)
}

/// Detaches the mount, so that nobody can enter it any more; it ends with its last open file.
pub fn detach(mountpoint: &Path) -> Result<(), StartError> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(mountpoint, flags) {
        // Not mounted here any more: what was asked for.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::PERM) => fusermount::detach(mountpoint),
        Err(errno) => Err(StartError::System {
            what: format!("cannot unmount '{}'", plain::path(mountpoint)),
            source: errno.into(),
        }),
    }
}
