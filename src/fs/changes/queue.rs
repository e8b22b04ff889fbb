//! Telling the kernel what may have to wait. A notification about a name waits for the lock of the
//! directory, and whoever holds that may be stuck for long: in getdents(2) into memory that a stopped server
//! is to bring. One about contents waits for what is being read of them. So each inode, with the names in
//! it, is told of by itself, by threads that take one at a time, and one that is held holds up no other.
//!
//! What waits is bounded: beyond [`MOST`] notices, or [`THREADS`] inodes that are held, notices are
//! given up, and all are told when the others have been.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Notices as Kernel, unless_unknown};
use crate::lower::inode::Place;

/// The most notices that wait.
const MOST: usize = 16_384;
/// The most inodes that are told of at a time.
const THREADS: usize = 16;
/// How many are put in the queue at a time, as long as none is held.
const AT_ONCE: usize = 1024;
/// How long the caller waits for the next one to be told; most are in microseconds.
const PATIENCE: Duration = Duration::from_millis(20);

/// What the kernel is to be told.
#[derive(Debug)]
pub(super) enum Notice {
    /// To ask for a name anew.
    Name(Place),
    /// To forget the contents of an inode, or its listing.
    Contents(u64),
}

/// Notices on their way.
pub(super) struct Queue<'k, N> {
    kernel: &'k N,
    state: Mutex<State>,
    /// Something is to be done, or has been.
    changed: Condvar,
    /// How many have been told.
    told: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// One that is here is in `ready` or in `telling`.
    inodes: HashMap<u64, Notices>,
    count: usize,
    ready: VecDeque<u64>,
    telling: HashSet<u64>,
    /// Whose contents the kernel has been told of, and did not know.
    unknown: Vec<u64>,
    threads: usize,
    given_up: bool,
    ended: bool,
}

/// What is to be told of one inode.
#[derive(Default)]
struct Notices {
    names: HashSet<Box<OsStr>>,
    contents: bool,
}

impl Notices {
    fn count(&self) -> usize {
        self.names.len() + usize::from(self.contents)
    }

    fn add(&mut self, name: Option<Box<OsStr>>) -> bool {
        match name {
            Some(name) => self.names.insert(name),
            None => !std::mem::replace(&mut self.contents, true),
        }
    }
}

impl<'k, N: Kernel> Queue<'k, N> {
    /// None yet.
    pub(super) fn new(kernel: &'k N) -> Self {
        Self { kernel, state: Mutex::default(), changed: Condvar::new(), told: AtomicUsize::new(0) }
    }

