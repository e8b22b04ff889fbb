//! Changing owner and mode where they are kept in an attribute.

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::FsError;
use crate::lower::stat::LowerStat;

use super::super::attr::Of;
use super::super::setattr::{set_times, truncate};
use super::super::{Attr, Caller, FileSystem, SetAttr};
use super::{Owners, clear_capability};

impl FileSystem {
    /// [`FileSystem::setattr`] where owners are kept in attributes. What the lower file system
    /// does there for the caller is done here: set-ID bits go as natively, before a change of
    /// contents.
    pub(in crate::fs) fn setattr_recorded(
        &self,
        owners: &Owners,
        caller: Caller,
        nodeid: u64,
        set: &SetAttr,
    ) -> Result<Attr, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let fd = self.fd_to_set(&inode, set)?;
        let fd = fd.as_fd();
        let knowledge = self.knowledge(&inode);
        let set = &SetAttr { mode: self.may_set(caller, &inode, fd, set, knowledge)?, ..*set };
        let lower = LowerStat::of(fd)?;
        let before = self.recorded(Of::Fd(fd), &lower)?;
        let owner = self.lower_owner(set, &before)?;
        let mut after = before;
        if set.asks_owner() || set.is_empty() {
            if set.asks_owner() || !self.may_be_written(nodeid) {
                self.may_clear_bits(caller, fd, &before, set.asks_owner())?;
            }
            after.mode = self.mode_without_set_id(caller, fd, &before, owner.gid)?;
            after.uid = owner.uid.or(before.uid);
            after.gid = owner.gid.or(before.gid);
            if !before.kind().is_dir() && lower.kind().is_file() {
                clear_capability(fd)?;
            }
        }
        if let Some(mode) = set.mode {
            after.mode = before.kind().as_raw_mode() | mode & 0o7777;
        }
        if set.size.is_some() && set.clear_privileges {
            after.mode = self.mode_without_set_id(caller, fd, &after, None)?;
        }
        if owner.changes() || set.mode.is_some() || after.mode != before.mode {
            Self::record(owners, fd, &lower, &after)?;
        }
        if let Some(size) = set.size {
            truncate(fd, set.handle.is_some(), size)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            set_times(fd, set.atime, set.mtime)?;
        }
        let attr = self.shown(Of::Fd(fd), &LowerStat::of(fd)?)?;
        self.settle(&inode, &attr, knowledge);
        Ok(attr)
    }

    /// Takes set-ID bits away before a change of contents by somebody without `CAP_FSETID`.
    pub(in crate::fs) fn clear_recorded(
        &self,
        owners: &Owners,
        caller: Caller,
        fd: BorrowedFd<'_>,
    ) -> Result<(), FsError> {
        let lower = LowerStat::of(fd)?;
        let before = self.recorded(Of::Fd(fd), &lower)?;
        let mode = self.mode_without_set_id(caller, fd, &before, None)?;
        if mode == before.mode {
            return Ok(());
        }
        let mut after = before;
        after.mode = mode;
        Self::record(owners, fd, &lower, &after)
    }
}
