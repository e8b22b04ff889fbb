//! Servers that are killed or replaced while their mounts are used.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[path = "../common/mod.rs"]
mod common;
mod killed;
mod upgrade;

fn main() -> std::process::ExitCode {
    common::runner::main(common::modules!(killed, upgrade))
}
