//! Map specs: the text in which a user gives a map.
//!
//! | spec | means |
//! |---|---|
//! | `b:0:100000:65536` | lower id, upper id, count, for users and groups; `u:` and `g:` for one kind |
//! | `offset:100000[:65536]` | lower 0.. is shown as 100000.. for both kinds |
//! | `identity` | ids as they are |
//! | `file:PATH` | one extent on each line: `u`, `g` or `b`, then the three numbers of `/proc/PID/uid_map` (inside = lower, outside = upper) |
//! | `userns:PID`, `userns:/PATH` | the map of that user namespace: inside id = lower, the id that this process has for it = upper |
//! | `subuid:NAME[:COUNT]` | upper 0 is stored as the user NAME, upper 1.. as NAME's ranges in `/etc/subuid` and `/etc/subgid`; COUNT ids in all |
//! | `name:u:ALICE=BOB`, `name:g:…`, `name:b:…` | one id, by the name (or number) of its user or group: stored = shown |
//!
//! Specs combine: several options, or several in one string with spaces between. In a path or a
//! name a space is written `\040`, as in fstab(5); in a name also `:` as `\072` and `=` as `\075`.
//!
//! ```
//! use idmap::id::{LowerGid, UpperGid};
//! use idmap::map::Maps;
//!
//! let read = |path: &std::path::Path| std::fs::read_to_string(path);
//! let maps = Maps::from_specs(&["u:0:100000:65536 g:0:200000:65536"], &read)?;
//! assert_eq!(maps.up_gid(LowerGid::ROOT), UpperGid::new(200_000));
//!
//! let error = Maps::from_specs(&["b:0:100000"], &read).unwrap_err();
//! assert!(error.to_string().contains("as in b:0:100000:65536"));
//! # Ok::<(), idmap::error::MapError>(())
//! ```

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{MapError, RawExtent};
use crate::id::{Gid, Kind, Uid};
use crate::map::{Extent, IdMap, Maps};
use crate::sources::{Namespace, Sources};
use resolve::Extents;
use text::{number, unescape, write_escaped};

mod hint;
mod resolve;
mod text;

/// The count of `offset:N`: what a container usually has.
const USUAL_COUNT: u32 = 65_536;

/// What separates the parts of a spec that holds names.
const SEPARATORS: &[char] = &[':', '='];

/// Which ids an extent is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// `b`: users and groups.
    Both,
    /// `u`: users.
    Uids,
    /// `g`: groups.
    Gids,
}

impl Kinds {
    fn from_prefix(prefix: &str) -> Option<Self> {
        match prefix {
            "b" => Some(Kinds::Both),
            "u" => Some(Kinds::Uids),
            "g" => Some(Kinds::Gids),
            _ => None,
        }
    }

    fn uids(self) -> bool {
        self != Kinds::Gids
    }

    fn gids(self) -> bool {
        self != Kinds::Uids
    }

    fn prefix(self) -> &'static str {
        match self {
            Kinds::Both => "b",
            Kinds::Uids => Uid::PREFIX,
            Kinds::Gids => Gid::PREFIX,
        }
    }
}

/// Whether a word begins as a map spec does, so that one in a wrong place can be answered with the
/// right place.
pub fn looks_like_a_spec(word: &str) -> bool {
    const BEGINNINGS: &[&str] = &["b:", "u:", "g:", "offset:", "userns:", "subuid:", "name:"];
    BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
}

/// One map spec. Its [`Display`](fmt::Display) is a spec that reads as the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// `b:LOWER:UPPER:COUNT`, `u:…`, `g:…`.
    Extent {
        /// The ids it is for.
        kinds: Kinds,
        /// Its three numbers.
        extent: RawExtent,
    },
    /// `offset:UPPER[:COUNT]`: lower 0.. is shown as UPPER.., for both kinds.
    Offset {
        /// What lower id 0 is shown as.
        upper: u32,
        /// How many ids.
        count: u32,
    },
    /// `identity`: every id as it is.
    Identity,
    /// `file:PATH`: extents, one on each line.
    File(PathBuf),
    /// `userns:PID` or `userns:/PATH`: the map of a user namespace.
    Namespace(Namespace),
    /// `subuid:NAME[:COUNT]`: the ids of a user are shown as 0, 1, 2, …
    OwnIds {
        /// Login name or number.
        user: String,
        /// How many ids, the account's own one included; all if not given. At least 1.
        count: Option<u32>,
    },
    /// `name:u:LOWER=UPPER`: one id, by name.
    Name {
        /// Users, groups, or a user and a group of the same name.
        kinds: Kinds,
        /// Who it is on disk.
        lower: String,
        /// Who it is in the mount.
        upper: String,
    },
}

