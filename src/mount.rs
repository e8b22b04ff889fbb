//! Asking for a mount and making it: options, what they need, the mount itself.
//! What keeps it afterwards is [`crate::daemon`].

pub mod acting;
pub mod check;
pub mod config;
pub mod consent;
pub(crate) mod detached;
pub mod dirs;
pub(crate) mod flags;
pub mod fuse_backend;
mod fusermount;
pub mod guard;
pub(crate) mod inherit;
pub(crate) mod intent;
pub mod kernel_backend;
pub mod options;
pub mod ownership;
pub mod policy_check;
pub mod remount;
pub(crate) mod times;
