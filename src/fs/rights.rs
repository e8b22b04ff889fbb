//! The caller's rights where the kernel above leaves a decision to the lower file system: whether
//! set-user-ID and set-group-ID bits survive a change.
//!
//! The lower file system asks two things of whoever makes the change: is it in the file's group,
//! and has it `CAP_FSETID`. So the one call is made with just that group and that capability.

use rustix::fs::FileType;

use crate::error::FsError;
use crate::lower::caller::{Capability, ProcCaller};
use crate::lower::cred::{with_fsgid, without_fsetid};
use crate::lower::stat::LowerStat;
use crate::shift::id::{Id, LowerGid, UpperUid};

use super::{Attr, Caller, FileSystem};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

impl FileSystem {
    /// Runs a change of the file that `stat` describes as the caller would make it, so that the
    /// lower file system clears the bits that it clears for the caller.
    pub(super) fn with_rights_of<T>(
        &self,
        caller: Caller,
        stat: &LowerStat,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if !has_privilege_bits(stat) {
            return change();
        }
        let process = ProcCaller::read(caller.tid);
        if process.has(Capability::Fsetid) {
            return change();
        }
        let group = fsgid_for(self.keeps_setgid(caller, &process, stat), stat.gid);
        with_fsgid(group, || without_fsetid(change))
    }

    /// Refuses a chown(2) that clears bits to somebody who may not change the mode. The kernel
    /// above has checked the right to change the owner, which is another.
    pub(super) fn may_clear_bits(&self, caller: Caller, stat: &LowerStat) -> Result<(), FsError> {
        if !has_privilege_bits(stat) || caller.uid.is_some_and(|uid| self.owns(uid, stat)) {
            return Ok(());
        }
        let process = ProcCaller::read(caller.tid);
        let shown = Attr::up(stat, &self.maps);
        let keeps = stat.mode & S_ISUID == 0
            && stat.mode & S_IXGRP == 0
            && self.keeps_setgid(caller, &process, stat);
        if keeps || process.has_over(Capability::Fowner, shown.uid, shown.gid) {
            Ok(())
        } else {
            Err(FsError::NotOwner)
        }
    }

    fn owns(&self, uid: UpperUid, stat: &LowerStat) -> bool {
        stat.uid.and_then(|owner| self.maps.up_uid(owner)) == Some(uid)
    }

    /// Whether the caller is in the file's group, or has `CAP_FSETID` over the file: then the
    /// set-group-ID bit of a file that its group cannot execute stays (`in_group_or_capable`,
    /// fs/inode.c).
    fn keeps_setgid(&self, caller: Caller, process: &ProcCaller, stat: &LowerStat) -> bool {
        let group = stat.gid.and_then(|gid| self.maps.up_gid(gid));
        let member = group.is_some_and(|group| {
            caller.gid == Some(group) || process.groups.contains(&group.raw())
        });
        let shown = Attr::up(stat, &self.maps);
        member || process.has_over(Capability::Fsetid, shown.uid, shown.gid)
    }
}

fn has_privilege_bits(stat: &LowerStat) -> bool {
    stat.mode & (S_ISUID | S_ISGID) != 0 && stat.kind() != FileType::Symlink
}

/// A group to act with that makes the server a member of the file's group, or not.
fn fsgid_for(member: bool, group: Option<LowerGid>) -> LowerGid {
    let other = if group == Some(Id::ROOT) { LowerGid::new(1) } else { Some(Id::ROOT) };
    let chosen = if member { group } else { other };
    chosen.unwrap_or(Id::ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_to_act_with_is_in_or_out() {
        for group in [0, 1, 100].map(LowerGid::new) {
            assert_eq!(Some(fsgid_for(true, group)), group);
            assert_ne!(Some(fsgid_for(false, group)), group);
        }
    }
}
