//! Calls made as somebody else.

use std::panic::resume_unwind;
use std::thread;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::raw;

/// Who calls: ids as the process has them, that is, ids of the upper side.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
}

impl Caller {
    /// A user with the group of the same number, no further groups and a umask of 0.
    /// All but uid 0 have no capabilities.
    pub(crate) fn user(uid: u32) -> Self {
        Self { uid, gid: uid, groups: Vec::new(), umask: 0 }
    }

    /// The same with another primary group.
    #[must_use]
    pub(crate) fn gid(mut self, gid: u32) -> Self {
        self.gid = gid;
        self
    }

    /// The same with these supplementary groups.
    #[must_use]
    pub(crate) fn groups(mut self, groups: &[u32]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    /// The same with this umask.
    #[must_use]
    pub(crate) fn umask(mut self, umask: u32) -> Self {
        self.umask = umask;
        self
    }

    /// Runs the closure with these credentials, in a thread of its own: credentials, groups and
    /// umask belong to that thread alone, so tests that run beside it are not touched.
    pub(crate) fn run<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.become_it();
                    call()
                })
                .join()
        });
        outcome.unwrap_or_else(|payload| resume_unwind(payload))
    }

    fn become_it(&self) {
        raw::unshare(libc::CLONE_FS).unwrap();
        raw::umask(self.umask);
        let groups: Vec<_> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
    }
}
