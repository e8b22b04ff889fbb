//! What is done on each subject, and what is measured in it.

use crate::failure::Result;
use crate::stage::Stage;
use crate::worker::Context;

mod data;
mod mapping;
mod micro;
mod parallel;
mod programs;
mod server;
mod tar;
mod walk;

/// One piece of work, run in one go on a fresh mount.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    pub(crate) measures: &'static [Measure],
    /// Part of the quick set.
    pub(crate) quick: bool,
    /// Programs that it runs.
    pub(crate) programs: &'static [&'static str],
    /// Long ones are repeated less.
    pub(crate) most_rounds: usize,
    /// Done on the lower tree before it is mounted.
    pub(crate) prepare: Option<fn(&Stage) -> Result<()>>,
    pub(crate) run: fn(&mut Context) -> Result<()>,
}

impl Workload {
    const fn new(
        name: &'static str,
        group: Group,
        measures: &'static [Measure],
        run: fn(&mut Context) -> Result<()>,
    ) -> Self {
        Self {
            name,
            group,
            measures,
            quick: false,
            programs: &[],
            most_rounds: usize::MAX,
            prepare: None,
            run,
        }
    }

    /// Whether it, its group or one of its measures has one of these words in its name.
    pub(crate) fn is_named(&self, words: &[String]) -> bool {
        words.iter().any(|word| {
            self.name.contains(word.as_str())
                || self.group.title().to_lowercase().contains(word.as_str())
                || self.measures.iter().any(|measure| measure.name.contains(word.as_str()))
        })
    }

    /// The measures that these words ask for; none means all.
    pub(crate) fn wanted_measures(&self, words: &[String]) -> Vec<String> {
        let mut wanted: Vec<String> = words.to_vec();
        wanted.retain(|word| self.measures.iter().any(|m| m.name.contains(word.as_str())));
        // Named as a whole, it is run as a whole.
        let whole = words.iter().any(|word| {
            self.name.contains(word.as_str())
                || self.group.title().to_lowercase().contains(word.as_str())
        });
        if whole { Vec::new() } else { wanted }
    }

    /// A program that it needs and that is not installed.
    pub(crate) fn missing_program(&self) -> Option<&'static str> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.programs
            .iter()
            .copied()
            .find(|program| !std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
    }
}

/// The tables of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Micro,
    Macro,
    Data,
    Parallel,
    Server,
}

impl Group {
    pub(crate) const ALL: [Group; 5] =
        [Group::Micro, Group::Macro, Group::Data, Group::Parallel, Group::Server];

    /// The heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Group::Micro => "Micro: one operation",
            Group::Macro => "Macro: a whole job",
            Group::Data => "Data",
            Group::Parallel => "Parallel clients",
            Group::Server => "The server itself",
        }
    }
}

/// One number of a workload. Less is better in all of them.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    /// What one operation of it is.
    pub(crate) what: &'static str,
    /// What idshift is to reach.
    pub(crate) target: Target,
}

/// What idshift is to reach, as ratios of medians.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// At most this many times the kernel's idmapped mount.
    pub(crate) kernel: Option<f64>,
    /// At most this many times the best peer.
    pub(crate) peer: Option<f64>,
}

const NO_TARGET: Target = Target { kernel: None, peer: None };

impl Measure {
    const fn new(name: &'static str, what: &'static str) -> Self {
        Self { name, what, target: NO_TARGET }
    }

    /// With a limit against the kernel's mount.
    const fn within(self, kernel: f64) -> Self {
        let target = Target { kernel: Some(kernel), peer: self.target.peer };
        Self { name: self.name, what: self.what, target }
    }

    /// With a limit against the best peer: 0.5 is twice as fast.
    const fn ahead(self, peer: f64) -> Self {
        let target = Target { kernel: self.target.kernel, peer: Some(peer) };
        Self { name: self.name, what: self.what, target }
    }
}

/// Every workload, in the order in which they run.
pub(crate) static ALL: &[Workload] = &[
    CHECK,
    micro::MICRO,
    walk::WALK,
    tar::READ,
    tar::WRITE,
    programs::COPY,
    programs::GIT,
    programs::BUILD,
    programs::PACKAGE,
    walk::LARGE_WALK,
    data::SEQUENTIAL,
    data::RANDOM,
    mapping::MAPPED,
    parallel::METADATA,
    parallel::CONTENTS,
    server::IDLE,
];

/// Whether a subject can be compared at all; not measured.
const CHECK: Workload = Workload::new("check", Group::Server, &[], |context| {
    use crate::failure::Say;
    std::fs::write(context.path("scratch/made"), "x").say("mapped root cannot make a file")
});

/// The workload of this name.
pub(crate) fn find(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|workload| workload.name == name)
}

/// Prints what there is.
pub(crate) fn list() {
    for workload in ALL.iter().filter(|workload| !workload.measures.is_empty()) {
        let quick = if workload.quick { ", in --quick" } else { "" };
        println!("{} ({}{quick})", workload.name, workload.group.title());
        for measure in workload.measures {
            println!("    {:22} {}", measure.name, measure.what);
        }
    }
}
