//! What is compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Args;
use crate::client;
use crate::floor;
use crate::stage::{OFFSET, Stage};
use crate::workload::Workload;

/// One way to show the lower tree.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The name in all tables.
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// How it is mounted.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A bind mount, nothing shifted: what the lower file system itself does.
    Native,
    /// The kernel's idmapped mount: the limit.
    Kernel {
        idshift: PathBuf,
    },
    /// idshift with these options.
    Idshift {
        program: PathBuf,
        options: String,
    },
    /// A server that does nothing, which sleeps at once or looks for the next request first.
    Floor {
        looking: bool,
    },
    /// A FUSE peer.
    Bindfs {
        program: PathBuf,
    },
    FuseOverlayfs {
        program: PathBuf,
    },
    PassthroughHp {
        program: PathBuf,
    },
}

impl Subject {
    fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }

    /// Whether ids are shifted.
    pub(crate) fn shifts(&self) -> bool {
        !matches!(self.kind, Kind::Native | Kind::PassthroughHp { .. })
    }

    /// Which part the subject has in the comparison.
    pub(crate) fn role(&self) -> Role {
        match self.kind {
            Kind::Native => Role::Native,
            Kind::Kernel { .. } => Role::Kernel,
            Kind::Idshift { .. } => Role::Ours,
            Kind::Floor { .. } => Role::Floor,
            _ => Role::Peer,
        }
    }

    /// Whether the workload can run on it: contents read as zeros on the floor.
    pub(crate) fn takes(&self, workload: &Workload) -> bool {
        const NAMES_ONLY: [&str; 4] = ["micro", "walk", "untar", "clients-metadata"];
        self.role() != Role::Floor || NAMES_ONLY.contains(&workload.name)
    }

    /// The program that serves it, in the foreground; `None` if the kernel does that alone.
    pub(crate) fn server(&self, stage: &Stage, point: &Path) -> Option<Command> {
        let lower = stage.lower();
        match &self.kind {
            Kind::Native | Kind::Kernel { .. } => None,
            Kind::Idshift { program, options } => {
                let mut all = format!("map=b:0:{OFFSET}:65536,log=warn");
                if !options.is_empty() {
                    all = format!("{all},{options}");
                }
                let mut command = Command::new(program);
                command.args(["mount", "-f", "-o", &all]).arg(lower).arg(point);
                Some(command)
            }
            Kind::Floor { looking } => {
                let mut command = Command::new(std::env::current_exe().ok()?);
                command.arg(floor::COMMAND).arg(lower).arg(point);
                command.args(looking.then_some("looking"));
                Some(command)
            }
            Kind::Bindfs { program } => {
                let mut command = Command::new(program);
                command
                    .arg("-f")
                    .args([format!("--uid-offset={OFFSET}"), format!("--gid-offset={OFFSET}")]);
                command.arg(lower).arg(point);
                Some(command)
            }
            Kind::FuseOverlayfs { program } => {
                let base = stage.base().display();
                let map = format!("0:{OFFSET}:65536");
                let mut command = Command::new(program);
                command.args(["-f", "-o"]).arg(format!(
                    "lowerdir={base}/empty,upperdir={},workdir={base}/work,\
                     uidmapping={map},gidmapping={map}",
                    lower.display()
                ));
                command.arg(point);
                Some(command)
            }
            Kind::PassthroughHp { program } => {
                let mut command = Command::new(program);
                command.args(["-f", "-o", "allow_other,default_permissions"]);
                command.arg(lower).arg(point);
                Some(command)
            }
        }
    }

    /// The command that says which version the program has.
    pub(crate) fn version(&self) -> Option<Command> {
        let (Kind::Idshift { program, .. }
        | Kind::Bindfs { program }
        | Kind::FuseOverlayfs { program }
        | Kind::PassthroughHp { program }) = &self.kind
        else {
            return None;
        };
        let mut command = Command::new(program);
        command.arg("--version");
        Some(command)
    }
}

/// Which part a subject has in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Native,
    Kernel,
    Ours,
    Floor,
    Peer,
}

/// What is left out: its name, and why.
pub(crate) type LeftOut = Vec<(String, String)>;

