//! Map specs: the text in which a user gives a map.
//!
//! | spec | means |
//! |---|---|
//! | `b:0:100000:65536` | lower id, upper id, count, for users and groups; `u:` and `g:` for one kind |
//! | `offset:100000[:65536]` | lower 0.. is shown as 100000.. for both kinds |
//! | `identity` | ids as they are |
//! | `file:PATH` | one extent on each line: `u`, `g` or `b`, then the three numbers of `/proc/PID/uid_map` (inside = lower, outside = upper) |
//!
//! Specs combine: several options, or several in one string with spaces between. In the path of
//! `file:` a space is written `\040`, as in fstab(5).
//!
//! ```
//! use idshift::shift::id::{LowerGid, UpperGid};
//! use idshift::shift::idmap::Maps;
//!
//! let read = |path: &std::path::Path| std::fs::read_to_string(path);
//! let maps = Maps::from_specs(&["u:0:100000:65536 g:0:200000:65536"], &read)?;
//! assert_eq!(maps.up_gid(LowerGid::ROOT), UpperGid::new(200_000));
//!
//! let error = Maps::from_specs(&["b:0:100000"], &read).unwrap_err();
//! assert!(error.to_string().contains("as in b:0:100000:65536"));
//! # Ok::<(), idshift::shift::map_error::MapError>(())
//! ```

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use crate::shift::explain::explain;
use crate::shift::id::{Gid, INVALID, Kind, Uid};
use crate::shift::idmap::{Extent, IdMap, Maps};
use crate::shift::map_error::{MapError, RawExtent};

mod hint;

/// The count of `offset:N`: what a container usually has.
const USUAL_COUNT: u32 = 65_536;

/// Reads the file that a `file:` spec names.
pub type Reader<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

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

    fn prefix(self) -> &'static str {
        match self {
            Kinds::Both => "b",
            Kinds::Uids => Uid::PREFIX,
            Kinds::Gids => Gid::PREFIX,
        }
    }
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
                write_escaped(f, path)
            }
        }
    }
}

impl Maps {
    /// The maps that these strings give together, each with one spec or several.
    ///
    /// `read` opens the file of a `file:` spec; this library does no I/O of its own. Fails where a
    /// spec cannot be read, extents overlap, or one kind of id has extents and the other none.
    pub fn from_specs<S: AsRef<str>>(specs: &[S], read: Reader<'_>) -> Result<Self, MapError> {
        let mut parsed = Vec::new();
        for text in specs {
            parsed.extend(Spec::parse_all(text.as_ref())?);
        }
        Self::from_parsed(&parsed, read)
    }

    /// As [`Maps::from_specs`], for specs that are parsed already.
    pub fn from_parsed(specs: &[Spec], read: Reader<'_>) -> Result<Self, MapError> {
        let mut extents = Extents::default();
        for spec in specs {
            extents.add_spec(spec, read)?;
        }
        match (extents.uids.is_empty(), extents.gids.is_empty()) {
            (false, false) => {}
            (true, true) => return Err(MapError::Empty),
            (false, true) => return Err(missing::<Uid, Gid>()),
            (true, false) => return Err(missing::<Gid, Uid>()),
        }
        Ok(Self { uids: IdMap::new(extents.uids)?, gids: IdMap::new(extents.gids)? })
    }
}

fn missing<Given: Kind, Missing: Kind>() -> MapError {
    MapError::MissingKind { given: Given::NAME, missing: Missing::NAME, prefix: Missing::PREFIX }
}

/// The extents of all specs so far, in the order written.
#[derive(Default)]
struct Extents {
    uids: Vec<Extent<Uid>>,
    gids: Vec<Extent<Gid>>,
}

impl Extents {
    fn add_spec(&mut self, spec: &Spec, read: Reader<'_>) -> Result<(), MapError> {
        match spec {
            Spec::Extent { kinds, extent } => self.add(*kinds, *extent),
            Spec::Offset { upper, count } => {
                self.add(Kinds::Both, RawExtent { lower: 0, upper: *upper, count: *count })
            }
            Spec::Identity => {
                self.add(Kinds::Both, RawExtent { lower: 0, upper: 0, count: INVALID })
            }
            Spec::File(path) => {
                let text = read(path).map_err(|error| MapError::Spec {
                    spec: spec.to_string(),
                    why: format!("cannot read the file: {error}"),
                })?;
                self.add_file(spec, &text)
            }
        }
    }

    fn add(&mut self, kinds: Kinds, extent: RawExtent) -> Result<(), MapError> {
        let RawExtent { lower, upper, count } = extent;
        if kinds != Kinds::Gids {
            self.uids.push(Extent::from_raw(lower, upper, count)?);
        }
        if kinds != Kinds::Uids {
            self.gids.push(Extent::from_raw(lower, upper, count)?);
        }
        Ok(())
    }

    fn add_file(&mut self, spec: &Spec, text: &str) -> Result<(), MapError> {
        for (number, line) in text.lines().enumerate() {
            let words = line.split('#').next().unwrap_or_default().trim();
            if words.is_empty() {
                continue;
            }
            let (kinds, extent) = parse_line(words).map_err(|why| MapError::Spec {
                spec: format!("{spec}, line {}: {words}", number + 1),
                why,
            })?;
            self.add(kinds, extent)?;
        }
        Ok(())
    }
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
        "file" => Ok(Spec::File(unescape(rest))),
        "subuid" | "userns" | "name" => {
            Err(format!("'{word}:' is not supported yet; supported are {}", hint::SUPPORTED))
        }
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

/// Refuses what no extent can be, while the spec can still be named.
fn check(extent: RawExtent) -> Result<RawExtent, String> {
    let RawExtent { lower, upper, count } = extent;
    // Both kinds have the same limits.
    Extent::<Uid>::from_raw(lower, upper, count).map_err(|error| error.to_string())?;
    Ok(extent)
}

/// Decimal digits only: `u32`'s own parser would take a sign too.
fn number(text: &str, what: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Err(format!("{what} is missing"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{what} is '{}', which is no decimal number", text.escape_debug()));
    }
    text.parse().map_err(|_| format!("{what} is {text}, past the last id, 4294967294"))
}

/// Decodes `\040` and its like; a backslash before anything else stays.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'\\', &[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ref after @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => bytes.push(byte),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The inverse of [`unescape`], for every byte that a spec could not carry as it is.
fn write_escaped(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c == ' ' || c.is_ascii_control() {
                write!(f, "\\{:03o}", u32::from(c))?;
            } else {
                f.write_char(c)?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\{byte:03o}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
