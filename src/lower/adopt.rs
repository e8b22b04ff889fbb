//! Going on with what another server has left: inodes, open files, descriptors.
//!
//! The descriptors are in the table that both processes share. Which of them is for what is in
//! [`crate::state`]; those that nothing there names were about to be used, or of use to that server
//! alone, and are closed.

use std::collections::{HashMap, HashSet};
use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::LowerTree;
use super::descriptors::Descriptors;
use super::open_files::OpenFiles;
use super::stat::LowerStat;
use super::table::InodeTable;
use crate::error::FsError;
use crate::sys::process::{LeftOpen, open_descriptors};

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
        // What the table's rows name may have a number of what was open before the first server began
        // and has been closed since: a row is right.
        let of_rows = OpenFiles::named(&state)
            .chain(self.inodes.pinned().into_iter().map(|(_, number)| number));
        let others = open_descriptors()?.into_iter().filter(|number| !base.contains(number));
        #[allow(unsafe_code)]
        // SAFETY: the servers before this one have opened them in the common table. In this process
        // nothing has been opened since its supervisor was copied, whose own descriptors are in `base`.
        let mut left = unsafe { LeftOpen::new(of_rows.chain(others)) };
        let (open_files, backed) = OpenFiles::adopt(state, &self.inodes, &mut left);
        self.open_files = open_files;
        self.descriptors = Descriptors::new(self.max_descriptors);
        for (inode, number) in self.inodes.pinned() {
            if let Ok(fd) = left.take(number) {
                self.pin(&inode, fd);
            }
        }
        left.close(|number| !base.contains(&number));
        Ok(Adopted { backed })
    }
}
