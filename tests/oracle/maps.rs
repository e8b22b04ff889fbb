//! The maps that are tried.

use idshift::shift::id::Kind;
use idshift::shift::idmap::{Extent, IdMap, Maps};

/// Lower first, upper first, count.
pub type Raw = (u32, u32, u32);

/// One map, by name.
#[derive(Debug, Clone, Copy)]
pub struct MapSpec {
    pub name: &'static str,
    pub uids: &'static [Raw],
    pub gids: &'static [Raw],
}

pub const OFFSET: MapSpec =
    MapSpec { name: "offset", uids: &[(0, 100_000, 65_536)], gids: &[(0, 100_000, 65_536)] };

/// The map of the second mount of a lower tree.
pub const OTHER: MapSpec =
    MapSpec { name: "other", uids: &[(0, 500_000, 65_536)], gids: &[(0, 500_000, 65_536)] };

/// Between two maps, an id is the stored one and so much.
const BETWEEN: u32 = 1_000_000;

/// Ids that the kernel's map has and idshift's below it has not: those of callers who are in no map.
const STRANGERS: Raw = (2_700_000, 700_000, 300_000);

pub const ALL: &[MapSpec] = &[
    OFFSET,
    // Only one user's files; root's stay unmapped.
    MapSpec { name: "single", uids: &[(1000, 1001, 1)], gids: &[(1000, 1001, 1)] },
    MapSpec {
        name: "holes",
        uids: &[(0, 100_000, 1), (1000, 200_000, 2), (1003, 150_000, 500), (2000, 300_000, 10)],
        gids: &[(0, 100_000, 1), (1000, 200_000, 2), (1003, 150_000, 500), (2000, 300_000, 1)],
    },
    MapSpec {
        name: "swapped",
        uids: &[(0, 0, 1000), (1000, 1001, 1), (1001, 1000, 1), (1002, 1002, 60_000)],
        gids: &[(0, 0, 1000), (1000, 1001, 1), (1001, 1000, 1), (1002, 1002, 60_000)],
    },
    MapSpec {
        name: "different",
        uids: &[(0, 100_000, 65_536)],
        gids: &[(0, 300_000, 1500), (2000, 400_000, 100)],
    },
];

impl MapSpec {
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().copied().find(|map| map.name == name)
    }

    fn of(&self, kind: char) -> &'static [Raw] {
        if kind == 'u' { self.uids } else { self.gids }
    }

    /// The upper id of a lower one. One that the map does not cover gets a number of its own that
    /// is unmapped too.
    pub fn up(&self, kind: char, lower: u32) -> u32 {
        let found = self.of(kind).iter().find(|raw| lower >= raw.0 && lower - raw.0 < raw.2);
        found.map_or(700_000 + lower, |raw| raw.1 + (lower - raw.0))
    }

    /// `u:…`/`g:…` specs, as `-o map=` takes them.
    pub fn options(&self) -> Vec<String> {
        let list = |kind: char| {
            let raw = self.of(kind).iter();
            raw.map(move |(lower, upper, count)| format!("map={kind}:{lower}:{upper}:{count}"))
        };
        list('u').chain(list('g')).collect()
    }

    pub fn maps(&self) -> Maps {
        Maps { uids: id_map(self.uids), gids: id_map(self.gids) }
    }

    /// The two maps that make up this one, where `options` ask for an idmapped mount of idshift's:
    /// idshift's as options, and that of the kernel on top.
    pub fn stacked(&self, options: &str) -> Option<(Vec<String>, Maps)> {
        let stack = options.split(',').find_map(|option| option.strip_prefix("stack="))?;
        let (between, more): (u32, &[Raw]) = match stack {
            "identity" => return Some((vec!["map=identity".into()], self.maps())),
            "composed" => (BETWEEN, &[]),
            "wider" => (BETWEEN, &[STRANGERS]),
            other => panic!("stack={other}"),
        };
        let inner = |kind: char| {
            let raw = self.of(kind).iter();
            raw.map(move |(lower, _, count)| {
                format!("map={kind}:{lower}:{}:{count}", lower + between)
            })
        };
        let outer = |kind: char| -> Vec<Raw> {
            let raw = self.of(kind).iter();
            raw.map(|&(lower, upper, count)| (lower + between, upper, count))
                .chain(more.iter().copied())
                .collect()
        };
        let outer = Maps { uids: id_map(&outer('u')), gids: id_map(&outer('g')) };
        Some((inner('u').chain(inner('g')).collect(), outer))
    }

    /// `inside outside count` lines of a namespace in which lower ids are called what they are
    /// called on disk, as in a container.
    pub fn namespace(&self, kind: char) -> String {
        let raw = self.of(kind).iter();
        raw.map(|(lower, upper, count)| format!("{lower} {upper} {count}\n")).collect()
    }
}

fn id_map<K: Kind>(raw: &[Raw]) -> IdMap<K> {
    let extents = raw.iter().map(|&(lower, upper, count)| Extent::from_raw(lower, upper, count));
    IdMap::new(extents.collect::<Result<_, _>>().expect("extents")).expect("a map")
}
