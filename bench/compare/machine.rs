//! What was measured on, and which versions.

use std::fs;
use std::path::Path;

use crate::args::Args;
use crate::stage::Stage;
use crate::subject::{Kind, Role, Subject};

/// A label and what stands there.
pub(crate) type Fact = (String, String);

/// The machine, and the file system of the lower tree.
pub(crate) fn describe(stage: &Stage, args: &Args) -> Vec<Fact> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| rest.trim_start_matches([':', '\t', ' ']).trim().to_owned())
            .unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = field(&read("/proc/cpuinfo"), "model name");
    let virtual_machine = read("/proc/cpuinfo").contains("hypervisor");
    let kind = if virtual_machine { "virtual machine, " } else { "" };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let gib =
        memory.split(' ').next().and_then(|k| k.parse::<f64>().ok()).unwrap_or(0.0) / 1_048_576.0;
    let image = if args.dir.is_some() { "" } else { " in an image file (loop, direct I/O)" };
    let uname = rustix::system::uname();
    vec![
        ("CPU".into(), format!("{kind}{cpus} × {model}")),
        ("memory".into(), format!("{gib:.1} GiB")),
        ("kernel".into(), format!("Linux {}", uname.release().to_string_lossy())),
        ("lower file system".into(), format!("{}{image}", file_system(stage.base()))),
        ("tree".into(), format!("{} files", args.files())),
        ("data file".into(), format!("{} MiB", args.data_size() >> 20)),
        ("load before".into(), read("/proc/loadavg").split(' ').next().unwrap_or("").to_owned()),
    ]
}

/// The type of the mount that a directory is on.
fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// The version of a subject's program.
pub(crate) fn version(subject: &Subject) -> Option<Fact> {
    // The modes of idshift are one program.
    if let Kind::Idshift { options, .. } = &subject.kind
        && !options.is_empty()
    {
        return None;
    }
    let output = subject.version()?.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Some print the versions of their libraries first.
    let program = subject.name.split(' ').next().unwrap_or_default();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().find(|line| line.contains(program)).or_else(|| lines().next())?.to_owned();
    let mut line = line;
    if subject.role() == Role::Ours
        && let Some(commit) = commit()
    {
        line = format!("{line} ({commit})");
    }
    Some((subject.name.clone(), line))
}

/// The commit that was built, if this is a git checkout.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR")])
            .args(args)
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let id = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "src"])?;
    Some(if changed.is_empty() { format!("commit {id}") } else { format!("commit {id}, changed") })
}
