//! Descriptors on the mounts below the lower directory, by which handles are opened.
//!
//! A file is on the mount through which it was found: what that mount forbids (writing, set-ID
//! programs) and how it shows owners holds for every descriptor of the file. A handle leads to the file
//! on whatever mount the descriptor beside it is on, so there is one for each mount.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{Mode, OFlags};

/// Descriptors by the number of the mount.
#[derive(Default)]
pub(super) struct Mounts(RwLock<HashMap<u32, Arc<OwnedFd>>>);

impl Mounts {
    /// The descriptor on this mount, if one is known.
    pub(super) fn get(&self, mount: u32) -> Option<Arc<OwnedFd>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&mount).cloned()
    }

    /// A directory on the mount has been opened, as an `O_PATH` descriptor. Returns whether handles of
    /// files there can be opened from now on.
    pub(super) fn learn(&self, mount: u32, dir: &OwnedFd) -> bool {
        if self.get(mount).is_some() {
            return true;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(readable) = rustix::fs::openat(dir, ".", flags, Mode::empty()) else { return false };
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(mount).or_insert_with(|| Arc::new(readable));
        true
    }
}
