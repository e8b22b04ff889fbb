//! What the lower mounts forbid, the mount above forbids too: set-user-ID programs (`nosuid`), devices
//! (`nodev`), programs at all (`noexec`), following links (`nosymfollow`), writing (`ro`).
//!
//! The server opens lower files by itself, so nothing else would keep them: another user's FUSE mount,
//! say, whose server says that a program is root's and set-user-ID.
//!
//! The flags are those of the mount that the server works on, and not of what covers its path. What is
//! mounted below the lower directory has flags of its own, and so has what shows it: a mount of that
//! directory, put on top of it before anybody can see either.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::config::MountFlags;
use crate::error::StartError;
use crate::host::mountinfo;
use crate::lower::LowerTree;
use crate::mount::config::MountConfig;
use crate::mount::flags;
use crate::plain;
use crate::sys::idmapped::{self, Change, MountAttrs};

/// The flags that forbid something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Forbidden(MountFlags);

/// `ST_NOSYMFOLLOW`, which is in no library.
const NOSYMFOLLOW: StatVfsMountFlags = StatVfsMountFlags::from_bits_retain(0x2000);

impl Forbidden {
    /// What the mount forbids that a descriptor is on.
    fn on(fd: impl AsFd) -> Result<Self, Errno> {
        let has = rustix::fs::fstatvfs(fd)?.f_flag;
        Ok(Self(MountFlags {
            read_only: has.contains(StatVfsMountFlags::RDONLY),
            nosuid: has.contains(StatVfsMountFlags::NOSUID),
            nodev: has.contains(StatVfsMountFlags::NODEV),
            noexec: has.contains(StatVfsMountFlags::NOEXEC),
            nosymfollow: has.contains(NOSYMFOLLOW),
            ..MountFlags::default()
        }))
    }

    /// Programs and devices of a mount in another mount namespace count for nothing here
    /// (`mnt_may_suid`, fs/namespace.c), whatever its flags are.
    fn elsewhere(self) -> Self {
        Self(MountFlags { nosuid: true, nodev: true, ..self.0 })
    }

    fn add_to(self, flags: MountFlags) -> MountFlags {
        MountFlags {
            read_only: flags.read_only || self.0.read_only,
            nosuid: flags.nosuid || self.0.nosuid,
            nodev: flags.nodev || self.0.nodev,
            noexec: flags.noexec || self.0.noexec,
            nosymfollow: flags.nosymfollow || self.0.nosymfollow,
            ..flags
        }
    }

    /// A usage error if something was asked for by name that is forbidden.
    fn refuse(self, config: &MountConfig) -> Result<(), StartError> {
        let forbidden = flags::set(self.0).filter(|flag| flag.name != "ro"); // mount(8) always says rw
        let refused: Vec<String> = forbidden
            .filter_map(|flag| config.options.clears(flag))
            .map(ToString::to_string)
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(forbidden_below(&refused.join(","), &config.lower))
    }

    fn attributes(self) -> MountAttrs {
        MountAttrs::from_bits_truncate(flags::attributes(self.0).bits().into()) & ALL
    }
}

/// A directory below the lower one on which something is mounted that forbids more.
#[derive(Debug, Clone)]
pub(crate) struct Below {
    /// From the lower directory on.
    path: PathBuf,
    forbidden: Forbidden,
}

/// The configuration with the flags of the lower mount, and what is mounted below it and forbids more
/// than that; `mounts` are all that are, by paths from there. A usage error names what was asked for and is forbidden.
pub(crate) fn inherit(
    config: &MountConfig,
    lower: &LowerTree,
    mounts: &[PathBuf],
) -> Result<(MountConfig, Vec<Below>), StartError> {
    let failed = |what: &str| {
        let what = format!("{what} of '{}'", plain::path(&config.lower));
        move |errno: Errno| StartError::System { what, source: errno.into() }
    };
    let forbidden = Forbidden::on(lower.root()).map_err(failed("cannot read the mount flags"))?;
    let forbidden = if lower.is_on_own_mount() || is_mounted_here(lower.root()) {
        forbidden
    } else {
        forbidden.elsewhere()
    };
    forbidden.refuse(config)?;
    let mut config = config.clone();
    let flags = forbidden.add_to(config.options.flags);
    config.options.flags = flags;
    let mut below = Vec::new();
    // The upper ones first.
    let mounts: BTreeSet<&PathBuf> = mounts.iter().collect();
    for path in mounts {
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(fd) = openat(lower.root(), path, how, Mode::empty()) else { continue };
        let forbidden = Forbidden::on(&fd).map_err(failed("cannot read the mount flags below"))?;
        let is_below_one = below.iter().any(|other: &Below| path.starts_with(&other.path));
        if is_below_one || forbidden.add_to(flags) != flags {
            below.push(Below { path: path.clone(), forbidden });
        }
    }
    Ok((config, below))
}

