//! Who uses which ids of this host now: accounts, granted ranges, user namespaces and running
//! mounts. Everything is in the ids of the user namespace that this process is in.

pub mod free;
pub mod overlap;
pub mod scan;

use std::cmp::Reverse;
use std::path::PathBuf;

use crate::host::namespaces::{self, Identity};
use crate::host::subids;
use crate::shift::algebra;
use crate::shift::id::{Kind, Upper};
use crate::shift::idmap::{Extent, IdMap, Maps};
use crate::shift::map_error::RawExtent;
use crate::shift::sources::NamespaceMaps;

/// A range of ids and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The first id.
    pub first: u32,
    /// How many; at least 1, and none past 2^32 − 2.
    pub count: u32,
    /// Who has them.
    pub by: Holder,
}

impl Claim {
    /// The last id.
    pub fn last(&self) -> u32 {
        self.first + (self.count - 1)
    }

    /// Whether these are the host's ids under their own numbers, and so nobody's allocation: a
    /// namespace that maps ids to themselves.
    pub fn is_as_on_host(&self) -> bool {
        matches!(self.by, Holder::Namespace { inside, .. } if inside == self.first)
    }
}

/// Who has a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An account or a group, by name.
    Account(String),
    /// A user, by what `/etc/subuid` or `/etc/subgid` says: a login name or a number.
    Grant {
        /// As it stands in the file.
        user: String,
        /// The user's number, if there is such an account.
        uid: Option<u32>,
    },
    /// A user namespace.
    Namespace {
        /// Its place in [`Ranges::namespaces`].
        index: usize,
        /// The first id inside.
        inside: u32,
    },
    /// A running idshift mount.
    Mount {
        /// Its place in [`Ranges::mounts`].
        index: usize,
        /// Whether these are the ids that it shows, or those that it stores.
        shown: bool,
    },
}

impl Holder {
    /// Sorts holders of the same ids, those of one sort together.
    fn rank(&self) -> (u8, u32) {
        match self {
            Holder::Account(_) => (0, 0),
            Holder::Grant { .. } => (1, 0),
            Holder::Namespace { inside, .. } => (2, *inside),
            Holder::Mount { shown, .. } => (3, u32::from(*shown)),
        }
    }

    /// Whether both have the same ids in the same way, and differ only in who they are.
    pub fn is_like(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

/// A user namespace other than this process's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespace {
    /// `None` where this user may not look: then all with the same maps count as one.
    pub identity: Option<Identity>,
    /// Who made it, if that can be seen.
    pub owner: Option<u32>,
    /// The namespaces around it, as far as they can be seen, nearest first.
    pub ancestors: Vec<Identity>,
    /// The processes in it, as `(id, name)`. There may be none.
    pub processes: Vec<(u32, String)>,
    /// Inside id, id here, count. An id here may be 4294967295: not visible.
    pub maps: NamespaceMaps,
}

/// A running mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountClaim {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The process that serves it.
    pub pid: u32,
    /// What it does, in the ids of the server's user namespace.
    pub maps: Maps,
}

/// Everything that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// By rising first id.
    pub uids: Vec<Claim>,
    /// By rising first id.
    pub gids: Vec<Claim>,
    /// The namespaces that claims refer to.
    pub namespaces: Vec<UserNamespace>,
    /// The mounts that claims refer to.
    pub mounts: Vec<MountClaim>,
    /// What could not be seen, and why.
    pub notes: Vec<String>,
}

/// Looks at everything but the mounts, which the caller has found and asked. `tell` hears how many processes have been looked at, of how
/// many.
pub fn collect(mounts: Vec<MountClaim>, tell: &mut dyn FnMut(usize, usize)) -> Ranges {
    let mut ranges = Ranges { mounts, ..Ranges::default() };
    ranges.add_accounts();
    ranges.add_grants();
    let scan = scan::scan(tell);
    ranges.notes.extend(scan.notes);
    for (index, namespace) in scan.namespaces.iter().enumerate() {
        ranges.uids.extend(inside_claims(index, &namespace.maps.uids));
        ranges.gids.extend(inside_claims(index, &namespace.maps.gids));
    }
    ranges.namespaces = scan.namespaces;
    ranges.add_mounts();
    for claims in [&mut ranges.uids, &mut ranges.gids] {
        // Stable: what is alike stays in the order in which it was found.
        claims.sort_by_key(|claim| (claim.first, Reverse(claim.count), claim.by.rank()));
    }
    ranges
}

impl Ranges {
    fn read(&mut self, file: &str) -> String {
        subids::text_of(file).unwrap_or_else(|error| {
            self.notes.push(format!("{file} cannot be read: {error}"));
            String::new()
        })
    }

