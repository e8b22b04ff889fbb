//! The inode table: nodeid → inode, with exact lookup counts.
//!
//! An inode's nodeid is its lower inode number, which saves a second index. Where that number is
//! taken (another device, or a reused number whose
//! former owner the kernel still knows) a number from [`ALIAS_BASE`] up is given instead: two
//! files never share a nodeid, because a right checked on one must not open the other.
//!
//! The inodes themselves are rows of [`crate::state`], so that the next server knows them, should
//! this one be killed. Here is only what finds them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::aliases::Aliases;
use super::inode::{Inode, Locator, Place};
use super::row::Row;
use super::stat::Identity;
use crate::state::State;
use crate::state::in_flight::InFlight;
use crate::state::slab::{OwnSlabs, Piece};

mod adopt;
mod lookup;
mod survey;
mod told;

pub use lookup::Lookup;
pub use told::Knowledge;

/// The root's nodeid (`FUSE_ROOT_ID`).
pub const ROOT_ID: u64 = 1;
/// Nodeids from here up are not lower inode numbers.
pub const ALIAS_BASE: u64 = 1 << 63;
const SHARDS: u8 = 16;

/// A part of the table.
struct Shard {
    rows: HashMap<u64, Piece>,
    /// Where its rows and names are.
    slabs: OwnSlabs,
}

/// Every inode that the kernel knows.
pub struct InodeTable {
    state: Arc<State>,
    root: Identity,
    shards: Vec<Mutex<Shard>>,
    aliases: Mutex<Aliases>,
    /// Whether there has ever been an alias.
    some_alias: AtomicBool,
    /// Whether there has ever been a doubt.
    some_doubt: AtomicBool,
}

/// A file whose lookup is to be counted, and where that is recorded.
struct Found<'f> {
    identity: Identity,
    kind: FileType,
    in_flight: InFlight<'f>,
}

/// An inode that was found or entered in the table.
struct Counted {
    inode: Inode,
    first: bool,
    former: Option<Place>,
    /// Where that is recorded.
    at: usize,
}

/// Why an inode could not be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Another file has the nodeid.
    Adopted,
    /// There is no room for more.
    Full,
}

impl InodeTable {
    /// A table that knows the root alone. `None` if there is no room even for that.
    pub fn new(state: Arc<State>, root: Identity, kind: FileType) -> Option<Self> {
        let table = Self::empty(state, root);
        // The kernel never forgets the root, so its count is never to reach zero.
        let mut shard = table.shard(ROOT_ID);
        let row = Row::fill(&table.state.slabs, &mut shard.slabs, ROOT_ID, root, kind)?;
        InFlight::NOWHERE.count(row.piece(), row.lookups())?;
        shard.rows.insert(ROOT_ID, row.piece());
        drop(shard);
        Some(table)
    }

    /// A table for a process that starts servers and serves nothing: it knows nothing, and changes
    /// nothing of what a server has left.
    pub fn for_supervisor(state: Arc<State>, root: Identity) -> Self {
        Self::empty(state, root)
    }

    fn empty(state: Arc<State>, root: Identity) -> Self {
        let shard = |owner| Mutex::new(Shard { rows: HashMap::new(), slabs: OwnSlabs::new(owner) });
        Self {
            state,
            root,
            shards: (0..SHARDS).map(shard).collect(),
            aliases: Mutex::default(),
            some_alias: AtomicBool::new(false),
            some_doubt: AtomicBool::new(false),
        }
    }

    /// The inode with this nodeid.
    pub fn get(&self, nodeid: u64) -> Option<Inode> {
        let shard = self.shard(nodeid);
        let row = self.row(*shard.rows.get(&nodeid)?)?;
        Some(row.inode())
    }

    /// The inode with this identity, without counting.
    pub fn find(&self, identity: Identity) -> Option<Inode> {
        if identity == self.root {
            return self.get(ROOT_ID);
        }
        if let Some(inode) = self.get(identity.ino).filter(|inode| inode.identity == identity) {
            return Some(inode);
        }
        let nodeid = self.aliases().of(identity)?;
        self.get(nodeid)
    }

