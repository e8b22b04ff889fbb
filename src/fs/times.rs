//! Times of modification that the server alone would get wrong, because it does not see when a file is
//! changed: what is written late by the kernel above, and what is changed through mappings.
//!
//! - **The kernel keeps the times** (`io=cached,cache=exclusive`): it gathers writes, and says when the time of
//!   modification has changed. What it writes back must not move the stored one: often nothing follows that
//!   would put it right.
//! - **The server keeps them**, and the kernel writes back what has been changed through mappings. Before a
//!   time is set, that has to be written, or it would move the time afterwards.
//! - **The kernel uses lower files by itself**: a mapping is one of the lower file, and what is changed through
//!   it tells nobody. Answers about such a file are remembered for a moment only.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, OFlags};

use super::setattr::{SetTime, set_times};
use super::{Contents, FileSystem, SetAttr};
use crate::config::IoMode;
use crate::error::FsError;
use crate::lower::no_open::Access;
use crate::lower::stat::{LowerStat, Timestamp};
use crate::lower::watch::SHORT;

/// The times of files that the kernel is just writing back to, or whose times it is just setting.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<u64, Keeping>>);

struct Keeping {
    by: usize,
    /// What is to be stored in the end; not known while the first is still looking.
    mtime: Option<Timestamp>,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Keeping>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, nodeid: u64, set: Option<Timestamp>) -> Entered<'_> {
        let mut kept = self.lock();
        let keeping = kept.entry(nodeid).or_insert(Keeping { by: 0, mtime: None });
        keeping.by += 1;
        keeping.mtime = set.or(keeping.mtime);
        Entered { kept: self, nodeid }
    }
}

/// As long as this lives, the time is known to all who change the file.
struct Entered<'k> {
    kept: &'k Kept,
    nodeid: u64,
}

impl Entered<'_> {
    /// The time to be stored; `now` is what is stored, if nobody has said anything yet.
    fn mtime(
        &self,
        now: impl FnOnce() -> Result<Timestamp, FsError>,
    ) -> Result<Timestamp, FsError> {
        if let Some(mtime) = self.known() {
            return Ok(mtime);
        }
        let now = now()?;
        Ok(self.kept.lock().get_mut(&self.nodeid).map_or(now, |it| *it.mtime.get_or_insert(now)))
    }

    fn known(&self) -> Option<Timestamp> {
        self.kept.lock().get(&self.nodeid)?.mtime
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut kept = self.kept.lock();
        if let Some(keeping) = kept.get_mut(&self.nodeid) {
            keeping.by -= 1;
            if keeping.by == 0 {
                kept.remove(&self.nodeid);
            }
        }
    }
}

impl FileSystem {
    /// Changes the contents of a file whose time of modification the kernel keeps: the stored one stays.
    pub fn keeping_time<T>(
        &self,
        file: Contents,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let fd = self.contents_fd(file, Access::Write)?;
        let entered = self.kept.enter(file.nodeid, None);
        let mut mtime = entered.mtime(|| Ok(LowerStat::of(&*fd)?.mtime))?;
        let changed = change();
        loop {
            set_times(fd.as_fd(), None, Some(SetTime::At(mtime)))?;
            match entered.known() {
                // It has been set meanwhile.
                Some(newer) if newer != mtime => mtime = newer,
                _ => return changed,
            }
        }
    }

    /// Sets attributes of a file whose time of modification the kernel keeps.
    pub fn setting_time<T>(
        &self,
        nodeid: u64,
        set: &SetAttr,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let Some(SetTime::At(mtime)) = set.mtime else { return change() };
        let _entered = self.kept.enter(nodeid, Some(mtime));
        change()
    }

    /// Whether something may be written late that would move a time which is set now: in the pages of the kernel
    /// above, changed through a mapping. Not with a new size: meanwhile the kernel holds writing up.
    pub fn may_be_written_late(&self, nodeid: u64, set: &SetAttr) -> bool {
        let is_file = || {
            let inode = self.lower.inodes.get(nodeid);
            inode.is_some_and(|inode| inode.kind == FileType::RegularFile)
        };
        let may_be_mapped = || match self.io {
            IoMode::Cached => is_file(),
            IoMode::Passthrough => self.lower.open_files.any_mappable(nodeid),
        };
        set.mtime.is_some() && set.size.is_none() && may_be_mapped()
    }

    /// The kernel uses a file by itself that has been opened with these flags. Returns whether it has to forget
    /// the attributes, which were to be remembered for longer than is right from now on.
    pub fn used_by_the_kernel(&self, nodeid: u64, flags: u32) -> bool {
        let flags = OFlags::from_bits_retain(flags);
        let inode = if flags & OFlags::ACCMODE == OFlags::RDWR {
            self.lower.inodes.get(nodeid)
        } else {
            None
        };
        inode.is_some_and(|inode| self.lower.inodes.note_mappable(&inode))
    }

    /// Whether the file may be changed through mappings, without a word to anybody. They may outlive what
    /// they were made from.
    pub fn may_change_unseen(&self, nodeid: u64) -> bool {
        self.io == IoMode::Passthrough
            && self.lower.inodes.get(nodeid).is_some_and(|it| self.lower.inodes.is_mappable(&it))
    }

    /// For how long attributes that were set may be remembered.
    pub(super) fn valid_set_of(&self, nodeid: u64) -> Duration {
        match self.valid_read_of(nodeid, self.valid_set()) {
            // Whoever sets a time goes by it afterwards.
            _ if self.may_change_unseen(nodeid) && self.lower.open_files.any_mappable(nodeid) => {
                Duration::ZERO
            }
            time => time,
        }
    }

    /// For how long attributes may be remembered that could be for `time` otherwise.
    pub(super) fn valid_read_of(&self, nodeid: u64, time: Duration) -> Duration {
        if time > SHORT && self.may_change_unseen(nodeid) { SHORT } else { time }
    }
}
