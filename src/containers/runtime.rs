//! What `idshift runtime` does in front of an OCI runtime.
//!
//! On `create` and `run` it reads the bundle's `config.json` ([`config`]). Each mount that asks for an idmap gets a
//! mount of idshift, in a directory of its own ([`mounts`]), and the runtime gets a plain bind mount of that. Everything
//! else goes to the runtime as it is ([`command_line`], [`wrapper`]).

pub mod command_line;
pub mod config;
pub mod mounts;
pub mod request;
pub mod wrapper;