    /// Tells these, and waits until that is done or an inode is held. Returns whether all have been
    /// told.
    pub(super) fn tell<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        notices: impl IntoIterator<Item = Notice>,
    ) -> bool {
        let mut notices = notices.into_iter();
        loop {
            let some: Vec<Notice> = notices.by_ref().take(AT_ONCE).collect();
            let last = some.len() < AT_ONCE;
            let all_told = self.tell_some(scope, some);
            if last {
                return all_told;
            }
        }
    }

    fn tell_some<'s>(&'s self, scope: &'s Scope<'s, '_>, notices: Vec<Notice>) -> bool {
        let mut state = self.lock();
        for notice in notices {
            if state.count >= MOST {
                state.given_up = true;
                break;
            }
            let (nodeid, name) = match notice {
                Notice::Name(Place { parent, name }) => (parent, Some(name)),
                Notice::Contents(nodeid) => (nodeid, None),
            };
            let State { inodes, count, ready, telling, .. } = &mut *state;
            let of_inode = inodes.entry(nodeid).or_insert_with(|| {
                if !telling.contains(&nodeid) {
                    ready.push_back(nodeid);
                }
                Notices::default()
            });
            *count += usize::from(of_inode.add(name));
        }
        let (mut told, mut since) = (self.told.load(Ordering::Relaxed), Instant::now());
        loop {
            let idle = state.threads - state.telling.len();
            if idle == 0 && !state.ready.is_empty() && state.threads < THREADS {
                state.threads += 1;
                scope.spawn(|| self.work());
            }
            if state.ready.is_empty() && state.telling.is_empty() {
                return !state.given_up;
            }
            self.changed.notify_all();
            let told_now = self.told.load(Ordering::Relaxed);
            if told_now != told {
                (told, since) = (told_now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                return false;
            }
            let waited = self.changed.wait_timeout(state, PATIENCE / 10);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether notices were given up and the others have been told by now; once.
    pub(super) fn take_given_up(&self) -> bool {
        let mut state = self.lock();
        let calm = state.ready.is_empty() && state.telling.is_empty();
        calm && std::mem::take(&mut state.given_up)
    }

    /// The inodes whose contents the kernel did not know, since the last time.
    pub(super) fn take_unknown(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().unknown)
    }

    /// The threads are to end, when they can.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.ended {
            let Some(nodeid) = state.ready.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let notices = state.inodes.remove(&nodeid).unwrap_or_default();
            state.telling.insert(nodeid);
            drop(state);
            for name in &notices.names {
                unless_unknown(self.kernel.expire_name(nodeid, name));
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            let told = if notices.contents { self.kernel.forget_contents(nodeid) } else { Ok(()) };
            self.told.fetch_add(1, Ordering::Relaxed);
            state = self.lock();
            match told {
                Err(Errno::NOENT) => state.unknown.push(nodeid),
                told => unless_unknown(told),
            }
            state.count -= notices.count();
            state.telling.remove(&nodeid);
            if state.inodes.contains_key(&nodeid) {
                state.ready.push_back(nodeid);
            }
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use std::thread;

    use super::*;

    /// The kernel has no inode of this number.
    const UNKNOWN: u64 = 77;

    /// A kernel whose inode 1 is held until it is let go.
    #[derive(Default)]
    struct Stuck {
        free: Mutex<bool>,
        freed: Condvar,
        told: Mutex<Vec<u64>>,
    }

    impl Kernel for Stuck {
        fn forget_attributes(&self, _: u64) -> Result<(), Errno> {
            Ok(())
        }
        fn forget_contents(&self, nodeid: u64) -> Result<(), Errno> {
            self.tell(nodeid);
            if nodeid == UNKNOWN { Err(Errno::NOENT) } else { Ok(()) }
        }
        fn expire_name(&self, parent: u64, _: &OsStr) -> Result<(), Errno> {
            self.tell(parent);
            Ok(())
        }
    }

    impl Stuck {
        fn tell(&self, nodeid: u64) {
            if nodeid == 1 {
                let free = self.free.lock().unwrap();
                drop(self.freed.wait_while(free, |free| !*free).unwrap());
            }
            self.told.lock().unwrap().push(nodeid);
        }
    }

    fn name(parent: u64, number: usize) -> Notice {
        Notice::Name(Place { parent, name: OsStr::new(&number.to_string()).into() })
    }

    #[test]
    fn an_inode_that_is_held_holds_up_no_other() {
        let kernel = Stuck::default();
        let queue = Queue::new(&kernel);
        thread::scope(|scope| {
            assert!(!queue.tell(scope, [name(1, 0), name(2, 0)]));
            assert!(!queue.tell(scope, (3..40).map(|parent| name(parent, 0))));
            assert_eq!(kernel.told.lock().unwrap().len(), 38);
            assert!(!queue.tell(scope, (0..2 * MOST).map(|number| name(1, number))));
            assert!(!queue.take_given_up(), "not yet");
            assert!(queue.lock().count <= MOST);
            *kernel.free.lock().unwrap() = true;
            kernel.freed.notify_all();
            while !queue.take_given_up() {
                thread::sleep(PATIENCE);
            }
            assert!(queue.tell(scope, [name(1, 1), Notice::Contents(1)]));
            assert!(queue.lock().count == 0);
            assert!(queue.tell(scope, [Notice::Contents(UNKNOWN), Notice::Contents(2)]));
            assert_eq!(queue.take_unknown(), [UNKNOWN]);
            queue.end();
        });
    }
}
