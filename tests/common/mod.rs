//! What all the tests share: the runner, the fixture that mounts, and the callers.
//!
//! Each family (`tests/FAMILY/main.rs`) is a program with `harness = false`. A module of it names its
//! tests with [`tests!`], the family names its modules with [`modules!`], and the runner in [`runner`]
//! runs each test as root and, in a second section, as an ordinary user in a user namespace. What
//! a machine lacks makes a test *ignored*, with the reason printed.
//!
//! A new file of tests is a module: `mod NAME;` and its name in `modules!`, both in the `main.rs` of the
//! family. Behind the semicolon there stand the modules that want no tests of others beside them.

// Each test program uses its own part of these helpers.
#![allow(dead_code, unused_imports, unused_macros)]

pub(crate) mod caller;
pub(crate) mod debian;
pub(crate) mod dice;
pub(crate) mod files;
pub(crate) mod inject;
pub(crate) mod kernel;
pub(crate) mod mount;
pub(crate) mod older;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod restart;
pub(crate) mod runner;
pub(crate) mod status;
pub(crate) mod storage;

pub(crate) use caller::Caller;
pub(crate) use files::*;
pub(crate) use mount::{BASE, MAP, Mount, UNMAPPED, lo};
pub(crate) use runner::{machine, skip};
pub(crate) use rustix::fs::{AtFlags, CWD, Mode, OFlags};
pub(crate) use rustix::io::Errno;

/// Names the test functions of this module. A function that is not named here is dead code, so the
/// compiler tells.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name as fn())),*];
    };
}
pub(crate) use tests;

/// The modules of a family: those whose tests run beside those of other modules, then those that run
/// alone, one module after the other.
macro_rules! modules {
    ($($beside:ident),* $(; $($alone:ident),*)?) => {
        &[
            $($crate::common::runner::Module {
                name: stringify!($beside),
                tests: $beside::TESTS,
                alone: false,
            },)*
            $($($crate::common::runner::Module {
                name: stringify!($alone),
                tests: $alone::TESTS,
                alone: true,
            },)*)?
        ]
    };
}
pub(crate) use modules;

/// Asserts that a call failed with this errno: `assert_errno!(unlink(p), Errno::PERM)`.
macro_rules! assert_errno {
    ($call:expr, $errno:expr) => {
        match $call {
            Ok(_) => panic!("{} succeeded, expected {:?}", stringify!($call), $errno),
            Err(seen) => assert_eq!(seen, $errno, "{}", stringify!($call)),
        }
    };
}
pub(crate) use assert_errno;

/// What a call may answer because others have been there first, or may do what this one may not.
pub(crate) fn is_in_the_way(errno: Errno) -> bool {
    [
        Errno::NOENT,
        Errno::EXIST,
        Errno::NOTEMPTY,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::ACCESS,
        Errno::PERM,
        Errno::INVAL, // a directory into itself; a hole in what is no file
        Errno::LOOP,
    ]
    .contains(&errno)
}
