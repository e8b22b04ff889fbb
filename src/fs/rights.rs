//! The caller's rights where the kernel above leaves a decision to the lower file system: whether
//! set-user-ID and set-group-ID bits survive a change.
//!
//! The lower file system asks two things of whoever makes the change: is it in the file's group,
//! and has it `CAP_FSETID`. So the one call is made with just that group and that capability.

use rustix::fs::FileType;

use crate::error::FsError;
use crate::lower::caller::ProcCaller;
use crate::lower::cred::{with_fsgid, without_fsetid};
use crate::lower::stat::LowerStat;
use crate::shift::id::{Id, LowerGid};

use super::{Caller, FileSystem};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;

impl FileSystem {
    /// Runs a change of the file that `stat` describes as the caller would make it, so that the
    /// lower file system clears the bits that it clears for the caller.
    pub(super) fn with_rights_of<T>(
        &self,
        caller: Caller,
        stat: &LowerStat,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let at_stake = stat.mode & (S_ISUID | S_ISGID) != 0 && stat.kind() != FileType::Symlink;
        if !at_stake {
            return change();
        }
        let process = ProcCaller::read(caller.tid);
        if process.has_fsetid() {
            return change();
        }
        let member = self.in_group(caller, &process, stat.gid);
        with_fsgid(fsgid_for(member, stat.gid), || without_fsetid(change))
    }

    fn in_group(&self, caller: Caller, process: &ProcCaller, group: Option<LowerGid>) -> bool {
        let Some(group) = group.and_then(|gid| self.maps.up_gid(gid)) else { return false };
        caller.gid == Some(group) || process.groups.contains(&group.raw())
    }
}

/// A group to act with that makes the server a member of the file's group, or not.
fn fsgid_for(member: bool, group: Option<LowerGid>) -> LowerGid {
    match group {
        Some(group) if member || group != Id::ROOT => {
            if member {
                group
            } else {
                Id::ROOT
            }
        }
        // The group is root's and the caller is not in it: any other number will do.
        _ => LowerGid::new(1).unwrap_or(Id::ROOT),
    }
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
