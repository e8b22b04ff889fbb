//! Which inodes are watched: the part of the argument in [`super`] that says when a change of an inode is
//! heard of.
//!
//! An answer is trusted for long only if what it is about was watched *before* the lower tree was asked.
//! So each mark has a number of the [`Epochs`](super::Epochs), taken when it was there, and an answer counts
//! only if its epoch is no earlier.
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
use std::time::Instant;

use rustix::io::Errno;

use super::{Epoch, LONG};
use crate::lower::inode::Inode;
use crate::lower::stat::Identity;

/// The most marks that one mount holds: each keeps an inode of about a kilobyte.
const MOST: usize = 131_072;
/// The most marks on what is not a directory.
const MOST_FILES: usize = 32_768;
/// What other programs and mounts of the same user may need of their common number of marks.
const SHARE: usize = 2;
/// Fewer marks that nobody needs are left alone.
const FEW: usize = 1024;

/// The marks of a group.
pub(super) struct Marks(RwLock<Inner>);

struct Inner {
    /// By nodeid.
    held: HashMap<u64, Held>,
    /// Moves when all marks are taken away: once before, once after. Odd in between.
    epoch: u64,
    /// At least as many as the kernel has, and how many of these are on files.
    set: usize,
    files: usize,
    /// The most that there may be, and the most that there can be just now.
    most: usize,
    limit: usize,
    /// Whether it has been said that there can be no more.
    said: bool,
    /// Since when there are marks of a server before this one, if there are.
    others: Option<Instant>,
}

