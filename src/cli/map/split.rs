//! `idshift map split`: what was asked beside what can be written.

use serde::Serialize;

use crate::cli::json;
use crate::error::StartError;
use crate::report::{Extent, extents};
use crate::shift::algebra::{self, Split, proc_text};
use crate::shift::id::{Gid, Kind, Uid};
use crate::shift::idmap::{IdMap, Maps};

use super::{map_of, show, usage};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Cuts a map at the borders of a parent namespace's extents. The kernel takes a line of \
/proc/PID/uid_map only if all its ids lie in one extent of the parent namespace.

Both maps are in the order of /proc/PID/uid_map: the id inside first, then the id that the parent \
namespace has for it. An id that the parent does not have is an error.

Example: under the map '0 1000 1', '1 100000 65536' the line '0 0 100' has to be two lines:
  idshift map split --parent u:0:1000:1 --parent u:1:100000:65536 u:0:0:100")]
pub(super) struct Args {
    /// The map that is wanted, as specs
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<String>,
    /// The parent namespace's map, for example userns:PID; may be given several times
    #[arg(long, required = true, value_name = "SPEC")]
    parent: Vec<String>,
    /// Refuse a map that would have to be cut
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    form: super::Form,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), StartError> {
    let wanted = map_of(&args.specs)?;
    let parent = map_of(&args.parent)?;
    let uids = split(&wanted.uids, &parent.uids, args.exact)?;
    let gids = split(&wanted.gids, &parent.gids, args.exact)?;
    if let Some(kind) = args.form.lines {
        let written = Maps { uids: uids.written(), gids: gids.written() };
        tell!("{}", show::lines(&written, kind)?);
    } else if args.form.json {
        say!("{}", json::text(Both { uids: (&uids).into(), gids: (&gids).into() })?);
    } else {
        tell!("{}", [text::<Uid>(&uids), text::<Gid>(&gids)].concat());
    }
    Ok(())
}

/// Cuts the map of one kind, unless the kernel would refuse the result.
fn split<K: Kind>(
    wanted: &IdMap<K>,
    parent: &IdMap<K>,
    exact: bool,
) -> Result<Split<K>, StartError> {
    let split = algebra::split(wanted, parent).map_err(usage)?;
    if exact {
        split.exact().map_err(usage)?;
    }
    if !wanted.is_empty() {
        proc_text(&split.written(), rustix::param::page_size()).map_err(usage)?;
    }
    Ok(split)
}

fn text<K: Kind>(split: &Split<K>) -> String {
    let (asked, written) = (split.parts().len(), split.written().extents().len());
    if asked == 0 {
        return String::new();
    }
    let verdict = if split.is_split() {
        format!(
            "split: {asked} {} asked, {written} are written",
            if asked == 1 { "line is" } else { "lines are" }
        )
    } else {
        "can be written as asked".to_owned()
    };
    format!("{} map: {verdict}\n{split}", K::NAME)
}

#[derive(Serialize)]
struct Both {
    uids: Parts,
    gids: Parts,
}

#[derive(Serialize)]
struct Parts {
    split: bool,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    asked: Extent,
    written: Vec<Extent>,
}

impl<K: Kind> From<&Split<K>> for Parts {
    fn from(split: &Split<K>) -> Self {
        let part = |(asked, written): &(_, Vec<_>)| Part {
            asked: Extent::from(asked),
            written: extents(written),
        };
        Self { split: split.is_split(), parts: split.parts().iter().map(part).collect() }
    }
}
