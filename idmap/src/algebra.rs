//! Maps out of maps, for container runtimes and for whoever has to write one to `/proc`.
//!
//! A map is a set of pairs (lower id, upper id). [`intersect`] and [`subtract`] are those of the
//! sets; [`compose`] goes through one map and then another. To keep only some ids of a map, compose
//! it with the identity of those ids: before it to choose lower ids, after it to choose upper ones.
//!
//! The extents of a result stand in the order of the first map's extents.
//!
//! ```
//! use idmap::algebra::{compose, split};
//! use idmap::id::Uid;
//! use idmap::map::{Extent, IdMap};
//!
//! // A user's namespace: inside id, id in the parent, count.
//! let parent = IdMap::<Uid>::new(vec![
//!     Extent::from_raw(0, 1000, 1)?,
//!     Extent::from_raw(1, 100_000, 65_536)?,
//! ])?;
//! let wanted = IdMap::<Uid>::new(vec![Extent::from_raw(0, 0, 100)?])?;
//!
//! // The kernel refuses "0 0 100" under that parent; it takes this.
//! let split = split(&wanted, &parent)?;
//! assert_eq!(split.written().extents(), [Extent::from_raw(0, 0, 1)?, Extent::from_raw(1, 1, 99)?]);
//! assert!(split.exact().is_err());
//!
//! // What the ids are in the parent's parent.
//! let effective = compose(&split.written(), &parent);
//! assert_eq!(effective.extents()[0], Extent::from_raw(0, 1000, 1)?);
//! # Ok::<(), idmap::error::MapError>(())
//! ```

use std::fmt;

use crate::error::{MapError, ProcExtent, RawExtent};
use crate::id::Kind;
use crate::map::{Extent, IdMap};

/// The most extents that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`, Linux 4.15; 5 before).
pub const KERNEL_EXTENTS: usize = 340;

/// The map that undoes this one: what was upper is its lower side.
///
/// ```
/// use idmap::algebra::invert;
/// use idmap::id::Uid;
/// use idmap::map::{Extent, IdMap, MapError};
///
/// let map = |lower, upper, count| -> Result<IdMap<Uid>, MapError> {
///     IdMap::new(vec![Extent::from_raw(lower, upper, count)?])
/// };
/// // A container's files are stored as 100000, …: shown as 0, … they look as in the container.
/// assert_eq!(invert(&map(0, 100_000, 65_536)?), map(100_000, 0, 65_536)?);
/// # Ok::<(), MapError>(())
/// ```
pub fn invert<K>(map: &IdMap<K>) -> IdMap<K> {
    let swap = |extent: &Extent<K>| {
        let RawExtent { lower, upper, count } = extent.raw();
        Extent::of_part(upper, lower, count)
    };
    IdMap::of_disjoint(map.extents().iter().map(swap).collect())
}

/// Through `first`, then its upper ids as the lower ids of `second`.
///
/// An id that either of them does not map is unmapped.
///
/// ```
/// use idmap::algebra::compose;
/// use idmap::id::Uid;
/// use idmap::map::{Extent, IdMap, MapError};
///
/// let map = |lower, upper, count| -> Result<IdMap<Uid>, MapError> {
///     IdMap::new(vec![Extent::from_raw(lower, upper, count)?])
/// };
/// // Ids 0 to 99 of a container are 1000 to 1099 of a namespace, whose ids are the host's 100000, ….
/// assert_eq!(compose(&map(0, 1000, 100)?, &map(0, 100_000, 65_536)?), map(0, 101_000, 100)?);
/// // What the second does not have is not in the result.
/// assert_eq!(compose(&map(0, 0, 100)?, &map(50, 7, 1)?), map(50, 7, 1)?);
/// # Ok::<(), MapError>(())
/// ```
pub fn compose<K>(first: &IdMap<K>, second: &IdMap<K>) -> IdMap<K> {
    let table = by_lower(&second.merged());
    let parts = first.extents().iter().flat_map(|extent| {
        let from = extent.raw();
        let pieces = pieces(from.upper, from.count, &table).into_iter();
        pieces.filter_map(move |piece| Some((from.lower + piece.skip, piece.to?, piece.count)))
    });
    IdMap::of_disjoint(parts.map(|(l, u, c)| Extent::of_part(l, u, c)).collect())
}

