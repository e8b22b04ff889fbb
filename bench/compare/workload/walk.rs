//! Walking trees with find(1).

use std::process::{Command, Stdio};

use super::{Group, Measure, Workload};
use crate::failure::Result;
use crate::stage::run;
use crate::worker::Context;

pub(super) const WALK: Workload = Workload {
    quick: true,
    programs: &["find"],
    ..Workload::new("walk", Group::Macro, MEASURES, |c| walk(c, "tree", "find"))
};

const MEASURES: &[Measure] = &[
    Measure::new("find-cold", "find -ls of the tree, nothing cached").within(2.0).ahead(1.0 / 1.3),
    Measure::new("find-second", "the same right after"),
    Measure::new("find-warm", "the same once more").within(1.15),
];

pub(super) const LARGE_WALK: Workload = Workload {
    programs: &["find"],
    most_rounds: 3,
    ..Workload::new("walk-large", Group::Macro, LARGE, |c| walk(c, "large", "find-large"))
};

const LARGE: &[Measure] = &[
    Measure::new("find-large-cold", "find -ls of 200,000 files, nothing cached"),
    Measure::new("find-large-second", "the same right after"),
    Measure::new("find-large-warm", "the same once more"),
];

fn walk(c: &mut Context, tree: &str, measure: &str) -> Result<()> {
    let (tree, empty) = (c.path(tree), c.beside("empty"));
    let find = |path| run(Command::new("find").arg(path).arg("-ls").stdout(Stdio::null()));
    c.drop_caches()?;
    // The program itself is not what is measured.
    find(&empty)?;
    for state in ["cold", "second", "warm"] {
        c.once(&format!("{measure}-{state}"), 1, || find(&tree))?;
    }
    Ok(())
}
