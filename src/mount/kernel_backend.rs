//! The kernel's own idmapped mount as a backend (`backend=kernel`): no server, no process left.
//!
//! A detached clone of the lower mount gets the map and the flags, and only then a place in the
//! tree: no moment shows the directory unshifted.

use std::fmt::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::config::Backend;
use crate::error::StartError;
use crate::fuse::negotiate::WITHOUT_IDMAP;
use crate::host::mountinfo::{self, FUSE_TYPE};
use crate::mount::config::MountConfig;
use crate::mount::dirs::{Dir, Dirs};
use crate::mount::options::Options;
use crate::mount::options::situation::Missing;
use crate::mount::{flags, guard, inherit, times};
use crate::plain;
use crate::shift::id::{Gid, Kind, Uid};
use crate::shift::idmap::{Extent, IdMap, Maps};
use crate::sys::idmapped::{self, Change, MountAttrs};

/// Most lines that the kernel takes in one map (`UID_GID_MAP_MAX_EXTENTS`, Linux 4.15).
pub const MAX_EXTENTS: usize = 340;

/// Who makes the mount, after `backend=` was weighed against what is possible here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The kernel: an idmapped mount. Carries the options that are about a server alone, as they
    /// were written.
    Kernel {
        /// They have no effect.
        moot: Vec<String>,
    },
    /// The FUSE server. Carries why it is not the kernel's mount; `None` where it was asked for.
    Fuse(Option<String>),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Kernel { moot } => {
                f.write_str("backend: kernel (an idmapped mount, no server needed)")?;
                if moot.is_empty() {
                    return Ok(());
                }
                write!(f, "; {} has no effect there", plain::line(&moot.join(", ")))
            }
            Choice::Fuse(None) => f.write_str("backend: fuse"),
            Choice::Fuse(Some(why)) => write!(f, "backend: fuse, not the kernel's: {why}"),
        }
    }
}

/// Decides who makes the mount.
///
/// `backend=auto` takes the kernel where the lower file system, the kernel and the options allow; what is
/// about a server alone is no reason for one.
/// `backend=kernel` with options that an idmapped mount does not have is an error naming them;
/// whether the kernel can do the mount shows in [`mount`].
pub fn choose(config: &MountConfig, lower: &Dir) -> Result<Choice, StartError> {
    let Missing { mut needs_server, about_server } = config.options.missing_in_kernel();
    if !config.options.allow_other {
        needs_server.push("a mount for one user only (without allow_other)".to_owned());
    }
    let named = |options: &[String]| plain::line(&options.join(", "));
    match config.options.backend {
        Backend::Fuse => Ok(Choice::Fuse(None)),
        Backend::Kernel if !needs_server.is_empty() => Err(StartError::Usage(format!(
            "backend=kernel cannot do {}; leave that out, or use backend=fuse",
            named(&needs_server)
        ))),
        Backend::Kernel if !about_server.is_empty() => Err(StartError::Usage(format!(
            "backend=kernel has no server that {} could be about; leave that out, or use backend=fuse",
            named(&about_server)
        ))),
        Backend::Kernel => Ok(Choice::Kernel { moot: Vec::new() }),
        Backend::Auto if needs_server.is_empty() => Ok(match shifted_clone(config, lower) {
            Ok(_detached) => Choice::Kernel { moot: about_server },
            Err(why) => Choice::Fuse(Some(why.to_string())),
        }),
        Backend::Auto => {
            let verb = if needs_server.len() == 1 { "has" } else { "have" };
            let why = format!("{} {verb} no counterpart there", named(&needs_server));
            Ok(Choice::Fuse(Some(why)))
        }
    }
}

/// Mounts `config.lower` on `config.mountpoint` as the kernel's idmapped mount.
///
/// Returns when the mount is there; nothing has to keep running.
pub fn mount(config: &MountConfig) -> Result<(), StartError> {
    let dirs = Dirs::of(config).map_err(|source| StartError::System {
        what: "cannot open the directories of the mount".to_owned(),
        source,
    })?;
    mount_at(config, &dirs)
}

/// The same, of directories that have been looked up.
pub fn mount_at(config: &MountConfig, dirs: &Dirs) -> Result<(), StartError> {
    // As at every mount; what is left of a dead server's guard is no reason not to make this one.
    if let Err(error) = guard::sweep(None) {
        tracing::warn!("{error}");
    }
    note_inherited(config);
    let clone =
        shifted_clone(config, &dirs.lower).map_err(|why| StartError::Mount(why.to_string()))?;
    inherit::refuse_more(config, &clone)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let moved = rustix::mount::move_mount(&clone, "", dirs.mountpoint.as_fd(), "", flags);
    moved.map_err(|errno| StartError::Path {
        role: "mount point",
        path: config.mountpoint.clone(),
        why: format!("the idmapped mount cannot be put there (move_mount: {errno})"),
    })
}

