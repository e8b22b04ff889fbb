//! The kernel's own idmapped mount as a backend (`backend=kernel`): no server, no process left.
//!
//! A detached clone of the lower mount gets the map and the flags, and only then a place in the
//! tree: no moment shows the directory unshifted.

use std::fmt::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::config::{Backend, GuardMode, MountConfig, MountFlags, Ownership};
use crate::error::StartError;
use crate::fuse::negotiate::WITHOUT_IDMAP;
use crate::host::mountinfo::FUSE_TYPE;
use crate::mount::{guard, times};
use crate::shift::deny_groups::DenyGroups;
use crate::shift::foreign::{Creators, ForeignOwners};
use crate::shift::id::{Gid, Kind, Uid};
use crate::shift::idmap::{Extent, IdMap, Maps};
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;
use crate::sys::idmapped::{self, Change, MountAttrs};

/// Most lines that the kernel takes in one map (`UID_GID_MAP_MAX_EXTENTS`, Linux 4.15).
pub const MAX_EXTENTS: usize = 340;

/// Who makes the mount, after `backend=` was weighed against what is possible here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The kernel: an idmapped mount.
    Kernel,
    /// The FUSE server. Carries why it is not the kernel's mount; `None` where it was asked for.
    Fuse(Option<String>),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Kernel => f.write_str("backend: kernel (an idmapped mount, no server needed)"),
            Choice::Fuse(None) => f.write_str("backend: fuse"),
            Choice::Fuse(Some(why)) => write!(f, "backend: fuse, not the kernel's: {why}"),
        }
    }
}

/// Decides who makes the mount.
///
/// `backend=auto` takes the kernel where the lower file system, the kernel and the options allow.
/// `backend=kernel` with options that the kernel has no counterpart for is an error naming them;
/// whether the kernel can do the mount shows in [`mount`].
pub fn choose(config: &MountConfig) -> Result<Choice, StartError> {
    let fuse_only = without_counterpart(config);
    match config.backend {
        Backend::Fuse => Ok(Choice::Fuse(None)),
        Backend::Kernel if fuse_only.is_empty() => Ok(Choice::Kernel),
        Backend::Kernel => Err(StartError::Usage(format!(
            "backend=kernel cannot do {}; leave that out, or use backend=fuse",
            fuse_only.join(", ")
        ))),
        Backend::Auto if fuse_only.is_empty() => Ok(match shifted_clone(config) {
            Ok(_detached) => Choice::Kernel,
            Err(why) => Choice::Fuse(Some(why.to_string())),
        }),
        Backend::Auto => {
            let verb = if fuse_only.len() == 1 { "has" } else { "have" };
            let why = format!("{} {verb} no counterpart there", fuse_only.join(", "));
            Ok(Choice::Fuse(Some(why)))
        }
    }
}

/// Mounts `config.lower` on `config.mountpoint` as the kernel's idmapped mount.
///
/// Returns when the mount is there; nothing has to keep running.
pub fn mount(config: &MountConfig) -> Result<(), StartError> {
    // As at every mount; what is left of a dead server's guard is no reason not to make this one.
    if let Err(error) = guard::sweep(None) {
        tracing::warn!("{error}");
    }
    let clone = shifted_clone(config).map_err(|why| StartError::Mount(why.to_string()))?;
    rustix::mount::move_mount(
        &clone,
        "",
        CWD,
        &config.mountpoint,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|errno| StartError::Path {
        role: "mount point",
        path: config.mountpoint.clone(),
        why: format!("the idmapped mount cannot be put there (move_mount: {errno})"),
    })
}

/// Whether the kernel makes idmapped mounts of `lower`, tried on a detached clone that is thrown
/// away. The error says why not, for a person.
pub fn supported(lower: &Path) -> Result<(), String> {
    let attempt = || {
        let clone = clone_of(lower, false)?;
        let userns = idmapped::user_namespace("0 1 1\n", "0 1 1\n").map_err(Why::Userns)?;
        apply(lower, &clone, &userns, MountFlags::default(), false)
    };
    attempt().map_err(|why| why.to_string())
}

