//! `remount`: changing the flags of a mount that is there.
//!
//! A map, a cache mode and whatever else the server was started with stay: FUSE has no way to
//! change them. The flags are the kernel's own and are changed by it (mount(2), `MS_REMOUNT`).

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags as Kernel;

use crate::config::MountFlags;
use crate::error::StartError;
use crate::host::mountinfo::{self, Mount};
use crate::mount::options::{Options, Origin};
use crate::mount::{flags, inherit, times};
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

/// Gives `mount` the flags of `options`, but none that the lower mount forbids.
pub fn remount(mount: &Mount, options: &Options) -> Result<(), StartError> {
    inherit::refuse_less(Path::new(&mount.source), present_flags(mount)?, options.flags)?;
    let left = options.left_by_remount(mount);
    if !left.is_empty() {
        complain!(
            "idshift: note: a remount does not change {}: that stays as when '{}' was mounted",
            plain::line(&left.join(", ")),
            plain::path(&mount.mountpoint)
        );
    }
    let kernel = flags::for_mount(options.flags);
    let point = mount.mountpoint.as_path();
    let done = match rustix::mount::mount_remount(point, kernel, "") {
        // Not the owner of the file system, but perhaps of the mount: change that alone.
        Err(Errno::PERM) => {
            let done = rustix::mount::mount_remount(point, kernel | Kernel::BIND, "");
            let of_file_system = flags::set(options.flags).filter(|flag| flag.attr.is_none());
            for flag in of_file_system.filter(|_| done.is_ok()) {
                complain!(
                    "idshift: note: '{}' has no effect: the file system belongs to somebody else",
                    flag.name
                );
            }
            done
        }
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
        let kernel = flags::for_mount(flags);
        assert!(kernel.contains(Kernel::NOSUID | Kernel::NOATIME));
        assert!(!kernel.intersects(Kernel::RELATIME | Kernel::NOEXEC));
    }
}