    /// Counts a lookup of the file with this identity, found as `name` in `parent`, entering it if
    /// it is new.
    pub fn intern<'t>(
        &'t self,
        in_flight: InFlight<'t>,
        (identity, kind): (Identity, FileType),
        parent: u64,
        name: &OsStr,
    ) -> Lookup<'t> {
        self.enter(&Found { identity, kind, in_flight }, Some((parent, name)))
    }

    /// The same for a file that was not found by a name.
    pub fn intern_unnamed<'t>(
        &'t self,
        in_flight: InFlight<'t>,
        (identity, kind): (Identity, FileType),
    ) -> Lookup<'t> {
        self.enter(&Found { identity, kind, in_flight }, None)
    }

    fn enter<'t>(&'t self, found: &Found<'t>, place: Option<(u64, &OsStr)>) -> Lookup<'t> {
        let &Found { identity, in_flight, .. } = found;
        let counted = if identity == self.root {
            self.count(ROOT_ID, found, None, true)
        } else {
            let counted = if has_own_number(identity) {
                self.count(identity.ino, found, place, false)
            } else {
                Err(Refusal::Adopted)
            };
            match counted {
                Err(Refusal::Adopted) => self.count_alias(found, place),
                counted => counted,
            }
        };
        match counted {
            Ok(Counted { inode, first, former, at }) => {
                Lookup { table: self, in_flight, inode: Some(inode), first, former, at }
            }
            Err(refusal) => {
                tracing::error!(?refusal, "no room for one more inode");
                let (first, former, at) = (false, None, 0);
                Lookup { table: self, in_flight, inode: None, first, former, at }
            }
        }
    }

    /// Counts under `nodeid` unless another file has that number, or it is a new file that may have
    /// an alias from when its own number was taken: unless the caller has made sure of that, under
    /// the lock of the aliases. One file never has two nodeids. The root has no name, whatever leads
    /// to it.
    fn count(
        &self,
        nodeid: u64,
        &Found { identity, kind, in_flight }: &Found<'_>,
        place: Option<(u64, &OsStr)>,
        sure: bool,
    ) -> Result<Counted, Refusal> {
        let mut shard = self.shard(nodeid);
        let Shard { rows, slabs } = &mut *shard;
        let arena = &self.state.slabs;
        let known = rows.get(&nodeid).and_then(|&row| Row::at(arena, row));
        let row = match known {
            Some(row) if row.identity() != identity => return Err(Refusal::Adopted),
            Some(row) => row,
            None if !sure && self.some_alias.load(Ordering::SeqCst) => {
                return Err(Refusal::Adopted);
            }
            None => Row::fill(arena, slabs, nodeid, identity, kind).ok_or(Refusal::Full)?,
        };
        let former = place.and_then(|(parent, name)| row.move_to(slabs, parent, name));
        let Some(at) = in_flight.count(row.piece(), row.lookups()) else {
            if known.is_none() {
                row.free(slabs);
            }
            return Err(Refusal::Full);
        };
        let first = known.is_none();
        if first {
            rows.insert(nodeid, row.piece());
        }
        Ok(Counted { inode: row.inode(), first, former, at })
    }

    fn count_alias(
        &self,
        found: &Found<'_>,
        place: Option<(u64, &OsStr)>,
    ) -> Result<Counted, Refusal> {
        let identity = found.identity;
        let mut aliases = self.aliases();
        // Before the number is looked at: whoever finds it free later sees this.
        self.some_alias.store(true, Ordering::SeqCst);
        let known = aliases.of(identity);
        if known.is_none() && has_own_number(identity) {
            match self.count(identity.ino, found, place, true) {
                Err(Refusal::Adopted) => {}
                counted => return counted,
            }
        }
        let nodeid = known.unwrap_or_else(|| aliases.give(identity, &self.state));
        // The alias lock is held, so nobody can forget this nodeid between the two steps, and a
        // number from the counter is taken by nobody else.
        let counted = self.count(nodeid, found, place, true);
        if counted.is_err() && !self.knows(nodeid) {
            aliases.undo(identity);
        }
        counted
    }

    /// The kernel drops `count` lookups; true when it does not know the inode any more.
    pub fn forget(&self, in_flight: InFlight<'_>, nodeid: u64, count: u64) -> bool {
        if nodeid == ROOT_ID {
            in_flight.forget_nothing();
            return false;
        }
        self.less(nodeid, |row| match row {
            Some(row) => in_flight.forget(row.piece(), row.lookups(), count),
            None => in_flight.forget_nothing(),
        })
    }

    /// A lookup was not told; `at` is where it is recorded.
    fn undo(&self, in_flight: InFlight<'_>, nodeid: u64, at: usize) {
        self.less(nodeid, |row| {
            if let Some(row) = row {
                in_flight.undo(row.piece(), row.lookups(), at);
            }
        });
    }

    /// Makes an inode's count less, and removes it if nothing is left.
    fn less(&self, nodeid: u64, change: impl FnOnce(Option<Row<'_>>)) -> bool {
        // An alias is entered and removed under its own lock first (see the lock order).
        let mut aliases = (nodeid >= ALIAS_BASE).then(|| self.aliases());
        let mut shard = self.shard(nodeid);
        let Shard { rows, slabs } = &mut *shard;
        let Entry::Occupied(known) = rows.entry(nodeid) else {
            change(None);
            return false;
        };
        let Some(row) = self.row(*known.get()) else { return false };
        change(Some(row));
        if row.is_used() {
            return false;
        }
        known.remove();
        row.free(slabs);
        if let Some(aliases) = aliases.as_mut() {
            aliases.undo(row.identity());
        }
        true
    }

    /// How the inode is found: by its handle, or by the name that it was last seen under. `None` if
    /// the kernel does not know it any more.
    pub fn locator(&self, inode: &Inode) -> Option<Locator> {
        if inode.nodeid == ROOT_ID {
            return Some(Locator::Root);
        }
        let _shard = self.shard(inode.nodeid);
        let row = self.row_of(inode)?;
        match row.handle() {
            Some((kind, data)) => Some(Locator::Handle { kind, data }),
            None => row.place().map(Locator::Walk),
        }
    }

    /// The name that the inode was last seen under; the root has none.
    pub fn place(&self, inode: &Inode) -> Option<Place> {
        let _shard = self.shard(inode.nodeid);
        self.row_of(inode)?.place()
    }

    /// The inode goes by a newer name. Returns the one that it was seen under before, if that was
    /// another one.
    pub fn relocate(&self, inode: &Inode, parent: u64, name: &OsStr) -> Option<Place> {
        if inode.nodeid == ROOT_ID {
            return None;
        }
        let mut shard = self.shard(inode.nodeid);
        self.row_of(inode)?.move_to(&mut shard.slabs, parent, name)
    }

    /// From now on the inode is found by its handle.
    pub fn set_handle(&self, inode: &Inode, kind: i32, data: &[u8]) {
        let mut shard = self.shard(inode.nodeid);
        if let Some(row) = self.row_of(inode).filter(|_| inode.nodeid != ROOT_ID) {
            row.set_handle(&mut shard.slabs, kind, data);
        }
    }

    /// Says which descriptor keeps the inode reachable, which has lost its name.
    pub fn pin(&self, inode: &Inode, fd: BorrowedFd<'_>) {
        let _shard = self.shard(inode.nodeid);
        if let Some(row) = self.row_of(inode) {
            row.pin(fd.as_raw_fd());
        }
    }

    /// This descriptor, which is still open, does so no more.
    pub fn unpin(&self, row: Piece, fd: BorrowedFd<'_>) {
        if let Some(row) = self.row(row) {
            row.unpin(fd.as_raw_fd());
        }
    }

    fn row(&self, piece: Piece) -> Option<Row<'_>> {
        Row::at(&self.state.slabs, piece)
    }

    /// The inode's row, unless it is another's by now. Under the lock of the shard.
    fn row_of(&self, inode: &Inode) -> Option<Row<'_>> {
        let row = self.row(inode.row)?;
        let same = row.nodeid() == inode.nodeid && row.identity() == inode.identity;
        (row.is_used() && same).then_some(row)
    }

    /// The device that the root is on.
    pub fn root_device(&self) -> u64 {
        self.root.dev
    }

    /// The mount that the root is on.
    pub fn root_mount(&self) -> u32 {
        self.root.mount
    }

    /// The root's inode number.
    pub fn root_number(&self) -> u64 {
        self.root.ino
    }

    /// Gives memory back that a larger tree once needed.
    pub fn shrink(&self) {
        for mut shard in self.locked() {
            if shard.rows.capacity() > 4 * shard.rows.len() {
                let room = 2 * shard.rows.len();
                shard.rows.shrink_to(room);
            }
            self.state.slabs.give_back(&mut shard.slabs);
        }
    }

    fn shard(&self, nodeid: u64) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(nodeid % u64::from(SHARDS)).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shards, one after the other locked.
    fn locked(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
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
mod tests;
