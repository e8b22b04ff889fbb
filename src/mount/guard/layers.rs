//! The mounts on a guarded lower path: putting them there, changing and removing them.
//!
//! The path leads to the uppermost one, so changes go from the top down and back up. Whatever is
//! not one of the recorded mounts is somebody else's and is left alone.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::config::GuardMode;
use crate::error::StartError;
use crate::host::mountinfo::{self, Mount};
use crate::plain;
use crate::sys::idmapped::{Change, MountAttrs, mount_setattr};
use crate::sys::namespace;

use super::register::{Bound, Layers, Place};

/// The source under which the empty directory is listed.
const COVER: &str = "idshift-guard";

/// A detached clone of the mounts at and, if `submounts`, below `path` (open_tree(2), Linux 5.2).
pub(super) fn clone_of(path: &Path, submounts: bool) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = if submounts { flags | OpenTreeFlags::AT_RECURSIVE } else { flags };
    rustix::mount::open_tree(CWD, path, flags)
}

/// What covers a place now.
pub(super) fn mode(place: &Place) -> GuardMode {
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
pub(super) fn settle(place: &Place) -> Result<(), String> {
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
        put_bind(place, &mut layers, needed)?;
    } else if layers.cover.is_none() {
        on_top(&place.lower, layers.bind[0].id)?;
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
pub(super) fn behind(place: &Place, submounts: bool) -> Result<Option<OwnedFd>, StartError> {
    let system = |source| StartError::System {
        what: format!("cannot look behind the guard of '{}'", plain::path(&place.lower)),
        source,
    };
    let table = Table::read().map_err(|why| system(std::io::Error::other(why)))?;
    let layers = present(place, &table);
    let ids: Vec<u64> =
        layers.bind.first().map(|bound| bound.id).into_iter().chain(layers.cover).collect();
    let stack = table.stack(&place.lower);
    if ids.is_empty() || !stack.ends_with(&ids) {
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
        clone_of(&place.lower, submounts)
    };
    let found = thread::scope(|scope| scope.spawn(look).join());
    match found {
        Ok(found) => found.map(Some).map_err(|errno| system(errno.into())),
        Err(_) => Err(system(std::io::Error::other("the thread for it has panicked"))),
    }
}

fn put_bind(place: &Place, layers: &mut Layers, needed: GuardMode) -> Result<(), String> {
    let before = Table::read()?;
    let clone = clone_of(&place.lower, true)
        .map_err(|errno| format!("the directory cannot be bound (open_tree: {errno})"))?;
    let mut set = MountAttrs::NOSUID | MountAttrs::NODEV;
    if needed > GuardMode::Nosuid {
        set |= MountAttrs::NOEXEC;
    }
    let clear = MountAttrs::empty();
    let change = Change { set, clear, private: true, userns: None, recursive: true };
    mount_setattr(clone.as_fd(), change).map_err(|errno| match errno {
        Errno::NOSYS => "it needs Linux 5.12 (mount_setattr)".to_owned(),
        other => format!("mount_setattr: {other}"),
    })?;
    let id = mountinfo::id_of(&clone).map_err(|errno| format!("statx: {errno}"))?;
    let was_noexec = |at: &Path| before.is_noexec_at(at);
    let top = |at: &Path| Bound { id, was_noexec: was_noexec(at) };
    let holding = mountinfo::holding(&place.lower).map_err(|error| error.to_string())?;
    let point = holding.map_or_else(|| place.lower.clone(), |mount| mount.mountpoint);
    layers.bind = vec![top(&point)];
    place.record(layers)?;
    attach(&clone, &place.lower)?;
    let after = Table::read()?;
    let copies = after
        .below(id)
        .into_iter()
        .map(|mount| Bound { id: mount.id, was_noexec: was_noexec(&mount.mountpoint) });
    layers.bind.extend(copies);
    place.record(layers)
}

fn put_cover(place: &Place, layers: &mut Layers) -> Result<(), String> {
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
    attach(&empty, &place.lower)
}

fn attach(tree: &OwnedFd, at: &Path) -> Result<(), String> {
    rustix::mount::move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
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
    on_top(&mount.mountpoint, root)?;
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(&mount.mountpoint, flags).map_err(|errno| format!("umount: {errno}"))
}

/// Sets or clears noexec on one mount; one that had it before the guard keeps it.
fn set_noexec(bound: Bound, noexec: bool) -> Result<(), String> {
    let table = Table::read()?;
    let Some(mount) = table.mount(bound.id) else { return Ok(()) };
    if !noexec && bound.was_noexec || noexec == is_noexec(mount) {
        return Ok(());
    }
    on_top(&mount.mountpoint, bound.id)?;
    let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(&mount.mountpoint, path, Mode::empty());
    let (set, clear) = if noexec {
        (MountAttrs::NOEXEC, MountAttrs::empty())
    } else {
        (MountAttrs::empty(), MountAttrs::NOEXEC)
    };
    let change = Change { set, clear, private: false, userns: None, recursive: false };
    root.and_then(|root| mount_setattr(root.as_fd(), change))
        .map_err(|errno| format!("noexec of '{}': {errno}", plain::path(&mount.mountpoint)))
}

/// Whether the path leads to this mount; if not, another lies on it.
fn on_top(path: &Path, id: u64) -> Result<(), String> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty()).and_then(|fd| mountinfo::id_of(&fd));
    match top {
        Ok(top) if top == id => Ok(()),
        Ok(_) => Err(format!("another mount covers '{}'", plain::path(path))),
        Err(errno) => Err(format!("'{}': {errno}", plain::path(path))),
    }
}

/// What of the record is still there. The kernel gives a mount's number to another once it is free,
/// so a number alone proves nothing.
fn present(place: &Place, table: &Table) -> Layers {
    let mut layers = place.layers();
    let is_bind = |mount: &Mount| {
        mount.mountpoint == place.lower && mount.options.split(',').any(|word| word == "nosuid")
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
