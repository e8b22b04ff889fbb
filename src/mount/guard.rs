//! `guard=`: while the lower directory is shown shifted, the path under which the rest of the host
//! sees it is covered, so that a set-user-ID program that somebody makes through the mount is of
//! no use below.
//!
//! Up to two mounts lie on the lower path, the second on the first:
//!
//! 1. a bind mount of the directory on itself, with nosuid and nodev, for `noexec` and `hide` with
//!    noexec too;
//! 2. for `hide`, an empty read-only directory.
//!
//! Both are private: what is mounted on them later goes nowhere else. Several mounts of one lower
//! directory share the two: the strongest guard that a running one asks for is in force, and there
//! is no moment without one while any asks. Who asks is kept in a register (`register`) whose
//! entries are locked by the servers' helpers, so that those of a killed server are known to be void. They
//! are cleared by the next mount, the next unmount, and `idshift unguard`.
//!
//! What this cannot do: a process that had a directory or program of the lower tree open before,
//! and other paths to it (a bind mount elsewhere), stay as they were.

mod layers;
mod register;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::config::GuardMode;
use crate::error::StartError;
use crate::lower::LowerTree;
use crate::mount::config::MountConfig;
use crate::mount::dirs::Dir;
use crate::plain;
use register::{GuardedDir, Register};

/// A server's part in the guard of its lower directory. Dropping it gives the part back and undoes
/// what nobody else asks for.
#[derive(Debug)]
pub struct Guard {
    claim: PathBuf,
    /// The lock that says that the guard is asked for; the kernel lets go of it when the process
    /// that holds it ends, which is the server's helper. Unset where that is another process.
    alive: Option<File>,
}

/// A lower path whose guard was looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// The lower directory.
    pub lower: PathBuf,
    /// What covers it now.
    pub mode: GuardMode,
    /// The running servers that ask for it.
    pub servers: Vec<u32>,
}

/// Looks a directory up that may be guarded: what is found on a guard stands for what is behind it.
pub fn find(path: &Path) -> std::io::Result<Dir> {
    let found = Dir::open(path)?;
    Ok(match Register::open(false) {
        Ok(Some(register)) => layers::behind_cover(&register.place(found.name()), found),
        Ok(None) | Err(_) => found,
    })
}

/// A directory that was found on a guard which has been undone since, found again; `None` if it has
/// not been. Nothing changes as long as the register is open.
fn found_again(_: &Register, lower: &Dir) -> Result<Option<Dir>, StartError> {
    let wrong = |why: String| StartError::Path {
        role: "lower directory",
        path: lower.name().to_owned(),
        why,
    };
    // Its path leading to it is quicker to see than whether its mount is listed.
    if !lower.is_here() || lower.is_led_to() || layers::is_listed(lower).map_err(wrong)? {
        return Ok(None);
    }
    let found = Dir::open(lower.name()).map_err(|error| wrong(error.to_string()))?;
    if found.identity() == lower.identity() {
        Ok(Some(found))
    } else {
        Err(wrong("another directory has its path now".to_owned()))
    }
}

/// Opens the lower directory for its server, from behind any guard, and then guards it as the
/// configuration asks.
pub fn open_lower(
    config: &MountConfig,
    lower: &Dir,
    descriptors: usize,
) -> Result<(LowerTree, Option<Guard>), StartError> {
    let (name, submounts) = (lower.name(), config.options.submounts);
    loop {
        let Some(register) = Register::open(config.options.guard != GuardMode::None)? else {
            let tree = LowerTree::open_as(&lower.path(), name, submounts, descriptors)?;
            if Register::is_there() && Register::open(false)?.is_some() {
                continue; // the first guard came up meanwhile, perhaps before the open
            }
            return Ok((tree, None));
        };
        settle_all(&register);
        let again = found_again(&register, lower)?;
        let lower = again.as_ref().unwrap_or(lower);
        let place = register.place(name);
        let root = match layers::behind(&place, lower, submounts)? {
            Some(root) => Some(root),
            // Before the guard is there: the server's own view has no part in it.
            None => layers::clone_of(lower, submounts).ok(),
        };
        let tree = match root {
            Some(root) => LowerTree::on(root, name, submounts, descriptors)?,
            None => LowerTree::open_as(&lower.path(), name, submounts, descriptors)?,
        };
        if config.options.guard == GuardMode::None {
            return Ok((tree, None));
        }
        return Ok((tree, Some(raise(&place, config, lower)?)));
    }
}

