//! A FUSE mount that nobody sees before it is ready: made with fsmount(2), and attached to the
//! mount point when the server has shown its root directory (see `fuse/root.rs` for why that is
//! not the file system's own root).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::fuse::root;
use crate::mount::config::MountConfig;
use crate::mount::flags;
use crate::sys::kernel;

use super::dirs::Dir;

/// Whether what is mounted should not be the file system's own root (`fuse/root.rs`). Where it need
/// not, programs that read the mount table see the mount as they see others.
fn root_costs() -> bool {
    match kernel::release() {
        // The first that clones part of a mount that is not attached anywhere (`may_copy_tree`).
        release if release < (6, 15, 0) => false,
        // What makes it dear is in the last ones of these series only.
        (6, 18, patch) => patch >= 42,
        (6, 15..=19, _) | (7, 0, _) => false,
        (7, 1, patch) => patch >= 6,
        _ => true,
    }
}

/// A mount without a place.
pub(crate) struct Detached {
    mount: OwnedFd,
    mountpoint: Dir,
}

impl Detached {
    /// Makes the mount for the connection behind `device`. Any error means that mount(2) should be
    /// tried, with another descriptor: it knows best what to say.
    pub(crate) fn new(
        config: &MountConfig,
        device: &OwnedFd,
        mountpoint: Dir,
    ) -> Result<Self, Dir> {
        // A file's root has no child to be shown by.
        if !root_costs() || !mountpoint.is_dir() {
            return Err(mountpoint);
        }
        match Self::mount(config, device) {
            Ok(mount) => Ok(Self { mount, mountpoint }),
            Err(errno) => {
                tracing::debug!(%errno, "no mount without a place");
                Err(mountpoint)
            }
        }
    }

    fn mount(config: &MountConfig, device: &OwnedFd) -> Result<OwnedFd, Errno> {
        let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let fd = device.as_raw_fd().to_string();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let (uid, gid) = (uid.as_raw().to_string(), gid.as_raw().to_string());
        for (key, value) in [
            ("source", config.source.as_str()),
            ("subtype", "idshift"),
            ("fd", &fd),
            ("rootmode", "40000"),
            ("user_id", &uid),
            ("group_id", &gid),
        ] {
            fsconfig_set_string(&fs, key, value)?;
        }
        let flags = config.options.flags;
        let of_file_system = flags::set(flags).filter(|flag| flag.of_file_system);
        let names = ["default_permissions"]
            .into_iter()
            .chain(config.options.allow_other.then_some("allow_other"))
            .chain(of_file_system.map(|flag| flag.name));
        for name in names {
            fsconfig_set_flag(&fs, name)?;
        }
        fsconfig_create(&fs)?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags::attributes(flags))
    }

    /// The mount of the root directory alone. To be called while requests are answered.
    pub(crate) fn shown(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(&self.mount, root::NAME, flags, Mode::empty())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&root, "", flags)
    }

    /// What is to be attached.
    pub(crate) fn top<'m>(&'m self, shown: Option<&'m OwnedFd>) -> &'m OwnedFd {
        shown.unwrap_or(&self.mount)
    }

    /// Attaches what is to be shown to the mount point; without it, the file system as it is. What is
    /// returned is to be closed when there is time: the kernel takes a while to give a mount up.
    pub(super) fn attach(self, shown: Option<&OwnedFd>) -> Result<OwnedFd, Errno> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        let mount = self.top(shown);
        move_mount(mount.as_fd(), "", self.mountpoint.as_fd(), "", flags)?;
        Ok(self.mount)
    }
}
