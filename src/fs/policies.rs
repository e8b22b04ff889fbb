//! The policies of a mount, applied: what they change in what is reported, and what they refuse.
//! The rules themselves are pure and stand in [`crate::shift`].

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::error::FsError;
use crate::lower::shadow;
use crate::lower::stat::LowerStat;
use crate::shift::foreign::is_harmless_node;
use crate::shift::id::INVALID;
use crate::shift::set_id::{SET_ID, SetIdPolicy};
use crate::shift::unmapped::UnmappedOwners;

use super::{Attr, Caller, FileSystem};

impl FileSystem {
    /// Changes what is about to be reported of a file; `EACCES` where nothing is.
    pub(super) fn apply_policies(&self, attr: &mut Attr) -> Result<(), FsError> {
        if attr.uid == INVALID || attr.gid == INVALID {
            if self.policies.unmapped == UnmappedOwners::Deny {
                return Err(FsError::Refused(Errno::ACCESS));
            }
            attr.mode = self.policies.unmapped.mode(attr.mode);
            // A device is not the tree's: whoever stands in for its owner gets no right to it.
            let stand_in = self.policies.unmapped.stand_in();
            let stand_in = stand_in.filter(|_| is_harmless_node(attr.mode, u64::from(attr.rdev)));
            if let Some((uid, gid)) = stand_in {
                replace_invalid(&mut attr.uid, uid.raw());
                replace_invalid(&mut attr.gid, gid.raw());
            }
        }
        attr.mode = self.policies.deny_groups.mode(attr.mode);
        Ok(())
    }

    /// Cuts a stored access ACL as the mode is cut.
    pub(super) fn cut_acl(&self, nodeid: u64, value: Vec<u8>) -> Result<Vec<u8>, FsError> {
        if !self.policies.change_reports() {
            return Ok(value);
        }
        let unmapped = self.policies.unmapped;
        let stat = || LowerStat::of(self.lower.path_fd(&self.lower.inode(nodeid)?)?);
        let value = if unmapped != UnmappedOwners::Overflow && !self.is_mapped(&stat()?) {
            unmapped.acl(&value)?
        } else {
            value
        };
        Ok(self.policies.deny_groups.acl(&value)?)
    }

    /// Whether owner and group of a lower file have upper counterparts.
    fn is_mapped(&self, stat: &LowerStat) -> bool {
        stat.uid.is_some_and(|uid| self.maps.up_uid(uid).is_some())
            && stat.gid.is_some_and(|gid| self.maps.up_gid(gid).is_some())
    }

    /// Refuses a change of an unmapped file, where the kernel above cannot: with `errno` where it takes
    /// the ids that stand in (`unmapped=owner`) for the owner, with `EACCES` where nothing is shown.
    pub(super) fn may_change(&self, fd: BorrowedFd<'_>, errno: Errno) -> Result<(), FsError> {
        self.judge(|| LowerStat::of(fd), errno)
    }

    /// The same for a name that is to go away or to be replaced (`may_delete`, fs/namei.c).
    pub(super) fn may_change_name(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), FsError> {
        match self.judge(|| LowerStat::at(dir, name), Errno::OVERFLOW) {
            Err(FsError::Os { errno: Errno::NOENT, .. }) => Ok(()),
            other => other,
        }
    }

    fn judge(
        &self,
        stat: impl FnOnce() -> Result<LowerStat, FsError>,
        errno: Errno,
    ) -> Result<(), FsError> {
        let errno = match self.policies.unmapped {
            UnmappedOwners::Owner(..) => errno,
            // Changed below while somebody has it open: refused before it is done, not afterwards.
            UnmappedOwners::Deny => Errno::ACCESS,
            _ => return Ok(()),
        };
        if self.is_mapped(&stat()?) { Ok(()) } else { Err(FsError::Refused(errno)) }
    }

