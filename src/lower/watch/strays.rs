//! Inodes that may not be where the table has them: their names have come or gone below, so that the
//! directory in which they were last seen says nothing of them any more.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By nodeid; no more than the kernel knows inodes.
#[derive(Default)]
pub(super) struct Strays {
    nodeids: Mutex<HashSet<u64>>,
    /// Whether there are any.
    some: AtomicBool,
}

impl Strays {
    pub(super) fn contains(&self, nodeid: u64) -> bool {
        self.some.load(Ordering::SeqCst) && self.lock().contains(&nodeid)
    }

    pub(super) fn add(&self, nodeid: u64) {
        let mut nodeids = self.lock();
        nodeids.insert(nodeid);
        self.some.store(true, Ordering::SeqCst);
    }

    /// It was found, or the kernel does not know it any more.
    pub(super) fn remove(&self, nodeid: u64) {
        if self.some.load(Ordering::SeqCst) {
            let mut nodeids = self.lock();
            nodeids.remove(&nodeid);
            self.some.store(!nodeids.is_empty(), Ordering::SeqCst);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.nodeids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strays_are_known_until_they_are_found() {
        let strays = Strays::default();
        strays.remove(1);
        assert!(!strays.contains(1));
        strays.add(1);
        strays.add(2);
        strays.remove(1);
        assert!(!strays.contains(1) && strays.contains(2));
        strays.remove(2);
        assert!(!strays.contains(2) && !strays.some.load(Ordering::SeqCst));
    }
}
