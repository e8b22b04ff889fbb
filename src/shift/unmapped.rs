//! Files of owners outside the map (`unmapped=`).
//!
//! A file counts as unmapped when its owner *or* its group has no upper counterpart, as in the
//! kernel (`HAS_UNMAPPED_ID`, include/linux/fs.h). The rules are those of the discussion of
//! isolated user namespaces (October 2020).

use crate::shift::acl::{self, RWX};
use crate::shift::id::{UpperGid, UpperUid};
use crate::shift::xattr_error::XattrError;

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const WRITE: u32 = 0o222;

/// What is shown of a file whose owner or group is outside the map, and who may use it how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnmappedOwners {
    /// 65534, and nobody may change it: as the kernel's idmapped mount.
    #[default]
    Overflow,
    /// The same, and everyone has only the rights that owner, group and others all have.
    Restrict,
    /// These upper ids in place of the unmapped ones; nobody may change it all the same.
    Owner(UpperUid, UpperGid),
    /// These upper ids in place of the unmapped ones, who own it.
    Squash(UpperUid, UpperGid),
    /// Nothing: the name is listed, but leads to `EACCES`.
    Deny,
}

impl UnmappedOwners {
    /// The ids to show in place of unmapped ones, if any.
    pub fn stand_in(self) -> Option<(UpperUid, UpperGid)> {
        match self {
            UnmappedOwners::Owner(uid, gid) | UnmappedOwners::Squash(uid, gid) => Some((uid, gid)),
            UnmappedOwners::Overflow | UnmappedOwners::Restrict | UnmappedOwners::Deny => None,
        }
    }

    /// The mode to report for the stored mode of an unmapped file, the type included.
    ///
    /// Where other ids stand in for the owner, no program of an unmapped owner is set-user-ID: it
    /// would run as the one who stands in.
    pub fn mode(self, mode: u32) -> u32 {
        match self {
            UnmappedOwners::Overflow | UnmappedOwners::Deny => mode,
            UnmappedOwners::Restrict => most_restrictive(mode),
            UnmappedOwners::Owner(..) => without_set_id(mode) & !WRITE,
            UnmappedOwners::Squash(..) => without_set_id(mode),
        }
    }

    /// The access ACL to report for the stored one of an unmapped file. The ids are not looked
    /// at: call this before [`acl::up`]. Fails where the value is malformed.
    pub fn acl(self, value: &[u8]) -> Result<Vec<u8>, XattrError> {
        let mut entries = acl::decode(value)?;
        let kept = match self {
            UnmappedOwners::Restrict => {
                entries.iter().fold(RWX, |kept, entry| kept & acl::effective(*entry, &entries))
            }
            UnmappedOwners::Owner(..) => 0o5,
            _ => return Ok(value.to_vec()),
        };
        for entry in &mut entries {
            entry.permissions &= kept;
        }
        Ok(acl::encode(&entries))
    }
}

/// Each of r, w, x for everyone only if owner, group and others all have it.
///
/// ```
/// use idshift::shift::unmapped::most_restrictive;
/// assert_eq!(most_restrictive(0o754), 0o444);
/// assert_eq!(most_restrictive(0o700), 0);
/// ```
pub fn most_restrictive(mode: u32) -> u32 {
    let all = (mode >> 6) & (mode >> 3) & mode & 7;
    mode & !0o777 | all << 6 | all << 3 | all
}

fn without_set_id(mode: u32) -> u32 {
    if mode & S_IFMT == S_IFREG { mode & !(S_ISUID | S_ISGID) } else { mode }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::shift::acl::{Entry, Tag};
    use crate::shift::id::Id;

    #[test]
    fn all_modes_are_restricted_by_the_formula() {
        for mode in 0..0o10_000_u32 {
            let all = (mode >> 6) & (mode >> 3) & mode & 7;
            assert_eq!(most_restrictive(mode), (mode & 0o7000) | (all * 0o111));
        }
    }

    #[test]
    fn whoever_stands_in_runs_nothing_as_himself() {
        let policies =
            [UnmappedOwners::Owner(Id::ROOT, Id::ROOT), UnmappedOwners::Squash(Id::ROOT, Id::ROOT)];
        for policy in policies {
            assert_eq!(policy.mode(S_IFREG | 0o6755) & 0o6000, 0);
            // Of a directory the bit says whose group new files get.
            assert_eq!(policy.mode(0o042_755) & 0o7000, 0o2000);
        }
        assert_eq!(policies[0].mode(S_IFREG | 0o666), S_IFREG | 0o444);
        assert_eq!(policies[1].mode(S_IFREG | 0o666), S_IFREG | 0o666);
    }

    #[test]
    fn restricting_an_acl_leaves_what_everyone_has() {
        let one = |tag, permissions| Entry { tag, permissions, id: 5 };
        let stored = [
            one(Tag::UserObj, 7),
            one(Tag::User, 6),
            one(Tag::GroupObj, 7),
            one(Tag::Mask, 5),
            one(Tag::Other, 7),
        ];
        let shown = UnmappedOwners::Restrict.acl(&acl::encode(&stored)).unwrap();
        // The user has 6 & 5 in effect, and nobody may have more.
        let shown = acl::decode(&shown).unwrap();
        assert!(shown.iter().all(|entry| entry.permissions == 4), "{shown:?}");
        let stored = acl::encode(&stored);
        assert_eq!(UnmappedOwners::Overflow.acl(&stored).unwrap(), stored);
    }
}
