//! The caller's rights where the kernel above leaves a decision to the lower file system: whether
//! set-user-ID and set-group-ID bits survive a change.
//!
//! The lower file system asks two things of whoever makes the change: is it in the file's group,
//! and has it `CAP_FSETID`. So the one call is made in the caller's groups, without that capability.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use crate::error::FsError;
use crate::lower::caller::{Capability, ProcCaller};
use crate::lower::cred::{self, Creator, Keep, without_fsetid};
use crate::lower::stat::LowerStat;
use crate::shift::id::{INVALID, Id, LowerGid, UpperGid};
use crate::sys::kernel;

use super::attr::Of;
use super::{Caller, FileSystem};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

impl FileSystem {
    /// Runs the one call that makes a file as its creator. Where somebody else judges that call by
    /// its ids ([`Keep::OneCall`]), the creator's groups are among them.
    pub(super) fn as_creator<T>(
        &self,
        caller: Caller,
        creator: Creator,
        make: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let keep = self.ids;
        if keep == Keep::UntilOthers || self.owners.is_some() || cred::acts_as(creator) {
            return keep.as_creator(creator, make);
        }
        let groups = self.groups_below(&self.callers.read(caller.tid));
        keep.as_creator(creator, || keep.with_groups(creator.gid, &groups, make))
    }

    /// The caller's supplementary groups as lower ones; those that are not in the map are none.
    pub(super) fn groups_below(&self, process: &ProcCaller<'_>) -> Vec<LowerGid> {
        let down = |raw: u32| UpperGid::new(raw).and_then(|gid| self.maps.down_gid(gid));
        process.groups.iter().filter_map(|&raw| down(raw)).collect()
    }

    /// The mode that a new file gets which is no directory: a set-group-ID program of the directory's
    /// group is for members of that group. From Linux 6.0 on the kernel above sees to it
    /// (`mode_strip_sgid`, fs/inode.c); before, the lower file system does, which asks the server.
    pub(super) fn mode_at_birth(
        &self,
        caller: Caller,
        parent: u64,
        mode: u32,
    ) -> Result<u32, FsError> {
        let program = S_ISGID | S_IXGRP;
        if mode & program != program || kernel::version() >= (6, 0) {
            return Ok(mode);
        }
        self.mode_for_members(caller, parent, mode)
    }

    /// The mode of a new set-group-ID program in this directory.
    pub(super) fn mode_for_members(
        &self,
        caller: Caller,
        parent: u64,
        mode: u32,
    ) -> Result<u32, FsError> {
        let dir = self.lower.path_fd(&self.lower.inode(parent)?)?;
        let dir = dir.as_fd();
        let stat = self.recorded(Of::Fd(dir), &LowerStat::of(dir)?)?;
        let Some(group) = stat.gid.filter(|_| stat.mode & S_ISGID != 0) else { return Ok(mode) };
        let groups = self.groups(caller, &self.callers.read(caller.tid), dir, &stat, None)?;
        Ok(if groups.contains(group) { mode } else { mode & !S_ISGID })
    }

    /// Runs a change of contents by a caller of whom the kernel said that it has no `CAP_FSETID`.
    pub(super) fn clearing<T>(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        stat: &LowerStat,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if let Some(owners) = &self.owners {
            self.clear_recorded(owners, caller, fd)?;
            return change();
        }
        self.drop_kept(fd, stat.kind())?;
        // Only of a file that its group cannot execute may a bit stay, for members.
        let groups = if stat.mode & S_ISGID != 0 && stat.mode & S_IXGRP == 0 {
            self.groups(caller, &self.callers.read(caller.tid), fd, stat, None)?
        } else {
            Groups::outside(stat.gid)
        };
        groups.acting(self.ids, || without_fsetid(change))
    }

    /// Sets an ACL for a caller from outside the file's group, without `CAP_FSETID` over it.
    pub(super) fn as_outsider<T>(
        &self,
        stat: &LowerStat,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        Groups::outside(stat.gid).acting(self.ids, || without_fsetid(change))
    }

    /// Runs a change of the file's owner or ACL as the caller would make it, so that the lower
    /// file system clears the bits that it clears for the caller. `new_group` is the group that
    /// the file gets by it.
    pub(super) fn with_rights_of<T>(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        stat: &LowerStat,
        new_group: Option<LowerGid>,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if !has_privilege_bits(stat) {
            return change();
        }
        let groups = self.groups(caller, &self.callers.read(caller.tid), fd, stat, new_group)?;
        groups.acting(self.ids, || without_fsetid(change))
    }

