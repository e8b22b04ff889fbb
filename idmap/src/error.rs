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
    /// A map spec, or a line of a file that one names, that cannot be read.
    #[error("map spec '{}': {why}", spec.escape_debug())]
    Spec {
        /// The spec as given; for a line of a file also the line.
        spec: String,
        /// What is wrong, and how a right one looks.
        why: String,
    },
    /// No spec was given, or only empty files.
    #[error("the map is empty; give one such as b:0:100000:65536, offset:100000 or identity")]
    Empty,
    /// Extents for one kind of id only.
    ///
    /// The kernel refuses such a map for an idmapped mount (`EINVAL`, `copy_mnt_idmap` in
    /// `fs/mnt_idmapping.c`): every id of the other kind would be unmapped.
    #[error(
        "the map has {given} extents but no {missing} extents, so every {missing} would be \
         unmapped and nobody could create a file; use b: for both kinds, or add {missing} extents \
         ({prefix}:0:0:4294967295 keeps them as they are)"
    )]
    MissingKind {
        /// "uid" or "gid": the kind that has extents.
        given: &'static str,
        /// The other kind.
        missing: &'static str,
        /// The prefix of the other kind.
        prefix: &'static str,
    },
    /// A wanted map uses an id that the parent namespace cannot map.
    #[error("extent {extent}: the parent namespace does not map {kind} {id}")]
    NotInParent {
        /// "uid" or "gid".
        kind: &'static str,
        /// The extent as wanted, in the order of `/proc/PID/uid_map`.
        extent: ProcExtent,
        /// The first id, as the parent namespace numbers it, that it does not map.
        id: u32,
    },
    /// A wanted extent would have to be split, and was asked for exactly.
    #[error(
        "{kind} extent {extent} lies in {parts} extents of the parent namespace; the kernel takes it \
         only in that many lines"
    )]
    WouldSplit {
        /// "uid" or "gid".
        kind: &'static str,
        /// The extent as wanted, in the order of `/proc/PID/uid_map`.
        extent: ProcExtent,
        /// How many lines it takes.
        parts: usize,
    },
    /// A map that the kernel does not take: more than 340 lines, or a page of text or more.
    #[error(
        "the {kind} map has {lines} lines and {bytes} bytes as text; the kernel takes at most \
         {max_lines} lines and {max_bytes} bytes"
    )]
    KernelLimit {
        /// "uid" or "gid".
        kind: &'static str,
        /// The number of extents.
        lines: usize,
        /// The length of the text.
        bytes: usize,
        /// The most extents.
        max_lines: usize,
        /// The most text.
        max_bytes: usize,
    },
}

/// An extent as a line of `/proc/PID/uid_map` has it: inside id, parent's id, count, with spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcExtent(pub RawExtent);

impl fmt::Display for ProcExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RawExtent { lower, upper, count } = self.0;
        write!(f, "{lower} {upper} {count}")
    }
}
