//! User and group id maps, and arithmetic with them: what a container runtime needs to know before
//! it writes `/proc/PID/uid_map` or makes an idmapped mount. Pure: no I/O, no `unsafe`, no global
//! state.
//!
//! A map has two sides. For a mount they are the *lower* ids, which are stored on disk, and the
//! *upper* ids, which a process sees. For a user namespace lower is the id inside and upper the
//! id that the parent namespace has for it. [`IdMap::up`] goes from lower to upper, and
//! [`IdMap::down`] back. An id that the map does not cover is `None`, never itself.
//!
//! | module | what is in it |
//! |---|---|
//! | [`id`] | ids that carry their kind (user, group) and their side in their type |
//! | [`map`] | extents and maps; translation both ways |
//! | [`parse`] | map specs such as `b:0:100000:65536`, with error messages for people |
//! | [`algebra`] | invert, compose, intersect, subtract, split; the text for `/proc/PID/uid_map` |
//! | [`sources`] | what specs can refer to (files, namespaces, `/etc/subuid`); the caller looks it up |
//! | [`error`] | what can be wrong with a map |
//!
//! The limits are the kernel's (`kernel/user_namespace.c`, user_namespaces(7)): 340 extents, text of
//! less than a page, no id 4294967295, no overlap on either side.
//!
//! The same for C and Go is in `idmap/c`: see idmap(3).

#![forbid(unsafe_code)]

pub mod algebra;
pub mod error;
pub mod id;
pub mod map;
pub mod parse;
pub mod sources;

pub use algebra::{Split, compose, intersect, invert, proc_text, split, subtract};
pub use error::MapError;
pub use id::{Gid, LowerGid, LowerUid, Uid, UpperGid, UpperUid};
pub use map::{Extent, IdMap, Maps};

/// The examples of the README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
