//! The `idshift` program: all it does is run the command and turn its outcome into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    idshift::cli::run(std::env::args_os())
}