    /// Refuses what a policy lets nobody write, and takes set-ID bits and capabilities away that
    /// a writer could otherwise fill with a program of his own: `true` if the mode has changed.
    ///
    /// Under `suid=deny` and `suid=shadow` that is any file; under `unmapped=squash`, one of an
    /// unmapped owner, whose bits the kernel above does not know of.
    pub fn before_writing(&self, nodeid: u64, flags: u32) -> Result<bool, FsError> {
        let flags = OFlags::from_bits_retain(flags);
        let writes = flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if !writes || self.policies.is_default_for_writing() {
            return Ok(false);
        }
        let fd = self.lower.path_fd(&self.lower.inode(nodeid)?)?;
        self.may_change(fd.as_fd(), Errno::ACCESS)?;
        self.disarm(fd.as_fd(), &LowerStat::of(&fd)?)
    }

    /// See [`FileSystem::before_writing`].
    pub(super) fn disarm(&self, fd: BorrowedFd<'_>, stat: &LowerStat) -> Result<bool, FsError> {
        let any_file = self.policies.set_id != SetIdPolicy::Pass;
        if stat.kind() != FileType::RegularFile || !(any_file || self.squashes(stat)) {
            return Ok(false);
        }
        if self.squashes(stat) {
            self.drop_kept(fd, stat.kind())?;
        } else if self.shadows(stat.kind()) {
            // What is shown stays the same.
            return Self::shadow_real(fd, stat).map(|()| false);
        }
        let without_capability = shadow::remove_capability(fd)?;
        if stat.mode & SET_ID == 0 {
            return Ok(without_capability);
        }
        Self::set_mode(fd, false, stat.mode & !SET_ID)?;
        Ok(true)
    }

    /// Whether the file belongs to an unmapped owner in whose place others own it.
    pub(super) fn squashes(&self, stat: &LowerStat) -> bool {
        self.can_squash() && !self.is_mapped(stat)
    }

    /// Whether there are files that others own in the place of an unmapped owner.
    pub(super) fn can_squash(&self) -> bool {
        matches!(self.policies.unmapped, UnmappedOwners::Squash(..))
    }

    /// Whether what is made in this directory gets a group that makes it such a file.
    pub(super) fn squashes_births_in(&self, dir: BorrowedFd<'_>) -> Result<bool, FsError> {
        const S_ISGID: u32 = 0o2000;
        if !self.can_squash() {
            return Ok(false);
        }
        let stat = LowerStat::of(dir)?;
        Ok(stat.mode & S_ISGID != 0 && stat.gid.is_none_or(|gid| self.maps.up_gid(gid).is_none()))
    }

    /// Refuses one more name to a set-ID program of an unmapped owner in whose place others own it,
    /// by which it would outlive its removal (`fs.protected_hardlinks`): the kernel above, which judges
    /// that, is not told of the bits.
    pub(super) fn may_have_another_name(&self, fd: BorrowedFd<'_>) -> Result<(), FsError> {
        const S_ISUID: u32 = 0o4000;
        const GROUP_PROGRAM: u32 = 0o2010;
        if !self.can_squash() || !self.protected_hardlinks {
            return Ok(());
        }
        let stat = LowerStat::of(fd)?;
        let is_program = stat.mode & S_ISUID != 0 || stat.mode & GROUP_PROGRAM == GROUP_PROGRAM;
        if is_program && stat.kind() == FileType::RegularFile && self.squashes(&stat) {
            return Err(FsError::NotOwner);
        }
        Ok(())
    }

    /// Refuses set-ID bits that may not be given to this file: `EPERM`.
    pub(super) fn may_set_id(
        &self,
        kind: FileType,
        mode: u32,
        squashed: bool,
    ) -> Result<(), FsError> {
        let denied = self.policies.set_id == SetIdPolicy::Deny || squashed;
        if denied && kind == FileType::RegularFile && mode & SET_ID != 0 {
            return Err(FsError::Refused(Errno::PERM));
        }
        Ok(())
    }
}

impl FileSystem {
    /// Refuses devices where nobody makes any, and to callers who make things as somebody else:
    /// `EPERM`.
    pub(super) fn may_make_node(
        &self,
        mode: u32,
        device: u64,
        caller: Caller,
    ) -> Result<(), FsError> {
        let no_devices = self.policies.no_devices || self.is_squashed(caller);
        if no_devices && !is_harmless_node(mode, device) {
            return Err(FsError::Refused(Errno::PERM));
        }
        Ok(())
    }
}

fn replace_invalid(id: &mut u32, stand_in: u32) {
    if *id == INVALID {
        *id = stand_in;
    }
}
