//! A bounded set of `O_PATH` descriptors, least recently used first to go.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Descriptors by nodeid. One that is in use lives on after it has left the cache.
pub(super) struct Descriptors(Mutex<Caches>);

struct Caches {
    /// Of inodes that can be opened again.
    reopenable: LruCache<u64, Arc<OwnedFd>>,
    /// Of inodes whose last known name is gone: kept apart, so that ordinary traffic does not
    /// push them out, and bounded too, so that a hostile caller cannot use up descriptors.
    unlinked: LruCache<u64, Arc<OwnedFd>>,
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
        let found = found.or_else(|| caches.unlinked.get(&nodeid).map(Arc::clone));
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

    /// Keeps the descriptor of an inode that cannot be found again.
    pub(super) fn pin(&self, nodeid: u64, fd: Arc<OwnedFd>) {
        let evicted = self.lock().unlinked.push(nodeid, fd);
        drop(evicted);
    }

    pub(super) fn remove(&self, nodeid: u64) {
        let mut caches = self.lock();
        let gone = (caches.reopenable.pop(&nodeid), caches.unlinked.pop(&nodeid));
        drop(caches);
        drop(gone);
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
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_the_unlinked_stay() {
        let open = || Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
        let cache = Descriptors::new(4);
        cache.pin(9, open());
        for nodeid in 1..=3 {
            cache.put(nodeid, open());
        }
        assert!(cache.get(1).is_none(), "two fit");
        assert!(cache.get(2).is_some() && cache.get(3).is_some() && cache.get(9).is_some());
        cache.shed();
        assert!(cache.get(3).is_none() && cache.get(9).is_some());
        let usage = Usage { reopenable: 0, unlinked: 1, hits: 4, misses: 2 };
        assert_eq!(cache.usage(), usage);
        cache.remove(9);
        assert!(cache.get(9).is_none());
    }
}
