//! Mounting and the program's commands: options, maps, reports, messages to the user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

mod commands;
#[path = "../common/mod.rs"]
mod common;
mod every_option;
mod explain;
mod first_steps;
mod json;
mod lifecycle;
mod maps;
mod older;
mod one_file;
mod options;
mod places;
mod status;

fn main() -> std::process::ExitCode {
    common::runner::main(common::modules!(
        commands, every_option, explain, first_steps, json, lifecycle, older, one_file, options, places, status; maps
    ))
}
