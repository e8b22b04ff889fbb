//! Programs that people run all day.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Group, Measure, Workload};
use crate::failure::{Result, Say};
use crate::stage::{Stage, run};
use crate::worker::Context;

pub(super) const COPY: Workload = Workload {
    programs: &["cp"],
    ..Workload::new("copy", Group::Macro, COPY_MEASURES, |c| {
        let (from, to) = (c.path("tree"), c.path("scratch/copy"));
        c.once("cp-a", 1, || run(Command::new("cp").arg("-a").arg(&from).arg(&to)))
    })
};

const COPY_MEASURES: &[Measure] = &[Measure::new("cp-a", "cp -a of the tree within the mount")];

pub(super) const GIT: Workload = Workload {
    programs: &["git"],
    prepare: Some(make_repository),
    ..Workload::new("git", Group::Macro, GIT_MEASURES, use_repository)
};

const GIT_MEASURES: &[Measure] = &[
    Measure::new("git-status", "git status in a clone of the tree, warm"),
    Measure::new("git-clone", "git clone of it within the mount, contents copied"),
];

fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args([
        "-c",
        "user.name=compare",
        "-c",
        "user.email=compare@localhost",
    ]);
    command.args(["-c", "gc.auto=0", "-c", "safe.directory=*"]);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}

fn make_repository(stage: &Stage) -> Result<()> {
    let repository = stage.lower().join("scratch/repository");
    run(Command::new("cp").arg("-r").arg(stage.lower().join("tree")).arg(&repository))?;
    run(git(&repository).args(["init", "--quiet"]))?;
    run(git(&repository).args(["add", "--all"]))?;
    run(git(&repository).args(["commit", "--quiet", "--message", "the tree"]))
}

fn use_repository(c: &mut Context) -> Result<()> {
    let (repository, clone) = (c.path("scratch/repository"), c.path("scratch/clone"));
    let status = || run(git(&repository).args(["status", "--porcelain"]));
    // The first one brings the index up to date.
    status()?;
    c.once("git-status", 1, status)?;
    c.once("git-clone", 1, || {
        run(git(Path::new("/"))
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(&repository)
            .arg(&clone))
    })
}

pub(super) const BUILD: Workload = Workload {
    programs: &["make", "cc"],
    prepare: Some(write_sources),
    ..Workload::new("build", Group::Macro, BUILD_MEASURES, |c| {
        let dir = c.path("scratch/source");
        c.once("make", 1, || run(Command::new("make").args(["-s", "-j2", "-C"]).arg(&dir)))
    })
};

const BUILD_MEASURES: &[Measure] = &[Measure::new("make", "make -j2 of 40 C files and 40 headers")];

fn write_sources(stage: &Stage) -> Result<()> {
    let dir = stage.lower().join("scratch/source");
    fs::create_dir(&dir).say("source")?;
    let mut objects = String::new();
    let mut all_headers = String::from("#include <stdio.h>\n");
    for n in 0..40 {
        let header = format!("int f{n}(int);\n#define VALUE{n} {n}\n");
        fs::write(dir.join(format!("f{n}.h")), header).say("header")?;
        all_headers.push_str(&format!("#include \"f{n}.h\"\n"));
        objects.push_str(&format!(" f{n}.o"));
    }
    for n in 0..40 {
        let next = (n + 1) % 40;
        let code = format!(
            "{all_headers}int f{n}(int x) {{ return x < 2 ? VALUE{n} : f{next}(x - 1) + printf(\"\"); }}\n"
        );
        fs::write(dir.join(format!("f{n}.c")), code).say("source")?;
    }
    fs::write(
        dir.join("main.c"),
        format!("{all_headers}int main(void) {{ return f0(40) < 0; }}\n"),
    )
    .say("source")?;
    fs::write(dir.join("Makefile"), format!("prog: main.o{objects}\n\tcc -o $@ $^\n"))
        .say("Makefile")
}

pub(super) const PACKAGE: Workload = Workload {
    programs: &["dpkg", "dpkg-deb"],
    prepare: Some(make_package),
    ..Workload::new("package", Group::Macro, PACKAGE_MEASURES, |c| {
        let (root, package) = (c.path("scratch/root"), c.path("scratch/package.deb"));
        c.once("dpkg-install", 1, || {
            run(Command::new("dpkg")
                .arg(format!("--root={}", root.display()))
                .args(["--force-bad-path", "--no-triggers", "--log=/dev/null", "--install"])
                .arg(&package))
        })
    })
};

const PACKAGE_MEASURES: &[Measure] = &[Measure::new(
    "dpkg-install",
    "dpkg --install of the tree as a package, with its fsync calls",
)];

fn make_package(stage: &Stage) -> Result<()> {
    let scratch = stage.lower().join("scratch");
    let (files, database) = (scratch.join("package"), scratch.join("root/var/lib/dpkg"));
    fs::create_dir_all(files.join("DEBIAN")).say("package")?;
    run(Command::new("cp").arg("-a").arg(stage.lower().join("tree")).arg(files.join("opt")))?;
    let control = "Package: compare\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: a tree\n";
    fs::write(files.join("DEBIAN/control"), control).say("control")?;
    let package = scratch.join("package.deb");
    run(Command::new("dpkg-deb")
        .args(["-Znone", "--root-owner-group", "--build"])
        .arg(&files)
        .arg(package))?;
    fs::remove_dir_all(&files).say("package")?;
    for dir in ["info", "updates", "triggers"] {
        fs::create_dir_all(database.join(dir)).say("dpkg's state")?;
    }
    fs::write(database.join("status"), "").say("dpkg's state")
}
