//! The mounts on a guarded lower path: putting them there, changing and removing them.
//!
//! The path leads to the uppermost one, so changes go from the top down and back up. Whatever is
//! not one of the recorded mounts is somebody else's and is left alone.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::config::GuardMode;
use crate::error::StartError;
use crate::host::mountinfo::{self, Mount};
use crate::lower::proc_path;
use crate::mount::dirs::{Dir, leads_to};
use crate::plain;
use crate::sys::idmapped::{Change, MountAttrs, mount_setattr};
use crate::sys::namespace;

use super::register::{Bound, GuardedDir, Layers};

/// The source under which the empty directory is listed.
const COVER: &str = "idshift-guard";

/// A detached clone of the mounts at and, if `submounts`, below `path` (open_tree(2), Linux 5.2).
pub(super) fn clone_of(dir: impl AsFd, submounts: bool) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let flags = if submounts { flags | OpenTreeFlags::AT_RECURSIVE } else { flags };
    rustix::mount::open_tree(dir, "", flags)
}

/// Which directory it is, whatever its path.
fn identity_of(dir: impl AsFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(dir).map(|it| (it.st_dev, it.st_ino))
}

/// A directory that was found by a guarded path, with what it stands for.
pub(super) fn behind_cover(place: &GuardedDir, found: Dir) -> Dir {
    let covers = place.layers().cover.is_some_and(|cover| mountinfo::id_of(&found) == Ok(cover));
    match place.identity().filter(|_| covers) {
        Some(identity) => found.covering(identity),
        None => found,
    }
}

/// Whether the mount that a directory was found on is still there.
pub(super) fn is_listed(dir: &Dir) -> Result<bool, String> {
    let table = Table::read()?;
    Ok(mountinfo::id_of(dir).map_or(true, |id| table.mount(id).is_some()))
}

/// Whether a place is this directory's, which was found by the place's path. The error says why not.
pub(super) fn is_of(place: &GuardedDir, lower: &Dir) -> Result<(), String> {
    let table = Table::read()?;
    let layers = present(place, &table);
    let shown = mountinfo::id_of(lower).ok();
    let mut ours = layers.bind.first().map(|bound| bound.id).into_iter().chain(layers.cover);
    // It was found on the guard itself.
    if ours.any(|id| Some(id) == shown) {
        return Ok(());
    }
    let own = lower.identity();
    match place.identity() {
        Some(known) if known != own && !place.live().is_empty() => {
            Err("another directory is guarded that had this path before".to_owned())
        }
        _ => place.identify(own),
    }
}

/// What covers a place now.
pub(super) fn mode(place: &GuardedDir) -> GuardMode {
    let Ok(table) = Table::read() else { return GuardMode::None };
    let layers = present(place, &table);
    if layers.cover.is_some() {
        return GuardMode::Hide;
    }
    match layers.bind.first().and_then(|bound| table.mount(bound.id)).map(is_noexec) {
        None => GuardMode::None,
        Some(true) => GuardMode::Noexec,
        Some(false) => GuardMode::Nosuid,
    }
}

/// Brings the guard of a place to the strongest that a running server asks for. The error says
/// what is in the way; then the guard is as strong as it was, or stronger.
///
/// `lower` is the directory, where it has just been found. Else it is looked up by its path, and left
/// alone if that leads to another one now, as whoever owns a directory above can see to.
pub(super) fn settle(place: &GuardedDir, lower: Option<&Dir>) -> Result<(), String> {
    let needed = place.live().iter().map(|claim| claim.mode).max().unwrap_or_default();
    let mut layers = present(place, &Table::read()?);
    if needed < GuardMode::Hide
        && let Some(cover) = layers.cover
    {
        remove(cover, &[cover])?;
        layers.cover = None;
        place.record(&layers)?;
    }
    if needed == GuardMode::None {
        if let Some(bind) = layers.bind.first() {
            remove(bind.id, &layers.bind.iter().map(|bound| bound.id).collect::<Vec<_>>())?;
        }
        return place.record(&Layers::default());
    }
    if layers.bind.is_empty() {
        match lower {
            Some(lower) => put_bind(place, lower, &mut layers, needed)?,
            None => put_bind(place, &found_again(place)?, &mut layers, needed)?,
        }
    } else if layers.cover.is_none() {
        root_of(layers.bind[0].id)?;
        let noexec = needed > GuardMode::Nosuid;
        layers.bind.iter().try_for_each(|bound| set_noexec(*bound, noexec))?;
    }
    if needed == GuardMode::Hide && layers.cover.is_none() {
        put_cover(place, &mut layers)?;
    }
    Ok(())
}