fn raise(place: &GuardedDir, config: &MountConfig, lower: &Dir) -> Result<Guard, StartError> {
    let refused = |why: String| StartError::Path {
        role: "lower directory",
        path: config.lower.clone(),
        why: format!("option 'guard={}': {why}", config.options.guard.name()),
    };
    layers::is_of(place, lower).map_err(refused)?;
    let (claim, alive) = place.claim(config.options.guard, &config.mountpoint)?;
    if let Err(why) = layers::settle(place, Some(lower)) {
        register::withdraw(&claim);
        if let Err(error) = layers::settle(place, None) {
            tracing::error!("{error}");
        }
        return Err(refused(why));
    }
    tracing::info!("guard={} on '{}'", config.options.guard.name(), plain::path(&config.lower));
    Ok(Guard { claim, alive: Some(alive) })
}

impl Guard {
    /// What is locked as long as the guard is asked for.
    pub(crate) fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.alive.as_ref().map(AsFd::as_fd)
    }

    /// Leaves the guard and its lock to a copy of this process.
    pub(crate) fn leave(mut self) {
        self.alive = None;
        std::mem::forget(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Under the register's lock, so that nobody counts this server while it goes.
        match Register::open(false) {
            Ok(Some(register)) => {
                register::withdraw(&self.claim);
                settle_all(&register);
            }
            Ok(None) => tracing::error!("the register of guards has gone"),
            Err(error) => tracing::error!("{error}"),
        }
    }
}

/// A detached clone of what is behind the guard of a lower directory; `None` if none covers it.
pub fn view(lower: &Dir, submounts: bool) -> Result<Option<OwnedFd>, StartError> {
    match Register::open(false)? {
        Some(register) => {
            if let Some(found) = found_again(&register, lower)? {
                return layers::clone_of(found, submounts).map(Some).map_err(|errno| {
                    StartError::System { what: "cannot clone it".to_owned(), source: errno.into() }
                });
            }
            layers::behind(&register.place(lower.name()), lower, submounts)
        }
        None => Ok(None),
    }
}

/// Undoes every guard that only servers that have ended asked for. Returns what is left of the
/// guards of `lower` (all lower directories if `None`), and what was undone, with reasons for what
/// could not be.
pub fn sweep(lower: Option<&Path>) -> Result<Swept, StartError> {
    let mut swept = Swept::default();
    let Some(register) = Register::open(false)? else { return Ok(swept) };
    for place in register.places() {
        if lower.is_some_and(|lower| lower != place.lower) {
            continue;
        }
        let before = layers::mode(&place);
        let servers = place.live().into_iter().map(|claim| claim.pid).collect();
        let settled = layers::settle(&place, None);
        let mode = layers::mode(&place);
        if let Err(why) = settled {
            swept.failed.push((place.lower.clone(), why));
        }
        if mode < before {
            swept.undone.push(Seen { lower: place.lower.clone(), mode: before, servers: vec![] });
        }
        if mode > GuardMode::None {
            swept.left.push(Seen { lower: place.lower.clone(), mode, servers });
        }
    }
    Ok(swept)
}

/// What [`sweep`] found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Guards that it took away, with what they were.
    pub undone: Vec<Seen>,
    /// Guards that stay.
    pub left: Vec<Seen>,
    /// Guards that could not be brought to what is asked for now, and why.
    pub failed: Vec<(PathBuf, String)>,
}

/// Brings every guard of this mount namespace to what is asked for now. One may wait for another
/// that lies on it, so all are looked at, and a failure of one is logged and tried again next time.
fn settle_all(register: &Register) {
    for place in register.places() {
        if let Err(why) = layers::settle(&place, None) {
            tracing::warn!("the guard of '{}': {why}", plain::path(&place.lower));
        }
    }
}
