//! Locks of callers, held on the lower files (`locks=lower`), so that processes on the lower side
//! see them and the other way round.
//!
//! A lock of flock(2) belongs to an open file, and so does the one on its lower descriptor. A lock
//! of fcntl(2) belongs to an owner, whatever descriptor it was made through: each owner has a lower
//! descriptor of its own, on which it holds "open file description" locks. Of these one user gets a
//! quarter of what the process may have open, and all users a half: beyond that it is `ENOLCK`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::sys::lock::{self, Hold, RangeLock};

use super::LowerTree;
use super::inode::Inode;

/// The owners of fcntl(2) locks, by inode.
pub struct LockOwners {
    owners: Mutex<HashMap<(u64, u64), Owner>>,
    shares: Shares,
}

struct Owner {
    fd: Arc<OwnedFd>,
    /// The open files through which it has locked: with the last of them the locks go.
    handles: Vec<u64>,
    _share: Share,
}

/// A lock that can be asked for again until it is free, and on which descriptor.
pub enum Attempt {
    /// Of fcntl(2).
    Range(Arc<OwnedFd>, RangeLock),
    /// Of flock(2).
    File(Arc<OwnedFd>, Hold),
    /// The release of a lock that is not held.
    Nothing,
}

impl Attempt {
    /// Tries to get the lock: `EAGAIN` while somebody else holds it.
    pub fn try_now(&self) -> Result<(), FsError> {
        match self {
            Self::Range(fd, range) => lock::set(fd, *range).call("fcntl"),
            Self::File(fd, hold) => {
                let operation = match hold {
                    Hold::Shared => FlockOperation::NonBlockingLockShared,
                    Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
                    Hold::Nothing => FlockOperation::NonBlockingUnlock,
                };
                rustix::fs::flock(fd, operation).call("flock")
            }
            Self::Nothing => Ok(()),
        }
    }

    /// Waits until it has the lock: `EINTR` if a signal comes to this thread.
    pub fn wait(&self) -> Result<(), FsError> {
        match self {
            Self::Range(fd, range) => lock::wait(fd, *range).call("fcntl"),
            Self::File(fd, hold) => {
                let operation = match hold {
                    Hold::Shared => FlockOperation::LockShared,
                    Hold::Exclusive => FlockOperation::LockExclusive,
                    Hold::Nothing => FlockOperation::Unlock,
                };
                rustix::fs::flock(fd, operation).call("flock")
            }
            Self::Nothing => Ok(()),
        }
    }
}

/// Who wants a lock of fcntl(2), on what, through what.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'i> {
    /// The inode.
    pub inode: &'i Inode,
    /// The open file.
    pub handle: u64,
    /// The owner.
    pub owner: u64,
    /// The bytes, and what for.
    pub range: RangeLock,
}

impl LowerTree {
    /// A lock of fcntl(2), to be tried. `user` finds out whose it is. `ENOLCK` if the user, or all
    /// users, have too many.
    pub fn range_lock(
        &self,
        wanted: Wanted<'_>,
        user: impl FnOnce() -> Option<u32>,
    ) -> Result<Attempt, FsError> {
        let Wanted { inode, handle, owner, range } = wanted;
        let key = (inode.nodeid, owner);
        if let Some(known) = self.lock_owners.lock().get_mut(&key) {
            if !known.handles.contains(&handle) {
                known.handles.push(handle);
            }
            return Ok(Attempt::Range(Arc::clone(&known.fd), range));
        }
        if range.hold == Hold::Nothing {
            return Ok(Attempt::Nothing);
        }
        let share = self.lock_owners.shares.take(user()).ok_or(NO_LOCKS)?;
        let fd = self.open_for_locks(inode, range.hold)?;
        let fresh = Owner { fd: Arc::new(fd), handles: vec![handle], _share: share };
        let mut owners = self.lock_owners.lock();
        let kept = owners.entry(key).or_insert(fresh);
        Ok(Attempt::Range(Arc::clone(&kept.fd), range))
    }

    /// The lock that would be in the way.
    pub fn test_lock(
        &self,
        inode: &Inode,
        owner: u64,
        range: RangeLock,
    ) -> Result<Option<RangeLock>, FsError> {
        let known = self.lock_owners.lock().get(&(inode.nodeid, owner)).map(|o| Arc::clone(&o.fd));
        match known {
            Some(fd) => lock::test(fd, range),
            None => lock::test(self.open_file(inode, OFlags::RDONLY)?, range),
        }
        .call("fcntl")
    }

