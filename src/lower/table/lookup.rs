//! A lookup on its way to the kernel.

use super::InodeTable;
use crate::lower::inode::{Inode, Place};
use crate::state::in_flight::InFlight;

/// A counted lookup that the kernel has not been told of yet: dropping it takes the count back.
pub struct Lookup<'t> {
    pub(super) table: &'t InodeTable,
    pub(super) in_flight: InFlight<'t>,
    pub(super) inode: Option<Inode>,
    pub(super) first: bool,
    pub(super) former: Option<Place>,
    pub(super) at: usize,
}

impl Lookup<'_> {
    /// The inode's nodeid.
    pub fn nodeid(&self) -> u64 {
        self.inode.as_ref().map_or(0, |inode| inode.nodeid)
    }

    /// The inode; `None` if there was no room for it.
    pub fn inode(&self) -> Option<&Inode> {
        self.inode.as_ref()
    }

    /// Whether the kernel did not know the inode before, under any name.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// The name under which the kernel was told of the inode before, if that was another one.
    pub fn take_former(&mut self) -> Option<Place> {
        self.former.take()
    }

    /// The reply goes out: from now on the kernel owns this count, until it forgets.
    pub fn give_to_kernel(mut self) {
        self.inode = None;
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        if let Some(inode) = self.inode.take() {
            self.table.undo(self.in_flight, inode.nodeid, self.at);
        }
    }
}
