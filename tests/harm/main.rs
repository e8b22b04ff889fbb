//! Callers and trees that mean harm; lower file systems and machines that fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod hostile;
mod sandbox;

fn main() -> std::process::ExitCode {
    common::runner::main(common::modules!(hostile, sandbox; faults))
}
