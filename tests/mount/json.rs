//! docs/json.md and what `--json` prints: the same fields, of the same types.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::program::idshift;
use crate::common::runner::needs_real_root;
use crate::common::{Mount, machine};

crate::common::tests!(every_shape_is_the_documented_one, ranges_are_the_documented_ones,);

/// A documented field.
struct Field {
    types: String,
    /// It is not always there.
    sometimes: bool,
}

/// The fields below the heading that begins with `command`.
fn documented(command: &str) -> BTreeMap<String, Field> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let text = fs::read_to_string(page).unwrap();
    let sections = text.split("\n## ").find(|section| section.starts_with(command));
    let rows = sections.unwrap_or_else(|| panic!("no section {command}")).lines();
    let rows = rows.filter(|line| line.starts_with("| ") && !line.starts_with("| field"));
    let fields = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let sometimes = cells[2].starts_with("*if");
        (cells[0].to_owned(), Field { types: cells[1].to_owned(), sometimes })
    });
    fields.collect()
}

/// The leaves of a value by their paths; names below `numbers` and `options` are data.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, &'static str)>) {
    let below =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let is_data = path == "numbers" || path.ends_with("facts.options");
                leaves(value, &below(if is_data { "*" } else { name }), found);
            }
        }
        Value::Array(values) if values.is_empty() => found.push((format!("{path}[]"), "empty")),
        Value::Array(values) => {
            for value in values {
                leaves(value, &format!("{path}[]"), found);
            }
        }
        Value::String(_) => found.push((path.to_owned(), "string")),
        Value::Number(_) => found.push((path.to_owned(), "number")),
        Value::Bool(_) => found.push((path.to_owned(), "boolean")),
        Value::Null => found.push((path.to_owned(), "?")),
    }
}

/// Compares; `printed` are outputs that together have every field that is always there.
fn compare(command: &str, printed: &[Value]) {
    let fields = documented(command);
    let mut found = Vec::new();
    for value in printed {
        leaves(value, "", &mut found);
    }
    for (path, kind) in found.iter().filter(|(_, kind)| *kind != "empty") {
        let field =
            fields.get(path).unwrap_or_else(|| panic!("{command}: {path} is not in docs/json.md"));
        let is_right =
            field.types.contains(kind) || (*kind == "boolean" && field.types.contains("true"));
        assert!(is_right, "{command}: {path} is a {kind}, and documented as {}", field.types);
    }
    for (path, field) in &fields {
        let is_there = found.iter().any(|(other, kind)| {
            let is_below = other.starts_with(&format!("{path}."));
            other == path || is_below || *kind == "empty" && path.starts_with(other.as_str())
        });
        assert!(is_there || field.sometimes, "{command}: {path} is documented and not printed");
    }
    for value in printed {
        assert_eq!(value["version"], 1, "{command}");
    }
}

fn printed(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Value {
    let called = idshift(args);
    serde_json::from_str(&called.out)
        .unwrap_or_else(|error| panic!("{error}: {} {}", called.out, called.err))
}

fn every_shape_is_the_documented_one() {
    let mount = Mount::new();
    mount.server_pid();
    fs::read_dir(mount.up("")).unwrap().count();
    let one = printed(&[&"status", &"--json", &mount.up("")]);
    assert!(one["facts"]["map"]["uids"][0]["count"].as_u64().unwrap() > 0, "{one}");
    let all = printed(&[&"status", &"--json"]);
    assert_eq!(all["version"], 1);
    let mounts = all["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|other| other["mountpoint"] == one["mountpoint"]), "{all}");
    compare("idshift status", &[one]);
    compare("idshift probe", &[printed(&[&"probe", &"--json"])]);
    let map = "b:0:100000:2 b:2:7:1";
    compare("idshift map explain", &[printed(&[&"map", &"explain", &"--json", &map])]);
    let wrong = printed(&[&"map", &"check", &"--json", &"b:0:5:2 b:1:9:2"]);
    compare("idshift map check", &[printed(&[&"map", &"check", &"--json", &map]), wrong]);
    compare(
        "idshift map split",
        &[printed(&[&"map", &"split", &"--json", &"b:0:0:1", &"--parent", &"b:0:7:9"])],
    );
    compare(
        "idshift map compose",
        &[
            printed(&[&"map", &"compose", &"--json", &map, &"identity"]),
            printed(&[&"map", &"invert", &"--json", &map]),
        ],
    );
}

/// They ask every mount of the machine, also those that other tests have stopped.
fn ranges_are_the_documented_ones() {
    needs_real_root("free ids are looked for among those of the machine");
    for (command, args) in [
        ("idshift ranges --json", vec!["ranges"]),
        ("idshift ranges free", vec!["ranges", "free", "1"]),
    ] {
        let mut program = Command::new("timeout");
        let output =
            program.arg("120").arg(&machine().binary).args(args).arg("--json").output().unwrap();
        compare(command, &[serde_json::from_slice(&output.stdout).unwrap()]);
    }
}