/// The same check for a mount that keeps the flags of the lower one by itself.
pub(crate) fn refuse_more(config: &MountConfig, clone: &OwnedFd) -> Result<(), StartError> {
    Forbidden::on(clone).unwrap_or_default().refuse(config)
}

/// A usage error if a remount takes away a flag that the mount has and the lower one at `lower` has, too.
/// Where that cannot be looked at any more, nothing is known of it.
pub(super) fn refuse_less(
    lower: &Path,
    before: MountFlags,
    after: MountFlags,
) -> Result<(), StartError> {
    let Ok(lower_fd) = openat(CWD, lower, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(());
    };
    let Forbidden(forbidden) = Forbidden::on(lower_fd).unwrap_or_default();
    let flags = |of: MountFlags| [of.nosuid, of.nodev, of.noexec, of.nosymfollow];
    let [had, has, kept] = [before, after, forbidden].map(flags);
    let words = ["suid", "dev", "exec", "symfollow"].into_iter().enumerate();
    let refused: Vec<&str> = words
        .filter(|&(nth, _)| had[nth] && kept[nth] && !has[nth])
        .map(|(_, word)| word)
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(forbidden_below(&refused.join(","), lower)) }
}

fn forbidden_below(options: &str, lower: &Path) -> StartError {
    StartError::Usage(format!(
        "option '{options}': the file system with '{}' is mounted without that, and what it forbids is \
         forbidden here too; leave the option out, or remount that file system",
        plain::path(lower)
    ))
}

/// Whether the mount that a descriptor is on is in this mount namespace.
fn is_mounted_here(fd: BorrowedFd<'_>) -> bool {
    let (Ok(id), Ok(mounts)) = (mountinfo::id_of(fd), mountinfo::read()) else { return false };
    mounts.iter().any(|mount| mount.id == id)
}

/// All attributes that forbid something.
const ALL: MountAttrs = MountAttrs::RDONLY
    .union(MountAttrs::NOSUID)
    .union(MountAttrs::NODEV)
    .union(MountAttrs::NOEXEC)
    .union(MountAttrs::NOSYMFOLLOW);

/// Puts mounts that forbid as much over the directories on which the lower ones are, in a mount that
/// nobody sees yet. To be called while requests are answered (Linux 6.15).
pub(crate) fn cover(shown: &OwnedFd, flags: MountFlags, below: &[Below]) -> Result<(), Errno> {
    for Below { path, forbidden } in below {
        let flags_of_path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(shown, path, flags_of_path, Mode::empty())?;
        let clone = open_tree(
            &place,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )?;
        let set = Forbidden(forbidden.add_to(flags)).attributes();
        let change = Change {
            set,
            // What it is mounted on may forbid more.
            clear: ALL.difference(set),
            private: false,
            userns: None,
            recursive: false,
        };
        idmapped::mount_setattr(clone.as_fd(), change)?;
        let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&clone, "", &place, "", how)?;
    }
    Ok(())
}

/// Where no such mounts can be made, all of the mount forbids what anything below forbids, writing
/// apart, which the lower mount itself refuses.
pub(crate) fn everywhere(flags: MountFlags, below: &[Below]) -> MountFlags {
    let all = below.iter().fold(flags, |flags, below| below.forbidden.add_to(flags));
    MountFlags { read_only: flags.read_only, ..all }
}

/// What is forbidden in all of it for the sake of something below, in words.
pub(crate) fn in_words(below: &[Below]) -> String {
    below.iter().map(|below| plain::path(&below.path)).collect::<Vec<_>>().join("', '")
}