/// The pairs that both maps hold.
///
/// ```
/// use idmap::algebra::intersect;
/// use idmap::id::Uid;
/// use idmap::map::{Extent, IdMap, MapError};
///
/// let map = |lower, upper, count| -> Result<IdMap<Uid>, MapError> {
///     IdMap::new(vec![Extent::from_raw(lower, upper, count)?])
/// };
/// assert_eq!(intersect(&map(0, 1000, 10)?, &map(5, 1005, 10)?), map(5, 1005, 5)?);
/// // Ids alone are not enough: here each of them has another counterpart.
/// assert!(intersect(&map(0, 1000, 10)?, &map(0, 2000, 10)?).is_empty());
/// # Ok::<(), MapError>(())
/// ```
pub fn intersect<K>(one: &IdMap<K>, other: &IdMap<K>) -> IdMap<K> {
    select(one, other, |in_other| in_other)
}

/// The pairs of `one` that `other` does not hold.
///
/// ```
/// use idmap::algebra::subtract;
/// use idmap::id::Uid;
/// use idmap::map::{Extent, IdMap, MapError};
///
/// let map = |lower, upper, count| -> Result<IdMap<Uid>, MapError> {
///     IdMap::new(vec![Extent::from_raw(lower, upper, count)?])
/// };
/// // Everything but root.
/// assert_eq!(subtract(&map(0, 100_000, 65_536)?, &map(0, 100_000, 1)?), map(1, 100_001, 65_535)?);
/// # Ok::<(), MapError>(())
/// ```
pub fn subtract<K>(one: &IdMap<K>, other: &IdMap<K>) -> IdMap<K> {
    select(one, other, |in_other| !in_other)
}

fn select<K>(one: &IdMap<K>, other: &IdMap<K>, keep: fn(bool) -> bool) -> IdMap<K> {
    let table = by_lower(&other.merged());
    let mut parts = Vec::new();
    for from in one.extents().iter().map(Extent::raw) {
        for piece in pieces(from.lower, from.count, &table) {
            let upper = from.upper + piece.skip;
            if keep(piece.to == Some(upper)) {
                parts.push(Extent::of_part(from.lower + piece.skip, upper, piece.count));
            }
        }
    }
    IdMap::of_disjoint(parts)
}

/// A map that was cut to fit a parent namespace: what was asked, and what the kernel takes.
///
/// Its [`Display`](fmt::Display) shows both side by side, in the layout of `/proc/PID/uid_map`.
#[derive(Debug, Clone, PartialEq)]
pub struct Split<K> {
    parts: Vec<(Extent<K>, Vec<Extent<K>>)>,
}

/// Cuts the extents of `wanted` at the borders of the parent namespace's extents.
///
/// Both maps are as `/proc/PID/uid_map` shows them: lower is the id inside; upper is the id that
/// the parent namespace has for it. So the upper ids of `wanted` are lower ids of `parent`. The
/// kernel takes an extent only if all its ids lie in one extent of the parent (`map_write` and
/// `map_id_range_down` in `kernel/user_namespace.c`), also where two of them continue each other.
///
/// Fails with the first id that the parent does not map; none is ever left out.
pub fn split<K: Kind>(wanted: &IdMap<K>, parent: &IdMap<K>) -> Result<Split<K>, MapError> {
    let table = by_lower(parent.extents());
    let mut parts = Vec::with_capacity(wanted.extents().len());
    for &asked in wanted.extents() {
        let raw = asked.raw();
        let mut lines = Vec::new();
        for piece in pieces(raw.upper, raw.count, &table) {
            let (lower, upper) = (raw.lower + piece.skip, raw.upper + piece.skip);
            if piece.to.is_none() {
                let extent = ProcExtent(raw);
                return Err(MapError::NotInParent { kind: K::NAME, extent, id: upper });
            }
            lines.push(Extent::of_part(lower, upper, piece.count));
        }
        parts.push((asked, lines));
    }
    Ok(Split { parts })
}

