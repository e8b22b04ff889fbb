//! What shifting means: pure, without I/O, property-tested. Ids and id maps themselves are the
//! package `idmap`, which container runtimes can use alone.
//!
//! Everything here is a function of its arguments. Directions are always named from the stored
//! side: *lower* is what is on disk, *upper* is what a process sees through the mount; `up` goes
//! from lower to upper, `down` back.

pub use ::idmap::{algebra, error as map_error, id, map as idmap, parse, sources};

pub mod access;
pub mod acl;
pub mod attr;
pub mod capability;
pub mod deny_groups;
pub mod describe;
pub mod foreign;
pub mod ownership;
pub mod set_id;
pub mod unmapped;
pub mod xattr_error;