    /// The mode that a file is left with by a change of owner (`new_group` is its new group) or of
    /// contents, as the kernel's `setattr_should_drop_suidgid` has it (fs/inode.c): only S_ISGID of
    /// a file that its group cannot execute may stay, for members.
    pub(super) fn mode_without_set_id(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        stat: &LowerStat,
        new_group: Option<LowerGid>,
    ) -> Result<u32, FsError> {
        if !has_privilege_bits(stat) || stat.kind() == FileType::Directory {
            return Ok(stat.mode);
        }
        let mut mode = stat.mode & !S_ISUID;
        if mode & S_ISGID != 0 {
            let groups =
                self.groups(caller, &self.callers.read(caller.tid), fd, stat, new_group)?;
            // With a new mode there is a check against the group that the file then has.
            let new_group = new_group.filter(|_| mode != stat.mode);
            let is_member = stat.gid.into_iter().chain(new_group).all(|gid| groups.contains(gid));
            if mode & S_IXGRP != 0 || !is_member {
                mode &= !S_ISGID;
            }
        }
        Ok(mode)
    }

    /// Refuses a chown(2) that clears bits to somebody who may not change the mode. The kernel
    /// above has checked the right to change the owner, which is another; `changes` says whether
    /// there was anything to check.
    pub(super) fn may_clear_bits(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        stat: &LowerStat,
        changes: bool,
    ) -> Result<(), FsError> {
        // Directories keep their bits (`chown_common`, fs/open.c).
        let kept = self.kept_bits(Of::Fd(fd), stat)?;
        let at_stake = has_privilege_bits(stat) && stat.kind() != FileType::Directory;
        if !at_stake && kept == 0 {
            return Ok(());
        }
        let shown = self.shown(Of::Fd(fd), stat)?;
        if caller.uid.is_some_and(|uid| uid.raw() == shown.uid) {
            return Ok(());
        }
        let process = self.callers.read(caller.tid);
        let all_stay = kept == 0
            && stat.mode & (S_ISUID | S_IXGRP) == 0
            && match stat.gid {
                Some(gid) => self.groups(caller, &process, fd, stat, None)?.contains(gid),
                None => false,
            };
        let may_act_as_owner = if caller.is_told() {
            process.may_act_as_owner(shown.uid)
        } else {
            // Whoever may change the owner could also take the file and change its mode. Of others
            // only a capability over everything is sure: /proc's ids may be another number space's.
            shown.uid != INVALID && (changes || process.has(Capability::Fowner))
        };
        if all_stay || may_act_as_owner { Ok(()) } else { Err(FsError::NotOwner) }
    }

    /// The lower groups that decide what the caller may keep: its own, and those of the file if it
    /// has `CAP_FSETID` over the file, which counts as much (`in_group_or_capable`, fs/inode.c).
    fn groups(
        &self,
        caller: Caller,
        process: &ProcCaller<'_>,
        fd: BorrowedFd<'_>,
        stat: &LowerStat,
        new_group: Option<LowerGid>,
    ) -> Result<Groups, FsError> {
        let mut all = self.groups_below(process);
        let shown = self.shown(Of::Fd(fd), stat)?;
        if process.has_over(Capability::Fsetid, shown.uid, shown.gid) {
            all.extend(stat.gid.into_iter().chain(new_group));
        }
        // What /proc says of one who is not told may be meant otherwise here. At stake is S_ISGID
        // of a file that its group cannot execute, which gives nobody anything.
        let gid = caller.gid.or(process.fsgid.and_then(UpperGid::new));
        let own = gid.and_then(|gid| self.maps.down_gid(gid));
        Ok(Groups { own: own.unwrap_or_else(|| neither(stat.gid, new_group)), all })
    }
}

pub(super) fn has_privilege_bits(stat: &LowerStat) -> bool {
    stat.mode & (S_ISUID | S_ISGID) != 0 && stat.kind() != FileType::Symlink
}

/// Lower groups to act in.
struct Groups {
    own: LowerGid,
    all: Vec<LowerGid>,
}

impl Groups {
    /// Some group that is not the file's.
    fn outside(group: Option<LowerGid>) -> Self {
        Self { own: neither(group, None), all: Vec::new() }
    }

    fn contains(&self, group: LowerGid) -> bool {
        self.own == group || self.all.contains(&group)
    }

    fn acting<T>(
        &self,
        keep: Keep,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        keep.with_groups(self.own, &self.all, change)
    }
}

/// A group that is neither of the two.
fn neither(one: Option<LowerGid>, other: Option<LowerGid>) -> LowerGid {
    let free = |gid: &LowerGid| Some(*gid) != one && Some(*gid) != other;
    [0, 1, 2].into_iter().filter_map(LowerGid::new).find(free).unwrap_or(Id::ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_is_never_inside() {
        let ids = [0, 1, 2, 100].map(LowerGid::new);
        for one in ids {
            assert!(!Groups::outside(one).contains(one.unwrap()));
            for other in ids {
                let chosen = Some(neither(one, other));
                assert!(chosen != one && chosen != other);
            }
        }
    }
}
