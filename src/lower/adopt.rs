//! Going on with what another server has left: inodes, open files, descriptors.
//!
//! The descriptors are in the table that both processes share. Which of them is for what is in
//! [`crate::state`]; those that nothing there names were about to be used, or of use to that server
//! alone, and are closed.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::LowerTree;
use super::descriptors::Descriptors;
use super::open_files::OpenFiles;
use super::stat::LowerStat;
use super::table::InodeTable;
use crate::error::FsError;
use crate::sys::process::{open_descriptors, take_descriptor};

/// What the rest of the server has to know of what was found.
#[derive(Debug, Default)]
pub struct Adopted {
    /// How many open files use the backing id of each inode.
    pub backed: HashMap<u64, usize>,
}

impl LowerTree {
    /// Takes over from a server that has ended, in a process in which nothing has been done with
    /// the tree. `base` are the descriptors that were open before the first server began.
    ///
    /// `EUCLEAN` if the inodes are not what a server leaves.
    pub fn adopt(&mut self, base: &HashSet<RawFd>) -> Result<Adopted, Errno> {
        let stat = LowerStat::of(&*self.root).map_err(FsError::errno)?;
        let root = self.identity(&stat);
        let state = Arc::clone(&self.state);
        self.inodes = InodeTable::adopt(Arc::clone(&state), root).ok_or(Errno::UCLEAN)?;
        let (open_files, backed) = OpenFiles::adopt(state, &self.inodes);
        self.open_files = open_files;
        self.descriptors = Descriptors::new(self.max_descriptors);
        let mut used: HashSet<RawFd> = self.open_files.descriptors().into_iter().collect();
        for (inode, number) in self.inodes.pinned() {
            // Of what was open in the beginning, some has been closed, and its numbers are used again:
            // a row that names one is right.
            if used.contains(&number) {
                continue;
            }
            if let Ok(fd) = take_descriptor(number) {
                used.insert(fd.as_raw_fd());
                self.pin(&inode, fd);
            }
        }
        for number in open_descriptors()?.difference(base).filter(|fd| !used.contains(fd)) {
            drop(take_descriptor(*number));
        }
        Ok(Adopted { backed })
    }
}
