//! Hand-written cases: text files, one for each family, with the sequence of each case.
//!
//! `== name` starts a case. `maps NAME…` and `storage NAME…` narrow where it runs. With
//! `callers NAME…` it runs once for each of them, in the place of `*`; with `values WORD…` once for
//! each of these, in the place of `$`. After `unwatched` nobody looks at files before the end:
//! looking refreshes what the kernel remembers of them. A `live` case needs the oracle itself, not a
//! recording of it.

use crate::maps::{self, MapSpec};
use crate::step::Step;
use crate::storage;
use crate::world::Watch;

pub struct Case {
    pub name: String,
    pub maps: Vec<MapSpec>,
    pub storage: Vec<&'static str>,
    /// Who `*` stands for, one after the other.
    callers: Vec<String>,
    /// What `$` stands for in arguments, one after the other.
    values: Vec<String>,
    steps: Vec<Step>,
    pub watch: Watch,
    pub live: bool,
}

impl Case {
    /// Whether the mount promises what the case expects: with `cache=exclusive` nobody else may
    /// change the lower tree once the mount is in use.
    pub fn suits(&self, options: &str) -> bool {
        let prepared = self.steps.iter().take_while(|step| step.caller == "lower").count();
        let alone = |step: &Step| step.caller == "*" || step.through_the_mount();
        !options.contains("cache=exclusive") || self.steps[prepared..].iter().all(alone)
    }

    /// The sequences to run: one for each caller and value; or, where `turn` is given, one for each
    /// caller, with the values taking turns.
    pub fn sequences(&self, turn: Option<usize>) -> Vec<Vec<Step>> {
        let fill = |step: &Step, caller: &str, value: &str| {
            let mut step = step.clone();
            if step.caller == "*" {
                caller.clone_into(&mut step.caller);
            }
            for arg in &mut step.args {
                *arg = arg.replace('$', value);
            }
            step
        };
        let mut sequences = Vec::new();
        for (number, caller) in self.callers.iter().enumerate() {
            let values: Vec<&String> = match turn {
                Some(turn) => vec![&self.values[(number + turn) % self.values.len()]],
                None => self.values.iter().collect(),
            };
            for value in values {
                sequences.push(self.steps.iter().map(|step| fill(step, caller, value)).collect());
            }
        }
        sequences
    }
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("cases/", $name, ".steps")))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "access",
    "acl",
    "capability",
    "chown",
    "data",
    "exec",
    "locks",
    "mounts",
    "names",
    "orphan",
    "owners",
    "privilege",
    "rename",
    "sticky",
    "times",
    "unmapped",
    "xattr",
];

/// All cases of all files.
pub fn all() -> Vec<Case> {
    FILES.iter().flat_map(|(file, text)| read(file, text)).collect()
}

/// The cases in a text. Names get the file's in front.
pub fn read(file: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> =
            line.split('#').next().unwrap_or_default().split_whitespace().collect();
        match (words.as_slice(), cases.last_mut()) {
            ([], _) => {}
            (["==", name @ ..], _) => cases.push(Case {
                name: format!("{file}: {}", name.join(" ")),
                maps: maps::ALL.to_vec(),
                storage: storage::KINDS.to_vec(),
                callers: vec!["*".into()],
                values: vec!["$".into()],
                steps: Vec::new(),
                watch: Watch::Touched,
                live: false,
            }),
            (_, None) => panic!("{file}: a step before the first case: {line}"),
            (["maps" | "map", names @ ..], Some(case)) => {
                case.maps = names.iter().map(|name| MapSpec::named(name).expect(name)).collect();
            }
            (["callers", names @ ..], Some(case)) => {
                case.callers = names.iter().map(|&name| name.to_owned()).collect();
            }
            (["values", words @ ..], Some(case)) => {
                case.values = words.iter().map(|&word| word.to_owned()).collect();
            }
            (["unwatched"], Some(case)) => case.watch = Watch::AtEnd,
            (["live"], Some(case)) => case.live = true,
            (["storage", names @ ..], Some(case)) => {
                case.storage.retain(|kind| names.contains(kind));
            }
            (_, Some(case)) => case.steps.extend(Step::parse(line)),
        }
    }
    cases
}
