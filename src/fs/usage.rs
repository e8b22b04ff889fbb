//! What a running file system says of itself, and what those who run it need of the lower tree.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::lower::Keys;
use crate::lower::adopt::Adopted;
use crate::lower::watch::Watch;
use crate::state::State;
use crate::state::in_flight::Record;

use super::FileSystem;

/// What it holds just now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Inodes that the kernel knows, the root included.
    pub inodes: usize,
    /// How often it was told of them.
    pub lookups: u64,
    /// Files and directories that callers have open.
    pub open_files: usize,
    /// Cached descriptors that can be made again.
    pub cached_descriptors: usize,
    /// Descriptors of files that have lost their names.
    pub unlinked_descriptors: usize,
    /// How often a descriptor was cached, and how often not.
    pub descriptor_hits: u64,
    /// See `descriptor_hits`.
    pub descriptor_misses: u64,
}

impl FileSystem {
    /// What it holds just now.
    pub fn usage(&self) -> Usage {
        let descriptors = self.lower.descriptor_usage();
        Usage {
            inodes: self.lower.inodes.len(),
            lookups: self.lower.inodes.lookups(),
            open_files: self.lower.open_files.len(),
            cached_descriptors: descriptors.reopenable,
            unlinked_descriptors: descriptors.unlinked,
            descriptor_hits: descriptors.hits,
            descriptor_misses: descriptors.misses,
        }
    }

    /// The lower directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.lower.root()
    }

    /// Whether inodes are reopened by file handle.
    pub fn uses_handles(&self) -> bool {
        self.lower.uses_handles()
    }

    /// See [`Keys`].
    pub fn keys(&self) -> Keys<'_> {
        self.lower.keys()
    }

    /// Whether files can be in it whose contents are made when they are opened (/proc and its like).
    pub fn has_made_files(&self) -> bool {
        self.lower.has_made_files()
    }

    /// Whether somebody else answers for the lower file system.
    pub fn is_remote(&self) -> bool {
        self.lower.is_remote()
    }

    /// Whether files below can have POSIX ACLs.
    pub fn has_acls(&self) -> bool {
        self.lower.has_acls()
    }

    /// The kind of file system that the lower root is on, as statfs(2) numbers it.
    pub fn magic(&self) -> u64 {
        self.lower.magic()
    }

    /// Whether files are found by their numbers, so that handles of the mount stay good.
    pub fn finds_by_number(&self) -> bool {
        self.lower.finds_by_number()
    }

    /// What listens to the lower tree: for the program that goes on after this one.
    pub fn listening(&self) -> Option<BorrowedFd<'_>> {
        self.lower.watch().map(Watch::group)
    }

    /// What the next server must know, should this one be killed.
    pub fn state(&self) -> &Arc<State> {
        &self.lower.state
    }

    /// Closes what can be opened again: before a fork, after which both processes would.
    pub fn shed(&self) {
        self.lower.shed();
    }

    /// For quiet moments: gives memory back that is not needed any more.
    pub fn tidy(&self) {
        self.lower.tidy();
    }

    /// This process is the one that serves: what it changes itself is no news.
    pub fn serves_here(&mut self, takes_over: bool) {
        self.lower.serves_here(takes_over);
    }

    /// Takes over what is open from a server that has ended, in a process in which nothing has been
    /// served yet. `base` are the descriptors that were open before the first server began.
    pub fn adopt(&mut self, base: &HashSet<RawFd>) -> Result<Adopted, Errno> {
        let adopted = self.lower.adopt(base)?;
        let (inodes, open) = (self.lower.inodes.len(), self.lower.open_files.len());
        tracing::info!(inodes, open, "a new server goes on");
        Ok(adopted)
    }

    /// Whether the kernel knows the inode.
    pub fn knows(&self, nodeid: u64) -> bool {
        self.lower.inodes.knows(nodeid)
    }

    /// Takes back what a thread of the killed server had done for an answer that the kernel has not got.
    /// Returns the inode of a file that was opened for it with a backing id.
    pub fn undo(&self, record: &Record) -> Option<u64> {
        self.lower.inodes.undo_counted(record);
        let file = self.lower.open_files.get(record.opened()).ok()?;
        // Not the request's: what CREATE opens is another one.
        self.release(record.opened()).then_some(file.inode.nodeid)
    }
}
