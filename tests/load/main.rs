//! Much at once and for long: big trees, other projects' test suites, many processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[path = "../common/mod.rs"]
mod common;
mod many;
mod mixed;
mod scale;
mod soak;
mod stress;
mod suites;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Tests start this program again for what several processes are to do.
    if let Some(task) = soak::task() {
        return soak::work(&task);
    }
    if let Some(task) = stress::task() {
        return stress::work(&task);
    }
    common::runner::main(common::modules!(mixed, scale, suites; many, soak, stress))
}
