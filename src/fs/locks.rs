//! Locks of flock(2) and fcntl(2) that are held on the lower files (`locks=lower`).

use crate::error::FsError;
use crate::lower::lock_owners::{Attempt, Wanted};
use crate::sys::lock::RangeLock;

use super::{Caller, FileSystem};

/// Whose lock it is, and on what.
#[derive(Debug, Clone, Copy)]
pub struct LockRequest {
    /// The process that asks.
    pub caller: Caller,
    /// The inode.
    pub nodeid: u64,
    /// The open file through which it is asked for.
    pub handle: u64,
    /// Who asks, for fcntl(2).
    pub owner: u64,
    /// What for, and the bytes, for fcntl(2).
    pub range: RangeLock,
    /// A lock of flock(2), on the whole file.
    pub whole_file: bool,
}

impl FileSystem {
    /// The lock that would be in the way of one of fcntl(2).
    pub fn getlk(&self, request: &LockRequest) -> Result<Option<RangeLock>, FsError> {
        let inode = self.lower.inode(request.nodeid)?;
        self.lower.test_lock(&inode, request.owner, request.range)
    }

    /// A lock to try for, or to release.
    pub fn setlk(&self, request: &LockRequest) -> Result<Attempt, FsError> {
        if request.whole_file {
            return self.lower.file_lock(request.handle, request.range.hold);
        }
        let inode = self.lower.inode(request.nodeid)?;
        let LockRequest { caller, handle, owner, range, .. } = *request;
        let wanted = Wanted { inode: &inode, handle, owner, range };
        self.lower.range_lock(wanted, || self.person(caller))
    }

    /// The owner has closed one of its descriptors of the file.
    pub fn drop_locks_of(&self, nodeid: u64, owner: u64) {
        self.lower.drop_locks_of(nodeid, owner);
    }
}
