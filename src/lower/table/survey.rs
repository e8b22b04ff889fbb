//! What the kernel knows in all: for those who tell it what has changed, and for reports.

use std::sync::atomic::Ordering;

use super::{InodeTable, ROOT_ID};
use crate::lower::inode::{Inode, Place};
use crate::lower::row::Row;
use crate::state::in_flight::GET;
use crate::state::slab::Piece;

impl InodeTable {
    /// The nodeids by which the kernel may know an inode with this number: on any device, and
    /// under whatever generation. No more than a hint: what it names may just have been forgotten.
    pub fn nodes_numbered(&self, ino: u64, mut visit: impl FnMut(u64)) {
        let known = if ino == self.root.ino { ROOT_ID } else { ino };
        if self.knows(known) {
            visit(known);
        }
        // Nobody has an alias on most file systems, so nobody waits for the lock here. One that is
        // being entered is in the table before its answer looks at the clock (`lower::watch`).
        if self.some_alias.load(Ordering::SeqCst) {
            self.aliases().numbered(ino).into_iter().for_each(visit);
        }
    }

    /// Whether the kernel knows this nodeid.
    pub fn knows(&self, nodeid: u64) -> bool {
        self.shard(nodeid).rows.contains_key(&nodeid)
    }

    /// Whether one lookup of the inode is counted: when that is on its way to the kernel, the kernel has
    /// been told nothing of it before.
    pub fn is_counted_once(&self, inode: &Inode) -> bool {
        let _shard = self.shard(inode.nodeid);
        self.row_of(inode).is_some_and(|row| row.lookups().load(GET) == 1)
    }

    /// The directory that the inode was last seen in.
    pub fn parent(&self, inode: &Inode) -> Option<Inode> {
        let shard = self.shard(inode.nodeid);
        let parent = self.row_of(inode)?.parent()?;
        drop(shard);
        self.get(parent)
    }

    /// All nodeids that the kernel knows, in no order.
    pub fn nodeids(&self) -> Vec<u64> {
        self.locked().flat_map(|shard| shard.rows.keys().copied().collect::<Vec<_>>()).collect()
    }

    /// The names that all inodes were last seen under.
    pub fn places(&self) -> Vec<Place> {
        let place = |row: &Piece| self.row(*row).and_then(Row::place);
        self.locked().flat_map(|s| s.rows.values().filter_map(place).collect::<Vec<_>>()).collect()
    }

    /// How many lookups the kernel has not dropped yet, the root's apart. Looks at every inode.
    pub fn lookups(&self) -> u64 {
        let count = |(nodeid, row): (&u64, &Piece)| match self.row(*row) {
            Some(row) if *nodeid != ROOT_ID => row.lookups().load(GET),
            _ => 0,
        };
        self.locked()
            .map(|shard| shard.rows.iter().map(count).fold(0, u64::saturating_add))
            .fold(0, u64::saturating_add)
    }

    /// How many inodes the kernel knows.
    pub fn len(&self) -> usize {
        self.locked().map(|shard| shard.rows.len()).sum()
    }

    /// Whether the kernel knows the root alone.
    pub fn is_empty(&self) -> bool {
        self.len() <= 1
    }
}
