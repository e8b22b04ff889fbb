//! Telling the kernel about names. Such a notification waits for the lock of the directory, and whoever
//! holds that may be stuck for long: in getdents(2) into memory that a stopped server is to bring. So the
//! names of each directory are told by themselves, by threads that take one directory at a time, and a
//! directory whose lock does not come free holds up no other.
//!
//! What waits is bounded: beyond [`MOST`] names, or [`THREADS`] directories that are stuck, names are
//! given up, and all are told when the others have been.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::{Notices, unless_unknown};
use crate::lower::inode::Place;

/// The most names that wait.
const MOST: usize = 16_384;
/// The most directories that are told of at a time.
const THREADS: usize = 16;
/// How many are put in the queue at a time, as long as none is stuck.
const AT_ONCE: usize = 1024;
/// How long the caller waits for the next name to be told; most are in microseconds.
const PATIENCE: Duration = Duration::from_millis(20);

/// Names that are to be told.
pub(super) struct Names<'k, N> {
    kernel: &'k N,
    state: Mutex<State>,
    /// Something is to be done, or has been.
    changed: Condvar,
    /// How many have been told.
    told: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// By directory. One that is here is in `ready` or in `telling`.
    names: HashMap<u64, HashSet<Box<OsStr>>>,
    count: usize,
    ready: VecDeque<u64>,
    telling: HashSet<u64>,
    threads: usize,
    given_up: bool,
    ended: bool,
}

impl<'k, N: Notices + Sync> Names<'k, N> {
    /// None yet.
    pub(super) fn new(kernel: &'k N) -> Self {
        Self { kernel, state: Mutex::default(), changed: Condvar::new(), told: AtomicUsize::new(0) }
    }

    /// Tells these names, and waits until that is done or a directory is stuck. Returns whether all
    /// have been told.
    pub(super) fn tell<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        places: impl IntoIterator<Item = Place>,
    ) -> bool {
        let mut places = places.into_iter();
        loop {
            let some: Vec<Place> = places.by_ref().take(AT_ONCE).collect();
            let last = some.len() < AT_ONCE;
            let all_told = self.tell_some(scope, some);
            if last {
                return all_told;
            }
        }
    }

    fn tell_some<'s>(&'s self, scope: &'s Scope<'s, '_>, places: Vec<Place>) -> bool {
        let mut state = self.lock();
        for Place { parent, name } in places {
            if state.count >= MOST {
                state.given_up = true;
                break;
            }
            let State { names, count, ready, telling, .. } = &mut *state;
            let of_parent = names.entry(parent).or_insert_with(|| {
                if !telling.contains(&parent) {
                    ready.push_back(parent);
                }
                HashSet::new()
            });
            *count += usize::from(of_parent.insert(name));
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

    /// Whether names were given up and the others have been told by now; once.
    pub(super) fn take_given_up(&self) -> bool {
        let mut state = self.lock();
        let calm = state.ready.is_empty() && state.telling.is_empty();
        calm && std::mem::take(&mut state.given_up)
    }

    /// The threads are to end, when they can.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.ended {
            let Some(parent) = state.ready.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let names = state.names.remove(&parent).unwrap_or_default();
            state.telling.insert(parent);
            drop(state);
            for name in &names {
                unless_unknown(self.kernel.expire_name(parent, name));
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            state = self.lock();
            state.count -= names.len();
            state.telling.remove(&parent);
            if state.names.contains_key(&parent) {
                state.ready.push_back(parent);
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

    use rustix::io::Errno;

    use super::*;

    /// A kernel whose directory 1 is stuck until it is let go.
    #[derive(Default)]
    struct Stuck {
        free: Mutex<bool>,
        freed: Condvar,
        told: Mutex<Vec<u64>>,
    }

    impl Notices for Stuck {
        fn forget_attributes(&self, _: u64) -> Result<(), Errno> {
            Ok(())
        }
        fn forget_contents(&self, _: u64) -> Result<(), Errno> {
            Ok(())
        }
        fn expire_name(&self, parent: u64, _: &OsStr) -> Result<(), Errno> {
            if parent == 1 {
                let free = self.free.lock().unwrap();
                drop(self.freed.wait_while(free, |free| !*free).unwrap());
            }
            self.told.lock().unwrap().push(parent);
            Ok(())
        }
    }

    fn place(parent: u64, number: usize) -> Place {
        Place { parent, name: OsStr::new(&number.to_string()).into() }
    }

    #[test]
    fn a_directory_that_is_stuck_holds_up_no_other() {
        let kernel = Stuck::default();
        let names = Names::new(&kernel);
        thread::scope(|scope| {
            assert!(!names.tell(scope, [place(1, 0), place(2, 0)]));
            assert!(!names.tell(scope, (3..40).map(|parent| place(parent, 0))));
            assert_eq!(kernel.told.lock().unwrap().len(), 38);
            assert!(!names.tell(scope, (0..2 * MOST).map(|number| place(1, number))));
            assert!(!names.take_given_up(), "not yet");
            assert!(names.lock().count <= MOST);
            *kernel.free.lock().unwrap() = true;
            kernel.freed.notify_all();
            while !names.take_given_up() {
                thread::sleep(PATIENCE);
            }
            assert!(names.tell(scope, [place(1, 1)]) && names.lock().count == 0);
            names.end();
        });
    }
}
