//! Descriptors on the mounts below the lower directory, by which handles are opened.
//!
//! A file is on the mount through which it was found: what that mount forbids (writing, set-ID
//! programs) and how it shows owners holds for every descriptor of the file. A handle leads to the file
//! on whatever mount the descriptor beside it is on, so there is one for each mount of the root's file
//! system. On the others no handles are used.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::stat::LowerStat;

/// The sandbox has a rule for each of them; files on further mounts are found by their names.
const MOST: usize = 64;

/// Descriptors by the number of the mount.
#[derive(Default)]
pub(super) struct Mounts(HashMap<u32, OwnedFd>);

impl Mounts {
    /// The descriptor on this mount, if there is one.
    pub(super) fn get(&self, mount: u32) -> Option<&OwnedFd> {
        self.0.get(&mount)
    }

    /// Opens one on the mount with this directory, given as an `O_PATH` descriptor. `device` is the
    /// root's.
    pub(super) fn know(&mut self, dir: BorrowedFd<'_>, device: u64) {
        let Ok(identity) = LowerStat::of(dir).map(|stat| stat.identity()) else { return };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if identity.dev != device || self.0.len() >= MOST {
            return;
        }
        if let Ok(readable) = rustix::fs::openat(dir, ".", flags, Mode::empty()) {
            self.0.insert(identity.mount, readable);
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.values().map(AsFd::as_fd)
    }
}
