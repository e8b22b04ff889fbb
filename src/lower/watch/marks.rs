//! Which single inodes are watched, where the whole file system cannot be (`fanotify_mark(2)` wants
//! CAP_SYS_ADMIN over it): the part of the argument in [`super`] that says when a change of an inode is
//! heard of.
//!
//! An answer is trusted for long only if what it is about was watched *before* the lower tree was asked.
//! So each mark has a number of the [`Clock`](super::Clock), taken when it was there, and an answer counts
//! only if its ticket is no earlier.
//!
//! Marks keep lower inodes in the kernel's memory. One that could be evicted would vanish with its inode
//! without a word, and the next change would not be heard of. So their number is bounded, and what is
//! beyond it is trusted for [`SHORT`](super::SHORT).
//!
//! A mark can only be taken away through the inode, and when the kernel above forgets an inode there may
//! be no way to it any more. So marks that are not needed stay (they go with the file when it is removed),
//! and from time to time all are taken away at once ([`Marks::start_over`]).

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::io::Errno;

use super::Ticket;
use crate::lower::inode::Inode;
use crate::lower::stat::Identity;

/// The most marks that one mount holds: each keeps an inode of about a kilobyte.
const MOST: usize = 32_768;
/// What other programs of the same user may need of their common number of marks.
const SHARE: usize = 2;
/// Fewer marks that nobody needs are left alone.
const FEW: usize = 1024;

/// What is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The names in a directory.
    Names,
    /// An inode's attributes and contents.
    Inode,
}

/// The marks of two groups.
pub(super) struct Marks(RwLock<Inner>);

struct Inner {
    /// By nodeid.
    held: HashMap<u64, Held>,
    /// Moves when all marks are taken away: once before, once after. Odd in between.
    epoch: u64,
    /// At least as many as the kernel has.
    set: usize,
    /// How many of these are in `held`.
    needed: usize,
    /// The most that there may be, and the most that there can be just now.
    most: usize,
    limit: usize,
}

/// What is heard of an inode, and since when.
struct Held {
    identity: Identity,
    names: Option<Ticket>,
    inode: Option<Ticket>,
    /// Whether what the kernel keeps of its contents was read since then.
    contents: bool,
}

/// Room for a mark that is being made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room(u64);

impl Marks {
    /// No marks yet; `allowed` is how many this user may have.
    pub(super) fn new(allowed: usize) -> Self {
        let most = MOST.min(allowed / SHARE);
        let (held, epoch, set, needed) = (HashMap::new(), 0, 0, 0);
        Self(RwLock::new(Inner { held, epoch, set, needed, most, limit: most }))
    }

    /// Whether every change is heard of that came after the ticket was taken.
    pub(super) fn hears(&self, inode: &Inode, what: What, ticket: Ticket) -> bool {
        let inner = self.read();
        let held = inner.held.get(&inode.nodeid).filter(|held| held.identity == inode.identity);
        let since = held.and_then(|held| match what {
            What::Names => held.names,
            // A directory's times and links change with the names in it.
            What::Inode if inode.is_dir() => held.names.zip(held.inode).map(|(a, b)| a.max(b)),
            What::Inode => held.inode,
        });
        since.is_some_and(|since| since <= ticket)
    }

    /// Room for one more mark, if there is.
    pub(super) fn room(&self) -> Option<Room> {
        let is_full = |inner: &Inner| inner.set >= inner.limit || inner.epoch % 2 == 1;
        if is_full(&self.read()) {
            return None;
        }
        let mut inner = self.write();
        if is_full(&inner) {
            return None;
        }
        inner.set += 1;
        Some(Room(inner.epoch))
    }

    /// The mark could not be made.
    pub(super) fn refused(&self, room: Room, errno: Errno) {
        let mut inner = self.write();
        if inner.epoch == room.0 {
            inner.set = inner.set.saturating_sub(1);
        }
        if errno == Errno::NOSPC {
            inner.limit = inner.set;
        }
    }

    /// The mark has been there since that time. Not if all marks were taken away meanwhile: then it
    /// may have been one of them.
    pub(super) fn keep(&self, inode: &Inode, what: What, room: Room, since: Ticket) {
        let mut inner = self.write();
        if inner.epoch != room.0 {
            inner.set += 1;
            return;
        }
        if inner.held.get(&inode.nodeid).is_some_and(|held| held.identity != inode.identity) {
            inner.forget(inode.nodeid);
        }
        let Inner { held, needed, .. } = &mut *inner;
        let held = held.entry(inode.nodeid).or_insert_with(|| Held {
            identity: inode.identity,
            names: None,
            inode: None,
            contents: false,
        });
        let place = held.place(what);
        if place.is_none() {
            *place = Some(since);
            *needed += 1;
        }
    }

    /// Whether the contents that the kernel has can be kept when the file is opened again. The first
    /// time since the file is watched they cannot: they may have been read before.
    pub(super) fn keeps_contents(&self, inode: &Inode, ticket: Ticket) -> bool {
        if !self.hears(inode, What::Inode, ticket) {
            return false;
        }
        let mut inner = self.write();
        let held = inner.held.get_mut(&inode.nodeid);
        let Some(held) = held.filter(|held| held.identity == inode.identity) else { return false };
        std::mem::replace(&mut held.contents, true)
    }

    /// The kernel has forgotten the inode.
    pub(super) fn forget(&self, nodeid: u64) {
        if self.read().held.contains_key(&nodeid) {
            self.write().forget(nodeid);
        }
    }

