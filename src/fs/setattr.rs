//! Changing what a file is: mode, owner, size, times.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::inode::Inode;
use crate::lower::no_open::Access;
use crate::lower::stat::{LowerStat, Timestamp};
use crate::lower::{THIS_FILE, proc_path};
use crate::shift::foreign::Outside;
use crate::shift::id::{UpperGid, UpperUid};

use super::attr::Of;
use super::store::Owner;
use super::{Attr, Call, Caller, Contents, FileSystem, KnownAttr};

/// What to change; what is `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// New permission bits.
    pub mode: Option<u32>,
    /// New upper owner; the inner `None` is an id that does not exist in this user namespace.
    pub uid: Option<Option<UpperUid>>,
    /// New upper group.
    pub gid: Option<Option<UpperGid>>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New time of last access.
    pub atime: Option<SetTime>,
    /// New time of last modification.
    pub mtime: Option<SetTime>,
    /// The open file through which the change is made.
    pub handle: Option<u64>,
    /// A change of size by somebody without `CAP_FSETID` (`FATTR_KILL_SUIDGID`).
    pub clear_privileges: bool,
}

/// A time to set (utimensat(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`.
    Now,
    /// This time.
    At(Timestamp),
}

impl FileSystem {
    /// Makes the changes and returns the attributes after them.
    ///
    /// With nothing to change it is the kernel's order to clear set-user-ID and set-group-ID bits
    /// and file capabilities before a write (`FUSE_HANDLE_KILLPRIV_V2`), or a `chown(-1, -1)`,
    /// which does the same.
    pub fn setattr(
        &self,
        call: &Call<'_>,
        nodeid: u64,
        set: &SetAttr,
    ) -> Result<KnownAttr, FsError> {
        let attr = self.set(call.caller, nodeid, set)?;
        Ok(KnownAttr { attr, valid: self.valid_set_of(nodeid) })
    }

    fn set(&self, caller: Caller, nodeid: u64, set: &SetAttr) -> Result<Attr, FsError> {
        if let Some(owners) = &self.owners {
            return self.setattr_recorded(owners, caller, nodeid, set);
        }
        let inode = self.lower.inode(nodeid)?;
        let fd = self.fd_to_set(&inode, set)?;
        let fd = fd.as_fd();
        let knowledge = self.knowledge(&inode);
        let set = &SetAttr { mode: self.may_set(caller, &inode, fd, set, knowledge)?, ..*set };
        self.allocating(|| self.change_attributes(caller, &inode, fd, set))?;
        let attr = self.shown(Of::Fd(fd), &LowerStat::of(fd)?)?;
        self.settle(&inode, &attr, knowledge);
        Ok(attr)
    }

    fn change_attributes(
        &self,
        caller: Caller,
        inode: &Inode,
        fd: BorrowedFd<'_>,
        set: &SetAttr,
    ) -> Result<(), FsError> {
        // A new size needs the right to write; the rest is the owner's business.
        let refusal = if set.size.is_some() { Errno::ACCESS } else { Errno::OVERFLOW };
        self.may_change(fd, refusal)?;
        if set.asks_owner() || set.is_empty() {
            let stat = LowerStat::of(fd)?;
            let owner = self.lower_owner(set, &stat)?;
            // An order without fields comes before a write, from somebody who has the file open
            // for writing; else it is a chown(2).
            if set.asks_owner() || !self.may_be_written(inode.nodeid) {
                self.may_clear_bits(caller, fd, &stat, set.asks_owner())?;
            }
            self.store_owner(caller, fd, &stat, &owner)?;
        }
        if let Some(mode) = set.mode {
            self.store_mode(fd, set.handle.is_some(), inode.kind, mode)?;
        }
        if set.size.is_none() && set.atime.is_none() && set.mtime.is_none() {
            return Ok(());
        }
        if set.size.is_some() && !self.policies.is_default_for_writing() {
            self.disarm(fd, &LowerStat::of(fd)?)?;
        }
        self.with_kept(fd, inode.kind, || self.set_contents(caller, fd, set))
    }