impl Spec {
    /// Reads the specs of one string, which spaces separate.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, MapError> {
        text.split_ascii_whitespace().map(str::parse).collect()
    }
}

impl FromStr for Spec {
    type Err = MapError;

    /// Reads one spec.
    fn from_str(text: &str) -> Result<Self, MapError> {
        parse_one(text).map_err(|why| MapError::Spec { spec: text.to_owned(), why })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Extent { kinds, extent } => write!(f, "{}:{extent}", kinds.prefix()),
            Spec::Offset { upper, count } => write!(f, "offset:{upper}:{count}"),
            Spec::Identity => f.write_str("identity"),
            Spec::File(path) => {
                f.write_str("file:")?;
                write_escaped(f, path.as_os_str().as_bytes(), &[])
            }
            Spec::Namespace(Namespace::Pid(pid)) => write!(f, "userns:{pid}"),
            Spec::Namespace(Namespace::Path(path)) => {
                f.write_str("userns:")?;
                write_escaped(f, path.as_os_str().as_bytes(), &[])
            }
            Spec::OwnIds { user, count } => {
                f.write_str("subuid:")?;
                write_escaped(f, user.as_bytes(), SEPARATORS)?;
                count.map_or(Ok(()), |count| write!(f, ":{count}"))
            }
            Spec::Name { kinds, lower, upper } => {
                write!(f, "name:{}:", kinds.prefix())?;
                write_escaped(f, lower.as_bytes(), SEPARATORS)?;
                f.write_str("=")?;
                write_escaped(f, upper.as_bytes(), SEPARATORS)
            }
        }
    }
}

impl Maps {
    /// The maps that these strings give together, each with one spec or several.
    ///
    /// `sources` looks up what the specs name; this library does no I/O of its own. Fails where a
    /// spec cannot be read, extents overlap, or one kind of id has extents and the other none.
    pub fn from_specs<S: AsRef<str>>(specs: &[S], sources: &dyn Sources) -> Result<Self, MapError> {
        Self::from_parsed(&parse_each(specs)?, sources)
    }

    /// As [`Maps::from_specs`], for specs that are parsed already.
    pub fn from_parsed(specs: &[Spec], sources: &dyn Sources) -> Result<Self, MapError> {
        let maps = Self::of_any_kind(specs, sources)?;
        match (maps.uids.is_empty(), maps.gids.is_empty()) {
            (false, true) => Err(missing::<Uid, Gid>()),
            (true, false) => Err(missing::<Gid, Uid>()),
            _ => Ok(maps),
        }
    }

    /// As [`Maps::from_specs`], but one kind of id may be left out, and its map is then empty.
    /// For maps that are computed with; a mount with such a map is of no use.
    pub fn from_partial_specs<S: AsRef<str>>(
        specs: &[S],
        sources: &dyn Sources,
    ) -> Result<Self, MapError> {
        Self::of_any_kind(&parse_each(specs)?, sources)
    }

    fn of_any_kind(specs: &[Spec], sources: &dyn Sources) -> Result<Self, MapError> {
        let mut extents = Extents::default();
        for spec in specs {
            extents.add_spec(spec, sources)?;
        }
        if extents.uids.is_empty() && extents.gids.is_empty() {
            return Err(MapError::Empty);
        }
        Ok(Self { uids: IdMap::new(extents.uids)?, gids: IdMap::new(extents.gids)? })
    }
}

fn parse_each<S: AsRef<str>>(specs: &[S]) -> Result<Vec<Spec>, MapError> {
    let mut parsed = Vec::new();
    for text in specs {
        parsed.extend(Spec::parse_all(text.as_ref())?);
    }
    Ok(parsed)
}

fn missing<Given: Kind, Missing: Kind>() -> MapError {
    MapError::MissingKind { given: Given::NAME, missing: Missing::NAME, prefix: Missing::PREFIX }
}

fn parse_one(text: &str) -> Result<Spec, String> {
    if text == "identity" {
        return Ok(Spec::Identity);
    }
    let Some((word, rest)) = text.split_once(':') else {
        return Err(hint::not_a_spec(text));
    };
    match word {
        "offset" => parse_offset(rest),
        "file" if rest.is_empty() => Err("the path is missing; write file:PATH".to_owned()),
        "file" => Ok(Spec::File(unescape(rest).into())),
        "userns" => parse_namespace(rest),
        "subuid" => parse_own_ids(rest),
        "name" => parse_name(rest),
        _ => match Kinds::from_prefix(word) {
            Some(kinds) => {
                let extent = parse_extent(kinds, &rest.split(':').collect::<Vec<_>>())?;
                Ok(Spec::Extent { kinds, extent })
            }
            None => Err(hint::not_a_spec(text)),
        },
    }
}

