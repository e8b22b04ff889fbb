//! The host around a mount: the package, man pages, container programs, the recipes in `contrib`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

#[path = "../common/mod.rs"]
mod common;
mod container_tools;
mod idmapped;
mod oci;
mod package;
mod pages;
mod recipes;
mod rootfs;
mod volumes;

fn main() -> std::process::ExitCode {
    common::runner::main(
        common::modules!(container_tools, package, pages, rootfs; oci, recipes, idmapped, volumes),
    )
}