    /// What the attributes are set by: the open file, if the caller has one.
    pub(super) fn fd_to_set(&self, inode: &Inode, set: &SetAttr) -> Result<Arc<OwnedFd>, FsError> {
        match set.handle {
            Some(handle) => {
                let file = Contents { nodeid: inode.nodeid, handle };
                self.contents_fd(file, Access::Write)
            }
            None => self.lower.path_fd(inode),
        }
    }

    /// Size and times.
    fn set_contents(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        set: &SetAttr,
    ) -> Result<(), FsError> {
        if let Some(size) = set.size {
            let truncate = || truncate(fd, set.handle.is_some(), size);
            if set.clear_privileges {
                self.clearing(caller, fd, &LowerStat::of(fd)?, truncate)?;
            } else {
                truncate()?;
            }
        }
        if set.atime.is_some() || set.mtime.is_some() {
            set_times(fd, set.atime, set.mtime)?;
        }
        Ok(())
    }

    /// What to store when the owner of a file is changed; `stat` is of that file.
    pub(super) fn lower_owner(&self, set: &SetAttr, stat: &LowerStat) -> Result<Owner, FsError> {
        let policy = self.policies.foreign_owners;
        let (user, group) = self.policies.unmapped.stand_in().unzip();
        let uid = set.uid.map(|id| policy.stores(&self.maps.uids, id, stat.uid, user));
        let gid = set.gid.map(|id| policy.stores(&self.maps.gids, id, stat.gid, group));
        let outside = |_: Outside| FsError::UnmappedOwner;
        Ok(Owner {
            uid: uid.transpose().map_err(outside)?.flatten(),
            gid: gid.transpose().map_err(outside)?.flatten(),
        })
    }
}

impl SetAttr {
    /// Whether it is a change of owner, whatever becomes of it: set-ID bits go by it as by any.
    pub(super) fn asks_owner(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        let times = self.atime.is_some() || self.mtime.is_some();
        !(self.asks_owner() || times || self.mode.is_some() || self.size.is_some())
    }
}

pub(super) fn truncate(fd: BorrowedFd<'_>, open: bool, size: u64) -> Result<(), FsError> {
    // The open file may have been opened for reading only: then through its path, as the kernel
    // above has checked the right to write.
    let result = if open { rustix::fs::ftruncate(fd, size) } else { Err(Errno::BADF) };
    match result {
        Err(Errno::BADF) if !open && size == 0 => empty(fd),
        Err(Errno::BADF | Errno::INVAL) => truncate_path(fd, size),
        other => other.call("ftruncate"),
    }
}

/// What open(2) does with `O_TRUNC`, which is a request for the size 0 without an open file. It
/// moves the times and clears set-ID bits also of a file that is empty already; on some file
/// systems (xfs) truncate(2) does not, and cannot be told apart here.
fn empty(fd: BorrowedFd<'_>) -> Result<(), FsError> {
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(proc_path(fd), flags, Mode::empty()).call("open").map(drop)
}

fn truncate_path(fd: BorrowedFd<'_>, size: u64) -> Result<(), FsError> {
    crate::sys::file::truncate(&proc_path(fd), size).call("truncate")
}

pub(super) fn set_times(
    fd: BorrowedFd<'_>,
    atime: Option<SetTime>,
    mtime: Option<SetTime>,
) -> Result<(), FsError> {
    let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
    match rustix::fs::utimensat(fd, "", &times, THIS_FILE) {
        // Linux before 5.8 knows no AT_EMPTY_PATH here.
        Err(Errno::INVAL | Errno::NOENT) => {
            rustix::fs::utimensat(CWD, proc_path(fd), &times, AtFlags::empty()).call("utimensat")
        }
        other => other.call("utimensat"),
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() },
    }
}