    fn add_accounts(&mut self) {
        let accounts = self.read("/etc/passwd");
        self.uids.extend(accounts_of(&accounts));
        let groups = self.read("/etc/group");
        self.gids.extend(accounts_of(&groups));
    }

    fn add_grants(&mut self) {
        let uids = self.read(subids::SUBUID);
        self.uids.extend(grants_of(&uids));
        let gids = self.read(subids::SUBGID);
        self.gids.extend(grants_of(&gids));
    }

    fn add_mounts(&mut self) {
        for (index, mount) in self.mounts.iter().enumerate() {
            match namespaces::maps(&crate::shift::sources::Namespace::Pid(mount.pid)) {
                Ok(here) => {
                    self.uids.extend(mount_claims(index, &mount.maps.uids, &here.uids));
                    self.gids.extend(mount_claims(index, &mount.maps.gids, &here.gids));
                }
                Err(why) => self.notes.push(format!(
                    "the ids of the mount at {} cannot be told: {why}",
                    mount.mountpoint.display()
                )),
            }
        }
    }
}

/// A claim, unless a file or the kernel gave numbers that no ids have.
fn claim(first: u32, count: u32, by: Holder) -> Option<Claim> {
    let fits = count > 0 && first.checked_add(count).is_some();
    fits.then_some(Claim { first, count, by })
}

/// The lines `name:password:id:…` of passwd(5) and group(5).
fn accounts_of(text: &str) -> impl Iterator<Item = Claim> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let id = fields.nth(1)?.parse().ok()?;
        claim(id, 1, Holder::Account(name.to_owned()))
    })
}

fn grants_of(text: &str) -> impl Iterator<Item = Claim> + '_ {
    subids::grants(text).filter_map(|grant| {
        let uid = subids::account(grant.user).ok().map(|account| account.uid);
        let by = Holder::Grant { user: grant.user.to_owned(), uid };
        claim(grant.range.first, grant.range.count, by)
    })
}

fn inside_claims(index: usize, extents: &[RawExtent]) -> impl Iterator<Item = Claim> + '_ {
    extents.iter().filter_map(move |extent| {
        claim(extent.upper, extent.count, Holder::Namespace { index, inside: extent.lower })
    })
}

/// What a mount shows and what it stores, as far as the two differ, through the map of the
/// namespace that its server is in.
fn mount_claims<K: Kind>(index: usize, map: &IdMap<K>, here: &[RawExtent]) -> Vec<Claim> {
    let extents = here.iter().filter_map(|e| Extent::from_raw(e.lower, e.upper, e.count).ok());
    let Ok(here) = IdMap::new(extents.collect()) else { return Vec::new() };
    let shifted = algebra::subtract(map, &IdMap::identity());
    let sides = [
        (algebra::compose(&shifted, &here), true),
        (algebra::compose(&algebra::invert(&shifted), &here), false),
    ];
    let claims = sides.iter().flat_map(|(side, shown)| {
        side.merged().into_iter().filter_map(|extent| {
            let first: crate::shift::id::Id<K, Upper> = extent.upper_first();
            claim(first.raw(), extent.count(), Holder::Mount { index, shown: *shown })
        })
    });
    claims.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::shift::id::Uid;

    #[test]
    fn accounts_and_grants_are_claims() {
        let text = "root:x:0:0::/:/bin/sh\n# no\n+nis\nann:x:1000:1000::/:/bin/sh\nbad:x:-1:\n";
        let found: Vec<_> = accounts_of(text).map(|claim| claim.first).collect();
        assert_eq!(found, [0, 1000]);
        let found: Vec<_> = grants_of("root:5:0\nroot:4294967295:1\nroot:7:3\n").collect();
        let by = Holder::Grant { user: "root".to_owned(), uid: Some(0) };
        assert_eq!(found, [Claim { first: 7, count: 3, by }]);
    }

    #[test]
    fn a_mount_claims_what_it_shifts_on_both_sides() {
        let map = IdMap::<Uid>::new(vec![
            Extent::from_raw(5, 5, 1).unwrap(),
            Extent::from_raw(10, 20, 3).unwrap(),
        ])
        .unwrap();
        let found = |here: &[RawExtent]| -> Vec<(u32, u32, bool)> {
            let claims = mount_claims(4, &map, here).into_iter();
            claims
                .map(|claim| match claim.by {
                    Holder::Mount { index: 4, shown } => (claim.first, claim.count, shown),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let host = [RawExtent { lower: 0, upper: 0, count: u32::MAX }];
        assert_eq!(found(&host), [(20, 3, true), (10, 3, false)]);
        let inside = [RawExtent { lower: 0, upper: 1000, count: 22 }];
        assert_eq!(found(&inside), [(1020, 2, true), (1010, 3, false)]);
    }
}
