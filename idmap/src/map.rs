//! Id maps: which lower id is shown as which upper id.
//!
//! ```
//! use idmap::id::{LowerUid, Uid, UpperUid};
//! use idmap::map::{Extent, IdMap};
//!
//! // Root on disk is shown as 100000, and so on for 65536 ids.
//! let map = IdMap::<Uid>::new(vec![Extent::from_raw(0, 100_000, 65_536)?])?;
//! assert_eq!(map.up(LowerUid::ROOT), UpperUid::new(100_000));
//! assert_eq!(map.down(UpperUid::new(165_535).unwrap()), LowerUid::new(65_535));
//! assert_eq!(map.up(LowerUid::new(70_000).unwrap()), None);
//! # Ok::<(), idmap::error::MapError>(())
//! ```

use std::fmt;
use std::marker::PhantomData;

pub use crate::error::MapError;
use crate::error::{RawExtent, Side};
use crate::id::{
    Gid, INVALID, Id, Kind, Lower, LowerGid, LowerUid, Uid, Upper, UpperGid, UpperUid,
};

/// `count` neighbouring ids that move together: lower `lower_first..` is shown as `upper_first..`.
///
/// Holds at least one id, and none past 2^32 − 2 on either side.
pub struct Extent<K> {
    raw: RawExtent,
    kind: PhantomData<fn() -> K>,
}

impl<K> Extent<K> {
    /// An extent of `count` ids.
    ///
    /// Fails where `count` is 0 or the range runs past 2^32 − 2 on either side.
    pub fn new(
        lower_first: Id<K, Lower>,
        upper_first: Id<K, Upper>,
        count: u32,
    ) -> Result<Self, MapError> {
        Self::from_raw(lower_first.raw(), upper_first.raw(), count)
    }

    /// An extent from plain numbers, as a parser reads them: lower first, upper first, count.
    ///
    /// Fails as [`Extent::new`], and where a side starts at 4294967295.
    pub fn from_raw(lower: u32, upper: u32, count: u32) -> Result<Self, MapError> {
        let extent = RawExtent { lower, upper, count };
        if count == 0 {
            return Err(MapError::ZeroCount { extent });
        }
        for (side, first) in [(Side::Lower, lower), (Side::Upper, upper)] {
            if first == INVALID {
                return Err(MapError::InvalidId { extent, side });
            }
            let most = INVALID - first;
            if count > most {
                let last = u64::from(first) + u64::from(count) - 1;
                return Err(MapError::PastEnd { extent, side, last, most });
            }
        }
        Ok(Self { raw: extent, kind: PhantomData })
    }

    /// An extent of numbers that are a part of a checked extent.
    pub(crate) fn of_part(lower: u32, upper: u32, count: u32) -> Self {
        Self { raw: RawExtent { lower, upper, count }, kind: PhantomData }
    }

    /// The first id on disk.
    pub fn lower_first(&self) -> Id<K, Lower> {
        Id::of_extent(self.raw.lower)
    }

    /// The last id on disk.
    pub fn lower_last(&self) -> Id<K, Lower> {
        Id::of_extent(self.raw.lower + (self.raw.count - 1))
    }

    /// The first id in the mount.
    pub fn upper_first(&self) -> Id<K, Upper> {
        Id::of_extent(self.raw.upper)
    }

    /// The last id in the mount.
    pub fn upper_last(&self) -> Id<K, Upper> {
        Id::of_extent(self.raw.upper + (self.raw.count - 1))
    }

    /// How many ids; at least 1.
    pub fn count(&self) -> u32 {
        self.raw.count
    }

    /// The three numbers.
    pub fn raw(&self) -> RawExtent {
        self.raw
    }

    /// Whether `next` goes on, on both sides, where this one ends.
    fn is_followed_by(&self, next: &Self) -> bool {
        // No sum can overflow: a first id plus its count is at most 2^32 − 1.
        self.raw.lower + self.raw.count == next.raw.lower
            && self.raw.upper + self.raw.count == next.raw.upper
    }
}

