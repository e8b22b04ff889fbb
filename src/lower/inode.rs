//! One inode that the kernel knows.

use std::ffi::OsStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::stat::Identity;

/// An inode: who it is, and how to find it again once its descriptor has been closed.
#[derive(Debug)]
pub struct Inode {
    /// The number by which the kernel calls it.
    pub nodeid: u64,
    /// The lower file that it stands for.
    pub identity: Identity,
    /// Its type, which an identity never changes.
    pub kind: FileType,
    locator: Mutex<Locator>,
}

/// How a descriptor is made again.
#[derive(Debug, Clone)]
pub enum Locator {
    /// The root: its descriptor is always open.
    Root,
    /// From the parent, by the name that it was last seen under; checked against the identity.
    Walk {
        /// The parent directory's nodeid.
        parent: u64,
        /// The name there.
        name: Box<OsStr>,
    },
    /// By file handle, whatever its name is now.
    Handle {
        /// The handle's type.
        kind: i32,
        /// The handle's bytes.
        data: Box<[u8]>,
    },
}

impl Inode {
    /// An inode to be entered in the table.
    pub(super) fn new(nodeid: u64, identity: Identity, kind: FileType, locator: Locator) -> Self {
        Self { nodeid, identity, kind, locator: Mutex::new(locator) }
    }

    /// A copy of the present locator: the lock is not held while it is used.
    pub(super) fn locator(&self) -> Locator {
        self.lock().clone()
    }

    /// Takes a newer way to find the inode. A handle is never given up for a name.
    pub(super) fn relocate(&self, newer: Locator) {
        let mut locator = self.lock();
        if matches!(*locator, Locator::Walk { .. }) {
            *locator = newer;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Locator> {
        self.locator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }
}
