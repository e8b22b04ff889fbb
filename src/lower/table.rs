//! The inode table: nodeid → inode, with exact lookup counts.
//!
//! An inode's nodeid is its lower inode number, which saves a second index. Where that number is
//! taken (another device, or a reused number whose
//! former owner the kernel still knows) a number from [`ALIAS_BASE`] up is given instead: two
//! files never share a nodeid, because a right checked on one must not open the other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::inode::{Inode, Locator, Place};
use super::stat::Identity;

/// The root's nodeid (`FUSE_ROOT_ID`).
pub const ROOT_ID: u64 = 1;
/// Nodeids from here up are not lower inode numbers.
pub const ALIAS_BASE: u64 = 1 << 63;
const SHARDS: u64 = 16;

/// An inode and how often the kernel has been told of it.
struct Node {
    inode: Arc<Inode>,
    lookups: u64,
}

type Shard = HashMap<u64, Node>;

/// Every inode that the kernel knows.
pub struct InodeTable {
    root: Identity,
    shards: Vec<Mutex<Shard>>,
    aliases: Mutex<Aliases>,
    /// Whether there has ever been an alias.
    some_alias: AtomicBool,
}

#[derive(Default)]
struct Aliases {
    /// The nodeid of each inode that does not go by its own number.
    by_identity: HashMap<Identity, u64>,
    /// The same nodeids by inode number.
    by_number: HashMap<u64, Vec<u64>>,
    given: u64,
}

/// An inode that was found or entered in the table.
struct Counted {
    inode: Arc<Inode>,
    first: bool,
    former: Option<Place>,
}

impl Aliases {
    fn give(&mut self, identity: Identity) -> u64 {
        self.given += 1;
        let nodeid = ALIAS_BASE + self.given;
        self.by_identity.insert(identity, nodeid);
        self.by_number.entry(identity.ino).or_default().push(nodeid);
        nodeid
    }

    fn take_back(&mut self, identity: Identity) {
        let Some(nodeid) = self.by_identity.remove(&identity) else { return };
        let Entry::Occupied(mut same) = self.by_number.entry(identity.ino) else { return };
        same.get_mut().retain(|&other| other != nodeid);
        if same.get().is_empty() {
            same.remove();
        }
    }
}

/// A counted lookup that the kernel has not been told of yet: dropping it takes the count back.
pub struct Lookup<'t> {
    table: &'t InodeTable,
    inode: Option<Arc<Inode>>,
    first: bool,
    former: Option<Place>,
}

impl Lookup<'_> {
    /// The inode's nodeid.
    pub fn nodeid(&self) -> u64 {
        self.inode.as_ref().map_or(0, |inode| inode.nodeid)
    }

    /// The inode.
    pub fn inode(&self) -> Option<&Arc<Inode>> {
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
            self.table.forget(inode.nodeid, 1);
        }
    }
}

