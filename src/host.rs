//! This machine: what is mounted where, who has it open, what this process may do, which ids are
//! whose.

pub mod cgroups;
pub mod holders;
pub mod mountinfo;
pub mod namespaces;
pub mod privilege;
pub mod ranges;
pub mod sources;
pub mod subids;
pub mod userns;
