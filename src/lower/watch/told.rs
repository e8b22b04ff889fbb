//! Names that the kernel has been told and may trust for long, as far as the inode table does not
//! know them: so that they can be told one by one when they are in doubt.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::lower::inode::Place;

/// How many names that are not there the kernel may trust for long.
const MAX_MISSING: usize = 16_384;

/// Names in doubt, and names that are not there.
pub(super) struct Told {
    doubts: Mutex<Vec<Place>>,
    /// Readable while there are doubts.
    doubted: OwnedFd,
    /// Everything is to be asked anew.
    anew: AtomicBool,
    /// By a hash, so that a name that is there after all can be found without a copy of it.
    missing: Mutex<LruCache<u64, Place>>,
    hasher: RandomState,
}

impl Told {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self {
            doubts: Mutex::default(),
            doubted: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            anew: AtomicBool::new(false),
            missing: Mutex::new(LruCache::unbounded()),
            hasher: RandomState::new(),
        })
    }

    /// Readable while there are doubts.
    pub(super) fn doubted(&self) -> BorrowedFd<'_> {
        self.doubted.as_fd()
    }

    /// A name is to be asked about anew.
    pub(super) fn doubt(&self, place: Place) {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.push(place);
        if doubts.len() == 1 {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Err(errno) = rustix::io::write(&self.doubted, &1_u64.to_ne_bytes()) {
            tracing::error!(%errno, "cannot wake the thread that listens");
        }
    }

    /// Everything is to be asked anew.
    pub(super) fn want_anew(&self) {
        let _doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        self.anew.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether everything is to be asked anew; once.
    pub(super) fn take_anew(&self) -> bool {
        let doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        let anew = self.anew.swap(false, Ordering::SeqCst);
        if anew && doubts.is_empty() {
            self.slept_enough();
        }
        anew
    }

    /// The counter goes back to zero; with the lock, so that the next doubt sets it again.
    fn slept_enough(&self) {
        if let Err(errno) = rustix::io::read(&self.doubted, &mut [0; 8]) {
            tracing::error!(%errno, "cannot read a counter");
        }
    }

    /// The names in doubt, each once.
    pub(super) fn take_doubts(&self) -> Vec<Place> {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        if doubts.is_empty() {
            return Vec::new();
        }
        self.slept_enough();
        std::mem::take(&mut *doubts)
    }

    /// The kernel is told that a name is not there. The oldest such name is doubted when there are
    /// too many.
    pub(super) fn missing(&self, place: Place) {
        let key = self.key(place.parent, &place.name);
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.get(&key) == Some(&place) {
            return;
        }
        let other = missing.put(key, place);
        let full = missing.len() > MAX_MISSING;
        let oldest = if full { missing.pop_lru().map(|(_, oldest)| oldest) } else { None };
        drop(missing);
        other.into_iter().chain(oldest).for_each(|place| self.doubt(place));
    }

    /// The kernel is told what a name stands for: from now on the inode table knows of it.
    pub(super) fn found(&self, parent: u64, name: &OsStr) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.is_empty() {
            return; // as in a tree that is only looked at
        }
        let key = self.key(parent, name);
        if missing.peek(&key).is_some_and(|it| it.parent == parent && *it.name == *name) {
            missing.pop(&key);
        }
    }

    fn key(&self, parent: u64, name: &OsStr) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    /// All names that are not there, which are not kept any more.
    pub(super) fn take_missing(&self) -> Vec<Place> {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::replace(&mut *missing, LruCache::unbounded());
        drop(missing);
        taken.into_iter().map(|(_, place)| place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: usize) -> Place {
        Place { parent: 1, name: OsStr::new(&number.to_string()).into() }
    }

    fn is_readable(fd: BorrowedFd<'_>) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn doubts_wake_until_they_are_taken() {
        let told = Told::new().unwrap();
        assert!(!is_readable(told.doubted()));
        for _ in 0..2 {
            told.doubt(place(1));
            told.doubt(place(2));
            assert!(is_readable(told.doubted()));
            assert_eq!(told.take_doubts(), [place(1), place(2)]);
            assert!(!is_readable(told.doubted()) && told.take_doubts().is_empty());
        }
    }

    #[test]
    fn all_anew_wakes_until_it_is_taken() {
        let told = Told::new().unwrap();
        for doubts in 0..2 {
            (0..doubts).for_each(|_| told.doubt(place(1)));
            told.want_anew();
            assert!(is_readable(told.doubted()));
            assert!(told.take_anew() && !told.take_anew());
            assert_eq!(told.take_doubts().len(), doubts);
            assert!(!is_readable(told.doubted()));
        }
    }

    #[test]
    fn the_oldest_missing_name_is_doubted() {
        let told = Told::new().unwrap();
        (0..MAX_MISSING).for_each(|number| told.missing(place(number)));
        told.missing(place(0));
        assert!(told.take_doubts().is_empty());
        told.missing(place(MAX_MISSING));
        assert_eq!(told.take_doubts(), [place(1)]);
        assert_eq!(told.take_missing().len(), MAX_MISSING);
        assert!(told.take_missing().is_empty());
    }

    #[test]
    fn a_name_that_is_found_is_missing_no_more() {
        let told = Told::new().unwrap();
        (0..4).for_each(|number| told.missing(place(number)));
        told.found(1, OsStr::new("2"));
        told.found(2, OsStr::new("3"));
        told.found(1, OsStr::new("4"));
        assert_eq!(told.take_missing().len(), 3);
        // However many are made one after the other, nothing else is doubted for them.
        for number in 0..2 * MAX_MISSING {
            told.missing(place(number));
            told.found(1, OsStr::new(&number.to_string()));
        }
        assert!(told.take_missing().is_empty() && told.take_doubts().is_empty());
    }
}
