//! What the kernel was told of owners and modes, and whether it surely has that.

use std::sync::atomic::Ordering;

use super::InodeTable;
use crate::lower::inode::{Inode, Told};
use crate::lower::row::Row;

/// What is known of what the kernel has of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knowledge {
    /// What it was told last; `None` if it was told nothing.
    pub told: Option<Told>,
    /// How often that was doubted. While it is not 0, the kernel may have something older: the file
    /// was changed by others, and of what is told after that the kernel may drop an answer.
    pub doubts: u32,
}

impl InodeTable {
    /// What is known of what the kernel has of the inode; nothing of one that is not known any more.
    pub fn knowledge(&self, inode: &Inode) -> Knowledge {
        let _shard = self.shard(inode.nodeid);
        let row = self.row_of(inode);
        let told = row.and_then(Row::told);
        Knowledge { told, doubts: row.map_or(0, Row::doubts) }
    }

    /// The kernel is told this. If it was told something else before, others have changed the file.
    pub fn tell(&self, inode: &Inode, told: Told) {
        let _shard = self.shard(inode.nodeid);
        let Some(row) = self.row_of(inode) else { return };
        let before = row.told();
        if before == Some(told) {
            return;
        }
        row.tell(told);
        if before.is_some() {
            self.doubt_row(row.doubts(), |doubts| row.set_doubts(doubts));
        }
    }

    /// The kernel is told this, and surely takes it (the answer to a change of attributes). `since` is
    /// what [`InodeTable::knowledge`] said before they were read: newer doubts stay.
    pub fn settle(&self, inode: &Inode, told: Told, since: Knowledge) {
        let _shard = self.shard(inode.nodeid);
        let Some(row) = self.row_of(inode) else { return };
        row.tell(told);
        if row.doubts() == since.doubts {
            row.set_doubts(0);
        }
    }

    /// From now on the file may be changed through mappings of the lower file. Returns whether that is new.
    pub fn note_mappable(&self, inode: &Inode) -> bool {
        let _shard = self.shard(inode.nodeid);
        let row = self.row_of(inode).filter(|row| !row.is_mappable());
        row.inspect(|row| row.set_mappable()).is_some()
    }

    /// Whether the file may be changed through mappings of the lower file.
    pub fn is_mappable(&self, inode: &Inode) -> bool {
        let _shard = self.shard(inode.nodeid);
        self.row_of(inode).is_some_and(Row::is_mappable)
    }

    /// Others have changed the file: what the kernel has of it may be old.
    pub fn doubt(&self, nodeid: u64) {
        let shard = self.shard(nodeid);
        if let Some(row) = shard.rows.get(&nodeid).and_then(|&row| self.row(row)) {
            self.doubt_row(row.doubts(), |doubts| row.set_doubts(doubts));
        }
    }

    fn doubt_row(&self, doubts: u32, set: impl FnOnce(u32)) {
        self.some_doubt.store(true, Ordering::SeqCst);
        // Never back to 0, which would mean that nothing has happened.
        set(doubts.checked_add(1).unwrap_or(1));
    }

    /// Whether anything has ever been doubted, in this server or one before it.
    pub fn has_doubts(&self) -> bool {
        self.some_doubt.load(Ordering::SeqCst)
    }
}
