//! Who may show whose files shifted.
//!
//! The owner of a lower tree decides who may reach it; whoever may reach it may ask for a shifted
//! view of it. Root may always. An ordinary user's server is a process of that user, so the kernel
//! lets it reach what that user reaches anyway, for as long as the owner of the tree allows that.
//! What is left to check here are the ids: as with newuidmap(1), a user may map the own ids and
//! those that `/etc/subuid` and `/etc/subgid` grant, and no others, on either side. Root of a user
//! namespace has only such ids to begin with.
//!
//! An extent that shows ids as they are shifts nobody's.

use crate::config::Ownership;
use crate::error::StartError;
use crate::host::subids;
use crate::shift::id::{Kind, Uid};
use crate::shift::idmap::{IdMap, Maps};
use crate::shift::sources::Range;
use crate::sys::users::{self, User};

/// The ids that a user may map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    name: String,
    uids: Vec<Range>,
    gids: Vec<Range>,
}

impl Allowance {
    /// That of the user of this process.
    pub fn of_this_user() -> Result<Self, StartError> {
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        // Without an account there may still be lines with the number.
        let account = users::user_by_uid(uid).ok().flatten();
        let account = account.unwrap_or(User { name: uid.to_string(), uid, gid });
        let granted = |file: &str| {
            let text = subids::text_of(file).map_err(|source| StartError::System {
                what: format!("cannot read {file}, where users are granted ids"),
                source,
            })?;
            Ok::<_, StartError>(subids::granted_to(&text, &account))
        };
        let with_own = |own: u32, mut ranges: Vec<Range>| {
            ranges.push(Range { first: own, count: 1 });
            ranges
        };
        Ok(Self {
            uids: with_own(uid, granted(subids::SUBUID)?),
            gids: with_own(gid, granted(subids::SUBGID)?),
            name: account.name,
        })
    }

    /// Refuses a map with an id that this user may not map. Where owners are kept in attributes
    /// the lower ids are numbers in the user's own files, and nobody's.
    pub fn check(&self, maps: &Maps, ownership: &Ownership) -> Result<(), StartError> {
        let stored_count = *ownership == Ownership::Chown;
        self.check_kind(&maps.uids, &self.uids, stored_count)?;
        self.check_kind(&maps.gids, &self.gids, stored_count)
    }

    fn check_kind<K: Kind>(
        &self,
        map: &IdMap<K>,
        allowed: &[Range],
        stored_count: bool,
    ) -> Result<(), StartError> {
        for extent in map.extents() {
            let raw = extent.raw();
            if stored_count && raw.lower == raw.upper {
                continue;
            }
            if stored_count && let Some(id) = first_outside(raw.lower, raw.count, allowed) {
                return Err(self.refusal(&format!("stored {} {id}", K::NAME), K::NAME));
            }
            if let Some(id) = first_outside(raw.upper, raw.count, allowed) {
                return Err(self.refusal(&format!("shown {} {id}", K::NAME), K::NAME));
            }
        }
        Ok(())
    }

    fn refusal(&self, what: &str, kind: &str) -> StartError {
        let file = if kind == Uid::NAME { subids::SUBUID } else { subids::SUBGID };
        StartError::Usage(format!(
            "option 'map': the {what} is not yours to map; an ordinary user maps the own id and \
             those that {file} grants to '{}'. Root can grant more there, or mount for you",
            self.name
        ))
    }
}

/// The first of `count` ids from `first` on that is in none of the ranges.
fn first_outside(first: u32, count: u32, ranges: &[Range]) -> Option<u32> {
    let end = u64::from(first) + u64::from(count);
    let mut next = u64::from(first);
    while next < end {
        let holding = ranges.iter().find(|range| {
            let start = u64::from(range.first);
            (start..start + u64::from(range.count)).contains(&next)
        });
        match holding {
            Some(range) => next = u64::from(range.first) + u64::from(range.count),
            None => return u32::try_from(next).ok(),
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shift::idmap::Extent;

    fn bob() -> Allowance {
        let own = Range { first: 1001, count: 1 };
        let granted = Range { first: 100_000, count: 10 };
        Allowance { name: "bob".into(), uids: vec![granted, own], gids: vec![own] }
    }

    /// A map of users and one of groups, each `lower upper count`.
    fn check(
        (uid, gid): ((u32, u32, u32), (u32, u32, u32)),
        ownership: &Ownership,
    ) -> Result<(), String> {
        fn map<K: Kind>((lower, upper, count): (u32, u32, u32)) -> IdMap<K> {
            IdMap::new(vec![Extent::from_raw(lower, upper, count).unwrap()]).unwrap()
        }
        let maps = Maps { uids: map(uid), gids: map(gid) };
        bob().check(&maps, ownership).map_err(|error| error.to_string())
    }

    #[test]
    fn own_and_granted_ids_may_be_mapped_and_no_others() {
        const OWN: (u32, u32, u32) = (1001, 1001, 1);
        let chown = Ownership::Chown;
        check((OWN, OWN), &chown).unwrap();
        check(((1001, 100_000, 1), OWN), &chown).unwrap();
        check(((100_000, 100_001, 9), OWN), &chown).unwrap();
        check(((5, 5, 9), (0, 0, 70_000)), &chown).unwrap();
        for (uid, gid, parts) in [
            ((1000, 1001, 1), OWN, ["stored uid 1000", "/etc/subuid"]),
            ((1001, 1000, 1), OWN, ["shown uid 1000", "'bob'"]),
            ((1001, 0, 1), OWN, ["shown uid 0", "not yours"]),
            ((100_000, 100_001, 10), OWN, ["shown uid 100010", "/etc/subuid"]),
            (OWN, (100_000, 1001, 1), ["stored gid 100000", "/etc/subgid"]),
        ] {
            let message = check((uid, gid), &chown).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn numbers_in_own_attributes_are_nobodys() {
        let xattr = Ownership::Xattr { label: None };
        check(((0, 100_000, 10), (0, 1001, 1)), &xattr).unwrap();
        let refused = check(((0, 0, 1), (0, 1001, 1)), &xattr).unwrap_err();
        assert!(refused.contains("shown uid 0"), "{refused}");
    }

    proptest! {
        #[test]
        fn the_first_id_outside_is_found(
            first in 0_u32..50,
            count in 1_u32..50,
            ranges in prop::collection::vec((0_u32..100, 0_u32..20), 0..6),
        ) {
            let ranges: Vec<Range> =
                ranges.into_iter().map(|(first, count)| Range { first, count }).collect();
            let inside = |id: u32| ranges.iter().any(|it| (it.first..it.first + it.count).contains(&id));
            let expected = (first..first + count).find(|id| !inside(*id));
            prop_assert_eq!(first_outside(first, count, &ranges), expected);
        }
    }
}
