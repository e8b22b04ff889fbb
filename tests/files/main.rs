//! What is done with files through a mount: one module for each family of operations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[path = "../common/mod.rs"]
mod common;
mod create;
mod dir;
mod idmap;
mod ids;
mod io;
mod ioctl;
mod locks;
mod lookup;
mod open_flags;
mod rename;
mod setattr;
mod statfs;
mod times;
mod xattr;

fn main() -> std::process::ExitCode {
    common::runner::main(common::modules!(
        create, dir, idmap, io, ioctl, ids, locks, lookup, open_flags, rename, setattr, statfs,
        times, xattr
    ))
}