impl<K> Clone for Extent<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Extent<K> {}
impl<K> PartialEq for Extent<K> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<K> Eq for Extent<K> {}
impl<K> fmt::Display for Extent<K> {
    /// `lower:upper:count`, the order of a map spec.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.raw, f)
    }
}
impl<K> fmt::Debug for Extent<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.raw, f)
    }
}

/// One direction of one extent.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: u32,
    to: u32,
    count: u32,
}

impl Range {
    fn translate(self, id: u32) -> Option<u32> {
        // Below `from` the difference wraps to at least `2^32 − from`, and `count` is at most
        // `2^32 − 1 − from`: one comparison checks both ends.
        let offset = id.wrapping_sub(self.from);
        (offset < self.count).then(|| self.to.wrapping_add(offset))
    }
}

/// One direction of a map. Nearly every map has one large range, so that one is tried first and
/// lies in the struct itself: a lookup then reads one cache line and follows no pointer.
#[derive(Debug, Clone)]
struct Index {
    largest: Range,
    /// Sorted by `from`, disjoint, without `largest`.
    others: Box<[Range]>,
}

impl Index {
    fn new(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable_by_key(|range| range.from);
        let largest = (0..ranges.len()).max_by_key(|&at| ranges[at].count);
        let largest = match largest {
            Some(at) => ranges.remove(at),
            None => Range { from: 0, to: 0, count: 0 }, // maps nothing
        };
        Self { largest, others: ranges.into_boxed_slice() }
    }

    #[inline]
    fn translate(&self, id: u32) -> Option<u32> {
        if let Some(found) = self.largest.translate(id) {
            return Some(found);
        }
        let after = self.others.partition_point(|range| range.from <= id);
        self.others[..after].last()?.translate(id)
    }
}

/// A map of one kind of id: at most one upper id for each lower id, and the other way round.
///
/// It keeps the extents in the order in which they were written; two maps are equal when they were
/// written alike. (Whether they do the same is `a.merged() == b.merged()`.)
pub struct IdMap<K> {
    extents: Vec<Extent<K>>,
    to_upper: Index,
    to_lower: Index,
}

impl<K: Kind> IdMap<K> {
    /// A map of these extents; no extents map nothing.
    ///
    /// Fails where two extents cover one id on either side.
    pub fn new(extents: Vec<Extent<K>>) -> Result<Self, MapError> {
        check_disjoint(&extents, Side::Lower)?;
        check_disjoint(&extents, Side::Upper)?;
        Ok(Self::of_disjoint(extents))
    }
}

impl<K> IdMap<K> {
    /// Builds the indexes. The extents must be disjoint on both sides.
    pub(crate) fn of_disjoint(extents: Vec<Extent<K>>) -> Self {
        let merged = merge(&extents);
        let direction = |range: fn(RawExtent) -> Range| {
            Index::new(merged.iter().map(|extent| range(extent.raw)).collect())
        };
        let to_upper = direction(|raw| Range { from: raw.lower, to: raw.upper, count: raw.count });
        let to_lower = direction(|raw| Range { from: raw.upper, to: raw.lower, count: raw.count });
        Self { extents, to_upper, to_lower }
    }

    /// Every id is shown as itself.
    pub fn identity() -> Self {
        let raw = RawExtent { lower: 0, upper: 0, count: INVALID };
        Self::of_disjoint(vec![Extent { raw, kind: PhantomData }])
    }

    /// The upper id that a lower id is shown as; `None` if it is unmapped.
    #[inline]
    pub fn up(&self, id: Id<K, Lower>) -> Option<Id<K, Upper>> {
        self.to_upper.translate(id.raw()).and_then(Id::new)
    }

    /// The lower id that an upper id is stored as; `None` if it is unmapped.
    #[inline]
    pub fn down(&self, id: Id<K, Upper>) -> Option<Id<K, Lower>> {
        self.to_lower.translate(id.raw()).and_then(Id::new)
    }