impl<K: Kind> Split<K> {
    /// Each extent that was asked for, with those that can be written for it.
    pub fn parts(&self) -> &[(Extent<K>, Vec<Extent<K>>)] {
        &self.parts
    }

    /// Whether anything had to be cut.
    pub fn is_split(&self) -> bool {
        self.parts.iter().any(|(_, lines)| lines.len() != 1)
    }

    /// What can be written.
    pub fn written(&self) -> IdMap<K> {
        IdMap::of_disjoint(self.parts.iter().flat_map(|(_, lines)| lines).copied().collect())
    }

    /// What can be written, if that is what was asked; otherwise the extent that would be cut.
    pub fn exact(&self) -> Result<IdMap<K>, MapError> {
        match self.parts.iter().find(|(_, lines)| lines.len() != 1) {
            None => Ok(self.written()),
            Some((asked, lines)) => Err(MapError::WouldSplit {
                kind: K::NAME,
                extent: ProcExtent(asked.raw()),
                parts: lines.len(),
            }),
        }
    }
}

impl<K> fmt::Display for Split<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |extent: &Extent<K>| ProcExtent(extent.raw()).to_string();
        let width = self.parts.iter().map(|(asked, _)| text(asked).len()).max().unwrap_or(0);
        let width = width.max("asked".len());
        writeln!(f, "{:width$}  can be written", "asked")?;
        for (asked, lines) in &self.parts {
            let mut left = text(asked);
            for line in lines {
                writeln!(f, "{left:width$}  {}", text(line))?;
                left.clear();
            }
        }
        Ok(())
    }
}

/// The text to write to `/proc/PID/uid_map` or `gid_map`: lower id inside, upper id outside, which
/// is also what an idmapped mount takes its map from.
///
/// Fails where the kernel would answer `EINVAL`: more than [`KERNEL_EXTENTS`] lines, or text of a
/// page or more, or none at all (`map_write` in `kernel/user_namespace.c`). `page_size` is that of
/// the machine.
pub fn proc_text<K: Kind>(map: &IdMap<K>, page_size: usize) -> Result<String, MapError> {
    if map.is_empty() {
        return Err(MapError::Empty);
    }
    let line = |extent: &Extent<K>| format!("{}\n", ProcExtent(extent.raw()));
    let text: String = map.extents().iter().map(line).collect();
    let max_bytes = page_size.saturating_sub(1);
    if map.extents().len() > KERNEL_EXTENTS || text.len() > max_bytes {
        return Err(MapError::KernelLimit {
            kind: K::NAME,
            lines: map.extents().len(),
            bytes: text.len(),
            max_lines: KERNEL_EXTENTS,
            max_bytes,
        });
    }
    Ok(text)
}

/// A part of a range of ids.
struct Piece {
    /// Where it starts, from the start of the range.
    skip: u32,
    count: u32,
    /// What its first id is mapped to, if it is.
    to: Option<u32>,
}

/// Cuts the ids `first..first + count` at the borders of a table, which [`by_lower`] has sorted.
/// The pieces cover the range without gaps.
fn pieces(first: u32, count: u32, table: &[RawExtent]) -> Vec<Piece> {
    // No sum can overflow: ranges and extents end at 2^32 − 2.
    let end = first + count;
    let mut pieces = Vec::new();
    let mut at = first;
    let start = table.partition_point(|extent| extent.lower + extent.count <= first);
    for extent in &table[start..] {
        if extent.lower >= end {
            break;
        }
        if at < extent.lower {
            pieces.push(Piece { skip: at - first, count: extent.lower - at, to: None });
            at = extent.lower;
        }
        let stop = end.min(extent.lower + extent.count);
        let to = Some(extent.upper + (at - extent.lower));
        pieces.push(Piece { skip: at - first, count: stop - at, to });
        at = stop;
    }
    if at < end {
        pieces.push(Piece { skip: at - first, count: end - at, to: None });
    }
    pieces
}

fn by_lower<K>(extents: &[Extent<K>]) -> Vec<RawExtent> {
    let mut table: Vec<RawExtent> = extents.iter().map(Extent::raw).collect();
    table.sort_unstable_by_key(|extent| extent.lower);
    table
}

#[cfg(test)]
mod tests;
