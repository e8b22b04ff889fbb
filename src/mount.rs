//! Making and serving mounts.

pub mod acting;
pub mod check;
pub mod config;
pub mod consent;
pub mod daemon;
mod detached;
pub mod dirs;
mod facts;
mod flags;
pub mod fuse;
mod fusermount;
pub mod guard;
mod inherit;
mod intent;
pub mod keeper;
pub mod kernel;
pub mod log;
pub mod options;
pub mod ownership;
pub mod policies;
pub mod remount;
pub mod sandbox;
pub mod serve;
mod supervise;
mod times;
pub mod upgrade;
