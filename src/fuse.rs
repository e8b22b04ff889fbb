//! The edge: between the kernel's FUSE protocol and [`crate::fs`]. Nothing outside this module
//! knows how requests arrive.
//!
//! It speaks the protocol itself. `docs/architecture.md` says what that gives that the FUSE
//! libraries do not.

mod backing;
pub mod connection;
mod counters;
mod device;
#[cfg(any(test, fuzzing))]
pub(crate) mod driver;
#[cfg(test)]
mod hostile;
pub mod negotiate;
pub mod notify;
mod reply;
mod report;
mod request;
pub mod root;
mod server;
mod unattached;
mod uring;
mod wire;
mod workers;
