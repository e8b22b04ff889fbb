//! This machine: what is mounted where, who has it open, what this process may do.

pub mod holders;
pub mod mountinfo;
pub mod privilege;
pub mod userns;
