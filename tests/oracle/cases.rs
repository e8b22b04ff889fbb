//! Hand-written cases: text files, one for each family, with the sequence of each case.
//!
//! `== name` starts a case. `maps NAME…` and `storage NAME…` before its steps narrow where it runs.

use crate::maps::{self, MapSpec};
use crate::step::Step;
use crate::storage;

pub struct Case {
    pub name: String,
    pub maps: Vec<MapSpec>,
    pub storage: Vec<&'static str>,
    pub steps: Vec<Step>,
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("cases/", $name, ".steps")))),*]
    };
}

const FILES: &[(&str, &str)] = files!["owners"];

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
                steps: Vec::new(),
            }),
            (_, None) => panic!("{file}: a step before the first case: {line}"),
            (["maps" | "map", names @ ..], Some(case)) => {
                case.maps = names.iter().map(|name| MapSpec::named(name).expect(name)).collect();
            }
            (["storage", names @ ..], Some(case)) => {
                case.storage.retain(|kind| names.contains(kind));
            }
            (_, Some(case)) => case.steps.extend(Step::parse(line)),
        }
    }
    cases
}
