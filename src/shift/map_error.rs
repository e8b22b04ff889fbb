//! What can be wrong with a map, in words for the person who wrote it.

use std::fmt;

/// The three numbers of an extent as they were given, checked or not: lower, upper, count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawExtent {
    /// The first lower id.
    pub lower: u32,
    /// The first upper id.
    pub upper: u32,
    /// How many ids.
    pub count: u32,
}

impl fmt::Display for RawExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.lower, self.upper, self.count)
    }
}

/// A side of the mount, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is stored.
    Lower,
    /// What is shown.
    Upper,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Lower => "lower (on disk)",
            Side::Upper => "upper (in the mount)",
        })
    }
}

/// Why a map cannot be used. Ends as a usage error at start-up, never as an errno of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// An extent of no ids.
    #[error("extent {extent}: the count is 0; an extent covers at least one id")]
    ZeroCount {
        /// The extent as given.
        extent: RawExtent,
    },
    /// An extent that starts at `(uid_t) -1`, which the kernel uses for "no id".
    #[error("extent {extent}: the {side} id 4294967295 is no id; the last one is 4294967294")]
    InvalidId {
        /// The extent as given.
        extent: RawExtent,
        /// The side that starts there.
        side: Side,
    },
    /// An extent that runs past the last id, 2^32 − 2.
    #[error(
        "extent {extent}: its {side} ids run to {last}, past the last id, 4294967294; \
         the count can be at most {most}"
    )]
    PastEnd {
        /// The extent as given.
        extent: RawExtent,
        /// The side that runs over.
        side: Side,
        /// The id that it would run to.
        last: u64,
        /// The largest count that fits.
        most: u32,
    },
    /// Two extents that cover one id on one side, so that one direction would be ambiguous.
    #[error("{kind} extents {first} and {second} overlap: both cover {side} {kind} {id}")]
    Overlap {
        /// "uid" or "gid".
        kind: &'static str,
        /// The side they share an id on.
        side: Side,
        /// The one that was written first.
        first: RawExtent,
        /// The other.
        second: RawExtent,
        /// The smallest id that both cover.
        id: u32,
    },
}
