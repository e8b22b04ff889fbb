//! The edge: between the FUSE library and [`crate::fs`]. Only these files name the library, so
//! that it can be replaced.

mod adapter;
mod backing;
mod convert;
pub mod negotiate;
pub mod session;
