//! Listening to single inodes, for servers that may not listen to a whole file system: in a user
//! namespace, and for ordinary users. What is watched, and when:
//!
//! - *The names in a directory*, before the first lookup or listing in it and before something is made
//!   there: then names can be trusted for long from the first answer on.
//! - *An inode's attributes and contents*, when they are asked for again ([`LowerTree::hear_inode`]), and only
//!   if they have not changed for [`SETTLED`]: so a walk over a large tree, or its making, marks its
//!   directories alone. Changes of a file are not heard through the directory, because a link that is made
//!   elsewhere, and what is written through it, are no business of that directory.
//!
//! What is in the kernel above when an inode is marked was told for a second at most, ACLs apart: those go
//! with the next question about attributes, which the kernel asks *before* the mark is made. An ACL that
//! was read and then changed between these two moments would stay. Such a change would show in the inode's
//! time of change, and then the mark does not count.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::CWD;
use rustix::io::Errno;

use super::marks::{Marks, Room, What};
use super::{CONTENTS, NAMES, Ticket, Watch};
use crate::lower::inode::Inode;
use crate::lower::stat::Timestamp;
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
    room: Room,
    since: Ticket,
}

impl Marks {
    /// As many as this machine allows.
    pub(super) fn allowed() -> Self {
        let text = std::fs::read_to_string("/proc/sys/fs/fanotify/max_user_marks");
        Self::new(text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL))
    }
}

impl Watch {
    /// Whether an answer about this inode that was begun then can be trusted for long, as far as
    /// listening goes.
    pub fn hears(&self, inode: &Inode, ticket: Ticket) -> bool {
        self.marks.as_ref().is_none_or(|marks| marks.hears(inode, What::Inode, ticket))
    }

    /// Whether contents that the kernel has can be kept when a file is opened again.
    pub fn keeps_contents(&self, inode: &Inode) -> bool {
        let marks = self.marks.as_ref();
        marks.is_none_or(|marks| marks.keeps_contents(inode, self.ticket()))
    }

    /// Whether it is single inodes that are listened to.
    pub fn is_of_single_inodes(&self) -> bool {
        self.marks.is_some()
    }

    /// The kernel has forgotten the inode.
    pub(in crate::lower) fn forget(&self, nodeid: u64) {
        if let Some(marks) = &self.marks {
            marks.forget(nodeid);
        }
    }

    /// For quiet moments: has the thread that reads events take marks away, if many are not needed.
    pub(in crate::lower) fn tidy(&self) {
        if self.marks.as_ref().is_some_and(Marks::tidy) {
            self.told.want_anew();
        }
    }

    /// Takes all marks away; then everything has to be asked anew.
    pub(super) fn start_over(&self, marks: &Marks) {
        tracing::debug!(
            "marks on inodes that are not needed any more are taken away, and all others"
        );
        let take_away = || {
            for group in [&self.names, &self.inodes] {
                if let Err(errno) = fanotify::forget_inodes(group) {
                    tracing::error!(%errno, "marks on inodes cannot be taken away");
                }
            }
        };
        marks.start_over(take_away, || self.clock.happened_to_all());
    }

    /// The inode was looked at after it had been marked, and had changed last at that time.
    pub fn confirm(&self, marked: &Marked, changed: Timestamp) {
        if let Some(marks) = self.marks.as_ref().filter(|_| is_settled(changed, SystemTime::now()))
        {
            marks.keep(&marked.inode, What::Inode, marked.room, marked.since);
        }
    }

    fn mark_names(&self, marks: &Marks, inode: &Inode, dir: BorrowedFd<'_>) -> bool {
        let Some(room) = marks.room() else { return false };
        match listen_to_names(&self.names, dir) {
            Ok(()) => {
                marks.keep(inode, What::Names, room, self.clock.watched());
                marks.hears(inode, What::Names, self.ticket())
            }
            Err(errno) => refuse(marks, inode, room, errno),
        }
    }

    fn mark_inode(&self, marks: &Marks, inode: &Inode, fd: BorrowedFd<'_>) -> Option<Marked> {
        let path = CString::new(proc_path(fd)).ok()?;
        let room = marks.room()?;
        let kind = if inode.is_dir() { Mask::ONDIR } else { Mask::empty() };
        let mask = Mask::ATTRIB | CONTENTS | Mask::MOVE_SELF | Mask::DELETE_SELF | kind;
        match fanotify::watch_inode(&self.inodes, CWD, &path, mask) {
            Ok(()) => Some(Marked { inode: *inode, room, since: self.clock.watched() }),
            Err(errno) => {
                refuse(marks, inode, room, errno);
                None
            }
        }
    }
}

/// Listens to the names in a directory.
pub(super) fn listen_to_names(names: &OwnedFd, dir: BorrowedFd<'_>) -> Result<(), Errno> {
    fanotify::watch_inode(names, dir, c".", NAMES | Mask::ONDIR)
}

fn refuse(marks: &Marks, inode: &Inode, room: Room, errno: Errno) -> bool {
    tracing::debug!(%errno, ino = inode.identity.ino, "changes are not heard of");
    marks.refused(room, errno);
    false
}

impl LowerTree {
    /// Listens to the names in a directory, as far as that is still to be done. To be called before
    /// the ticket is taken; returns whether all changes of names are heard of from now on.
    pub fn hear_names(&self, watch: &Watch, dir: u64) -> bool {
        let Some(marks) = &watch.marks else { return true };
        let Some(inode) = self.inodes.get(dir).filter(|dir| self.is_on_root_device(dir)) else {
            return false;
        };
        if marks.hears(&inode, What::Names, watch.ticket()) {
            return true;
        }
        let fd = inode.is_dir().then(|| self.path_fd(&inode).ok()).flatten();
        fd.is_some_and(|fd| watch.mark_names(marks, &inode, fd.as_fd()))
    }

    /// Listens to an inode that has been asked for again and has not changed for a while, as far as
    /// that is still to be done. If something is returned, the inode is to be looked at again, and then
    /// to be [confirmed](Watch::confirm).
    pub fn hear_inode(&self, watch: &Watch, nodeid: u64, changed: Timestamp) -> Option<Marked> {
        let marks = watch.marks.as_ref().filter(|_| is_settled(changed, SystemTime::now()))?;
        let inode = self.inodes.get(nodeid).filter(|inode| self.is_on_root_device(inode))?;
        let is_heard = marks.hears(&inode, What::Inode, watch.ticket());
        if is_heard || (inode.is_dir() && !self.hear_names(watch, nodeid)) {
            return None;
        }
        let fd = self.path_fd(&inode).ok()?;
        watch.mark_inode(marks, &inode, fd.as_fd())
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
