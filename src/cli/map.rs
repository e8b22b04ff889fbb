//! `idshift map`: what a map does, and maps out of maps.

mod check;
mod show;
mod split;

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::json;
use crate::error::StartError;
use crate::host::namespaces;
use crate::host::sources::Host;
use crate::report::{Extents, extents};
use crate::shift::algebra;
use crate::shift::describe::describe;
use crate::shift::id::Kind;
use crate::shift::idmap::{IdMap, Maps};
use crate::shift::map_error::MapError;

/// Explain, check and compute with id maps
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say in words what the map made of these specs does
    Explain(Explain),
    /// Say whether a map is right, and who can take it
    Check(check::Args),
    /// Cut a map so that the kernel takes it under a parent namespace
    Split(split::Args),
    /// Go through one map and then another
    Compose(Compose),
    /// Turn a map around: what was shown is stored
    Invert(Invert),
    /// Enter the user namespace behind a file and wait for the end of stdin
    #[command(name = namespaces::ENTER, hide = true)]
    EnterNamespace {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// Map specs as in -o map=SPEC, for example b:0:100000:65536
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(long_about = "\
Goes through one map and then another: the ids that the first shows are those that the second \
stores. An id that the second does not have is left out, with a warning. Prints specs that \
'map=' takes.

Example: what the containers of alice see of files stored as 0, 1, 2, …, on the host:
  idshift map compose b:0:0:100 \"$(idshift map invert subuid:alice)\"")]
struct Compose {
    /// Two maps or more, each one word: several specs with blanks between are one map
    #[arg(required = true, num_args = 2.., value_name = "MAP")]
    maps: Vec<String>,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct Invert {
    /// Specs, which together are one map
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<String>,
    #[command(flatten)]
    form: Form,
}

/// How to print a map.
#[derive(Debug, clap::Args)]
struct Form {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the lines of one kind as newuidmap(1) and /proc/PID/uid_map take them
    #[arg(long, value_name = "KIND", conflicts_with = "json")]
    lines: Option<show::LinesOf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    match &args.command {
        Command::Explain(Explain { specs, json }) => {
            let maps = Maps::from_specs(specs, &Host).map_err(usage)?;
            if *json {
                say!("{}", json::text(Explained::from(&maps))?);
            } else {
                tell!("{}", describe(&maps));
            }
        }
        Command::Check(args) => return check::run(args),
        Command::Split(args) => split::run(args)?,
        Command::Compose(Compose { maps, form }) => show::print(&composed(maps)?, form)?,
        Command::Invert(Invert { specs, form }) => {
            let maps = map_of(specs)?;
            let (uids, gids) = (algebra::invert(&maps.uids), algebra::invert(&maps.gids));
            show::print(&Maps { uids, gids }, form)?;
        }
        Command::EnterNamespace { path } => namespaces::enter_and_wait(path),
    }
    Ok(0)
}

#[derive(Serialize)]
struct Explained {
    words: Vec<String>,
    written: Extents,
    joined: Extents,
}

impl From<&Maps> for Explained {
    fn from(maps: &Maps) -> Self {
        let (uids, gids) = (extents(&maps.uids.merged()), extents(&maps.gids.merged()));
        Self {
            words: describe(maps).lines().map(str::to_owned).collect(),
            written: maps.into(),
            joined: Extents { uids, gids },
        }
    }
}

/// One map out of specs; one kind of id may be left out.
fn map_of<S: AsRef<str>>(specs: &[S]) -> Result<Maps, StartError> {
    Maps::from_partial_specs(specs, &Host).map_err(usage)
}

fn composed(maps: &[String]) -> Result<Maps, StartError> {
    let mut maps = maps.iter().map(|map| map_of(&[map]));
    // clap has seen to it that there are two.
    let mut result = maps.next().unwrap_or(Err(usage(MapError::Empty)))?;
    for next in maps {
        let next = next?;
        result = Maps {
            uids: through(&result.uids, &next.uids),
            gids: through(&result.gids, &next.gids),
        };
    }
    if result.uids.is_empty() && result.gids.is_empty() {
        return Err(StartError::Usage(
            "nothing is left: no id that one map shows is an id that the next one stores; 'idshift \
             map explain' says what each of them does, and 'idshift map invert' turns one around"
                .to_owned(),
        ));
    }
    Ok(result)
}

/// Composes, and warns of ids that get lost.
fn through<K: Kind>(first: &IdMap<K>, second: &IdMap<K>) -> IdMap<K> {
    let result = algebra::compose(first, second);
    let (all, left) = (show::ids(first), show::ids(&result));
    if left < all {
        complain!(
            "idshift: {} of {all} {}s are left out: the map after does not store them",
            all - left,
            K::NAME
        );
    }
    result
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn usage(error: MapError) -> StartError {
    StartError::Usage(error.to_string())
}
