//! Deny groups (`deny_groups=`): whoever leaves a group gains nothing by it.
//!
//! Being in a group can take rights away: of a file with the mode 0604 its group may read nothing,
//! and everyone else may. A process that may drop groups, as in a user namespace with
//! setgroups(2), would gain the right by that. So what is reported of a file cuts the rights of
//! everyone else by those of the groups. The formulas are those of the discussion of isolated user
//! namespaces (Eric W. Biederman, October 2020): `(mode >> 3) & mode & 7` for callers outside the
//! group; the owner's rights stay, who can change the mode anyway.
//!
//! Everything here is about what is *reported*. What is stored stays as it is until somebody sets
//! a mode or an ACL, and then is exactly what was asked for: a right that was cut is never stored
//! again by itself.

use crate::shift::acl::{self, Entry, RWX, Tag};
use crate::shift::xattr_error::XattrError;

/// Whose rights cut those of everyone else (`deny_groups=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DenyGroups {
    /// Nobody's: everything is reported as stored.
    #[default]
    Off,
    /// The groups'.
    Group,
    /// The groups' and the owner's.
    All,
}

impl DenyGroups {
    /// The mode to report for a stored one. Only the last three bits can change.
    ///
    /// For a file with an ACL the group bits are the mask, which no group's rights exceed; the
    /// ACL itself is cut more exactly by [`DenyGroups::acl`].
    ///
    /// ```
    /// use idshift::shift::deny_groups::DenyGroups;
    /// assert_eq!(DenyGroups::Group.mode(0o604), 0o600);
    /// assert_eq!(DenyGroups::Group.mode(0o755), 0o755);
    /// assert_eq!(DenyGroups::All.mode(0o077), 0o070);
    /// ```
    pub fn mode(self, mode: u32) -> u32 {
        let cut = match self {
            DenyGroups::Off => return mode,
            DenyGroups::Group => mode >> 3,
            DenyGroups::All => (mode >> 6) & (mode >> 3),
        };
        mode & !7 | mode & cut & 7
    }

    /// The access ACL to report for a stored one: the entry for others is cut by what every group
    /// has in effect, and with [`DenyGroups::All`] by what the owner and every named user has.
    ///
    /// The ids are not looked at, so entries whose ids are unmapped count too: call this before
    /// [`acl::up`]. Fails where the value is malformed.
    pub fn acl(self, value: &[u8]) -> Result<Vec<u8>, XattrError> {
        if self == DenyGroups::Off {
            return Ok(value.to_vec());
        }
        let mut entries = acl::decode(value)?;
        let counts = |entry: &&Entry| match entry.tag {
            Tag::GroupObj | Tag::Group => true,
            Tag::UserObj | Tag::User => self == DenyGroups::All,
            Tag::Mask | Tag::Other => false,
        };
        let cut = entries
            .iter()
            .filter(counts)
            .fold(RWX, |cut, entry| cut & acl::effective(*entry, &entries));
        for entry in &mut entries {
            if entry.tag == Tag::Other {
                entry.permissions &= cut;
            }
        }
        Ok(acl::encode(&entries))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let named = prop_oneof![Just(Tag::User), Just(Tag::Group)];
        let named = proptest::collection::vec((named, 0..8_u16, 0..u32::MAX), 0..6);
        (0..8_u16, named, 0..8_u16, proptest::option::of(0..8_u16), 0..8_u16).prop_map(
            |(user, named, group, mask, other)| {
                let one = |tag, permissions| Entry { tag, permissions, id: u32::MAX };
                let mut all = vec![one(Tag::UserObj, user), one(Tag::GroupObj, group)];
                all.extend(named.into_iter().map(|(tag, permissions, id)| Entry {
                    tag,
                    permissions,
                    id,
                }));
                all.extend(mask.map(|mask| one(Tag::Mask, mask)));
                all.push(one(Tag::Other, other));
                all
            },
        )
    }

    #[test]
    fn all_modes_are_cut_by_the_formula() {
        for mode in 0..0o10_000_u32 {
            let (owner, group, other) = (mode >> 6 & 7, mode >> 3 & 7, mode & 7);
            let rest = mode & !7;
            assert_eq!(DenyGroups::Off.mode(mode), mode);
            assert_eq!(DenyGroups::Group.mode(mode), rest | group & other);
            assert_eq!(DenyGroups::All.mode(mode), rest | owner & group & other);
        }
    }

    #[test]
    fn what_is_no_acl_is_an_error() {
        assert!(DenyGroups::Group.acl(&[2, 0, 0]).is_err());
        assert!(DenyGroups::All.acl(&[1, 0, 0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn only_others_lose_and_nobody_gains(all in entries(), everyone: bool) {
            let policy = if everyone { DenyGroups::All } else { DenyGroups::Group };
            let cut = acl::decode(&policy.acl(&acl::encode(&all)).unwrap()).unwrap();
            prop_assert_eq!(cut.len(), all.len());
            for (before, after) in all.iter().zip(&cut) {
                if before.tag == Tag::Other {
                    prop_assert_eq!(after.permissions & !before.permissions, 0);
                } else {
                    prop_assert_eq!(before, after);
                }
            }
        }

        /// Whoever leaves a group falls to others at worst, and has nothing there that the group
        /// did not have.
        #[test]
        fn others_have_no_more_than_any_group(all in entries()) {
            let cut = acl::decode(&DenyGroups::Group.acl(&acl::encode(&all)).unwrap()).unwrap();
            let other = cut.iter().find(|entry| entry.tag == Tag::Other).unwrap().permissions;
            for entry in cut.iter().filter(|e| matches!(e.tag, Tag::Group | Tag::GroupObj)) {
                prop_assert_eq!(other & !acl::effective(*entry, &cut), 0);
            }
        }

        #[test]
        fn cutting_twice_is_cutting_once(all in entries(), mode in 0..0o10_000_u32) {
            for policy in [DenyGroups::Group, DenyGroups::All] {
                let once = policy.acl(&acl::encode(&all)).unwrap();
                prop_assert_eq!(policy.acl(&once).unwrap(), once);
                prop_assert_eq!(policy.mode(policy.mode(mode)), policy.mode(mode));
            }
        }
    }
}
