//! Making and serving mounts.

pub mod fuse;
pub mod serve;
