//! What `idshift status --json` says, without a reader of JSON: the names in it are unique enough.

use std::path::Path;

use super::program::idshift;

/// The report of the mount that holds `path`, as JSON.
pub(crate) fn report(path: &Path) -> Option<String> {
    let called = idshift(&[&"status", &"--json", &path]);
    (called.code == 0).then_some(called.out)
}

/// A number of the report.
pub(crate) fn number(report: &str, name: &str) -> u64 {
    after(report, &format!("\"{name}\": ")).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// How many requests of a kind have come; 0 if none.
pub(crate) fn count(report: &str, operation: &str) -> u64 {
    after(report, &format!("\"name\": \"{operation}\", \"count\": ")).unwrap_or(0)
}

/// How many of them ended in an error.
pub(crate) fn errors(report: &str, operation: &str) -> u64 {
    let line = report.lines().find(|line| line.contains(&format!("\"name\": \"{operation}\"")));
    line.and_then(|line| after(line, "\"errors\": ")).unwrap_or(0)
}

fn after(text: &str, what: &str) -> Option<u64> {
    let rest = &text[text.find(what)? + what.len()..];
    let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
    rest[..end].parse().ok()
}
