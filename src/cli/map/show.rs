//! Printing maps: as specs, as lines for the kernel, as JSON.

use crate::cli::json;
use crate::error::StartError;
use crate::report::Extents;
use crate::shift::algebra::proc_text;
use crate::shift::id::Kind;
use crate::shift::idmap::{Extent, IdMap, Maps};
use crate::shift::map_error::{MapError, RawExtent};

use super::{Form, usage};

/// The kind of id whose lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LinesOf {
    /// For `/proc/PID/uid_map`
    Uid,
    /// For `/proc/PID/gid_map`
    Gid,
}

/// Prints a map.
pub(super) fn print(maps: &Maps, form: &Form) -> Result<(), StartError> {
    if form.json {
        say!("{}", json::text(Extents::from(maps))?);
    } else if let Some(kind) = form.lines {
        tell!("{}", lines(maps, kind)?);
    } else {
        tell!("{}", specs(maps));
    }
    Ok(())
}

/// What the kernel takes for one kind, within its limits.
pub(super) fn lines(maps: &Maps, kind: LinesOf) -> Result<String, StartError> {
    let page = rustix::param::page_size();
    let text = match kind {
        LinesOf::Uid => proc_text(&maps.uids, page),
        LinesOf::Gid => proc_text(&maps.gids, page),
    };
    text.map_err(|error| match error {
        MapError::Empty => StartError::Usage("there are no extents of that kind".to_owned()),
        error => usage(error),
    })
}

/// The map as specs, one a line: `b:` where users and groups are alike.
fn specs(maps: &Maps) -> String {
    let raw = |kind: &str, extent: RawExtent| format!("{kind}:{extent}\n");
    let uids: Vec<RawExtent> = maps.uids.extents().iter().map(Extent::raw).collect();
    let gids: Vec<RawExtent> = maps.gids.extents().iter().map(Extent::raw).collect();
    if uids == gids {
        return uids.into_iter().map(|extent| raw("b", extent)).collect();
    }
    let uids = uids.into_iter().map(|extent| raw("u", extent));
    uids.chain(gids.into_iter().map(|extent| raw("g", extent))).collect()
}

/// How many ids a map maps.
pub(super) fn ids<K: Kind>(map: &IdMap<K>) -> u64 {
    map.extents().iter().map(|extent| u64::from(extent.count())).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn map(specs: &str) -> Maps {
        Maps::from_partial_specs(&[specs], &crate::host::sources::Host).unwrap()
    }

    #[test]
    fn specs_that_are_printed_read_as_the_same() {
        for text in ["b:0:1:2 b:7:8:9", "u:0:1:2 g:0:1:3", "g:5:5:5", "u:1:2:3 u:9:9:1 g:1:2:3"] {
            assert_eq!(specs(&map(text)).split_whitespace().collect::<Vec<_>>().join(" "), text);
        }
    }

    #[test]
    fn lines_are_those_of_one_kind() {
        let both = map("u:0:1000:1 u:1:100000:5 g:7:8:9");
        assert_eq!(lines(&both, LinesOf::Uid).unwrap(), "0 1000 1\n1 100000 5\n");
        assert_eq!(lines(&both, LinesOf::Gid).unwrap(), "7 8 9\n");
        let error = lines(&map("u:0:0:1"), LinesOf::Gid).unwrap_err();
        assert_eq!(error.to_string(), "there are no extents of that kind");
    }
}
