//! With what rights lower files are written to: with none that the caller lacks.
//!
//! Calls that may allocate run as nobody's, because ext4 keeps blocks for one user (root, unless
//! `resuid=` says otherwise) and looks at the fsuid alone. The server has no CAP_SYS_RESOURCE, which
//! would pass reserves and quotas.
//!
//! Calls that change contents run without `CAP_FSETID`, so that the lower file system clears set-ID bits
//! that the kernel above does not know of: bits that were set below, or through another mount. Those that it knows
//! of it has cleared before, unless the caller may keep them; then the call runs with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::caller::Capability;
use crate::lower::cred::{self, Creator, Keep};
use crate::lower::inode::Inode;
use crate::lower::stat::LowerStat;
use crate::shift::acl::Unmapped;
use crate::shift::id::LowerUid;

use super::attr::{Attr, Of};
use super::rights::has_privilege_bits;
use super::{Caller, FileSystem};

/// Whether, and since when, the lower file system keeps room for root.
pub(super) struct Reserve {
    is_kept: bool,
    /// How many files may still be made as root's before the room is looked at.
    credit: AtomicU64,
}

/// ext2 to ext4, and f2fs (linux/magic.h).
const RESERVING: [u64; 2] = [0xef53, 0xf2f5_2010];

impl Reserve {
    /// On a file system of this type. Only a server that can become anybody, and stay what it is by its
    /// capabilities, is root to the lower file system. Where calls have their callers' ids anyway, these are
    /// judged.
    pub(super) fn new(magic: u64, unmapped: Unmapped, acts: bool) -> Self {
        let is_kept = RESERVING.contains(&magic)
            && unmapped == Unmapped::Placeholder
            && !acts
            && cred::can_be_anybody();
        Self { is_kept, credit: AtomicU64::new(0) }
    }
}

/// A lower file for the kernel to use by itself.
pub struct BackingFile {
    fd: Arc<OwnedFd>,
    /// Whether the kernel may keep it when no caller has it open any more. Not if it may be open for
    /// writing: a program that was made through the mount would stay busy below (ETXTBSY).
    pub lasting: bool,
    as_nobody: bool,
    bits: SetIdBits,
    ids: Keep,
}

/// What becomes of a file's set-ID bits when the kernel writes to it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetIdBits {
    /// The lower file system clears them.
    Cleared,
    /// It clears them as for a member of the file's group: S_ISGID of what the group may not run is no right, and
    /// the kernel above has cleared it already if the writer is no member.
    ClearedForMembers,
    /// They stay: the caller has `CAP_FSETID`, and the kernel above knows of them.
    Kept,
}

impl BackingFile {
    /// Registers it: the kernel makes its calls with the rights that the thread has now.
    pub fn register<T>(
        self,
        with: impl FnOnce(Arc<OwnedFd>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let Self { fd, as_nobody, bits, ids, .. } = self;
        let with = |fd: Arc<OwnedFd>| with(fd).call("FUSE_DEV_IOC_BACKING_OPEN");
        let with = || match bits {
            SetIdBits::Cleared => cred::without_fsetid(|| with(fd)),
            SetIdBits::ClearedForMembers => {
                let group = LowerStat::of(&*fd)?.gid.ok_or(FsError::UnmappedOwner)?;
                ids.with_groups(group, &[], || cred::without_fsetid(|| with(fd)))
            }
            SetIdBits::Kept => with(fd),
        };
        let registered = if as_nobody { cred::as_nobody(with) } else { with() };
        registered.map_err(FsError::errno)
    }
}

impl FileSystem {
    /// A file for the kernel.
    pub(super) fn backing(&self, inode: &Inode, bits: SetIdBits) -> Result<BackingFile, FsError> {
        Ok(BackingFile {
            fd: self.lower.path_fd(inode)?,
            lasting: bits == SetIdBits::Cleared && !self.lower.open_files.any_writer(inode.nodeid),
            as_nobody: self.reserve.is_kept,
            bits,
            ids: self.ids,
        })
    }

    /// What is to become of the set-ID bits when this caller writes to a file.
    pub fn set_id_bits(&self, caller: Caller, nodeid: u64) -> SetIdBits {
        let Ok(inode) = self.lower.inode(nodeid) else { return SetIdBits::Cleared };
        let knowledge = self.lower.inodes.knowledge(&inode);
        let (known, told) = (knowledge.doubts == 0, knowledge.told);
        let (mode, uid, gid) = match told.filter(|_| known) {
            Some(told) => (told.mode, told.uid, told.gid),
            // It has been made just now, or has changed below.
            None => match self.shown_now(&inode) {
                Ok(now) => (now.mode, now.uid, now.gid),
                Err(_) => return SetIdBits::Cleared,
            },
        };
        let may_keep = || self.callers.read(caller.tid).has_over(Capability::Fsetid, uid, gid);
        match mode {
            _ if mode & 0o6000 == 0 => SetIdBits::Cleared,
            _ if known && may_keep() => SetIdBits::Kept,
            _ if mode & 0o2010 == 0o2000 => SetIdBits::ClearedForMembers,
            _ => SetIdBits::Cleared,
        }
    }

    fn shown_now(&self, inode: &Inode) -> Result<Attr, FsError> {
        let fd = self.lower.path_fd(inode)?;
        self.shown(Of::Fd(fd.as_fd()), &LowerStat::of(&*fd)?)
    }

    /// Runs a call that may allocate.
    pub(super) fn allocating<T>(
        &self,
        call: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if self.reserve.is_kept { cred::as_nobody(call) } else { call() }
    }

    /// Runs a call that changes contents, of which the kernel does not say whether its caller has
    /// `CAP_FSETID`.
    pub(super) fn changing<T>(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.allocating(|| {
            let stat = LowerStat::of(fd)?;
            if !has_privilege_bits(&stat) && self.owners.is_none() {
                return cred::without_fsetid(change);
            }
            let shown = self.shown(Of::Fd(fd), &stat)?;
            let process = self.callers.read(caller.tid);
            if process.has_over(Capability::Fsetid, shown.uid, shown.gid) {
                return change();
            }
            self.clearing(caller, fd, &stat, change)
        })
    }

    /// Refuses to make one more file as root's, which may use the reserve, where others would find no
    /// room: `ENOSPC`. The room is looked at from time to time while there is plenty.
    pub(super) fn has_room(&self, creator: Creator, dir: BorrowedFd<'_>) -> Result<(), FsError> {
        if !self.reserve.is_kept || creator.uid != LowerUid::ROOT {
            return Ok(());
        }
        let take = |credit: u64| credit.checked_sub(1);
        if self.reserve.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(());
        }
        let room = rustix::fs::fstatvfs(dir).call("fstatfs")?;
        self.reserve.credit.store((room.f_bavail / 64).min(256), Ordering::Relaxed);
        if room.f_bavail == 0 { Err(FsError::Refused(Errno::NOSPC)) } else { Ok(()) }
    }
}
