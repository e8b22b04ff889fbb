//! What is watched, and when:
//!
//! - *A directory*, before the first lookup or listing in it and before something is made there; and when
//!   it is found itself, because what is made in it changes its times and links, which nobody hears of
//!   through its parent.
//! - *A file by itself*, when its attributes are asked for again although nobody has it open
//!   ([`LowerTree::hear_inode`]), and only if they have not changed for [`SETTLED`]: so a walk over a large
//!   tree, or its making, marks its directories alone.
//!
//! What is in the kernel above when an inode is marked was told for a short time, ACLs apart: those go
//! with the next question about attributes, which the kernel asks *before* the mark is made. An ACL that
//! was read and then changed between these two moments would stay. Such a change would show in the inode's
//! time of change, and then the mark does not count for the inode's own attributes.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::CWD;
use rustix::io::Errno;

use super::marks::{Marks, Room};
use super::{Epoch, NAMES, OF_INODES, Trust, Watch};
use crate::lower::inode::Inode;
use crate::lower::stat::Timestamp;
use crate::lower::table::ROOT_ID;
use crate::lower::{LowerTree, proc_path};
use crate::sys::fanotify::{self, Mask};

/// For so long an inode must not have changed before it is marked: longer than a question is on its way.
const SETTLED: Duration = Duration::from_secs(2);
/// How many marks a user may have where the kernel does not say.
const USUAL: usize = 8192;

/// An inode has just been marked; whether that counts is decided by a stat after it.
#[must_use]
pub struct Marked {
    inode: Inode,
    /// For a mark that is new.
    room: Option<Room>,
    since: Epoch,
}

impl Marks {
    /// As many as this machine allows.
    pub(super) fn allowed() -> Self {
        let text = std::fs::read_to_string("/proc/sys/fs/fanotify/max_user_marks");
        Self::new(text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL))
    }
}

impl Watch {
    /// The kernel has forgotten the inode.
    pub(in crate::lower) fn forget(&self, nodeid: u64) {
        self.marks.forget(nodeid);
        self.strays.remove(nodeid);
    }

    /// For quiet moments: has the thread that reads events take marks away, if many are not needed.
    pub(in crate::lower) fn tidy(&self) {
        if self.marks.tidy() {
            self.told.want_anew();
        }
    }

    /// Takes all marks away; then everything has to be asked anew.
    pub(super) fn start_over(&self) {
        tracing::debug!(
            "marks on inodes that are not needed any more are taken away, and all others"
        );
        let take_away = || {
            if let Err(errno) = fanotify::forget_inodes(&self.group) {
                tracing::error!(%errno, "marks on inodes cannot be taken away");
            }
        };
        self.marks.start_over(take_away, || self.epochs.happened_to_all());
    }

    /// The inode was looked at after it had been marked, and had changed last at that time.
    pub fn confirm(&self, marked: &Marked, changed: Timestamp) {
        let settled = is_settled(changed, SystemTime::now());
        match marked.room {
            Some(room) => self.marks.keep(&marked.inode, room, marked.since, settled),
            None if settled => self.marks.confirm(&marked.inode, marked.since),
            None => {}
        }
    }

    /// Marks the root directory, of which the kernel above knows nothing yet.
    pub(super) fn begin(&self, tree: &LowerTree) -> Result<(), Errno> {
        let dir = tree.inodes.get(ROOT_ID).ok_or(Errno::NOENT)?;
        let room = self.marks.room(&dir).ok_or(Errno::NOSPC)?;
        mark_directory(&self.group, tree.handle_mount.as_fd())?;
        self.marks.keep(&dir, room, self.epochs.watched(), true);
        Ok(())
    }

    /// Marks a directory. `is_new` says that the kernel above has been told nothing of it.
    fn mark_dir(&self, dir: &Inode, fd: BorrowedFd<'_>, is_new: impl FnOnce() -> bool) -> bool {
        let Some(room) = self.marks.room(dir) else { return false };
        match mark_directory(&self.group, fd) {
            Ok(()) => {
                self.marks.keep(dir, room, self.epochs.watched(), is_new());
                self.marks.is_marked(dir, self.epoch())
            }
            Err(errno) => self.refuse(dir, room, errno),
        }
    }

    fn mark_file(&self, inode: &Inode, fd: BorrowedFd<'_>) -> Option<Marked> {
        let path = CString::new(proc_path(fd)).ok()?;
        let room = self.marks.room(inode)?;
        match fanotify::watch_inode(&self.group, CWD, &path, OF_INODES) {
            Ok(()) => {
                Some(Marked { inode: *inode, room: Some(room), since: self.epochs.watched() })
            }
            Err(errno) => {
                self.refuse(inode, room, errno);
                None
            }
        }
    }

    fn refuse(&self, inode: &Inode, room: Room, errno: Errno) -> bool {
        tracing::debug!(%errno, ino = inode.identity.ino, "changes are not heard of");
        if self.marks.refused(inode, room, errno) {
            tracing::warn!(
                "this user has all fanotify marks that are allowed: of what is looked at from now on, \
                 changes below show after a second; raise sysctl fs.fanotify.max_user_marks"
            );
        }
        false
    }
}

