//! The oracle: the same calls on the kernel's own idmapped mount and on idshift, compared after
//! each step.
//!
//! | variable | |
//! |---|---|
//! | `IDSHIFT_ORACLE_STEPS` | random steps in all (10,000) |
//! | `IDSHIFT_ORACLE_SEED` | where the random sequences start |
//! | `IDSHIFT_ORACLE_FINDINGS` | a world's random sequences go on until so many differences (1) |
//! | `IDSHIFT_ORACLE_REPLAY` | a file with saved sequences, run alone |
//! | `IDSHIFT_ORACLE_STRICT` | the faults that are still to be mended count |
//! | `IDSHIFT_ORACLE_OPTIONS` | mount options for idshift, besides the map; `stack=identity`, `composed` or `wider`: a part of the map, or all of it, is the kernel's, on top of idshift's mount |
//! | `IDSHIFT_ORACLE_AGAINST` | `recorded`: the hand-written cases against what the oracle said elsewhere, as without being told where the kernel has no idmapped mounts |
//! | `IDSHIFT_ORACLE_RECORDING` | the file of that (`tests/oracle/recorded/…`) |
//! | `IDSHIFT_ORACLE_RECORD` | makes that file anew |
//! | `IDSHIFT_ORACLE_EVERY` | 7: of each case only each seventh sequence, for slow machines |
//! | `IDSHIFT_ORACLE_SERVER` | the idshift to run instead of the one that was built with the test |
//! | `IDSHIFT_TEST_KERNEL` | 5.4: takes from idshift what is newer than that kernel |
//! | `IDSHIFT_ORACLE_TESTED` | `kernel` or `bind` instead of idshift: tries the comparison itself |

// The callers make raw system calls, with arguments that a safe wrapper would refuse.
#![allow(unsafe_code)]
// In a test the panic is the failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Numbers go to and from the kernel's interfaces, whose types vary.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]
#![allow(clippy::format_push_string, clippy::format_collect)] // in a test the shorter way
#![allow(clippy::similar_names)] // the kernel's own names are
#![allow(missing_docs, unreachable_pub)] // a test program has no public items

mod caller;
mod calls;
mod cases;
mod deviations;
mod maps;
mod observe;
#[path = "../common/older.rs"]
mod older;
mod pool;
mod random;
mod side;
mod step;
#[path = "../common/storage.rs"]
mod storage;
mod sysctl;
mod tape;
mod trials;
mod worker;
mod world;

fn main() -> std::process::ExitCode {
    older::stand_in();
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(worker::MARK) {
        worker::main(&args[2..]);
        return std::process::ExitCode::SUCCESS;
    }
    if args.get(1).map(String::as_str) == Some(sysctl::MARK) {
        sysctl::keep(&args[2..]);
        return std::process::ExitCode::SUCCESS;
    }
    trials::run()
}
