//! How many threads the requests of one user may occupy. A request can be stuck for long: in opening a
//! file on which somebody has a lease, or behind the lock of an inode on a slow file system. Other
//! threads are started for the requests of others, but their number has a bound, so a user who has as
//! many stuck as [`SHARE`] waits for one of his own. His requests are read and put by, so that those
//! behind them can be read.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::shift::id::INVALID;

/// How many of one user's requests are served at a time when so many threads are busy.
pub(super) const SHARE: usize = 32;
/// The most bytes of requests that wait for one user's.
const MOST_BYTES: usize = 16 << 20;

/// Whose requests are being served, and whose wait.
#[derive(Default)]
pub(super) struct Shares {
    threads: Mutex<Vec<Arc<Serving>>>,
    /// How many wait, or are about to.
    count: AtomicUsize,
    waiting: Mutex<HashMap<u32, Queue>>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// Whose request a thread serves: the request's own words for it, and the user that they mean, once
/// that was found out.
#[derive(Default)]
pub(super) struct Serving {
    caller: AtomicU64,
    user: AtomicU64,
}

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is served.
    Served,
    /// It waits.
    PutBy,
    /// Too many wait.
    Refused,
}

/// Who makes a request, in one word: never 0, which is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who(u64);

impl Who {
    /// With the user and thread of the request, as far as it says them. The kernel itself is nobody.
    pub(super) fn new(uid: u32, tid: u32) -> Option<Self> {
        let is_told = uid != 0 && uid != INVALID;
        (tid != 0 || is_told).then_some(Self(u64::from(uid) << 32 | u64::from(tid)))
    }

    /// The thread.
    pub(super) fn tid(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(0)
    }

    /// The user as the request says it.
    pub(super) fn uid(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }
}

/// The user is not known yet.
const UNKNOWN: u64 = u64::MAX;

impl Serving {
    /// A request begins.
    pub(super) fn begin(&self, who: Option<Who>) {
        self.user.store(UNKNOWN, Ordering::Relaxed);
        self.caller.store(who.map_or(0, |who| who.0), Ordering::Relaxed);
    }

    /// It has been answered. Whoever puts a request by sees that, or is seen by [`Shares::any`].
    pub(super) fn end(&self) {
        self.caller.store(0, Ordering::SeqCst);
    }

    /// Whether the request is this user's.
    fn is_of(&self, user: u32, person: &impl Fn(Who) -> Option<u32>) -> bool {
        let caller = self.caller.load(Ordering::SeqCst);
        if caller == 0 {
            return false;
        }
        let known = self.user.load(Ordering::Relaxed);
        if known != UNKNOWN {
            return known == u64::from(user);
        }
        let found = person(Who(caller));
        // Unless it has ended meanwhile.
        if let Some(found) = found.filter(|_| self.caller.load(Ordering::SeqCst) == caller) {
            self.user.store(found.into(), Ordering::Relaxed);
        }
        found == Some(user)
    }
}

impl Shares {
    /// For a thread that begins to serve.
    pub(super) fn of_new_thread(&self) -> Arc<Serving> {
        let serving = Arc::new(Serving::default());
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|known| Arc::strong_count(known) > 1);
        threads.push(Arc::clone(&serving));
        serving
    }

    /// Whether a request has to wait, because as many of its user's are being served as may be.
    /// `person` finds out who made a request. Only to be asked when more than [`SHARE`] threads are
    /// busy.
    pub(super) fn judge(
        &self,
        who: Who,
        message: &[u8],
        person: impl Fn(Who) -> Option<u32>,
    ) -> Fate {
        let Some(user) = person(who) else { return Fate::Served };
        let mut waiting = self.waiting();
        self.count.fetch_add(1, Ordering::SeqCst);
        let fate = if self.served(user, &person) < SHARE {
            Fate::Served
        } else {
            let queue = waiting.entry(user).or_default();
            if queue.bytes + message.len() > MOST_BYTES {
                Fate::Refused
            } else {
                queue.bytes += message.len();
                queue.messages.push_back(message.to_vec());
                Fate::PutBy
            }
        };
        if fate != Fate::PutBy {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
        fate
    }

    /// Whether any wait.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// A request that has waited and can be served now.
    pub(super) fn next(&self, person: impl Fn(Who) -> Option<u32>) -> Option<Vec<u8>> {
        let mut waiting = self.waiting();
        let user = *waiting.keys().find(|&&user| self.served(user, &person) < SHARE)?;
        let queue = waiting.get_mut(&user)?;
        let message = queue.messages.pop_front();
        queue.bytes -= message.as_ref().map_or(0, Vec::len);
        if queue.messages.is_empty() {
            waiting.remove(&user);
        }
        if message.is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
        message
    }

    /// How many of this user's requests are being served.
    fn served(&self, user: u32, person: &impl Fn(Who) -> Option<u32>) -> usize {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        threads.iter().filter(|serving| serving.is_of(user, person)).count()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, Queue>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps)] // as the ones that look callers up
    fn person(who: Who) -> Option<u32> {
        Some(who.uid())
    }

    #[test]
    fn one_user_gets_his_share_and_others_theirs() {
        let shares = Shares::default();
        let (one, other) = (Who::new(1000, 7), Who::new(1001, 8).unwrap());
        let threads: Vec<_> = (0..SHARE).map(|_| shares.of_new_thread()).collect();
        threads[1..].iter().for_each(|thread| thread.begin(one));
        let one = one.unwrap();
        assert_eq!(shares.judge(one, b"x", person), Fate::Served);
        threads[0].begin(Some(one));
        assert_eq!(shares.judge(one, b"x", person), Fate::PutBy);
        assert_eq!(shares.judge(other, b"x", person), Fate::Served);
        assert!(shares.any() && shares.next(person).is_none(), "all are still served");
        assert_eq!(shares.judge(one, &vec![0; MOST_BYTES], person), Fate::Refused);
        threads[0].end();
        assert_eq!(shares.next(person).as_deref(), Some(&b"x"[..]));
        assert!(!shares.any() && shares.next(person).is_none());
    }

    #[test]
    fn a_user_who_is_not_told_is_looked_up_once() {
        use std::cell::Cell;
        let shares = Shares::default();
        let asked = Cell::new(0);
        let person = |who: Who| {
            asked.set(asked.get() + 1);
            Some(who.tid() % 2)
        };
        let thread = shares.of_new_thread();
        thread.begin(Who::new(u32::MAX, 7));
        for _ in 0..3 {
            assert_eq!(shares.served(1, &person), 1);
        }
        assert_eq!(asked.get(), 1);
        thread.begin(Who::new(u32::MAX, 8));
        assert_eq!(shares.served(1, &person), 0);
        assert_eq!(Who::new(0, 0), None, "the kernel itself");
    }
}
