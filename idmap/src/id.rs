//! User and group ids that know which kind they are and on which side of the mount they live.
//!
//! A raw `u32` enters only where the outside world hands one over: a FUSE request, a `stat`, an
//! xattr, the map parser. From there on the compiler keeps the sides and the kinds apart.
//!
//! ```compile_fail
//! use idmap::id::{LowerUid, UpperUid};
//! let lower = LowerUid::new(0).unwrap();
//! let upper: UpperUid = lower; // a stored id is not a shown id
//! ```
//!
//! ```compile_fail
//! use idmap::id::{LowerGid, LowerUid};
//! let uid = LowerUid::new(0).unwrap();
//! let gid: LowerGid = uid; // a user is not a group
//! ```
//!
//! ```compile_fail
//! use idmap::id::LowerUid;
//! let id: LowerUid = 1000.into(); // a plain number has neither kind nor side
//! ```

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// User ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uid {}
/// Group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gid {}

/// The two kinds of id, for messages.
pub trait Kind {
    /// The word that messages use.
    const NAME: &'static str;
    /// The prefix of this kind in a map spec.
    const PREFIX: &'static str;
}

impl Kind for Uid {
    const NAME: &'static str = "uid";
    const PREFIX: &'static str = "u";
}

impl Kind for Gid {
    const NAME: &'static str = "gid";
    const PREFIX: &'static str = "g";
}

/// The stored side: what is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lower {}
/// The shown side: what a process sees through the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {}

/// The raw value that stands for "no id" in every kernel interface: `(uid_t) -1`.
pub const INVALID: u32 = u32::MAX;

/// A user or group id (`K`) on one side of the mount (`S`). Never [`INVALID`].
pub struct Id<K, S> {
    raw: u32,
    tag: PhantomData<fn() -> (K, S)>,
}

/// A user id as stored.
pub type LowerUid = Id<Uid, Lower>;
/// A user id as shown.
pub type UpperUid = Id<Uid, Upper>;
/// A group id as stored.
pub type LowerGid = Id<Gid, Lower>;
/// A group id as shown.
pub type UpperGid = Id<Gid, Upper>;

impl<K, S> Id<K, S> {
    /// Root, on this side.
    pub const ROOT: Self = Self { raw: 0, tag: PhantomData };

    /// Tags a raw number with its kind and side; `None` for [`INVALID`], which is no id.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw == INVALID { None } else { Some(Self { raw, tag: PhantomData }) }
    }

    /// Tags a number that an extent holds.
    pub(crate) const fn of_extent(raw: u32) -> Self {
        debug_assert!(raw != INVALID);
        Self { raw, tag: PhantomData }
    }

    /// The number, for the kernel interface or the screen.
    pub const fn raw(self) -> u32 {
        self.raw
    }
}

impl<K, S> Clone for Id<K, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, S> Copy for Id<K, S> {}
impl<K, S> PartialEq for Id<K, S> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<K, S> Eq for Id<K, S> {}
impl<K, S> PartialOrd for Id<K, S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K, S> Ord for Id<K, S> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.raw.cmp(&other.raw)
    }
}
impl<K, S> Hash for Id<K, S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}
impl<K, S> fmt::Debug for Id<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl<K, S> fmt::Display for Id<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.raw, f)
    }
}