    /// A lock of flock(2), to be tried.
    pub fn file_lock(&self, handle: u64, hold: Hold) -> Result<Attempt, FsError> {
        let file = self.open_files.get(handle)?;
        Ok(Attempt::File(self.file_fd(&file).map_err(no_room)?, hold))
    }

    /// The owner has closed a descriptor of the file: its locks go, as fcntl(2) says. Where it waits
    /// for another one meanwhile, that one is to stay.
    pub fn drop_locks_of(&self, nodeid: u64, owner: u64) {
        let mut owners = self.lock_owners.lock();
        let Some(known) = owners.remove(&(nodeid, owner)) else { return };
        let all = RangeLock { hold: Hold::Nothing, start: 0, end: i64::MAX.unsigned_abs() };
        if Arc::strong_count(&known.fd) > 1 && lock::set(&known.fd, all).is_ok() {
            owners.insert((nodeid, owner), known);
            return;
        }
        drop(owners);
        drop(known); // closes outside the lock
    }

    /// An open file has been closed: the locks go that were made through it alone.
    pub fn drop_locks_through(&self, handle: u64) {
        let mut owners = self.lock_owners.lock();
        for owner in owners.values_mut() {
            owner.handles.retain(|&h| h != handle);
        }
        owners.retain(|_, owner| !owner.handles.is_empty());
    }

    /// Opens a file for its locks: those of both kinds where that is possible. It does not wait for a
    /// lease; whoever wants this lock has the file open, so that nobody has one that forbids it.
    fn open_for_locks(&self, inode: &Inode, hold: Hold) -> Result<OwnedFd, FsError> {
        self.room_to_open().map_err(no_room)?;
        let opened = match self.open_file(inode, OFlags::RDWR | OFlags::NONBLOCK) {
            Err(FsError::Os {
                errno: Errno::ACCESS | Errno::ROFS | Errno::PERM | Errno::TXTBSY | Errno::AGAIN,
                ..
            }) => {
                let one = if hold == Hold::Exclusive { OFlags::WRONLY } else { OFlags::RDONLY };
                self.open_file(inode, one | OFlags::NONBLOCK)
            }
            opened => opened,
        };
        let fd = opened.map_err(no_room)?;
        self.opened_for_caller(&fd);
        Ok(fd)
    }
}

/// What fcntl(2) and flock(2) say when there is no room for another lock.
const NO_LOCKS: FsError = FsError::Refused(Errno::NOLCK);

fn no_room(error: FsError) -> FsError {
    match error {
        FsError::Os { errno: Errno::MFILE | Errno::NFILE, .. } => NO_LOCKS,
        error => error,
    }
}

impl LockOwners {
    /// For a process that may have so many descriptors.
    pub(super) fn new(limit: u64) -> Self {
        let part = |of: u64| usize::try_from(limit / of).unwrap_or(usize::MAX);
        let shares = Shares { of_one: part(4), of_all: part(2), taken: Arc::default() };
        Self { owners: Mutex::default(), shares }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many owners of locks each user has.
struct Shares {
    of_one: usize,
    of_all: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// A user who cannot be found out is one of his own.
    by_user: HashMap<Option<u32>, usize>,
    by_all: usize,
}

/// One owner, as long as it lasts.
struct Share {
    user: Option<u32>,
    taken: Arc<Mutex<Taken>>,
}

impl Shares {
    fn take(&self, user: Option<u32>) -> Option<Share> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let by_user = taken.by_user.get(&user).copied().unwrap_or(0);
        if taken.by_all >= self.of_all || by_user >= self.of_one {
            return None;
        }
        taken.by_user.insert(user, by_user + 1);
        taken.by_all += 1;
        Some(Share { user, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.by_all = taken.by_all.saturating_sub(1);
        let left = taken.by_user.get(&self.user).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            taken.by_user.remove(&self.user);
        } else {
            taken.by_user.insert(self.user, left);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_locks_to_others_and_gives_his_back() {
        let shares = LockOwners::new(8).shares;
        let one: Vec<_> = (0..2).map(|_| shares.take(Some(1000)).unwrap()).collect();
        assert!(shares.take(Some(1000)).is_none(), "a quarter");
        let other = shares.take(None).unwrap();
        let last = shares.take(Some(1001)).unwrap();
        assert!(shares.take(Some(1002)).is_none(), "a half");
        drop((one, last));
        assert!(shares.take(Some(1000)).is_some());
        drop(other);
        let taken = shares.taken.lock().unwrap();
        assert!(taken.by_all == 0 && taken.by_user.is_empty());
    }
}
