//! Access times: whether reading moves them is decided by the lower mount, through which the server
//! and the kernel's passthrough read. So the options for that (`noatime` and so on) belong on the
//! server's private clone of it. On the FUSE mount they only show.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::config::MountFlags;
use crate::lower::LowerTree;
use crate::mount::config::MountConfig;
use crate::sys::idmapped::{Change, MountAttrs, mount_setattr};

/// What is asked for, as the attributes to set and to clear; nothing of what is not mentioned.
pub(crate) fn asked(flags: MountFlags) -> (MountAttrs, MountAttrs) {
    let (mut set, mut clear) = (MountAttrs::empty(), MountAttrs::empty());
    if flags.noatime || flags.strictatime || flags.relatime {
        clear |= MountAttrs::ATIME;
    }
    // One field with strictatime: both at once are EINVAL.
    if flags.noatime {
        set |= MountAttrs::NOATIME;
    } else if flags.strictatime {
        set |= MountAttrs::STRICTATIME;
    }
    if flags.nodiratime {
        set |= MountAttrs::NODIRATIME;
    }
    (set, clear)
}

/// Gives the server's own mount what the options ask for; says so where that cannot be.
pub(crate) fn prepare(config: &MountConfig, lower: &LowerTree) {
    let (set, clear) = asked(config.options.flags);
    if set.union(clear).is_empty() {
        return;
    }
    let done = match lower.private_mount() {
        Some(mount) => change(mount, set, clear),
        None => Err(Errno::NOTSUP),
    };
    if let Err(errno) = done {
        let why = match errno {
            Errno::NOTSUP => "the lower mount cannot be cloned here".to_owned(),
            Errno::NOSYS => "it needs Linux 5.12".to_owned(),
            Errno::PERM => "another user namespace has settled it".to_owned(),
            other => other.to_string(),
        };
        tracing::warn!(
            "options for access times (noatime, relatime, …) have no effect: the lower mount's \
             stay in force, because {why}"
        );
    }
}

/// Changes the server's own mount.
pub(crate) fn change(
    mount: BorrowedFd<'_>,
    set: MountAttrs,
    clear: MountAttrs,
) -> Result<(), Errno> {
    let change = Change { set, clear, private: false, userns: None, recursive: true };
    mount_setattr(mount.as_fd(), change)
}

/// All of them after a remount, in a number.
pub(crate) fn encode(flags: MountFlags) -> u64 {
    asked(flags).0.bits()
}

/// The same again: every one is set or cleared.
pub(crate) fn decode(bits: u64) -> Option<(MountAttrs, MountAttrs)> {
    let all = MountAttrs::ATIME | MountAttrs::NODIRATIME;
    MountAttrs::from_bits(bits).filter(|set| all.contains(*set)).map(|set| (set, all))
}
