//! Descriptors that callers' open files leave to the server, so that nobody who opens all the files
//! that he can keeps others from looking at theirs.
//!
//! The kernel gives out the lowest number that is free, so a high number says that nearly all are
//! in use. Only then is looked closer: as long as there are enough, this costs one load.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::Resource;

use super::LowerTree;
use crate::error::{CallExt, FsError};

/// How many are left; fewer where the process may not have many.
const SPARE: u64 = 16;

/// How many descriptors this process may have now (`RLIMIT_NOFILE`).
pub(super) fn limit() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Where the spare ones begin, and whether they have been reached.
pub struct Spare {
    first: u64,
    reached: AtomicBool,
}

impl Spare {
    /// For the limit that this process has now.
    pub(super) fn new() -> Self {
        let limit = limit();
        Self { first: limit - SPARE.min(limit / 8), reached: AtomicBool::new(false) }
    }

    fn has(&self, fd: impl AsFd) -> bool {
        u64::try_from(fd.as_fd().as_raw_fd()).is_ok_and(|number| number >= self.first)
    }
}

impl LowerTree {
    /// To be asked before a caller's file is opened: `EMFILE` if it would take a spare descriptor.
    pub fn room_to_open(&self) -> Result<(), FsError> {
        if !self.spare.reached.load(Ordering::Relaxed) {
            return Ok(());
        }
        let next_is_spare = || {
            let next = self.retrying(|| rustix::io::fcntl_dupfd_cloexec(&self.root, 0).call("dup"));
            next.map(|fd| self.spare.has(fd))
        };
        if next_is_spare()? {
            self.shed();
            if next_is_spare()? {
                return Err(FsError::Os { call: "open", errno: Errno::MFILE });
            }
        }
        self.spare.reached.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// A caller's file has been opened.
    pub fn opened_for_caller(&self, fd: impl AsFd) {
        if self.spare.has(fd) {
            self.spare.reached.store(true, Ordering::Relaxed);
        }
    }
}
