//! What lies below a mount: other kinds of file systems, and changes that others make there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

mod acting;
mod coherent;
#[path = "../common/mod.rs"]
mod common;
mod lowers;
mod trees;

fn main() -> std::process::ExitCode {
    common::runner::main(common::modules!(lowers, trees; coherent, acting))
}
