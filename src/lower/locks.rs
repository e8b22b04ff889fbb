//! Locks of callers, held on the lower files (`locks=lower`), so that processes on the lower side
//! see them and the other way round.
//!
//! A lock of flock(2) belongs to an open file, and so does the one on its lower descriptor. A lock
//! of fcntl(2) belongs to an owner, whatever descriptor it was made through: each owner has a lower
//! descriptor of its own, on which it holds "open file description" locks.

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
#[derive(Default)]
pub struct LockOwners(Mutex<HashMap<(u64, u64), Owner>>);

struct Owner {
    fd: Arc<OwnedFd>,
    /// The open files through which it has locked: with the last of them the locks go.
    handles: Vec<u64>,
}

/// A lock that can be asked for again until it is free.
pub struct Attempt {
    fd: Arc<OwnedFd>,
    kind: Kind,
}

enum Kind {
    Range(RangeLock),
    File(FlockOperation),
}

impl Attempt {
    /// Tries to get the lock: `EAGAIN` while somebody else holds it.
    pub fn try_now(&self) -> Result<(), FsError> {
        match self.kind {
            Kind::Range(range) => lock::set(&self.fd, range).call("fcntl"),
            Kind::File(operation) => rustix::fs::flock(&self.fd, operation).call("flock"),
        }
    }
}

impl LowerTree {
    /// A lock of fcntl(2), to be tried.
    pub fn range_lock(
        &self,
        inode: &Inode,
        handle: u64,
        owner: u64,
        range: RangeLock,
    ) -> Result<Attempt, FsError> {
        let fd = self.owner_fd(inode, owner, Some(handle))?;
        Ok(Attempt { fd, kind: Kind::Range(range) })
    }

    /// The lock that would be in the way.
    pub fn test_lock(
        &self,
        inode: &Inode,
        owner: u64,
        range: RangeLock,
    ) -> Result<Option<RangeLock>, FsError> {
        lock::test(self.owner_fd(inode, owner, None)?, range).call("fcntl")
    }

    /// A lock of flock(2), to be tried.
    pub fn file_lock(&self, handle: u64, hold: Hold) -> Result<Attempt, FsError> {
        let file = self.open_files.get(handle)?;
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Hold::Nothing => FlockOperation::NonBlockingUnlock,
        };
        Ok(Attempt { fd: self.file_fd(&file)?, kind: Kind::File(operation) })
    }

    /// The owner has closed a descriptor of the file: its locks go, as fcntl(2) says.
    pub fn drop_locks_of(&self, nodeid: u64, owner: u64) {
        let gone = self.lock_owners.lock().remove(&(nodeid, owner));
        drop(gone);
    }

    /// An open file has been closed: the locks go that were made through it alone.
    pub fn drop_locks_through(&self, handle: u64) {
        let mut owners = self.lock_owners.lock();
        for owner in owners.values_mut() {
            owner.handles.retain(|&h| h != handle);
        }
        owners.retain(|_, owner| !owner.handles.is_empty());
    }

    fn owner_fd(
        &self,
        inode: &Inode,
        owner: u64,
        handle: Option<u64>,
    ) -> Result<Arc<OwnedFd>, FsError> {
        let key = (inode.nodeid, owner);
        if let Some(known) = self.lock_owners.lock().get_mut(&key) {
            known.handles.extend(handle.filter(|h| !known.handles.contains(h)));
            return Ok(Arc::clone(&known.fd));
        }
        let fd = match self.open_file(inode, OFlags::RDWR) {
            Err(FsError::Os { errno: Errno::ACCESS | Errno::ROFS | Errno::PERM, .. }) => {
                self.open_file(inode, OFlags::RDONLY)?
            }
            opened => opened?,
        };
        let fd = Arc::new(fd);
        if let Some(handle) = handle {
            let fresh = Owner { fd: Arc::clone(&fd), handles: vec![handle] };
            let mut owners = self.lock_owners.lock();
            let kept = owners.entry(key).or_insert(fresh);
            return Ok(Arc::clone(&kept.fd));
        }
        Ok(fd)
    }
}

impl LockOwners {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