/// A detached clone of what is behind the guard of a place; `None` if nothing covers it, or if
/// something else lies on the guard and is what the path leads to.
///
/// A mount under another cannot be named. So a thread takes a copy of all mounts, in a mount
/// namespace of its own that ends with it, removes the guard there and clones what comes to light:
/// on the host nothing moves meanwhile.
pub(super) fn behind(
    place: &GuardedDir,
    lower: &Dir,
    submounts: bool,
) -> Result<Option<OwnedFd>, StartError> {
    let system = |source| StartError::System {
        what: format!("cannot look behind the guard of '{}'", plain::path(&place.lower)),
        source,
    };
    if place.layers() == Layers::default() {
        return Ok(None);
    }
    let table = Table::read().map_err(|why| system(std::io::Error::other(why)))?;
    let layers = present(place, &table);
    let ids: Vec<u64> =
        layers.bind.first().map(|bound| bound.id).into_iter().chain(layers.cover).collect();
    let stack = table.stack(&place.lower);
    if ids.is_empty() || !stack.ends_with(&ids) {
        return Ok(None);
    }
    // What was found is the uppermost of these, or the path led elsewhere.
    if mountinfo::id_of(lower).ok() != ids.last().copied() {
        return Ok(None);
    }
    let look = || {
        namespace::unshare_mounts()?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        for _ in &ids {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            rustix::mount::unmount(&place.lower, flags)?;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::open(&place.lower, flags, Mode::empty())?;
        // The path may lead elsewhere by now.
        match place.identity() {
            Some(known) if identity_of(&found)? != known => Err(Errno::STALE),
            _ => clone_of(found, submounts),
        }
    };
    let found = thread::scope(|scope| scope.spawn(look).join());
    match found {
        Ok(found) => found.map(Some).map_err(|errno| system(errno.into())),
        Err(_) => Err(system(std::io::Error::other("the thread for it has panicked"))),
    }
}

/// The directory that a place was made for.
fn found_again(place: &GuardedDir) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::open(&place.lower, flags, Mode::empty());
    let found = found.map_err(|errno| format!("'{}': {errno}", plain::path(&place.lower)))?;
    if !leads_to(&place.lower, &found) || place.identity() != identity_of(&found).ok() {
        return Err("another directory has its path now".to_owned());
    }
    Ok(found)
}

fn put_bind(
    place: &GuardedDir,
    lower: impl AsFd,
    layers: &mut Layers,
    needed: GuardMode,
) -> Result<(), String> {
    let before = Table::read()?;
    let too_old = || "it needs Linux 5.12 (open_tree, mount_setattr)".to_owned();
    let clone = clone_of(&lower, true).map_err(|errno| match errno {
        Errno::NOSYS => too_old(),
        other => format!("the directory cannot be bound (open_tree: {other})"),
    })?;
    let mut set = MountAttrs::NOSUID | MountAttrs::NODEV;
    if needed > GuardMode::Nosuid {
        set |= MountAttrs::NOEXEC;
    }
    let clear = MountAttrs::empty();
    let change = Change { set, clear, private: true, userns: None, recursive: true };
    mount_setattr(clone.as_fd(), change).map_err(|errno| match errno {
        Errno::NOSYS => too_old(),
        other => format!("mount_setattr: {other}"),
    })?;
    let id = mountinfo::id_of(&clone).map_err(|errno| format!("statx: {errno}"))?;
    let was_noexec = |at: &Path| before.is_noexec_at(at);
    let top = |at: &Path| Bound { id, was_noexec: was_noexec(at) };
    let holding = mountinfo::holding(&place.lower).map_err(|error| error.to_string())?;
    let point = holding.map_or_else(|| place.lower.clone(), |mount| mount.mountpoint);
    layers.bind = vec![top(&point)];
    place.record(layers)?;
    attach(&clone, lower)?;
    let after = Table::read()?;
    let copies = after
        .below(id)
        .into_iter()
        .map(|mount| Bound { id: mount.id, was_noexec: was_noexec(&mount.mountpoint) });
    layers.bind.extend(copies);
    place.record(layers)
}

fn put_cover(place: &GuardedDir, layers: &mut Layers) -> Result<(), String> {
    let failed = |errno: Errno| format!("the empty directory cannot be made: {errno}");
    let make = || {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        for (key, value) in [("source", COVER), ("mode", "0555"), ("size", "4k")] {
            rustix::mount::fsconfig_set_string(context, key, value)?;
        }
        rustix::mount::fsconfig_set_flag(context, "ro")?;
        rustix::mount::fsconfig_create(context)?;
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    let empty = make().map_err(failed)?;
    layers.cover = Some(mountinfo::id_of(&empty).map_err(failed)?);
    place.record(layers)?;
    let below = layers.bind.first().ok_or("there is no mount to put it on")?;
    attach(&empty, root_of(below.id)?)
}

fn attach(tree: &OwnedFd, at: impl AsFd) -> Result<(), String> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", at, "", flags)
        .map_err(|errno| format!("it cannot be put in place (move_mount: {errno})"))
}

