//! Making and serving mounts.

pub mod fuse;
pub mod kernel;
pub mod serve;
