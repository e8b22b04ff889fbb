//! The host around a mount: the package, man pages, container programs, the recipes in `contrib`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[path = "../common/mod.rs"]
mod common;
mod container_tools;
mod documented;
mod engines;
mod idmapped;
/// Lower file systems that a test makes.
#[path = "../lower/lowers/kinds.rs"]
#[allow(dead_code)] // the tests of lower file systems use all of it
mod kinds;
mod oci;
mod package;
mod pages;
mod recipes;
mod rootfs;
mod volumes;

fn main() -> std::process::ExitCode {
    common::runner::main(
        common::modules!(container_tools, package, pages, rootfs; oci, recipes, idmapped, volumes, engines, documented),
    )
}