    /// The extents as they were written, in that order.
    pub fn extents(&self) -> &[Extent<K>] {
        &self.extents
    }

    /// The fewest extents that do the same, by rising lower id; for display and comparison.
    pub fn merged(&self) -> Vec<Extent<K>> {
        merge(&self.extents)
    }

    /// Whether every id is shown as itself.
    pub fn is_identity(&self) -> bool {
        let Range { from, to, count } = self.to_upper.largest;
        from == to && count == INVALID
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }
}

impl<K> Clone for IdMap<K> {
    fn clone(&self) -> Self {
        Self {
            extents: self.extents.clone(),
            to_upper: self.to_upper.clone(),
            to_lower: self.to_lower.clone(),
        }
    }
}
impl<K> PartialEq for IdMap<K> {
    fn eq(&self, other: &Self) -> bool {
        self.extents == other.extents // the indexes follow from them
    }
}
impl<K> Eq for IdMap<K> {}
impl<K> fmt::Debug for IdMap<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.extents).finish()
    }
}

/// The extents by rising lower id, neighbours that continue each other joined.
fn merge<K>(extents: &[Extent<K>]) -> Vec<Extent<K>> {
    let mut sorted = extents.to_vec();
    sorted.sort_unstable_by_key(|extent| extent.raw.lower);
    let mut merged: Vec<Extent<K>> = Vec::with_capacity(sorted.len());
    for extent in sorted {
        match merged.last_mut() {
            // Disjoint extents hold at most 2^32 − 1 ids together, so the sum fits.
            Some(last) if last.is_followed_by(&extent) => last.raw.count += extent.raw.count,
            _ => merged.push(extent),
        }
    }
    merged
}

fn check_disjoint<K: Kind>(extents: &[Extent<K>], side: Side) -> Result<(), MapError> {
    let first_id = |at: usize| match side {
        Side::Lower => extents[at].raw.lower,
        Side::Upper => extents[at].raw.upper,
    };
    let mut order: Vec<usize> = (0..extents.len()).collect();
    order.sort_by_key(|&at| first_id(at)); // stable: equal ones stay in the order written
    for pair in order.windows(2) {
        let (below, above) = (pair[0], pair[1]);
        let id = first_id(above);
        if id - first_id(below) < extents[below].raw.count {
            return Err(MapError::Overlap {
                kind: K::NAME,
                side,
                first: extents[below.min(above)].raw,
                second: extents[below.max(above)].raw,
                id,
            });
        }
    }
    Ok(())
}

/// The maps of a mount, for both kinds of id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    /// For users.
    pub uids: IdMap<Uid>,
    /// For groups.
    pub gids: IdMap<Gid>,
}

impl Maps {
    /// Every id is shown as itself.
    pub fn identity() -> Self {
        Self { uids: IdMap::identity(), gids: IdMap::identity() }
    }

    /// Whether every id of both kinds is shown as itself.
    pub fn is_identity(&self) -> bool {
        self.uids.is_identity() && self.gids.is_identity()
    }

    /// The user that a stored owner is shown as; `None` if it is unmapped.
    #[inline]
    pub fn up_uid(&self, id: LowerUid) -> Option<UpperUid> {
        self.uids.up(id)
    }

    /// The group that a stored group is shown as; `None` if it is unmapped.
    #[inline]
    pub fn up_gid(&self, id: LowerGid) -> Option<UpperGid> {
        self.gids.up(id)
    }

    /// The user that a shown user is stored as; `None` if it is unmapped.
    #[inline]
    pub fn down_uid(&self, id: UpperUid) -> Option<LowerUid> {
        self.uids.down(id)
    }

    /// The group that a shown group is stored as; `None` if it is unmapped.
    #[inline]
    pub fn down_gid(&self, id: UpperGid) -> Option<LowerGid> {
        self.gids.down(id)
    }
}

#[cfg(test)]
mod tests;
