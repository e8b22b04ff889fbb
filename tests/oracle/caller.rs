//! Who calls: the roster. Ids are given by lower id; the map says what the process itself has.

use crate::maps::{MapSpec, OTHER};

/// Where a caller lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// On the host, reaching the tree through the mount.
    Upper,
    /// In a child user namespace with the map of the mount, reaching the tree through the mount.
    Namespace,
    /// On the host, reaching the tree through a second mount of the same lower tree, with the map
    /// [`OTHER`](crate::maps::OTHER).
    Other,
    /// On the host, at the lower directory: prepares trees, changes them from below.
    Lower,
}

/// One caller.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub name: &'static str,
    pub home: Home,
    /// Lower ids, or host ids where `raw`.
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
    /// Bit mask of the capabilities that it keeps; all bits for all.
    pub caps: u64,
    /// The ids are host ids as they stand.
    pub raw: bool,
    /// The lower id, of user and group, that it really is where it acts as another.
    pub real: Option<u32>,
}

const ALL_CAPS: u64 = u64::MAX;
pub const CAP_CHOWN: u64 = 1;
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
pub const CAP_FOWNER: u64 = 1 << 3;
pub const CAP_FSETID: u64 = 1 << 4;

const fn user(name: &'static str, uid: u32, gid: u32, groups: &'static [u32]) -> Caller {
    Caller { name, home: Home::Upper, uid, gid, groups, caps: 0, raw: false, real: None }
}

/// Everyone. 2000 is the group that files are shared by.
pub const ROSTER: &[Caller] = &[
    Caller { home: Home::Lower, caps: ALL_CAPS, raw: true, ..user("lower", 0, 0, &[]) },
    // The host's root: unmapped under most maps, with all rights.
    Caller { caps: ALL_CAPS, raw: true, ..user("host", 0, 0, &[]) },
    // Mapped root with the host's capabilities, and without.
    Caller { caps: ALL_CAPS, ..user("root", 0, 0, &[]) },
    user("bareroot", 0, 0, &[]),
    user("alice", 1000, 1000, &[]),
    // In the shared group by a supplementary group.
    user("bob", 1001, 1001, &[2000]),
    // In the shared group by her primary group.
    user("carol", 1002, 2000, &[]),
    user("dave", 1003, 1003, &[]),
    Caller { raw: true, ..user("alien", 900_000, 900_000, &[]) },
    Caller { raw: true, ..user("nobody", 65_534, 65_534, &[]) },
    // A mapped user in an unmapped group.
    user("halfling", 1000, 800_000, &[]),
    // Alice runs a set-user-ID program of bob's.
    Caller { real: Some(1000), ..user("masked", 1001, 1001, &[]) },
    Caller { home: Home::Other, ..user("other", 1000, 1000, &[]) },
    Caller { home: Home::Other, caps: ALL_CAPS, ..user("otherroot", 0, 0, &[]) },
    Caller { caps: CAP_CHOWN, ..user("chowner", 1003, 1003, &[]) },
    Caller { caps: CAP_DAC_OVERRIDE, ..user("overrider", 1003, 1003, &[]) },
    Caller { caps: CAP_FOWNER, ..user("fowner", 1003, 1003, &[]) },
    Caller { caps: CAP_FSETID, ..user("fsetid", 1000, 1000, &[]) },
    Caller { home: Home::Namespace, caps: ALL_CAPS, ..user("nsroot", 0, 0, &[]) },
    Caller { home: Home::Namespace, ..user("nsalice", 1000, 1000, &[2000]) },
];

impl Caller {
    pub fn named(name: &str) -> Caller {
        let found = ROSTER.iter().copied().find(|caller| caller.name == name);
        found.unwrap_or_else(|| panic!("nobody is called {name:?}"))
    }

    /// What this caller calls a lower id.
    pub fn calls(&self, map: &MapSpec, kind: char, lower: u32) -> u32 {
        match self.home {
            Home::Upper => map.up(kind, lower),
            Home::Other => OTHER.up(kind, lower),
            Home::Namespace | Home::Lower => lower,
        }
    }

    /// The caller's own ids, as it names them: uid, gid, supplementary groups.
    pub fn ids(&self, map: &MapSpec) -> (u32, u32, Vec<u32>) {
        let own = |kind, id| if self.raw { id } else { self.calls(map, kind, id) };
        (own('u', self.uid), own('g', self.gid), self.groups.iter().map(|&g| own('g', g)).collect())
    }

    /// Its real user and group id, as it names them.
    pub fn real_ids(&self, map: &MapSpec) -> (u32, u32) {
        let (uid, gid, _) = self.ids(map);
        self.real.map_or((uid, gid), |id| (self.calls(map, 'u', id), self.calls(map, 'g', id)))
    }

    /// Whether the caller can exist under this map: a namespace needs its ids mapped.
    pub fn exists(&self, map: &MapSpec) -> bool {
        let covered = |kind, id| map.up(kind, id) != 700_000 + id;
        self.home != Home::Namespace
            || (covered('u', self.uid)
                && covered('g', self.gid)
                && self.groups.iter().all(|&id| covered('g', id)))
    }
}
