//! `idshift map check`: whether a map is right, and who can take it.

use serde::Serialize;

use crate::cli::json;
use crate::error::StartError;
use crate::host::sources::Host;
use crate::shift::algebra::proc_text;
use crate::shift::id::Kind;
use crate::shift::idmap::{IdMap, Maps};
use crate::shift::map_error::MapError;

use super::{show, usage};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Says whether a map can be used: through FUSE, where the number of extents has no limit, and by \
the kernel (for an idmapped mount, or in /proc/PID/uid_map), which takes at most 340 lines and \
less than a page of text. Ends with 1 if the map is wrong.")]
pub(super) struct Args {
    /// Specs, which together are one map
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<String>,
    /// End with 1 also if only the kernel refuses the map
    #[arg(long)]
    kernel: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<u8, StartError> {
    let maps = match Maps::from_specs(&args.specs, &Host) {
        Ok(maps) => maps,
        Err(error) if args.json => {
            say!("{}", json::text(Invalid { valid: false, error: error.to_string() })?);
            return Ok(1);
        }
        Err(error) => return Err(usage(error)),
    };
    let page = rustix::param::page_size();
    let kernel = why_not_kernel(&maps.uids, page).or_else(|| why_not_kernel(&maps.gids, page));
    let code = u8::from(args.kernel && kernel.is_some());
    if args.json {
        say!("{}", json::text(Checked::new(&maps, kernel))?);
    } else {
        tell!("{}", text(&maps, kernel.as_deref()));
    }
    Ok(code)
}

/// Why the kernel does not take it; `None` if it does.
fn why_not_kernel<K: Kind>(map: &IdMap<K>, page: usize) -> Option<String> {
    let error = proc_text(map, page).err()?;
    let joined = IdMap::new(map.merged()).and_then(|joined| {
        proc_text(&joined, page)?;
        Ok::<_, MapError>(joined.extents().len())
    });
    Some(match joined {
        Ok(lines) => {
            format!("{error}; written with neighbours joined it has {lines}, and would be taken")
        }
        Err(_) => error.to_string(),
    })
}

fn text(maps: &Maps, kernel: Option<&str>) -> String {
    let kernel = kernel.map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"));
    format!(
        "{}{}through FUSE: yes\nby the kernel: {kernel}\n",
        counted(&maps.uids),
        counted(&maps.gids)
    )
}

fn counted<K: Kind>(map: &IdMap<K>) -> String {
    let (extents, ids) = (map.extents().len(), show::ids(map));
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    format!("{}: {ids} id{} in {extents} extent{}\n", K::NAME, plural(ids), plural(extents as u64))
}

#[derive(Serialize)]
struct Invalid {
    valid: bool,
    error: String,
}

#[derive(Serialize)]
struct Checked {
    valid: bool,
    uids: Counts,
    gids: Counts,
    kernel: bool,
    why_not_kernel: Option<String>,
}

#[derive(Serialize)]
struct Counts {
    ids: u64,
    extents: usize,
    joined: usize,
}

impl Checked {
    fn new(maps: &Maps, why_not_kernel: Option<String>) -> Self {
        Self {
            valid: true,
            uids: Counts::of(&maps.uids),
            gids: Counts::of(&maps.gids),
            kernel: why_not_kernel.is_none(),
            why_not_kernel,
        }
    }
}

impl Counts {
    fn of<K: Kind>(map: &IdMap<K>) -> Self {
        let (extents, joined) = (map.extents().len(), map.merged().len());
        Self { ids: show::ids(map), extents, joined }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::shift::id::Uid;
    use crate::shift::idmap::Extent;

    fn map(count: u32, step: u32) -> IdMap<Uid> {
        let extents = (0..count).map(|at| Extent::from_raw(at * step, at * step, 1).unwrap());
        IdMap::new(extents.collect()).unwrap()
    }

    #[test]
    fn a_map_that_is_too_long_may_be_short_when_joined() {
        assert_eq!(why_not_kernel(&map(340, 2), 65_536), None);
        let why = why_not_kernel(&map(341, 2), 65_536).unwrap();
        assert!(why.contains("341 lines") && !why.contains("joined"), "{why}");
        let why = why_not_kernel(&map(341, 1), 65_536).unwrap();
        assert!(why.contains("341 lines") && why.contains("joined it has 1,"), "{why}");
        let why = why_not_kernel(&map(300, 2), 1000).unwrap();
        assert!(why.contains("at most 340 lines and 999 bytes"), "{why}");
    }
}
