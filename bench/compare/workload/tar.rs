//! tar(1) in both directions, and removing what it made.

use std::io::Read;
use std::process::{Command, Stdio};

use super::{Group, Measure, Workload};
use crate::failure::{Result, Say};
use crate::stage::run;
use crate::worker::Context;

pub(super) const READ: Workload = Workload {
    quick: true,
    programs: &["tar"],
    ..Workload::new("tar", Group::Macro, READ_MEASURES, read)
};

const READ_MEASURES: &[Measure] = &[
    Measure::new("tar-cold", "tar of the tree into a pipe, nothing cached"),
    Measure::new("tar-warm", "the same right after").within(4.0),
];

pub(super) const WRITE: Workload = Workload {
    quick: true,
    programs: &["tar", "rm"],
    ..Workload::new("untar", Group::Macro, WRITE_MEASURES, write)
};

const WRITE_MEASURES: &[Measure] = &[
    Measure::new("untar", "untar the tree as root, with owners and modes").within(6.0).ahead(0.4),
    Measure::new("rm-rf", "rm -rf of it").within(1.3),
];

fn read(c: &mut Context) -> Result<()> {
    let (tree, empty) = (c.path("tree"), c.beside("empty"));
    // Into /dev/null tar would read nothing.
    let tar = |path: &std::path::Path| {
        let mut child = Command::new("tar")
            .args(["-cf", "-", "-C"])
            .arg(path)
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .say("tar")?;
        let mut out = child.stdout.take().ok_or("no pipe")?;
        let mut buffer = vec![0; 1 << 16];
        while out.read(&mut buffer).say("the pipe")? > 0 {}
        if child.wait().say("tar")?.success() { Ok(()) } else { Err("tar failed".to_owned()) }
    };
    c.drop_caches()?;
    tar(&empty)?;
    c.once("tar-cold", 1, || tar(&tree))?;
    c.once("tar-warm", 1, || tar(&tree))
}

fn write(c: &mut Context) -> Result<()> {
    let (archive, scratch) = (c.beside("tree.tar"), c.path("scratch"));
    let untar = || {
        run(Command::new("tar")
            .args(["--numeric-owner", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(&scratch))
    };
    c.once("untar", 1, untar)?;
    c.once("rm-rf", 1, || run(Command::new("rm").arg("-rf").arg(scratch.join("tree"))))
}