impl InodeTable {
    /// A table that knows the root alone.
    pub fn new(root: Identity, kind: FileType) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let some_alias = AtomicBool::new(false);
        let table = Self { root, shards, aliases: Mutex::default(), some_alias };
        let inode = Arc::new(Inode::new(ROOT_ID, root, kind, Locator::Root));
        // The kernel never forgets the root, so its count is never to reach zero.
        table.shard(ROOT_ID).insert(ROOT_ID, Node { inode, lookups: 1 });
        table
    }

    /// The inode with this nodeid.
    pub fn get(&self, nodeid: u64) -> Option<Arc<Inode>> {
        self.shard(nodeid).get(&nodeid).map(|node| Arc::clone(&node.inode))
    }

    /// The inode with this identity, without counting.
    pub fn find(&self, identity: Identity) -> Option<Arc<Inode>> {
        if identity == self.root {
            return self.get(ROOT_ID);
        }
        if let Some(inode) = self.get(identity.ino).filter(|inode| inode.identity == identity) {
            return Some(inode);
        }
        let nodeid = *self.aliases().by_identity.get(&identity)?;
        self.get(nodeid)
    }

    /// Counts a lookup of the file with this identity, entering it if it is new.
    pub fn intern(&self, identity: Identity, kind: FileType, locator: Locator) -> Lookup<'_> {
        let counted = if identity == self.root {
            self.count(ROOT_ID, identity, kind, locator, true).ok()
        } else {
            let counted = if has_own_number(identity) {
                self.count(identity.ino, identity, kind, locator, false)
            } else {
                Err(locator)
            };
            Some(counted.unwrap_or_else(|locator| self.count_alias(identity, kind, locator)))
        };
        let Some(Counted { inode, first, former }) = counted else {
            return Lookup { table: self, inode: None, first: false, former: None };
        };
        Lookup { table: self, inode: Some(inode), first, former }
    }

    /// Counts under `nodeid` unless another file has that number; then gives the locator back. So
    /// it does for a new file that may have an alias from when its own number was taken: unless
    /// the caller has made sure of that, under the lock of the aliases. One file never has two
    /// nodeids.
    fn count(
        &self,
        nodeid: u64,
        identity: Identity,
        kind: FileType,
        locator: Locator,
        sure: bool,
    ) -> Result<Counted, Locator> {
        let mut shard = self.shard(nodeid);
        match shard.entry(nodeid) {
            Entry::Occupied(mut known) => {
                let node = known.get_mut();
                if node.inode.identity != identity {
                    return Err(locator);
                }
                node.lookups += 1;
                let inode = Arc::clone(&node.inode);
                drop(shard);
                let former = inode.relocate(locator);
                Ok(Counted { inode, first: false, former })
            }
            Entry::Vacant(_) if !sure && self.some_alias.load(Ordering::SeqCst) => Err(locator),
            Entry::Vacant(free) => {
                let inode = Arc::new(Inode::new(nodeid, identity, kind, locator));
                free.insert(Node { inode: Arc::clone(&inode), lookups: 1 });
                Ok(Counted { inode, first: true, former: None })
            }
        }
    }

    fn count_alias(&self, identity: Identity, kind: FileType, locator: Locator) -> Counted {
        let mut aliases = self.aliases();
        // Before the number is looked at: whoever finds it free later sees this.
        self.some_alias.store(true, Ordering::SeqCst);
        let known = aliases.by_identity.get(&identity).copied();
        let mut locator = locator;
        if known.is_none() && has_own_number(identity) {
            match self.count(identity.ino, identity, kind, locator, true) {
                Ok(counted) => return counted,
                Err(given_back) => locator = given_back,
            }
        }
        let nodeid = known.unwrap_or_else(|| aliases.give(identity));
        // The alias lock is held, so nobody can forget this nodeid between the two steps, and a
        // number from the counter is taken by nobody else.
        self.count(nodeid, identity, kind, locator, true).unwrap_or_else(|locator| {
            let inode = Arc::new(Inode::new(nodeid, identity, kind, locator));
            Counted { inode, first: true, former: None }
        })
    }

    /// The kernel drops `count` lookups; true when it does not know the inode any more.
    pub fn forget(&self, nodeid: u64, count: u64) -> bool {
        if nodeid == ROOT_ID {
            return false;
        }
        // An alias is entered and removed under its own lock first (see the lock order).
        let mut aliases = (nodeid >= ALIAS_BASE).then(|| self.aliases());
        let mut shard = self.shard(nodeid);
        let Entry::Occupied(mut known) = shard.entry(nodeid) else { return false };
        let node = known.get_mut();
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return false;
        }
        let node = known.remove();
        if let Some(aliases) = aliases.as_mut() {
            aliases.take_back(node.inode.identity);
        }
        true
    }

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
            let nodeids = self.aliases().by_number.get(&ino).cloned();
            nodeids.into_iter().flatten().for_each(visit);
        }
    }

    /// Whether the kernel knows this nodeid.
    pub fn knows(&self, nodeid: u64) -> bool {
        self.shard(nodeid).contains_key(&nodeid)
    }

    /// All nodeids that the kernel knows, in no order.
    pub fn nodeids(&self) -> Vec<u64> {
        let lock = |shard: &'_ Mutex<Shard>| -> Vec<u64> {
            shard.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
        };
        self.shards.iter().flat_map(lock).collect()
    }

    /// The names that all inodes were last seen under.
    pub fn places(&self) -> Vec<Place> {
        let lock = |shard: &'_ Mutex<Shard>| -> Vec<Place> {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().filter_map(|node| node.inode.place()).collect()
        };
        self.shards.iter().flat_map(lock).collect()
    }

    /// The device that the root is on.
    pub fn root_device(&self) -> u64 {
        self.root.dev
    }

    /// The root's inode number.
    pub fn root_number(&self) -> u64 {
        self.root.ino
    }

    /// Gives memory back that a larger tree once needed.
    pub fn shrink(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if shard.capacity() > 4 * shard.len() {
                let room = 2 * shard.len();
                shard.shrink_to(room);
            }
        }
    }

    /// How many inodes the kernel knows.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// How many lookups the kernel has not dropped yet, the root's apart. Looks at every inode.
    pub fn lookups(&self) -> u64 {
        let lock = |shard: &'_ Mutex<Shard>| -> u64 {
            shard.lock().unwrap_or_else(PoisonError::into_inner).values().map(|n| n.lookups).sum()
        };
        self.shards.iter().map(lock).sum::<u64>().saturating_sub(self.root_lookups())
    }

    fn root_lookups(&self) -> u64 {
        self.shard(ROOT_ID).get(&ROOT_ID).map_or(0, |node| node.lookups)
    }

    /// Whether the kernel knows the root alone.
    pub fn is_empty(&self) -> bool {
        self.len() <= 1
    }

    fn shard(&self, nodeid: u64) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(nodeid % SHARDS).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn aliases(&self) -> MutexGuard<'_, Aliases> {
        self.aliases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the inode's own number can be its nodeid.