/// Options of `config` that only the FUSE server can do, as the user would write them.
fn without_counterpart(config: &MountConfig) -> Vec<&'static str> {
    let options = [
        ("unmapped=", config.policies.unmapped != UnmappedOwners::Overflow),
        ("deny_groups=", config.policies.deny_groups != DenyGroups::Off),
        ("owned-by=", config.policies.no_devices),
        ("creators=", config.policies.creators != Creators::Refuse),
        ("chown=", config.policies.foreign_owners != ForeignOwners::Refuse),
        ("suid=", config.policies.set_id != SetIdPolicy::Pass),
        ("fsname=", config.source != config.lower.to_string_lossy()),
        ("sync", config.flags.sync),
        ("dirsync", config.flags.dirsync),
        ("lazytime", config.flags.lazytime),
        ("ownership=xattr", config.ownership != Ownership::Chown),
        ("guard= (it needs a server to undo it)", config.guard != GuardMode::None),
        ("a mount for one user only (without allow_other)", !config.allow_other),
    ];
    options.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
}

/// Why the kernel does not make the mount.
enum Why {
    /// The map has no extents of one kind.
    Empty(&'static str),
    /// The map does not fit what the kernel takes at once.
    TooLong { kind: &'static str, extents: usize, bytes: usize },
    /// The lower directory is guarded by another mount, and cannot be reached behind that.
    Guard(StartError),
    /// The lower mount cannot be cloned.
    Clone(Errno),
    /// No user namespace with that map: the step and its error.
    Userns((&'static str, std::io::Error)),
    /// mount_setattr failed: on this type of file system.
    Setattr { errno: Errno, file_system: String, recursive: bool },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Empty(kind) => {
                write!(f, "the map has no {kind}s, and the kernel takes no empty map")
            }
            Why::TooLong { kind, extents, bytes } => write!(
                f,
                "the {kind} map has {extents} extents in {bytes} bytes; the kernel takes at most \
                 {MAX_EXTENTS} extents and less than one page ({} bytes)",
                rustix::param::page_size()
            ),
            Why::Guard(error) => write!(f, "{error}"),
            Why::Clone(Errno::PERM) => {
                f.write_str("cloning the lower mount needs CAP_SYS_ADMIN (open_tree)")
            }
            Why::Clone(Errno::NOSYS) => f.write_str("this kernel has no open_tree (Linux 5.2)"),
            Why::Clone(errno) => write!(f, "the lower mount cannot be cloned (open_tree: {errno})"),
            Why::Userns((step, error)) => {
                write!(f, "no user namespace to carry the map ({step}: {error})")
            }
            Why::Setattr { errno, file_system, recursive } => {
                let below = if *recursive { ", or one mounted below it," } else { "" };
                match *errno {
                    Errno::INVAL if file_system == FUSE_TYPE => write!(
                        f,
                        "the mount of idshift{below} makes none: it has idmap=deny, or {WITHOUT_IDMAP}"
                    ),
                    Errno::INVAL => write!(
                        f,
                        "the file system ({file_system}){below} has no idmapped mounts on this kernel"
                    ),
                    Errno::PERM => write!(
                        f,
                        "not allowed: idmapped mounts need CAP_SYS_ADMIN where the file system \
                         ({file_system}){below} was mounted, and a lower mount that is not itself \
                         idmapped"
                    ),
                    Errno::NOSYS => f.write_str(
                        "this kernel has no idmapped mounts (mount_setattr, Linux 5.12)",
                    ),
                    errno => write!(f, "mount_setattr on {file_system}{below}: {errno}"),
                }
            }
        }
    }
}

/// A detached, shifted clone of the lower mount, ready to be put in its place.
fn shifted_clone(config: &MountConfig) -> Result<OwnedFd, Why> {
    let userns = carrier(&config.maps)?;
    let clone = clone_of(&config.lower, config.submounts)?;
    apply(&config.lower, &clone, &userns, config.flags, config.submounts)?;
    Ok(clone)
}

/// A user namespace whose map is `maps`: inside is lower, outside is upper (the direction that
/// `make_vfsuid` in the kernel's fs/mnt_idmapping.c reads).
fn carrier(maps: &Maps) -> Result<OwnedFd, Why> {
    let uids = map_lines::<Uid>(&maps.uids)?;
    let gids = map_lines::<Gid>(&maps.gids)?;
    idmapped::user_namespace(&uids, &gids).map_err(Why::Userns)
}

fn map_lines<K: Kind>(map: &IdMap<K>) -> Result<String, Why> {
    let extents: &[Extent<K>] = map.extents();
    if extents.is_empty() {
        return Err(Why::Empty(K::NAME));
    }
    let mut lines = String::new();
    for extent in extents {
        let (lower, upper) = (extent.lower_first(), extent.upper_first());
        // Writing to a String cannot fail.
        writeln!(lines, "{lower} {upper} {}", extent.count()).unwrap_or_default();
    }
    if extents.len() > MAX_EXTENTS || lines.len() >= rustix::param::page_size() {
        return Err(Why::TooLong { kind: K::NAME, extents: extents.len(), bytes: lines.len() });
    }
    Ok(lines)
}

fn clone_of(lower: &Path, submounts: bool) -> Result<OwnedFd, Why> {
    if let Some(unguarded) = guard::view(lower, submounts).map_err(Why::Guard)? {
        return Ok(unguarded);
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if submounts {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, lower, flags).map_err(Why::Clone)
}

/// Gives the clone its map and flags. Private as well: what is mounted on the host below the
/// lower directory later would arrive here unshifted.
fn apply(
    lower: &Path,
    clone: &OwnedFd,
    userns: &OwnedFd,
    flags: MountFlags,
    recursive: bool,
) -> Result<(), Why> {
    let (set, clear) = attributes(flags);
    let change = Change { set, clear, private: true, userns: Some(userns.as_fd()), recursive };
    idmapped::mount_setattr(clone.as_fd(), change).map_err(|errno| Why::Setattr {
        errno,
        file_system: file_system_of(lower),
        recursive,
    })
}

/// The attributes to set and to clear for these flags. What is not asked for stays as it is on
/// the lower mount.
fn attributes(flags: MountFlags) -> (MountAttrs, MountAttrs) {
    let wanted = [
        (flags.read_only, MountAttrs::RDONLY),
        (flags.nosuid, MountAttrs::NOSUID),
        (flags.nodev, MountAttrs::NODEV),
        (flags.noexec, MountAttrs::NOEXEC),
        (flags.nosymfollow, MountAttrs::NOSYMFOLLOW),
    ];
    let (times, clear) = times::asked(flags);
    let set = wanted
        .into_iter()
        .filter_map(|(given, attr)| given.then_some(attr))
        .fold(times, MountAttrs::union);
    (set, clear)
}

/// The type of the file system that `path` is on, from `/proc/self/mountinfo` (proc(5)), for
/// messages only.
fn file_system_of(path: &Path) -> String {
    let unknown = || "of a type unknown".to_owned();
    let flags = rustix::fs::StatxFlags::MNT_ID;
    let Ok(stat) = rustix::fs::statx(CWD, path, AtFlags::empty(), flags) else { return unknown() };
    let mount = stat.stx_mnt_id.to_string();
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return unknown() };
    table
        .lines()
        .filter(|line| line.split(' ').next() == Some(&mount))
        .find_map(|line| line.split_once(" - ")?.1.split(' ').next().map(str::to_owned))
        .unwrap_or_else(unknown)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests;
