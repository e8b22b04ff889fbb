//! With `submounts`: what is mounted below LOWER from another device is a device of its own in the mount too, so
//! that `find -xdev`, `tar --one-file-system` and `rm --one-file-system` stop where they stop below.
//!
//! One FUSE file system has one device number (the kernel lets virtiofs alone announce submounts). So each
//! such directory is mounted by itself, on top of where the mount shows it: by this program, with a server, a
//! sandbox and a supervisor like any other. Where that cannot be, the mount goes on showing it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::Call;
use crate::config::{GuardMode, Ownership};
use crate::error::StartError;
use crate::host::mountinfo;
use crate::host::privilege::Standing;
use crate::mount::config::MountConfig;
use crate::mount::options::{Options, Origin};
use crate::plain;
use crate::sys::process::{self, Forked};

/// The hidden option by which a part is mounted: all of them are alike, and have no parts themselves.
const OPTION: &str = "--part";
/// The hidden option by which all of a mount are mounted.
const ALL: &str = "--parts";

/// What has to be done once the mount answers.
#[derive(Clone)]
pub(super) struct Parts {
    call: Call,
    origin: Origin,
}

impl Parts {
    /// `None` if nothing has to be done.
    pub(super) fn of(call: &Call, options: &Options, origin: Origin) -> Option<Self> {
        let wanted = options.submounts
            // The guard covers what lies below, and would have to be undone by one of several servers.
            && options.guard == GuardMode::None
            && options.ownership == Ownership::Chown
            && call.part.is_none()
            && !call.fake
            && call.namespace.is_none()
            && Standing::of_this_process().mounts_itself();
        wanted.then(|| Self { call: call.clone(), origin })
    }

    /// Mounts them, the upper ones first: what lies in another has to find that there. What cannot be done is
    /// said; the mount itself is as good without.
    fn mount(&self, lower: &Path, mountpoint: &Path) {
        let is_served = mountinfo::at(mountpoint).ok().flatten().is_some_and(|it| it.is_idshift());
        let (Ok(stored), Ok(shown)) = (dir(lower), dir(mountpoint)) else { return };
        if !is_served {
            return; // by the kernel, which keeps devices apart by itself
        }
        let mut mounts = mountinfo::read().unwrap_or_default();
        mounts.sort_by(|one, other| one.mountpoint.cmp(&other.mountpoint));
        for mount in mounts {
            let Ok(path) = mount.mountpoint.strip_prefix(lower) else { continue };
            // Without one of its own, or behind another mount, it is shown where it is.
            let Some(below) = other_device(stored.as_fd(), path, mount.id) else { continue };
            let done = beneath(shown.as_fd(), path)
                .map_err(|errno| errno.to_string())
                .and_then(|place| self.mount_one(&below, &place));
            if let Err(why) = done {
                complain!(
                    "idshift: '{}' is shown, but not as a device of its own: {why}",
                    plain::path(&mountpoint.join(path))
                );
            }
        }
    }

    /// Has another process do so, which belongs to nobody: this one is about to serve, and the paths lead through
    /// what it serves. It is this program anew, so that it holds nothing of what is open here: not even the
    /// connection, with which it would wait for itself if the server ended.
    fn mount_beside(&self, config: &MountConfig) -> Result<(), String> {
        let mut command = self.command(&format!("{ALL}={}", self.origin.word()));
        command.arg("--").args([&config.lower, &config.mountpoint]);
        command.status().map(drop).map_err(|error| error.to_string())
    }

    /// This program, with the options of the mount.
    fn command(&self, which: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("idshift").args(["mount", which, "--quiet"]).stdin(Stdio::null());
        if self.call.leave_cgroup {
            command.arg("--leave-cgroup");
        }
        command.args(self.call.options.iter().map(|options| format!("-o{options}")));
        command.args(self.call.maps.iter().map(|map| format!("--map={map}")));
        command
    }

    /// Where the paths of the mount lead to.
    fn paths(&self) -> Option<(PathBuf, PathBuf)> {
        let mountpoint = mountinfo::resolve_mountpoint(&self.call.mountpoint).ok()?;
        Some((self.call.lower.canonicalize().ok()?, mountpoint))
    }

    fn mount_one(&self, below: &OwnedFd, place: &OwnedFd) -> Result<(), String> {
        let mut command = self.command(&format!("{OPTION}={}", self.origin.word()));
        // Whatever the paths lead to by now, these are the directories.
        for fd in [below, place] {
            process::set_close_on_exec(fd.as_raw_fd(), false).map_err(|it| it.to_string())?;
            command.arg(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        }
        let ended = command.status().map_err(|error| error.to_string())?;
        if ended.success() { Ok(()) } else { Err("it cannot be mounted".to_owned()) }
    }
}

fn dir(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// A directory below another, by a path that no link leads astray.
fn beneath(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(dir, path, flags, Mode::empty(), resolve)
}

/// The directory on which this mount is, if that is of another device than the one that it is in.
fn other_device(lower: BorrowedFd<'_>, path: &Path, mount: u64) -> Option<OwnedFd> {
    let above = beneath(lower, path.parent()?).ok()?;
    let below = beneath(lower, path).ok()?;
    let device = |fd: &OwnedFd| fstat(fd).ok().map(|stat| stat.st_dev);
    let is_it = mountinfo::id_of(&below) == Ok(mount) && device(&below) != device(&above);
    is_it.then_some(below)
}

/// What the command does when the server that it has started ended with this code, or answers (0).
pub(super) fn after(parts: Option<Parts>, code: u8) -> u8 {
    let parts = parts.filter(|_| code == 0);
    if let Some((parts, (lower, mountpoint))) = parts.and_then(|it| it.paths().map(|at| (it, at))) {
        parts.mount(&lower, &mountpoint);
    }
    code
}

/// What a server in the foreground does before it answers.
pub(super) fn begin(parts: Option<&Parts>, config: &MountConfig) {
    let begun = parts.map(|parts| parts.mount_beside(config));
    if let Some(Err(why)) = begun {
        tracing::warn!("what is mounted below is shown, but not as devices of their own: {why}");
    }
}

/// The command of [`ALL`]: goes on as a process of its own.
pub(super) fn mount_all(call: &Call, options: &Options, origin: Origin) -> Result<u8, StartError> {
    let system = |errno: Errno| StartError::System {
        what: "cannot start a process".to_owned(),
        source: errno.into(),
    };
    match process::fork().map_err(system)? {
        Forked::Parent(_) => Ok(0),
        Forked::Child => Ok(after(Parts::of(call, options, origin), 0)),
    }
}
