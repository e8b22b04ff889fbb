//! `idshift unguard`: undo the guards of servers that have died.

use std::path::{Path, PathBuf};

use crate::error::StartError;
use crate::host::privilege::Standing;
use crate::mount::guard::{self, Seen};
use crate::plain;

/// Undo the guards (guard=) that killed servers have left on their lower directories
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Takes away what the option guard= has put over lower directories, where the server that asked for \
it has been killed and could not do so itself. The next mount by idshift does the same.

Guards that a running mount asks for stay; unmounting it undoes them.")]
pub struct Args {
    /// Only the guard of this lower directory; it is an error if a running mount keeps it
    lower: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    if Standing::of_this_process() != Standing::Root {
        return Err(StartError::Usage(
            "unguard: only root of the machine makes guards and undoes them".to_owned(),
        ));
    }
    let lower = args.lower.as_deref().map(resolved).transpose()?;
    let swept = guard::sweep(lower.as_deref())?;
    for Seen { lower, mode, .. } in &swept.undone {
        say!("{}: guard={} undone", plain::path(lower), mode.name());
    }
    for Seen { lower, mode, servers } in swept.left.iter().filter(|seen| !seen.servers.is_empty()) {
        let servers: Vec<String> = servers.iter().map(u32::to_string).collect();
        let keeps = format!(
            "guard={} is kept by a running mount (process {}); unmounting that undoes it",
            mode.name(),
            servers.join(", ")
        );
        if args.lower.is_some() {
            return Err(wrong(lower, keeps));
        }
        say!("{}: {keeps}", plain::path(lower));
    }
    match swept.failed.first() {
        Some((lower, why)) => Err(wrong(lower, format!("the guard: {why}"))),
        None => Ok(0),
    }
}

fn wrong(path: &Path, why: String) -> StartError {
    StartError::Path { role: "lower directory", path: path.to_owned(), why }
}

fn resolved(path: &Path) -> Result<PathBuf, StartError> {
    path.canonicalize().map_err(|error| wrong(path, format!("cannot be used: {error}")))
}
