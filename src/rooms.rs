//! Holds the code to the picture in docs/architecture.md: imports run one way between the rooms,
//! and few files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each room and the rooms it may import from, all of which come later in the list.
const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "containers",
            "daemon",
            "mount",
            "host",
            "fuse",
            "fs",
            "lower",
            "report",
            "config",
            "shift",
            "sys",
        ],
    ),
    ("containers", &["host"]),
    (
        "daemon",
        &["mount", "host", "fuse", "fs", "lower", "state", "report", "config", "shift", "sys"],
    ),
    ("mount", &["host", "fuse", "fs", "lower", "config", "shift", "sys"]),
    ("host", &["shift", "sys"]),
    ("fuse", &["fs", "lower", "state", "report", "config", "shift", "sys"]),
    ("fs", &["lower", "state", "config", "shift", "sys"]),
    ("lower", &["state", "shift", "sys"]),
    ("state", &["sys"]),
    ("report", &["shift"]),
    ("config", &["shift"]),
    ("shift", &[]),
    ("sys", &[]),
];

/// What every room may use.
const EVERYWHERE: [&str; 2] = ["error", "plain"];

/// The imports against the direction, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // The value of the option `log` is checked by what will read it.
    ("mount::options::values", "daemon::log"),
];

/// What only tests and fuzz targets have, and the list of the rooms.
const NO_PART: [&str; 5] = ["lib", "rooms", "fuzz", "fuse::driver", "fuse::hostile"];

/// More files than these must not import each other in a circle.
const CIRCLE: usize = 3;

/// The modules with a file of their own, and what each imports of the others.
struct Imports(BTreeMap<String, BTreeSet<String>>);

impl Imports {
    fn read() -> Self {
        let mut texts = BTreeMap::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut texts);
        let names: BTreeSet<String> = texts.keys().cloned().collect();
        Self(texts.iter().map(|(name, text)| (name.clone(), imports(name, text, &names))).collect())
    }

    /// What can be reached from `start`, in any number of steps. A file belongs to those it lies
    /// below: its imports of them do not count.
    fn reached(&self, start: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut next = vec![start];
        while let Some(module) = next.pop() {
            for to in self.0.get(module).into_iter().flatten() {
                let is_above =
                    module.strip_prefix(to.as_str()).is_some_and(|rest| rest.starts_with("::"));
                if !is_above && found.insert(to.as_str()) {
                    next.push(to);
                }
            }
        }
        found
    }
}

/// Reads the files below `dir`, whose module is `module`, but for tests and fuzz targets.
fn collect(dir: &Path, module: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name = if module.is_empty() { stem.to_owned() } else { format!("{module}::{stem}") };
        if NO_PART.contains(&name.as_str()) || stem == "tests" {
            continue;
        }
        if path.is_dir() {
            collect(&path, &name, texts);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            texts.insert(name, code(&text));
        }
    }
}

/// The code of a file, without comments and the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// The other modules that the code of `module` names.
fn imports(module: &str, text: &str, names: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in paths(text) {
        let mut base = module.to_owned();
        let mut rest = path.as_str();
        if let Some(after) = rest.strip_prefix("crate::").or_else(|| rest.strip_prefix("idshift::"))
        {
            (base, rest) = (String::new(), after);
        } else if rest.starts_with("super::") {
            while let Some(after) = rest.strip_prefix("super::") {
                base = base.rsplit_once("::").map_or_else(String::new, |(up, _)| up.to_owned());
                rest = after;
            }
        } else if let Some(after) = rest.strip_prefix("self::") {
            rest = after;
        }
        let mut whole = if base.is_empty() { rest.to_owned() } else { format!("{base}::{rest}") };
        // The longest part of the path that is a file; a path into this file is no import.
        while !whole.is_empty() && !names.contains(&whole) {
            whole = whole.rsplit_once("::").map_or_else(String::new, |(up, _)| up.to_owned());
        }
        if !whole.is_empty() && whole != module {
            found.insert(whole);
        }
    }
    found
}

/// All paths in `text` that have a `::`; those in braces are written out.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut prefixes = vec![String::new()];
    let mut path = String::new();
    for c in text.chars().chain([' ']) {
        match c {
            c if c.is_alphanumeric() || c == '_' || c == ':' => path.push(c),
            '{' if path.ends_with("::") => prefixes.push(std::mem::take(&mut path)),
            _ => {
                // `a::{b, c}` stands for `a::b` and `a::c`.
                let depth = prefixes.len();
                let within = prefixes.iter().map(String::as_str).collect::<String>();
                let path = std::mem::take(&mut path);
                if !path.is_empty() && (depth > 1 || path.contains("::")) {
                    found.push(format!("{within}{path}"));
                }
                if c == '}' && depth > 1 {
                    prefixes.pop();
                }
            }
        }
    }
    found
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

#[test]
fn imports_run_one_way() {
    let imports = Imports::read();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (from, to) in imports.0.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to)))
    {
        let (own, other) = (room(from), room(to));
        if own == other || EVERYWHERE.contains(&own) || EVERYWHERE.contains(&other) {
            continue;
        }
        let may = ROOMS
            .iter()
            .find(|(name, _)| *name == own)
            .unwrap_or_else(|| panic!("the room {own} is not listed"))
            .1;
        if EXCEPTIONS.contains(&(from, to)) {
            used.insert((from.as_str(), to.as_str()));
        } else if !may.contains(&other) {
            wrong.push(format!("{from} imports {to}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(used.len(), EXCEPTIONS.len(), "an exception that is not needed any more");
}

#[test]
fn the_list_of_rooms_has_no_circle() {
    for (at, (name, may)) in ROOMS.iter().enumerate() {
        for other in *may {
            let place = ROOMS.iter().position(|(room, _)| room == other);
            assert!(
                place.is_some_and(|place| place > at),
                "{name} may import {other}, which must come later"
            );
        }
    }
}

#[test]
fn no_more_than_three_files_import_each_other() {
    let imports = Imports::read();
    let mut circles = BTreeSet::new();
    for module in imports.0.keys() {
        let reached = imports.reached(module);
        let circle: BTreeSet<&str> = reached
            .iter()
            .copied()
            .filter(|other| imports.reached(other).contains(module.as_str()))
            .collect();
        if circle.len() > CIRCLE {
            circles.insert(circle.into_iter().collect::<Vec<_>>().join(", "));
        }
    }
    assert!(
        circles.is_empty(),
        "in a circle:\n{}",
        circles.into_iter().collect::<Vec<_>>().join("\n")
    );
}