fn has_own_number(identity: Identity) -> bool {
    identity.ino > ROOT_ID && identity.ino < ALIAS_BASE
}

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dev: u64, ino: u64, born: i64) -> Identity {
        Identity { dev, ino, born }
    }

    fn table() -> InodeTable {
        InodeTable::new(file(1, 2, 0), FileType::Directory)
    }

    fn walk(name: &str) -> Locator {
        Locator::Walk { parent: ROOT_ID, name: std::ffi::OsStr::new(name).into() }
    }

    fn look_up(table: &InodeTable, identity: Identity) -> u64 {
        let lookup = table.intern(identity, FileType::RegularFile, walk("f"));
        let nodeid = lookup.nodeid();
        lookup.give_to_kernel();
        nodeid
    }

    #[test]
    fn an_inode_goes_by_its_lower_number() {
        assert_eq!(look_up(&table(), file(1, 77, 5)), 77);
    }

    #[test]
    fn counts_are_exact() {
        let table = table();
        for _ in 0..3 {
            look_up(&table, file(1, 77, 5));
        }
        assert!(!table.forget(77, 2));
        assert!(table.get(77).is_some());
        assert!(table.forget(77, 1));
        assert!(table.get(77).is_none() && table.is_empty());
    }

    #[test]
    fn a_lookup_that_is_not_told_is_taken_back() {
        let table = table();
        drop(table.intern(file(1, 77, 5), FileType::RegularFile, walk("f")));
        assert!(table.is_empty());
    }

    #[test]
    fn two_files_never_share_a_nodeid() {
        let table = table();
        let first = look_up(&table, file(1, 77, 5));
        let reused = look_up(&table, file(1, 77, 6));
        let elsewhere = look_up(&table, file(9, 77, 5));
        assert!(first != reused && reused != elsewhere && first != elsewhere);
        assert_eq!(look_up(&table, file(1, 77, 6)), reused, "an alias is stable");
        assert_eq!(table.find(file(9, 77, 5)).map(|i| i.nodeid), Some(elsewhere));
    }

    #[test]
    fn all_inodes_with_a_number_are_found() {
        let numbered = |table: &InodeTable, ino| {
            let mut found = Vec::new();
            table.nodes_numbered(ino, |nodeid| found.push(nodeid));
            found
        };
        let table = table();
        assert_eq!(numbered(&table, 77), [] as [u64; 0]);
        assert_eq!(numbered(&table, 2), [ROOT_ID]);
        let first = look_up(&table, file(1, 77, 5));
        let lookup = table.intern(file(1, 77, 6), FileType::RegularFile, walk("f"));
        assert!(lookup.is_first());
        let reused = lookup.nodeid();
        assert_eq!(numbered(&table, 77), [first, reused]);
        assert!(!table.intern(file(1, 77, 6), FileType::RegularFile, walk("f")).is_first());
        drop(lookup);
        assert_eq!(numbered(&table, 77), [first]);
        assert_eq!(table.nodeids().len(), 2);
    }

    #[test]
    fn the_root_is_one_inode_under_every_name() {
        let table = table();
        assert_eq!(look_up(&table, file(1, 2, 0)), ROOT_ID);
        assert!(!table.forget(ROOT_ID, 100));
        assert!(table.get(ROOT_ID).is_some());
    }

    #[test]
    fn a_lower_inode_numbered_one_is_not_the_root() {
        let table = table();
        assert!(look_up(&table, file(1, 1, 9)) >= ALIAS_BASE);
    }
}
