//! The id-map library: pure, without I/O, property-tested.
//!
//! Everything here is a function of its arguments. Directions are always named from the stored
//! side: *lower* is what is on disk, *upper* is what a process sees through the mount; `up` goes
//! from lower to upper, `down` back.

pub mod access;
pub mod acl;
pub mod algebra;
pub mod attr;
pub mod capability;
pub mod deny_groups;
pub mod explain;
pub mod id;
pub mod idmap;
pub mod map_error;
pub mod ownership;
pub mod parse;
pub mod set_id;
pub mod sources;
pub mod unmapped;
pub mod xattr_error;
