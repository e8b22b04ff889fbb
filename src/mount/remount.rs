//! `remount`: changing the flags of a mount that is there.
//!
//! A map, a cache mode and whatever else the server was started with stay: FUSE has no way to
//! change them. The flags are the kernel's own and are changed by it (mount(2), `MS_REMOUNT`).

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags as Kernel;

use crate::config::{MountFlags, Policies};
use crate::error::StartError;
use crate::host::mountinfo::{self, Mount};
use crate::mount::options::{Options, Origin};
use crate::mount::times;
use crate::plain;

/// The idshift mount at `mountpoint`.
pub fn target(mountpoint: &Path) -> Result<Mount, StartError> {
    let wrong =
        |why: String| StartError::Path { role: "mount point", path: mountpoint.to_owned(), why };
    let resolved = mountinfo::resolve_mountpoint(mountpoint)
        .map_err(|error| wrong(format!("cannot be used: {error}")))?;
    let mount = mountinfo::at(&resolved).map_err(|source| StartError::System {
        what: "cannot read /proc/self/mountinfo".to_owned(),
        source,
    })?;
    match mount {
        Some(mount) if mount.is_idshift() => Ok(mount),
        Some(mount) => Err(wrong(format!("is a mount of type {}, not of idshift", mount.fs_type))),
        None => Err(wrong("nothing is mounted there, so there is nothing to remount".to_owned())),
    }
}

/// The flags that `mount` has now.
pub fn present_flags(mount: &Mount) -> Result<MountFlags, StartError> {
    let both = [mount.fs_options.as_str(), mount.options.as_str()];
    let mut flags = Options::parse(&both, Origin::MountProgram, MountFlags::default())?.flags;
    // That one the kernel does not name.
    flags.strictatime = !flags.noatime && !flags.relatime;
    Ok(flags)
}

/// How the server is to keep access times from now on, as it takes that (`Question::Times`); `None`
/// if that stays.
pub fn new_times(before: MountFlags, options: &Options) -> Option<[u8; 8]> {
    let MountFlags { noatime, nodiratime, strictatime, relatime, .. } = options.flags;
    // As the kernel does it: what is not mentioned is kept.
    let mentioned = noatime || nodiratime || strictatime || relatime;
    let (before, after) = (times::encode(before), times::encode(options.flags));
    (mentioned && before != after).then_some(after.to_ne_bytes())
}

/// Gives `mount` the flags of `options`.
pub fn remount(mount: &Mount, options: &Options) -> Result<(), StartError> {
    let stay = without_effect(options);
    if !stay.is_empty() {
        complain!(
            "idshift: note: a remount changes the flags only; what was given of {} stays as when \
             '{}' was mounted",
            stay.join(", "),
            plain::path(&mount.mountpoint)
        );
    }
    let flags = kernel_flags(options.flags);
    let point = mount.mountpoint.as_path();
    let done = match rustix::mount::mount_remount(point, flags, "") {
        // Not the owner of the file system, but perhaps of the mount: change that alone.
        Err(Errno::PERM) => rustix::mount::mount_remount(point, flags | Kernel::BIND, ""),
        other => other,
    };
    done.map_err(|errno| {
        let why = match errno {
            Errno::PERM => "only root can remount".to_owned(),
            Errno::BUSY => "a file is still open for writing, so it cannot become 'ro'".to_owned(),
            other => other.to_string(),
        };
        StartError::Mount(format!("cannot remount '{}': {why}", point.display()))
    })
}

/// The options that were given and that only a new mount can have.
fn without_effect(options: &Options) -> Vec<&'static str> {
    let usual = Options::default();
    let policies = Policies::default();
    let given = [
        ("map=", !options.maps.is_empty()),
        ("cache=", options.cache != usual.cache),
        ("io=", options.io != usual.io),
        ("locks=", options.locks != usual.locks),
        ("guard=", options.guard != usual.guard),
        ("ownership=", options.ownership != usual.ownership),
        ("unmapped=", options.policies.unmapped != policies.unmapped),
        ("deny_groups=", options.policies.deny_groups != policies.deny_groups),
        ("suid=", options.policies.set_id != policies.set_id),
        ("sandbox=", options.sandbox != usual.sandbox),
        ("submounts", options.submounts),
        ("backend=", options.backend != usual.backend),
        ("restart=", options.restart),
        ("owned-by=", options.owned_by.is_some()),
        ("creators=", options.policies.creators != policies.creators),
        ("chown=", options.policies.foreign_owners != policies.foreign_owners),
        ("idmap=", options.no_idmap),
        ("threads=", options.threads.is_some()),
    ];
    given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
}

fn kernel_flags(flags: MountFlags) -> Kernel {
    let pairs = [
        (flags.read_only, Kernel::RDONLY),
        (flags.nosuid, Kernel::NOSUID),
        (flags.nodev, Kernel::NODEV),
        (flags.noexec, Kernel::NOEXEC),
        (flags.noatime, Kernel::NOATIME),
        (flags.nodiratime, Kernel::NODIRATIME),
        (flags.strictatime, Kernel::STRICTATIME),
        (flags.relatime, Kernel::RELATIME),
        (flags.sync, Kernel::SYNCHRONOUS),
        (flags.dirsync, Kernel::DIRSYNC),
        (flags.lazytime, Kernel::LAZYTIME),
        (flags.nosymfollow, Kernel::NOSYMFOLLOW),
    ];
    pairs.into_iter().filter(|(set, _)| *set).fold(Kernel::empty(), |all, (_, flag)| all | flag)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn present_flags_are_read_from_mountinfo() {
        let line = b"1 0 0:9 / /m rw,nosuid,noatime - fuse.idshift /l ro,user_id=0,allow_other\n";
        let mount = &mountinfo::parse(line)[0];
        let flags = present_flags(mount).unwrap();
        assert!(flags.nosuid && flags.noatime && !flags.noexec);
        let kernel = kernel_flags(flags);
        assert!(kernel.contains(Kernel::NOSUID | Kernel::NOATIME));
        assert!(!kernel.intersects(Kernel::RELATIME | Kernel::NOEXEC));
    }
}
