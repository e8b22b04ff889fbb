//! idshift: a FUSE file system that shows a *lower* directory with its ownership shifted.
//!
//! The rooms, from the street to the cellar; imports run downwards only:
//!
//! | module | what is in it |
//! |---|---|
//! | [`cli`] | one file per command |
//! | [`host`] | this machine: what is possible here, namespaces, id maps on disk |
//! | [`containers`] | an OCI runtime in front of others, and a volume plugin: both start `idshift mount` |
//! | [`daemon`] | the processes that keep a mount |
//! | [`mount`] | asking for a mount and making it |
//! | [`fuse`] | the edge: alone in speaking the FUSE protocol |
//! | [`fs`] | what the file system does, one file per family of operations |
//! | [`lower`] | the lower tree: inodes, descriptors, credentials |
//! | [`state`] | what outlives a server that is killed |
//! | [`shift`] | pure: ids, id maps, their algebra, ACLs, capabilities |
//! | [`sys`] | typed system calls, the only `unsafe` |

#[macro_use] // first, so that all others have its macros
mod plain;
pub mod cli;
pub mod config;
pub mod containers;
pub mod daemon;
pub mod error;
pub mod fs;
pub mod fuse;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod host;
pub mod lower;
pub mod mount;
pub mod report;
#[cfg(test)]
mod rooms;
pub mod shift;
pub mod state;
#[allow(unsafe_code)]
pub mod sys;
