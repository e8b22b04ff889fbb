//! Nodeids of inodes that do not go by their own number.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;

use super::stat::Identity;
use super::table::ALIAS_BASE;
use crate::state::{Number, State};

#[derive(Default)]
pub(super) struct Aliases {
    /// The nodeid of each inode that does not go by its own number.
    by_identity: HashMap<Identity, u64>,
    /// The same nodeids by inode number.
    by_number: HashMap<u64, Vec<u64>>,
}

impl Aliases {
    /// A nodeid that was never given before.
    pub(super) fn give(&mut self, identity: Identity, state: &State) -> u64 {
        let given = state.number(Number::Alias).fetch_add(1, Ordering::SeqCst) + 1;
        self.enter(identity, ALIAS_BASE + given);
        ALIAS_BASE + given
    }

    /// The inode goes by this nodeid.
    pub(super) fn enter(&mut self, identity: Identity, nodeid: u64) {
        self.by_identity.insert(identity, nodeid);
        self.by_number.entry(identity.ino).or_default().push(nodeid);
    }

    /// The inode goes by none any more.
    pub(super) fn undo(&mut self, identity: Identity) {
        let Some(nodeid) = self.by_identity.remove(&identity) else { return };
        let Entry::Occupied(mut same) = self.by_number.entry(identity.ino) else { return };
        same.get_mut().retain(|&other| other != nodeid);
        if same.get().is_empty() {
            same.remove();
        }
    }

    /// The nodeid of an inode.
    pub(super) fn of(&self, identity: Identity) -> Option<u64> {
        self.by_identity.get(&identity).copied()
    }

    /// The nodeids of all inodes with this number.
    pub(super) fn numbered(&self, ino: u64) -> Vec<u64> {
        self.by_number.get(&ino).cloned().unwrap_or_default()
    }

    /// Whether no inode goes by one.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_identity.is_empty() && self.by_number.is_empty()
    }
}
