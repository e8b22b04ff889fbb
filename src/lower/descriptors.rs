//! A bounded set of `O_PATH` descriptors, least recently used first to go.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::inode::Inode;
use crate::state::slab::Piece;

/// Descriptors by nodeid. One that is in use lives on after it has left the cache.
pub(super) struct Descriptors(Mutex<Caches>);

struct Caches {
    /// Of inodes that can be opened again.
    reopenable: LruCache<u64, Arc<OwnedFd>>,
    /// Of inodes whose last known name is gone: kept apart, so that ordinary traffic does not
    /// push them out, and bounded too, so that a hostile caller cannot use up descriptors.
    unlinked: LruCache<u64, Pinned>,
    hits: u64,
    misses: u64,
}

/// How well the cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Descriptors of inodes that can be opened again.
    pub reopenable: usize,
    /// Descriptors of inodes whose last name is gone.
    pub unlinked: usize,
    /// How often a descriptor was there.
    pub hits: u64,
    /// How often it was not.
    pub misses: u64,
}

/// The row of an inode that names a descriptor, and that descriptor.
type Pinned = (Piece, Arc<OwnedFd>);

impl Descriptors {
    /// Keeps at most about `max` descriptors open.
    pub(super) fn new(max: usize) -> Self {
        let half = NonZeroUsize::new(max / 2).unwrap_or(NonZeroUsize::MIN);
        let (reopenable, unlinked) = (LruCache::new(half), LruCache::new(half));
        let caches = Caches { reopenable, unlinked, hits: 0, misses: 0 };
        Self(Mutex::new(caches))
    }

    pub(super) fn get(&self, nodeid: u64) -> Option<Arc<OwnedFd>> {
        let mut caches = self.lock();
        let found = caches.reopenable.get(&nodeid).map(Arc::clone);
        let found = found.or_else(|| caches.unlinked.get(&nodeid).map(|(_, fd)| Arc::clone(fd)));
        *(if found.is_some() { &mut caches.hits } else { &mut caches.misses }) += 1;
        found
    }

    pub(super) fn usage(&self) -> Usage {
        let caches = self.lock();
        let (reopenable, unlinked) = (caches.reopenable.len(), caches.unlinked.len());
        Usage { reopenable, unlinked, hits: caches.hits, misses: caches.misses }
    }

    pub(super) fn put(&self, nodeid: u64, fd: Arc<OwnedFd>) {
        let evicted = self.lock().reopenable.push(nodeid, fd);
        drop(evicted); // closes outside the lock
    }

    /// Keeps the descriptor of an inode that cannot be found again. Returns those that have to go for
    /// it, with the rows that name them.
    pub(super) fn pin(&self, inode: &Inode, fd: Arc<OwnedFd>) -> Vec<Pinned> {
        let pushed = self.lock().unlinked.push(inode.nodeid, (inode.row, fd));
        pushed.map(|(_, pinned)| pinned).into_iter().collect()
    }

    /// The kernel has forgotten the inode. Returns its descriptors, to be closed.
    pub(super) fn remove(&self, nodeid: u64) -> impl Sized {
        let mut caches = self.lock();
        (caches.reopenable.pop(&nodeid), caches.unlinked.pop(&nodeid))
    }

    /// Closes all that can be opened again: the process has run out of descriptors.
    pub(super) fn shed(&self) {
        let mut caches = self.lock();
        let capacity = caches.reopenable.cap();
        let gone = std::mem::replace(&mut caches.reopenable, LruCache::new(capacity));
        drop(caches);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Caches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::*;
    use crate::lower::stat::Identity;

    #[test]
    fn the_oldest_goes_first_and_the_unlinked_stay() {
        let open = || Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
        let cache = Descriptors::new(4);
        let identity = Identity { mount: 0, dev: 1, ino: 9, born: 0 };
        let inode = Inode { nodeid: 9, identity, kind: FileType::RegularFile, row: 8 };
        assert!(cache.pin(&inode, open()).is_empty());
        assert_eq!(cache.pin(&inode, open())[0].0, 8, "the former one");
        for nodeid in 1..=3 {
            cache.put(nodeid, open());
        }
        assert!(cache.get(1).is_none(), "two fit");
        assert!(cache.get(2).is_some() && cache.get(3).is_some() && cache.get(9).is_some());
        cache.shed();
        assert!(cache.get(3).is_none() && cache.get(9).is_some());
        let usage = Usage { reopenable: 0, unlinked: 1, hits: 4, misses: 2 };
        assert_eq!(cache.usage(), usage);
        drop(cache.remove(9));
        assert!(cache.get(9).is_none());
    }
}
