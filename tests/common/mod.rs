//! What all the tests share: the runner, the fixture that mounts, and the callers.
//!
//! Every file in `tests/` is a program of its own with `harness = false`. Its `main` comes from
//! [`tests!`]; the runner in [`runner`] runs each test as root and, in a second section, as an
//! ordinary user in a user namespace. What a machine lacks makes a test *ignored*, with the
//! reason printed.

// Each test program uses its own part of these helpers.
#![allow(dead_code, unused_imports, unused_macros)]

pub(crate) mod caller;
pub(crate) mod debian;
pub(crate) mod dice;
pub(crate) mod files;
pub(crate) mod inject;
pub(crate) mod kernel;
pub(crate) mod mount;
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

/// Makes `main` from the names of the test functions of this file. A function that is not named
/// here is dead code, so the compiler tells.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            common::runner::main(&[$((stringify!($name), $name as fn())),*])
        }
    };
}
pub(crate) use tests;

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