/// A line of a file: `u 0 100000 65536`.
fn parse_line(line: &str) -> Result<(Kinds, RawExtent), String> {
    let words: Vec<&str> = line.split(|c: char| c == ':' || c.is_ascii_whitespace()).collect();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let Some(kinds) = words.next().and_then(Kinds::from_prefix) else {
        return Err("the line starts with neither u, g nor b; a line copied from \
                    /proc/PID/uid_map gets a u in front, as in u 0 100000 65536"
            .to_owned());
    };
    Ok((kinds, parse_extent(kinds, &words.collect::<Vec<_>>())?))
}

fn parse_extent(kinds: Kinds, numbers: &[&str]) -> Result<RawExtent, String> {
    let form = || {
        let prefix = kinds.prefix();
        format!("write {prefix}:ON-DISK:IN-MOUNT:COUNT, as in {prefix}:0:100000:65536")
    };
    let &[lower, upper, count] = numbers else {
        return Err(format!("three numbers belong here, not {}; {}", numbers.len(), form()));
    };
    let extent = RawExtent {
        lower: number(lower, "the first id on disk")?,
        upper: number(upper, "the first id in the mount")?,
        count: number(count, "the count")?,
    };
    check(extent)
}

fn parse_offset(text: &str) -> Result<Spec, String> {
    let (upper, count) = match text.split_once(':') {
        None => (text, None),
        Some((upper, count)) => (upper, Some(count)),
    };
    let form = "; write offset:N or offset:N:COUNT, as in offset:100000:65536";
    let upper = number(upper, "the offset").map_err(|why| why + form)?;
    let count = match count {
        None => USUAL_COUNT,
        Some(count) => number(count, "the count").map_err(|why| why + form)?,
    };
    check(RawExtent { lower: 0, upper, count })?;
    Ok(Spec::Offset { upper, count })
}

fn parse_namespace(text: &str) -> Result<Spec, String> {
    if text.starts_with('/') {
        return Ok(Spec::Namespace(Namespace::Path(unescape(text).into())));
    }
    let form = "; write userns:PID, or userns:/PATH with the whole path of a namespace file such \
                as /proc/PID/ns/user";
    match number(text, "the process id").map_err(|why| why + form)? {
        0 => Err(format!("no process has the id 0{form}")),
        pid => Ok(Spec::Namespace(Namespace::Pid(pid))),
    }
}

fn parse_own_ids(text: &str) -> Result<Spec, String> {
    let form = "; write subuid:NAME or subuid:NAME:COUNT, where COUNT is how many ids the mount \
                has in all";
    let (user, count) = match text.split_once(':') {
        None => (text, None),
        Some((user, count)) => (user, Some(count)),
    };
    let user = name(user, "the user").map_err(|why| why + form)?;
    let count = count.map(|count| number(count, "the count")).transpose();
    match count.map_err(|why| why + form)? {
        Some(0) => Err(format!("the count is 0, and NAME alone is one id{form}")),
        count => Ok(Spec::OwnIds { user, count }),
    }
}

fn parse_name(text: &str) -> Result<Spec, String> {
    let form = || {
        "write name:u:ON-DISK=IN-MOUNT for users, as in name:u:alice=bob; name:g: is for groups"
            .to_owned()
    };
    let (prefix, names) = text.split_once(':').ok_or_else(form)?;
    let kinds = Kinds::from_prefix(prefix).ok_or_else(form)?;
    let (lower, upper) = names.split_once('=').ok_or_else(form)?;
    if upper.contains(SEPARATORS) {
        return Err(format!("there is more than two names in it; {}", form()));
    }
    let name = |text, what| name(text, what).map_err(|why| format!("{why}; {}", form()));
    let (lower, upper) = (name(lower, "the name on disk")?, name(upper, "the name in the mount")?);
    Ok(Spec::Name { kinds, lower, upper })
}

fn name(text: &str, what: &str) -> Result<String, String> {
    match unescape(text).into_string() {
        Ok(name) if name.is_empty() => Err(format!("{what} is missing")),
        Ok(name) => Ok(name),
        Err(_) => Err(format!("{what} is not valid UTF-8")),
    }
}

/// Refuses what no extent can be, while the spec can still be named.
fn check(extent: RawExtent) -> Result<RawExtent, String> {
    let RawExtent { lower, upper, count } = extent;
    // Both kinds have the same limits.
    Extent::<Uid>::from_raw(lower, upper, count).map_err(|error| error.to_string())?;
    Ok(extent)
}

#[cfg(test)]
mod tests;