/// Listens to a directory, and to what has a name in it.
fn mark_directory(group: &OwnedFd, dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let mask = NAMES | OF_INODES | Mask::ONDIR | Mask::ON_CHILDREN;
    fanotify::watch_inode(group, dir, c".", mask)
}

impl LowerTree {
    /// Listens to a directory, as far as that is still to be done. To be called before
    /// the epoch is taken; returns whether all changes of names are heard of from now on.
    pub fn hear_names(&self, watch: &Watch, dir: u64) -> bool {
        let Some(dir) = self.inodes.get(dir).filter(|dir| self.is_on_root_device(dir)) else {
            return false;
        };
        watch.marks.is_marked(&dir, watch.epoch()) || self.mark_dir(watch, &dir, || false)
    }

    fn mark_dir(&self, watch: &Watch, dir: &Inode, is_new: impl FnOnce() -> bool) -> bool {
        let fd = dir.is_dir().then(|| self.path_fd(dir).ok()).flatten();
        fd.is_some_and(|fd| watch.mark_dir(dir, fd.as_fd(), is_new))
    }

    /// Listens to a directory that was found, if the kernel is told of it for the first time. If that has
    /// just been done, its attributes are to be read again, with a new epoch.
    pub fn hear_found(&self, watch: &Watch, dir: &Inode) -> bool {
        // The answer that is being made is counted; whoever has another one was told before.
        let is_new = || self.inodes.is_counted_once(dir);
        dir.is_dir()
            && self.is_on_root_device(dir)
            && !watch.marks.is_marked(dir, watch.epoch())
            && is_new()
            && self.mark_dir(watch, dir, is_new)
    }

    /// Listens to an inode that has been asked for again and has not changed for a while, as far as
    /// that is still to be done. If something is returned, the inode is to be looked at again, and then
    /// to be [confirmed](Watch::confirm).
    pub fn hear_inode(&self, watch: &Watch, nodeid: u64, changed: Timestamp) -> Option<Marked> {
        let inode = self.inodes.get(nodeid).filter(|inode| self.is_on_root_device(inode))?;
        let is_settled = is_settled(changed, SystemTime::now());
        if !is_settled || watch.marks.hears(&inode, watch.epoch()) {
            return None;
        }
        if inode.is_dir() {
            let heard = self.hear_names(watch, nodeid);
            return heard.then(|| Marked { inode, room: None, since: watch.epochs.watched() });
        }
        if watch.marks.is_marked(&inode, watch.epoch()) {
            return Some(Marked { inode, room: None, since: watch.epochs.watched() });
        }
        // Whoever has it open asks because of that: what it has read or written.
        if self.open_files.any_of(nodeid).is_some() {
            return None;
        }
        let fd = self.path_fd(&inode).ok()?;
        watch.mark_file(&inode, fd.as_fd())
    }

    /// How far attributes with so many links can be trusted that were read after the epoch was taken.
    pub fn trust(&self, watch: &Watch, since: Epoch, inode: &Inode, links: u32) -> Trust {
        let disturbed = !watch.epochs.undisturbed(since, inode.identity.ino);
        if watch.is_late() || disturbed || watch.is_silent(inode) {
            return Trust::None;
        }
        if watch.marks.hears(inode, since) {
            return Trust::Long;
        }
        if links == 1 && self.hears_through_name(watch, since, inode) {
            return Trust::Near;
        }
        Trust::Short
    }

    /// Whether the contents that the kernel above has can be kept when a file is opened again.
    pub fn keeps_contents(&self, watch: &Watch, nodeid: u64) -> bool {
        let Some(inode) = self.inodes.get(nodeid) else { return false };
        let now = watch.epoch();
        if watch.is_silent(&inode) {
            return false;
        }
        watch.marks.keeps_contents(&inode, now) || self.hears_through_name(watch, now, &inode)
    }

    /// Whether what happens to a file through the name that the table has of it is heard of.
    fn hears_through_name(&self, watch: &Watch, since: Epoch, inode: &Inode) -> bool {
        !inode.is_dir()
            && self.is_on_root_device(inode)
            && self.inodes.parent(inode).is_some_and(|dir| watch.marks.is_marked(&dir, since))
            && !watch.strays.contains(inode.nodeid)
    }

    /// Elsewhere the handles in events may be of another kind.
    fn is_on_root_device(&self, inode: &Inode) -> bool {
        inode.identity.dev == self.inodes.root_device()
    }
}

/// Whether it has been a while since then. Nobody can set a time of change.
fn is_settled(changed: Timestamp, now: SystemTime) -> bool {
    let (Ok(sec), false) = (u64::try_from(changed.sec), changed.sec == 0) else { return false };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(sec, changed.nsec);
    now.duration_since(changed).is_ok_and(|age| age > SETTLED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_just_now_is_not_settled() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500);
        let settled = |sec, nsec| is_settled(Timestamp { sec, nsec }, now);
        assert!(settled(998, 0) && settled(1, 0));
        assert!(!settled(998, 500_000_000) && !settled(1_000, 0) && !settled(2_000, 0));
        assert!(!settled(-1, 0) && !settled(0, 0), "a file system that keeps no such time");
    }
}
