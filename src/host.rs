//! This machine: what is mounted where, what this process may do, what is possible here.

pub mod holders;
pub mod mountinfo;
pub mod privilege;
pub mod probe;
pub mod userns;