    /// For quiet moments: others may have given marks back. Returns whether so many are not needed
    /// that it pays to start over.
    pub(super) fn tidy(&self) -> bool {
        let mut inner = self.write();
        inner.limit = inner.most;
        inner.set.saturating_sub(inner.needed) > inner.needed.max(FEW)
    }

    /// Takes all marks away. `lost` makes every answer distrusted that was begun before, and comes
    /// before any new mark counts.
    pub(super) fn start_over(&self, take_away: impl FnOnce(), lost: impl FnOnce()) {
        let mut inner = self.write();
        let held = std::mem::take(&mut inner.held);
        (inner.needed, inner.set) = (0, 0);
        inner.epoch += 1;
        drop(inner);
        drop(held);
        lost();
        take_away();
        self.write().epoch += 1;
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn place(&mut self, what: What) -> &mut Option<Ticket> {
        match what {
            What::Names => &mut self.names,
            What::Inode => &mut self.inode,
        }
    }
}

impl Inner {
    fn forget(&mut self, nodeid: u64) {
        if let Some(held) = self.held.remove(&nodeid) {
            self.needed -= usize::from(held.names.is_some()) + usize::from(held.inode.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::watch::Clock;
    use rustix::fs::FileType;

    fn inode(nodeid: u64, born: i64, kind: FileType) -> Inode {
        Inode { nodeid, identity: Identity { mount: 0, dev: 1, ino: nodeid, born }, kind, row: 0 }
    }

    fn file(nodeid: u64) -> Inode {
        inode(nodeid, 5, FileType::RegularFile)
    }

    fn mark(marks: &Marks, clock: &Clock, inode: &Inode, what: What) {
        marks.keep(inode, what, marks.room().unwrap(), clock.watched());
    }

    #[test]
    fn only_answers_that_are_begun_later_are_covered() {
        let (marks, clock) = (Marks::new(100), Clock::default());
        let early = clock.ticket();
        mark(&marks, &clock, &file(7), What::Inode);
        assert!(!marks.hears(&file(7), What::Inode, early));
        let late = clock.ticket();
        assert!(marks.hears(&file(7), What::Inode, late));
        assert!(!marks.hears(&file(8), What::Inode, late));
        let other = inode(7, 6, FileType::RegularFile);
        assert!(!marks.hears(&other, What::Inode, late), "another file with its number");
        mark(&marks, &clock, &other, What::Inode);
        assert!(!marks.hears(&file(7), What::Inode, clock.ticket()));
        marks.forget(7);
        assert!(!marks.hears(&other, What::Inode, clock.ticket()));
    }

    #[test]
    fn directories_change_with_their_names() {
        let (marks, clock) = (Marks::new(100), Clock::default());
        let dir = inode(7, 5, FileType::Directory);
        mark(&marks, &clock, &dir, What::Inode);
        assert!(!marks.hears(&dir, What::Inode, clock.ticket()));
        let early = clock.ticket();
        mark(&marks, &clock, &dir, What::Names);
        assert!(!marks.hears(&dir, What::Inode, early));
        assert!(marks.hears(&dir, What::Names, clock.ticket()));
        assert!(marks.hears(&dir, What::Inode, clock.ticket()));
    }

    #[test]
    fn contents_count_that_are_read_while_the_file_is_watched() {
        let (marks, clock) = (Marks::new(100), Clock::default());
        assert!(!marks.keeps_contents(&file(7), clock.ticket()));
        mark(&marks, &clock, &file(7), What::Inode);
        assert!(!marks.keeps_contents(&file(7), clock.ticket()), "read before, perhaps");
        assert!(marks.keeps_contents(&file(7), clock.ticket()));
    }

    #[test]
    fn their_number_is_bounded() {
        let (marks, clock) = (Marks::new(10 * SHARE), Clock::default());
        (0..10).for_each(|n| mark(&marks, &clock, &file(n), What::Inode));
        assert!(marks.room().is_none());
        marks.forget(3);
        assert!(marks.room().is_none(), "the kernel still has it");
        marks.start_over(|| assert!(marks.room().is_none(), "not yet"), || ());
        assert!(!marks.hears(&file(4), What::Inode, clock.ticket()));
        // What the kernel allows may be less.
        mark(&marks, &clock, &file(4), What::Inode);
        marks.refused(marks.room().unwrap(), Errno::NOSPC);
        assert!(marks.room().is_none());
        assert!(!marks.tidy());
        assert!(marks.room().is_some());
        assert!(Marks::new(usize::MAX).read().limit == MOST);
    }

    #[test]
    fn what_is_marked_while_all_is_taken_away_does_not_count() {
        let (marks, clock) = (Marks::new(100), Clock::default());
        let room = marks.room().unwrap();
        marks.start_over(|| (), || ());
        marks.keep(&file(7), What::Inode, room, clock.watched());
        assert!(!marks.hears(&file(7), What::Inode, clock.ticket()));
        assert_eq!(marks.read().set, 1, "but the kernel may have it");
    }

    #[test]
    fn many_that_are_not_needed_are_taken_away() {
        let (marks, clock) = (Marks::new(usize::MAX), Clock::default());
        let all = 4 * FEW as u64;
        (0..all).for_each(|n| mark(&marks, &clock, &file(n), What::Inode));
        (0..all / 2).for_each(|n| marks.forget(n));
        assert!(!marks.tidy());
        marks.forget(all - 1);
        assert!(marks.tidy());
    }
}
