//! `idshift ranges`: who uses which ids of this host, and which nobody does.

mod running;
mod show;

use super::progress::Progress;
use serde::Serialize;

use crate::cli::json;
use crate::error::StartError;
use crate::host::namespaces;
use crate::host::ranges::{self, Claim, Ranges, free};
use crate::plain;
use crate::shift::map_error::RawExtent;
use crate::shift::sources::Range;

/// List who uses which ids of this host, or propose ids that nobody uses
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(long_about = "\
Lists who uses which ids of this host: accounts and groups (/etc/passwd, /etc/group), ranges \
granted to users (/etc/subuid, /etc/subgid), user namespaces with their processes, and running \
idshift mounts. Ids that two have who should not are marked with '!'.

Not seen are accounts that are kept elsewhere (LDAP), the maps of the kernel's own idmapped \
mounts, and what only lies on disk.")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Propose neighbouring ids that nobody uses, neither as uids nor as gids
    Free {
        /// How many
        #[arg(default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    let running = running::mounts();
    let mut ranges = {
        let mut progress = Progress::on_stderr();
        ranges::collect(running.mounts, &mut |done, of| {
            progress.tell(|| format!("{done} of {of} processes looked at"));
        })
    };
    ranges.notes.extend(running.notes);
    match args.command {
        Some(Command::Free { count, json }) => propose(&ranges, count, json)?,
        None if args.json => say!("{}", json::text(show::Listed::from(&ranges))?),
        None => tell!("{}", plain::lines(&show::text(&ranges))),
    }
    Ok(0)
}

#[derive(Serialize)]
struct Proposed {
    first: u32,
    last: u32,
    count: u32,
    map: String,
}

fn propose(ranges: &Ranges, count: u32, json: bool) -> Result<(), StartError> {
    let own = namespaces::maps_in("/proc/self".as_ref()).map_err(|source| StartError::System {
        what: "cannot read which ids exist here".to_owned(),
        source,
    })?;
    let claims = ranges.uids.iter().chain(&ranges.gids);
    let mut busy: Vec<Range> = claims
        .filter(|claim| !claim.is_as_on_host())
        .map(|&Claim { first, count, .. }| Range { first, count })
        .collect();
    // A gid that does not exist here counts as busy: the range is for both kinds.
    busy.extend(gaps(&own.gids));
    let existing: Vec<Range> =
        own.uids.iter().map(|own| Range { first: own.lower, count: own.count }).collect();
    let first = free::find(count, &busy, &existing).map_err(|largest| none_free(count, largest))?;
    let last = first + (count - 1);
    show::notes(&ranges.notes);
    if json {
        let map = format!("b:0:{first}:{count}");
        say!("{}", json::text(Proposed { first, last, count, map })?);
    } else {
        say!(
            "{first}–{last} ({count} ids): nobody uses these, neither as uids nor as gids\n\
             as a map:               b:0:{first}:{count}\n\
             to keep them for NAME:  usermod --add-subuids {first}-{last} --add-subgids \
             {first}-{last} NAME"
        );
    }
    Ok(())
}

/// The ids that a namespace lacks, out of all.
fn gaps(own: &[RawExtent]) -> Vec<Range> {
    let mut sorted = own.to_vec();
    sorted.sort_unstable_by_key(|extent| extent.lower);
    let mut at = 0;
    let mut gaps = Vec::new();
    for extent in sorted {
        gaps.push(Range { first: at, count: extent.lower.saturating_sub(at) });
        at = extent.lower.saturating_add(extent.count);
    }
    gaps.push(Range { first: at, count: u32::MAX - at });
    gaps
}

fn none_free(count: u32, largest: Option<Range>) -> StartError {
    let most = match largest {
        None => "none of the ids that a range may be made of (100000–2147483647) is free here"
            .to_owned(),
        Some(Range { first, count: 1 }) => format!("only single ids such as {first} are free"),
        Some(Range { first, count }) => {
            let last = first + (count - 1);
            format!("the largest free range is {first}–{last}, {count} ids")
        }
    };
    StartError::Usage(format!("there are no {count} neighbouring ids that nobody uses: {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_do_not_exist_are_gaps() {
        let own = |lower, count| RawExtent { lower, upper: 0, count };
        let found: Vec<_> =
            gaps(&[own(10, 5), own(0, 2)]).into_iter().map(|gap| (gap.first, gap.count)).collect();
        assert_eq!(found, [(0, 0), (2, 8), (15, u32::MAX - 15)]);
        assert!(gaps(&[own(0, u32::MAX)]).iter().all(|gap| gap.count == 0));
    }

    #[test]
    fn what_is_left_is_named() {
        let text = |largest| none_free(9, largest).to_string();
        assert!(text(None).contains("none of the ids"));
        assert!(text(Some(Range { first: 7, count: 1 })).contains("single ids such as 7"));
        let some = text(Some(Range { first: 7, count: 2 }));
        assert!(some.starts_with("there are no 9 ") && some.ends_with("7–8, 2 ids"), "{some}");
    }
}
