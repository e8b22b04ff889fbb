//! What `idshift status --json` says.

use std::path::Path;

use serde_json::Value;

use super::program::idshift;

/// The report of the mount that holds `path`, as JSON.
pub(crate) fn report(path: &Path) -> Option<String> {
    let called = idshift(&[&"status", &"--json", &path]);
    (called.code == 0).then_some(called.out)
}

fn parsed(report: &str) -> Value {
    serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report}"))
}

/// A number of the report.
pub(crate) fn number(report: &str, name: &str) -> u64 {
    find(&parsed(report), name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// The first number of this name.
fn find(json: &Value, name: &str) -> Option<u64> {
    match json {
        Value::Object(members) => members
            .get(name)
            .and_then(Value::as_u64)
            .or_else(|| members.values().find_map(|value| find(value, name))),
        Value::Array(values) => values.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}

/// How many requests of a kind have come; 0 if none.
pub(crate) fn count(report: &str, operation: &str) -> u64 {
    of_operation(report, operation, "count")
}

/// How many of them ended in an error.
pub(crate) fn errors(report: &str, operation: &str) -> u64 {
    of_operation(report, operation, "errors")
}

fn of_operation(report: &str, operation: &str, what: &str) -> u64 {
    let json = parsed(report);
    let mut operations = json["operations"].as_array().into_iter().flatten();
    let found = operations.find(|known| known["name"] == operation);
    found.and_then(|found| found[what].as_u64()).unwrap_or(0)
}
