//! Writes the man pages and the completions of shells: `cargo run --example pages -- DIRECTORY`.
//! They are made from the program's own tables, so that they say what it does.

mod render;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: pages DIRECTORY");
        return ExitCode::from(1);
    };
    match render::write_all(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pages: cannot write to '{}': {error}", directory.display());
            ExitCode::from(2)
        }
    }
}