/// All subjects that this machine has and that do their job, and those that are left out.
pub(crate) fn find(args: &Args, stage: &Stage) -> (Vec<Subject>, LeftOut) {
    let mut subjects = Vec::new();
    let mut left_out = Vec::new();
    let candidates = candidates(args);
    let names: Vec<String> = candidates.iter().map(|(name, _)| name.clone()).collect();
    for (name, candidate) in candidates {
        // A whole name means that subject alone.
        let is_meant = |word: &String| {
            if names.contains(word) { name == *word } else { name.contains(word.as_str()) }
        };
        let wanted = args.subject.is_empty() || name == "kernel";
        if !wanted && !args.subject.iter().any(is_meant) {
            continue;
        }
        let fit = candidate.and_then(|kind| {
            let subject = Subject::new(&name, kind);
            client::check(stage, &subject).map(|()| subject)
        });
        match fit {
            Ok(subject) => subjects.push(subject),
            Err(why) => left_out.push((name, why)),
        }
    }
    (subjects, left_out)
}

fn candidates(args: &Args) -> Vec<(String, Result<Kind, String>)> {
    let idshift = PathBuf::from(env!("CARGO_BIN_EXE_idshift"));
    let mut list = vec![
        ("native".to_owned(), Ok(Kind::Native)),
        ("kernel".to_owned(), Ok(Kind::Kernel { idshift: idshift.clone() })),
    ];
    let mut ours = |name: String, program: &Path, options: &str| {
        let (program, options) = (program.to_owned(), options.to_owned());
        list.push((name, Ok(Kind::Idshift { program, options })));
    };
    ours("idshift".to_owned(), &idshift, "");
    let modes: &[&str] = if args.quick {
        &["cache=exclusive"]
    } else {
        &[
            "cache=none",
            "cache=ttl:1",
            "cache=exclusive",
            "cache=coherent",
            "io=passthrough",
            "io=cached",
            "cache=exclusive,io=cached",
        ]
    };
    for options in modes.iter().copied().chain(args.idshift_options.iter().map(String::as_str)) {
        ours(format!("idshift {options}"), &idshift, options);
    }
    for program in &args.idshift {
        ours(format!("idshift ({})", label(program)), program, "");
    }
    for (name, looking) in [("floor", false), ("floor, looking", true)] {
        list.push((name.to_owned(), Ok(Kind::Floor { looking })));
    }
    list.push(("bindfs".to_owned(), installed("bindfs").map(|program| Kind::Bindfs { program })));
    list.extend(overlays(args));
    if let Some(program) = args.passthrough_hp.clone() {
        list.push(("passthrough_hp".to_owned(), Ok(Kind::PassthroughHp { program })));
    }
    list
}

/// The two programs named fuse-overlayfs are told apart by their versions: 1.x in C, 2.x in Rust.
fn overlays(args: &Args) -> Vec<(String, Result<Kind, String>)> {
    let mut programs = args.fuse_overlayfs.clone();
    programs.extend(std::env::var_os("FUSE_OVERLAYFS").map(PathBuf::from));
    programs
        .extend(std::env::var_os("HOME").map(|h| Path::new(&h).join(".cargo/bin/fuse-overlayfs")));
    programs.extend(installed("fuse-overlayfs"));
    let mut list: Vec<(String, Result<Kind, String>)> = Vec::new();
    for program in programs.into_iter().filter(|program| program.exists()) {
        let name = format!("fuse-overlayfs {}", number(&program));
        if !list.iter().any(|(known, _)| *known == name) {
            list.push((name, Ok(Kind::FuseOverlayfs { program })));
        }
    }
    if !list.iter().any(|(name, _)| name.starts_with("fuse-overlayfs 2")) {
        let how = "not installed (cargo install fuse-overlayfs --version 2.0.0)";
        list.push(("fuse-overlayfs 2".to_owned(), Err(how.to_owned())));
    }
    list
}

/// The version in the line that names the program; others print those of their libraries as well.
fn number(program: &Path) -> String {
    let printed = Command::new(program).arg("--version").output().ok();
    let printed = printed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    printed
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains("fuse-overlayfs"))
        .flat_map(str::split_whitespace)
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .unwrap_or("?")
        .to_owned()
}

fn label(program: &Path) -> String {
    let parts: Vec<_> = program.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
    parts.iter().rev().map(AsRef::as_ref).collect::<Vec<_>>().join("/")
}

fn installed(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|program| program.exists())
        .ok_or_else(|| "not installed".to_owned())
}
