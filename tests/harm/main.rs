//! Callers and trees that mean harm; lower file systems and machines that fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[cfg(target_arch = "x86_64")]
mod audit;
mod blocked;
#[path = "../common/mod.rs"]
mod common;
#[cfg(target_arch = "x86_64")]
mod descriptors;
mod faults;
mod hostile;
mod locks;
mod sandbox;
mod uring;

fn main() -> std::process::ExitCode {
    #[cfg(target_arch = "x86_64")]
    let all = common::modules!(hostile, blocked, locks, sandbox, descriptors, audit; faults, uring);
    // The calls of another process are made by hand on x86_64 only.
    #[cfg(not(target_arch = "x86_64"))]
    let all = common::modules!(hostile, blocked, locks, sandbox; faults, uring);
    common::runner::main(all)
}
