//! The FUSE mount itself: /dev/fuse, mount(2), and taking it down again.

use std::fmt::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::StartError;
use crate::fuse::connection::Connection;
use crate::host::mountinfo;
use crate::lower::proc_path;
use crate::mount::config::MountConfig;
use crate::plain;
use crate::sys::apart;

use super::detached::Detached;
use super::dirs::Dir;
use super::inherit::{self, Below};
use super::{flags, fusermount};

/// The type that /proc/mounts shows.
pub const FS_TYPE: &str = "fuse.idshift";

/// A mount whose requests nobody answers yet.
pub(crate) struct Mounted {
    /// The connection's descriptor.
    pub(crate) device: OwnedFd,
    /// What has still to be attached to the mount point.
    pub(crate) detached: Option<Detached>,
    /// To be closed when there is time.
    pub(crate) to_close: Option<OwnedFd>,
}

/// Mounts: with fsmount(2), with mount(2), or through `fusermount3` if the user may not.
pub(crate) fn mount(
    config: &MountConfig,
    mountpoint: Dir,
    below: &[Below],
) -> Result<Mounted, StartError> {
    let (device, to_close) = open_device()?;
    let mountpoint = match Detached::new(config, &device, mountpoint) {
        Ok(detached) => return Ok(Mounted { device, detached: Some(detached), to_close }),
        Err(mountpoint) => mountpoint,
    };
    let flags = inherit::everywhere(config.options.flags, below);
    if flags != config.options.flags {
        tracing::warn!(
            "all of the mount forbids what is forbidden at '{}': this kernel has no mounts of its own \
             for that (Linux 6.15)",
            inherit::in_words(below)
        );
    }
    let mut config = config.clone();
    config.options.flags = flags;
    let config = &config;
    let device = match mount_directly(config, &mountpoint)? {
        Some(device) => device,
        None => fusermount::mount(config)?,
    };
    Ok(Mounted { device, detached: None, to_close })
}

/// Shows the root directory at the mount point. Returns the number of the mount there, and what is to be
/// closed when there is time.
pub(crate) fn attach(
    connection: &mut Connection,
    detached: Detached,
    config: &MountConfig,
    below: &[Below],
) -> Result<(u64, OwnedFd), StartError> {
    let failed = |errno: Errno| {
        let point = plain::path(&config.mountpoint);
        let why = in_words(errno);
        StartError::Mount(format!("attaching the file system to '{point}': {why}"))
    };
    let show = || {
        let shown = detached.shown();
        let shown =
            shown.inspect_err(|errno| tracing::debug!(%errno, "shown by its own root")).ok();
        let covered = inherit::cover(detached.top(shown.as_ref()), config.options.flags, below);
        (shown, covered)
    };
    let (shown, covered) = connection.answer_during(show).map_err(failed)?;
    covered.map_err(|errno| {
        let paths = inherit::in_words(below);
        StartError::Mount(format!("forbidding below what is forbidden at '{paths}': {errno}"))
    })?;
    let mount = mountinfo::id_of(detached.top(shown.as_ref()));
    let left = detached.attach(shown.as_ref()).map_err(failed)?;
    Ok((mount.unwrap_or_else(|_| mount_id(&config.mountpoint)), left))
}

/// The mount that a path shows just now, by the kernel's number for it; 0 if there is none.
pub(crate) fn mount_id(mountpoint: &Path) -> u64 {
    mountinfo::at(mountpoint).ok().flatten().map_or(0, |mount| mount.id)
}

fn mount_directly(config: &MountConfig, mountpoint: &Dir) -> Result<Option<OwnedFd>, StartError> {
    let (device, _) = open_device()?;
    let Ok(data) = std::ffi::CString::new(kernel_options(config, &device, mountpoint)) else {
        return Err(StartError::Mount("an option holds a zero byte".into()));
    };
    let mounted = rustix::mount::mount(
        config.source.as_str(),
        mountpoint.path(),
        FS_TYPE,
        flags::for_mount(config.options.flags),
        &*data,
    );
    match mounted {
        Ok(()) => Ok(Some(device)),
        Err(Errno::PERM) => Ok(None),
        Err(errno) => Err(StartError::Mount(format!(
            "mount(2) of type {FS_TYPE} on '{}': {}",
            plain::path(&config.mountpoint),
            in_words(errno)
        ))),
    }
}

/// Why nothing can be mounted.
fn in_words(errno: Errno) -> String {
    if errno != Errno::NOSPC {
        return errno.to_string();
    }
    let now = std::fs::read_to_string("/proc/sys/fs/mount-max");
    let now = now.map_or("unknown".to_owned(), |now| now.trim().to_owned());
    format!("there are as many mounts as allowed; raise sysctl fs.mount-max ({now} now)")
}

fn open_device() -> Result<(OwnedFd, Option<OwnedFd>), StartError> {
    apart::open_in_haste("/dev/fuse", OFlags::RDWR).map_err(|errno| {
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
fn kernel_options(config: &MountConfig, device: &OwnedFd, mountpoint: &Dir) -> String {
    // A directory can be mounted on directories alone, and a file on files.
    let root = if mountpoint.is_dir() { "40000" } else { "100000" };
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut options = format!(
        "fd={},rootmode={root},user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if config.options.allow_other && write!(options, ",allow_other").is_err() {
        tracing::error!("cannot add an option"); // a String never fails
    }
    options
}

/// Takes a mount of this program's own away, by its number: if it is still there and nothing else lies
/// on it. Says in the log what is in the way.
pub(crate) fn detach_own(mountpoint: &Path, own: u64) {
    match detach_mount(mountpoint, own) {
        Ok(Shown::Own) => tracing::info!("unmounting '{}'", plain::path(mountpoint)),
        // Another process of this mount was quicker.
        Ok(Shown::None) => tracing::debug!("unmounted already"),
        // It is not ours to take away.
        Ok(Shown::Other) => {
            tracing::error!("another mount covers '{}'", plain::path(mountpoint));
        }
        Err(error) => tracing::error!("{error}"),
    }
}

/// What a mount point shows.
enum Shown {
    Own,
    Other,
    None,
}

fn detach_mount(mountpoint: &Path, own: u64) -> Result<Shown, StartError> {
    let system = |source: std::io::Error| StartError::System {
        what: format!("cannot unmount '{}'", plain::path(mountpoint)),
        source,
    };
    let listed = mountinfo::at(mountpoint).map_err(system)?;
    match listed.map(|mount| mount.id) {
        None => return Ok(Shown::None),
        Some(id) if id != own => return Ok(Shown::Other),
        Some(_) => {}
    }
    // By a descriptor: the path may lead elsewhere by now, if somebody else owns a directory above it.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(mountpoint, flags, Mode::empty()).map_err(|e| system(e.into()))?;
    match mountinfo::id_of(&held) {
        Ok(id) if id != own => return Ok(Shown::Other),
        // Linux 5.8 tells the number.
        Ok(_) | Err(_) => {}
    }
    match rustix::mount::unmount(proc_path(&held), UnmountFlags::DETACH) {
        Ok(()) => Ok(Shown::Own),
        // It is no mount any more.
        Err(Errno::INVAL) => Ok(Shown::None),
        // It is checked by fusermount3 whose it is.
        Err(Errno::PERM) => fusermount::detach(mountpoint).map(|()| Shown::Own),
        Err(errno) => Err(system(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_is_named() {
        assert!(in_words(Errno::NOSPC).contains("sysctl fs.mount-max ("));
        assert_eq!(in_words(Errno::PERM), Errno::PERM.to_string());
    }
}