/// Whether the kernel makes idmapped mounts of `lower`, tried on a detached clone that is thrown
/// away. The error says why not, for a person.
pub fn supported(lower: &Path) -> Result<(), String> {
    let attempt = || {
        let clone = open_tree(lower, false)?;
        let userns = idmapped::user_namespace("0 1 1\n", "0 1 1\n").map_err(Why::Userns)?;
        let nothing = (MountAttrs::empty(), MountAttrs::empty());
        apply(lower, &clone, &userns, nothing, false)
    };
    attempt().map_err(|why| why.to_string())
}

const TOO_OLD: &str = "this kernel has no idmapped mounts (mount_setattr, Linux 5.12)";

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
            // What it lacks first is no matter.
            Why::Clone(_) | Why::Userns(_) if !idmapped::are_there() => f.write_str(TOO_OLD),
            Why::Clone(Errno::PERM) => {
                f.write_str("cloning the lower mount needs CAP_SYS_ADMIN (open_tree)")
            }
            Why::Clone(errno) => write!(f, "the lower mount cannot be cloned (open_tree: {errno})"),
            Why::Userns((step, error)) => {
                write!(f, "no user namespace to carry the map ({step}: {error})")
            }
            Why::Setattr { errno, file_system, recursive } => {
                let below = if *recursive { ", or one mounted below it," } else { "" };
                match *errno {
                    Errno::INVAL if file_system == FUSE_TYPE => write!(
                        f,
                        "the mount of idshift{below} makes none: it has idmap=deny, or act_as=caller \
                         (the default where root is squashed; write act_as=owner), or {WITHOUT_IDMAP}"
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
                    Errno::NOSYS => f.write_str(TOO_OLD),
                    errno => write!(f, "mount_setattr on {file_system}{below}: {errno}"),
                }
            }
        }
    }
}

/// A detached, shifted clone of the lower mount, ready to be put in its place.
fn shifted_clone(config: &MountConfig, lower: &Dir) -> Result<OwnedFd, Why> {
    let userns = carrier(&config.maps)?;
    let clone = clone_of(lower, config.options.submounts)?;
    let changes = attributes(&config.options);
    apply(&lower.path(), &clone, &userns, changes, config.options.submounts)?;
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

fn clone_of(lower: &Dir, submounts: bool) -> Result<OwnedFd, Why> {
    if let Some(unguarded) = guard::view(lower, submounts).map_err(Why::Guard)? {
        return Ok(unguarded);
    }
    open_tree(&lower.path(), submounts)
}

fn open_tree(lower: &Path, submounts: bool) -> Result<OwnedFd, Why> {
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
    (set, clear): (MountAttrs, MountAttrs),
    recursive: bool,
) -> Result<(), Why> {
    let change = Change { set, clear, private: true, userns: Some(userns.as_fd()), recursive };
    idmapped::mount_setattr(clone.as_fd(), change).map_err(|errno| Why::Setattr {
        errno,
        file_system: file_system_of(lower),
        recursive,
    })
}

/// The attributes to set and to clear for these options. What is not asked for stays as it is on
/// the lower mount.
fn attributes(options: &Options) -> (MountAttrs, MountAttrs) {
    let (times, mut clear) = times::asked(options.flags);
    // Back to what is usual, which is one of the field's values too.
    if flags::FLAGS.iter().any(|flag| flag.is_of_times() && options.clears(flag).is_some()) {
        clear |= MountAttrs::ATIME;
    }
    let others = flags::set(options.flags).filter(|flag| !flag.is_of_times());
    let set = others
        .filter_map(|flag| flag.attr)
        .fold(times, |set, attr| set | MountAttrs::from_bits_truncate(attr.bits().into()));
    (set, clear)
}

/// Says which flags of the lower mount the new one has too, though the opposite was asked for: taking a
/// protection away is for whoever made the lower mount.
fn note_inherited(config: &MountConfig) {
    let Ok(Some(lower)) = mountinfo::holding(&config.lower) else { return };
    for flag in flags::FLAGS {
        if let Some(word) = config.options.clears(flag)
            && !flag.is_of_times()
            && lower.options.split(',').any(|option| option == flag.name)
        {
            tracing::warn!(
                "option '{word}' has no effect: the mount that '{}' is on is '{}', and an idmapped mount \
                 keeps that",
                plain::path(&config.lower),
                flag.name
            );
        }
    }
}

/// The type of the file system that `path` is on, from `/proc/self/mountinfo` (proc(5)), for
/// messages only.
fn file_system_of(path: &Path) -> String {
    let unknown = || "of a type unknown".to_owned();
    let mount = std::fs::File::open(path).ok().and_then(|dir| mountinfo::id_of(dir).ok());
    let all = mountinfo::read().unwrap_or_default();
    let found = all.into_iter().find(|one| Some(one.id) == mount);
    found.map_or_else(unknown, |mount| mount.fs_type)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests;