/// An inode that is watched.
struct Held {
    identity: Identity,
    /// Since when there is a mark: for a directory, when the names in it and what is behind them are
    /// heard of.
    since: Epoch,
    /// Since when what the kernel above has of its own attributes is covered by that.
    attributes: Option<Epoch>,
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
        Self(RwLock::new(Inner {
            held: HashMap::new(),
            epoch: 0,
            set: 0,
            files: 0,
            most,
            limit: most,
            said: false,
            others: None,
        }))
    }

    /// Whether there was a mark before the epoch was taken. Then all changes are heard of that came
    /// later: for a directory, also those of the names in it, and of what is behind them.
    pub(super) fn is_marked(&self, inode: &Inode, epoch: Epoch) -> bool {
        self.read().of(inode).is_some_and(|held| held.since <= epoch)
    }

    /// The same, and whether nothing is older that the kernel above has of the inode's attributes.
    pub(super) fn hears(&self, inode: &Inode, epoch: Epoch) -> bool {
        let inner = self.read();
        let attributes = inner.of(inode).and_then(|held| held.attributes);
        attributes.is_some_and(|since| since <= epoch)
    }

    /// Room for one more mark, if there is.
    pub(super) fn room(&self, inode: &Inode) -> Option<Room> {
        let most_files = |inner: &Inner| MOST_FILES.min(inner.limit / 2);
        let is_full = |inner: &Inner| {
            inner.set >= inner.limit
                || inner.epoch % 2 == 1
                || (!inode.is_dir() && inner.files >= most_files(inner))
        };
        if is_full(&self.read()) {
            return None;
        }
        let mut inner = self.write();
        if is_full(&inner) {
            return None;
        }
        inner.set += 1;
        inner.files += usize::from(!inode.is_dir());
        Some(Room(inner.epoch))
    }

    /// The mark could not be made. Returns whether it is to be said that there can be no more.
    pub(super) fn refused(&self, inode: &Inode, room: Room, errno: Errno) -> bool {
        let mut inner = self.write();
        if inner.epoch == room.0 {
            inner.set = inner.set.saturating_sub(1);
            inner.files = inner.files.saturating_sub(usize::from(!inode.is_dir()));
        }
        if errno != Errno::NOSPC {
            return false;
        }
        inner.limit = inner.set;
        !std::mem::replace(&mut inner.said, true)
    }

    /// The mark has been there since that time. Not if all marks were taken away meanwhile: then it
    /// may have been one of them. `attributes` says whether what the kernel above has of the inode's
    /// attributes is no older.
    pub(super) fn keep(&self, inode: &Inode, room: Room, since: Epoch, attributes: bool) {
        let mut inner = self.write();
        if inner.epoch != room.0 {
            inner.set += 1;
            inner.files += usize::from(!inode.is_dir());
            return;
        }
        if inner.of(inode).is_some_and(|held| held.attributes.is_some() || !attributes) {
            return;
        }
        let attributes = attributes.then_some(since);
        let held = Held { identity: inode.identity, since, attributes, contents: false };
        inner.held.insert(inode.nodeid, held);
    }

    /// What the kernel above has of the attributes of an inode that is watched was read after `since`.
    pub(super) fn confirm(&self, inode: &Inode, since: Epoch) {
        let mut inner = self.write();
        let held = inner.held.get_mut(&inode.nodeid);
        let held = held.filter(|held| held.identity == inode.identity && held.since <= since);
        if let Some(attributes) = held.map(|held| &mut held.attributes) {
            attributes.get_or_insert(since);
        }
    }

    /// Whether the contents that the kernel has can be kept when the file is opened again. The first
    /// time since the file is watched they cannot: they may have been read before.
    pub(super) fn keeps_contents(&self, inode: &Inode, epoch: Epoch) -> bool {
        if !self.hears(inode, epoch) {
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
            self.write().held.remove(&nodeid);
        }
    }

    /// A server before this one has made marks, which the kernel above may rely on for a while.
    pub(super) fn others_are_left(&self) {
        self.write().others = Some(Instant::now());
    }

    /// For quiet moments: others may have given marks back. Returns whether so many are not needed
    /// that it pays to start over.
    pub(super) fn tidy(&self) -> bool {
        let mut inner = self.write();
        inner.limit = inner.most;
        if inner.others.is_some_and(|since| since.elapsed() <= LONG) {
            return false;
        }
        let needed = inner.held.len();
        inner.set.saturating_sub(needed) > needed.max(FEW)
    }

    /// Takes all marks away. `lost` makes every answer distrusted that was begun before, and comes
    /// before any new mark counts.
    pub(super) fn start_over(&self, take_away: impl FnOnce(), lost: impl FnOnce()) {
        let mut inner = self.write();
        let held = std::mem::take(&mut inner.held);
        (inner.set, inner.files) = (0, 0);
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

impl Inner {
    fn of(&self, inode: &Inode) -> Option<&Held> {
        self.held.get(&inode.nodeid).filter(|held| held.identity == inode.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::watch::Epochs;
    use rustix::fs::FileType;

    fn inode(nodeid: u64, born: i64, kind: FileType) -> Inode {
        Inode { nodeid, identity: Identity { mount: 0, dev: 1, ino: nodeid, born }, kind, row: 0 }
    }

    fn file(nodeid: u64) -> Inode {
        inode(nodeid, 5, FileType::RegularFile)
    }

    fn mark(marks: &Marks, epochs: &Epochs, inode: &Inode) {
        let room = marks.room(inode).unwrap();
        marks.keep(inode, room, epochs.watched(), true);
    }

    #[test]
    fn only_answers_that_are_begun_later_are_covered() {
        let (marks, epochs) = (Marks::new(100), Epochs::default());
        let early = epochs.now();
        mark(&marks, &epochs, &file(7));
        assert!(!marks.hears(&file(7), early));
        let late = epochs.now();
        assert!(marks.hears(&file(7), late));
        assert!(!marks.hears(&file(8), late));
        let other = inode(7, 6, FileType::RegularFile);
        assert!(!marks.hears(&other, late), "another file with its number");
        mark(&marks, &epochs, &other);
        assert!(!marks.hears(&file(7), epochs.now()));
        marks.forget(7);
        assert!(!marks.hears(&other, epochs.now()));
    }

    #[test]
    fn attributes_of_a_directory_count_once_they_are_confirmed() {
        let (marks, epochs) = (Marks::new(100), Epochs::default());
        let dir = inode(7, 5, FileType::Directory);
        let (early, room) = (epochs.now(), marks.room(&dir).unwrap());
        marks.keep(&dir, room, epochs.watched(), false);
        let late = epochs.now();
        assert!(marks.is_marked(&dir, late) && !marks.is_marked(&dir, early));
        assert!(!marks.hears(&dir, late));
        marks.confirm(&inode(7, 6, FileType::Directory), epochs.watched());
        assert!(!marks.hears(&dir, epochs.now()), "another directory with its number");
        marks.confirm(&dir, epochs.watched());
        assert!(!marks.hears(&dir, late) && marks.hears(&dir, epochs.now()));
    }

    #[test]
    fn contents_count_that_are_read_while_the_file_is_watched() {
        let (marks, epochs) = (Marks::new(100), Epochs::default());
        assert!(!marks.keeps_contents(&file(7), epochs.now()));
        mark(&marks, &epochs, &file(7));
        assert!(!marks.keeps_contents(&file(7), epochs.now()), "read before, perhaps");
        assert!(marks.keeps_contents(&file(7), epochs.now()));
    }

    #[test]
    fn their_number_is_bounded() {
        let dir = |nodeid| inode(nodeid, 5, FileType::Directory);
        let (marks, epochs) = (Marks::new(10 * SHARE), Epochs::default());
        (0..5).for_each(|n| mark(&marks, &epochs, &file(n)));
        assert!(marks.room(&file(5)).is_none(), "directories count for more");
        (5..10).for_each(|n| mark(&marks, &epochs, &dir(n)));
        assert!(marks.room(&dir(10)).is_none());
        marks.forget(7);
        assert!(marks.room(&dir(10)).is_none(), "the kernel still has it");
        marks.start_over(|| assert!(marks.room(&dir(1)).is_none(), "not yet"), || ());
        assert!(!marks.hears(&file(4), epochs.now()));
        // What the kernel allows may be less.
        mark(&marks, &epochs, &dir(4));
        let refused = || marks.refused(&dir(5), marks.room(&dir(5)).unwrap(), Errno::NOSPC);
        assert!(refused());
        assert!(marks.room(&dir(5)).is_none());
        assert!(!marks.tidy());
        assert!(!refused(), "it is said once");
        assert!(Marks::new(usize::MAX).read().limit == MOST);
    }

    #[test]
    fn what_is_marked_while_all_is_taken_away_does_not_count() {
        let (marks, epochs) = (Marks::new(100), Epochs::default());
        let room = marks.room(&file(7)).unwrap();
        marks.start_over(|| (), || ());
        marks.keep(&file(7), room, epochs.watched(), true);
        assert!(!marks.hears(&file(7), epochs.now()));
        assert_eq!(marks.read().set, 1, "but the kernel may have it");
    }

    #[test]
    fn many_that_are_not_needed_are_taken_away() {
        let (marks, epochs) = (Marks::new(usize::MAX), Epochs::default());
        let all = 4 * FEW as u64;
        (0..all).for_each(|n| mark(&marks, &epochs, &file(n)));
        (0..all / 2).for_each(|n| marks.forget(n));
        assert!(!marks.tidy());
        marks.forget(all - 1);
        assert!(marks.tidy());
        marks.others_are_left();
        assert!(!marks.tidy(), "the kernel may rely on those");
    }
}