/// Removes the mount `root` and what is `ours` on it. Busy or not: who has something open there
/// keeps it as it was, guarded.
fn remove(root: u64, ours: &[u64]) -> Result<(), String> {
    let table = Table::read()?;
    let Some(mount) = table.mount(root) else { return Ok(()) };
    let strange = table.below(root).into_iter().find(|mount| !ours.contains(&mount.id));
    if let Some(strange) = strange {
        return Err(format!(
            "it stays, because '{}' was mounted on it; unmount that, then run 'idshift unguard'",
            plain::path(&strange.mountpoint)
        ));
    }
    let found = on_top(&mount.mountpoint, root)?;
    rustix::mount::unmount(proc_path(&found), UnmountFlags::DETACH)
        .map_err(|errno| format!("umount: {errno}"))
}

/// Sets or clears noexec on one mount; one that had it before the guard keeps it.
fn set_noexec(bound: Bound, noexec: bool) -> Result<(), String> {
    let table = Table::read()?;
    let Some(mount) = table.mount(bound.id) else { return Ok(()) };
    if !noexec && bound.was_noexec || noexec == is_noexec(mount) {
        return Ok(());
    }
    let root = on_top(&mount.mountpoint, bound.id)?;
    let (set, clear) = if noexec {
        (MountAttrs::NOEXEC, MountAttrs::empty())
    } else {
        (MountAttrs::empty(), MountAttrs::NOEXEC)
    };
    let change = Change { set, clear, private: false, userns: None, recursive: false };
    mount_setattr(root.as_fd(), change)
        .map_err(|errno| format!("noexec of '{}': {errno}", plain::path(&mount.mountpoint)))
}

/// The root of this mount; the error says that another lies on it.
fn root_of(id: u64) -> Result<OwnedFd, String> {
    let table = Table::read()?;
    let mount = table.mount(id).ok_or("the guard has been taken away meanwhile")?;
    on_top(&mount.mountpoint, id)
}

/// The root of this mount, if the path leads there; if not, another lies on it.
fn on_top(path: &Path, id: u64) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty());
    match top.and_then(|fd| mountinfo::id_of(&fd).map(|id| (id, fd))) {
        Ok((top, fd)) if top == id => Ok(fd),
        Ok(_) => Err(format!("another mount covers '{}'", plain::path(path))),
        Err(errno) => Err(format!("'{}': {errno}", plain::path(path))),
    }
}

/// What of the record is still there. The kernel gives a mount's number to another once it is free,
/// so a number alone proves nothing.
fn present(place: &GuardedDir, table: &Table) -> Layers {
    let mut layers = place.layers();
    // It covers the directory wherever that was when it was put there, also if it had just been renamed.
    let device = place.identity().map(|(device, _)| device);
    let is_bind = |mount: &Mount| {
        (mount.mountpoint == place.lower || Some(mount.device) == device)
            && mount.options.split(',').any(|word| word == "nosuid")
    };
    match layers.bind.first().and_then(|root| table.mount(root.id)).filter(|root| is_bind(root)) {
        Some(root) => {
            let below: Vec<u64> = table.below(root.id).iter().map(|mount| mount.id).collect();
            layers.bind.retain(|bound| bound.id == root.id || below.contains(&bound.id));
        }
        None => layers.bind.clear(),
    }
    let is_cover = |mount: &Mount| mount.fs_type == "tmpfs" && mount.source == COVER;
    layers.cover = layers.cover.filter(|id| table.mount(*id).is_some_and(is_cover));
    layers
}

fn is_noexec(mount: &Mount) -> bool {
    mount.options.split(',').any(|option| option == "noexec")
}

/// The mounts of this namespace.
struct Table(Vec<Mount>);

impl Table {
    fn read() -> Result<Self, String> {
        mountinfo::read().map(Self).map_err(|error| format!("/proc/self/mountinfo: {error}"))
    }

    fn mount(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// The mounts at exactly this path, the uppermost last.
    fn stack(&self, path: &Path) -> Vec<u64> {
        self.0.iter().filter(|mount| mount.mountpoint == path).map(|mount| mount.id).collect()
    }

    /// Every mount that lies, directly or not, on this one.
    fn below(&self, root: u64) -> Vec<&Mount> {
        let mut known = BTreeSet::from([root]);
        let mut found: Vec<&Mount> = Vec::new();
        loop {
            let more: Vec<&Mount> = self
                .0
                .iter()
                .filter(|mount| known.contains(&mount.parent) && !known.contains(&mount.id))
                .collect();
            if more.is_empty() {
                return found;
            }
            known.extend(more.iter().map(|mount| mount.id));
            found.extend(more);
        }
    }

    fn is_noexec_at(&self, path: &Path) -> bool {
        self.0.iter().any(|mount| mount.mountpoint == path && is_noexec(mount))
    }
}
