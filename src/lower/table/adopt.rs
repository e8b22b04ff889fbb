//! What another server has left in the table.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ALIAS_BASE, InodeTable, ROOT_ID};
use crate::lower::inode::Inode;
use crate::lower::row::Row;
use crate::lower::stat::Identity;
use crate::state::State;
use crate::state::in_flight::Record;
use crate::state::slab::{OwnSlabs, Piece};

impl InodeTable {
    /// The table that another server has left, put in order; `None` if there is no root in it.
    pub fn adopt(state: Arc<State>, root: Identity) -> Option<Self> {
        let table = Self::empty(state, root);
        let lookups = |row| Row::at(&table.state.slabs, row).map(Row::lookups);
        table.state.in_flight.all().for_each(|record| record.repair(lookups));
        let mut found = Vec::new();
        let mut shards: Vec<_> = table.locked().collect();
        let mut slabs: Vec<&mut OwnSlabs> =
            shards.iter_mut().map(|shard| &mut shard.slabs).collect();
        table.state.slabs.adopt(&mut slabs, |piece, _| {
            let row = table.row(piece).filter(|row| row.is_used())?;
            found.push((row.nodeid(), piece));
            Some(row.pieces())
        });
        drop(shards);
        for (nodeid, piece) in found {
            if let Some(row) = table.row(piece).filter(|_| nodeid >= ALIAS_BASE) {
                table.aliases().enter(row.identity(), nodeid);
                table.some_alias.store(true, Ordering::SeqCst);
            }
            if table.row(piece).is_some_and(|row| row.doubts() != 0) {
                table.some_doubt.store(true, Ordering::SeqCst);
            }
            table.shard(nodeid).rows.insert(nodeid, piece);
        }
        let has_root = table.get(ROOT_ID).is_some_and(|inode| inode.identity == root);
        has_root.then_some(table)
    }

    /// The inodes that a descriptor keeps reachable, with its number.
    pub fn pinned(&self) -> Vec<(Inode, RawFd)> {
        let pinned = |piece: &Piece| {
            let row = self.row(*piece)?;
            Some((row.inode(), row.pinned()?))
        };
        self.locked().flat_map(|s| s.rows.values().filter_map(pinned).collect::<Vec<_>>()).collect()
    }

    /// Takes back what another server's thread has counted for an answer that the kernel did not
    /// get.
    pub fn undo_counted(&self, record: &Record) {
        for (at, piece) in record.counted() {
            if let Some(row) = self.row(piece) {
                self.undo(record.in_flight(), row.nodeid(), at);
            }
        }
    }
}
