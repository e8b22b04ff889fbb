//! `idshift map`: what a map does, in words.

use std::path::Path;

use crate::error::StartError;
use crate::shift::explain::explain;
use crate::shift::idmap::Maps;

/// Explain id maps
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say in words what the map made of these specs does
    Explain {
        /// Map specs as in -o map=SPEC, for example b:0:100000:65536
        #[arg(required = true, value_name = "SPEC")]
        specs: Vec<String>,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    let Command::Explain { specs } = &args.command;
    let read = |path: &Path| std::fs::read_to_string(path);
    let maps =
        Maps::from_specs(specs, &read).map_err(|error| StartError::Usage(error.to_string()))?;
    print!("{}", explain(&maps));
    Ok(0)
}
