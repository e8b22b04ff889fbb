//! The policies of a mount: who is shown, who may what, and what is kept where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[path = "../common/mod.rs"]
mod common;
mod consent;
mod deny_groups;
mod forbidden;
mod fuzz;
mod guard;
mod intent;
mod ownership;
mod present;
mod set_id;
mod unmapped;

fn main() -> std::process::ExitCode {
    common::runner::main(
        common::modules!(consent, deny_groups, forbidden, intent, ownership, present, set_id, unmapped; fuzz, guard),
    )
}
