//! Making and serving mounts.

pub mod check;
pub mod daemon;
pub mod fuse;
pub mod log;
pub mod options;
pub mod remount;
pub mod serve;
