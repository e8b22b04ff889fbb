//! What `idshift status` prints: a table, one mount in words, JSON, or text for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::{Seen, State};
use crate::config::MountFlags;
use crate::mount::options::{Options, Origin};
use crate::plain;
use crate::report::{BUCKETS, Extents, Facts, Operation, OptionValue, Report, start};
use crate::shift::describe::describe_with;

/// One line for each mount.
pub(super) fn table(seen: &[Seen]) -> String {
    if seen.is_empty() {
        return "no idshift mounts\n".to_owned();
    }
    let mut rows = vec![
        ["MOUNTPOINT", "LOWER", "PID", "UP", "REQUESTS", "ERRORS", "INODES", "OPEN", "MEMORY"]
            .map(str::to_owned),
    ];
    let mut notes = String::new();
    for one in seen {
        let mountpoint = plain::line(&one.mountpoint.display().to_string());
        let State::Alive(report) = &one.state else {
            let dash = || "-".to_owned();
            let source = plain::line(&one.source);
            let why = plain::line(&one.state.in_words(&one.mountpoint));
            notes.extend([&mountpoint, ": ", &why, "\n"]);
            rows.push([mountpoint, source, dash(), dash(), dash(), dash(), dash(), dash(), dash()]);
            continue;
        };
        rows.push([
            mountpoint,
            plain::line(&report.facts.lower),
            report.number("pid").to_string(),
            report.uptime(),
            report.requests().to_string(),
            report.errors().to_string(),
            report.number("inodes").to_string(),
            report.number("open_files").to_string(),
            report.memory(),
        ]);
    }
    aligned(&rows) + &notes
}

fn aligned(rows: &[[String; 9]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..9).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// One mount, with everything that is known.
pub(super) fn words(one: &Seen, before: Option<&Report>) -> String {
    match &one.state {
        State::Alive(report) => {
            plain::lines(&(report.in_words(&map(&report.facts), before) + "\n"))
        }
        other => {
            let why = other.in_words(&one.mountpoint);
            plain::line(&format!("{}: {why}", one.mountpoint.display())) + "\n"
        }
    }
}

/// What a mount's map does, also with ids that are not in it.
fn map(facts: &Facts) -> String {
    let Some(maps) = facts.map.as_ref().and_then(Extents::maps) else {
        return "its map is not known".to_owned();
    };
    let policies = facts.options.iter().filter_map(|(name, value)| match value {
        OptionValue::Text(value) if matches!(name.as_str(), "unmapped" | "creators") => {
            Some(format!("{name}={value}"))
        }
        _ => None,
    });
    let options =
        Options::parse(&policies.collect::<Vec<_>>(), Origin::Command, MountFlags::default());
    let policies = options.unwrap_or_default().policies;
    describe_with(&maps, policies.unmapped, policies.creators)
}

/// All mounts, as JSON.
#[derive(Serialize)]
pub(super) struct Mounts<'a> {
    mounts: Vec<Mount<'a>>,
}

/// One mount.
#[derive(Serialize)]
pub(super) struct Mount<'a> {
    mountpoint: String,
    source: &'a str,
    state: &'static str,
    #[serde(flatten)]
    server: Option<Server<'a>>,
}

/// What its server says.
#[derive(Serialize)]
struct Server<'a> {
    facts: &'a Facts,
    numbers: BTreeMap<&'a str, u64>,
    requests: u64,
    errors: u64,
    operations: Vec<Counted<'a>>,
}

/// Requests of one kind.
#[derive(Serialize)]
struct Counted<'a> {
    name: &'a str,
    count: u64,
    errors: u64,
    total_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
}

impl<'a> From<&'a [Seen]> for Mounts<'a> {
    fn from(seen: &'a [Seen]) -> Self {
        Self { mounts: seen.iter().map(Mount::from).collect() }
    }
}

impl<'a> From<&'a Seen> for Mount<'a> {
    fn from(one: &'a Seen) -> Self {
        let server = match &one.state {
            State::Alive(report) => Some(Server {
                facts: &report.facts,
                numbers: report.numbers.iter().map(|(name, n)| (name.as_str(), *n)).collect(),
                requests: report.requests(),
                errors: report.errors(),
                operations: report.operations.iter().map(Counted::from).collect(),
            }),
            _ => None,
        };
        let mountpoint = one.mountpoint.display().to_string();
        Self { mountpoint, source: &one.source, state: one.state.word(), server }
    }
}

impl<'a> From<&'a Operation> for Counted<'a> {
    fn from(operation: &'a Operation) -> Self {
        let nanos =
            |share| u64::try_from(operation.times.per_mille(share).as_nanos()).unwrap_or(u64::MAX);
        Self {
            name: &operation.name,
            count: operation.times.count(),
            errors: operation.errors,
            total_ns: operation.nanos,
            p50_ns: nanos(500),
            p90_ns: nanos(900),
            p99_ns: nanos(990),
            p999_ns: nanos(999),
        }
    }
}

/// Numbers that only grow; the others go up and down.
const COUNTERS: &[&str] = &[
    "descriptor_hits",
    "descriptor_misses",
    "notifications",
    "trusted_long",
    "trusted_short",
    "trusted_not",
];

/// All mounts in the text format of Prometheus, as node_exporter's textfile collector reads it.
pub(super) fn prometheus(seen: &[Seen]) -> String {
    let mut metrics = vec![Metric::new("idshift_up", "gauge")];
    let mut info = Metric::new("idshift_info", "gauge");
    let mut numbers: Vec<Metric> = Vec::new();
    let mut errors = Metric::new("idshift_request_errors_total", "counter");
    let mut times = Metric::new("idshift_request_seconds", "histogram");
    for one in seen {
        let mount = format!("mountpoint={}", label(&one.mountpoint.display().to_string()));
        let State::Alive(report) = &one.state else {
            metrics[0].add("", &mount, 0);
            continue;
        };
        metrics[0].add("", &mount, 1);
        let (lower, version) = (label(&report.facts.lower), label(&report.facts.version));
        info.add("", &format!("{mount},lower={lower},version={version}"), 1);
        for (name, number) in &report.numbers {
            let is_counter = COUNTERS.contains(&name.as_str());
            let (end, kind) = if is_counter { ("_total", "counter") } else { ("", "gauge") };
            let full = format!("idshift_{name}{end}");
            let at = numbers.iter().position(|metric| metric.name == full).unwrap_or_else(|| {
                numbers.push(Metric::new(&full, kind));
                numbers.len() - 1
            });
            numbers[at].add("", &mount, *number);
        }
        for operation in &report.operations {
            let labels = format!("{mount},operation={}", label(&operation.name));
            errors.add("", &labels, operation.errors);
            histogram(&mut times, &labels, operation);
        }
    }
    metrics.push(info);
    metrics.append(&mut numbers);
    metrics.extend([errors, times]);
    metrics.iter().map(|metric| metric.text.as_str()).collect()
}

fn histogram(metric: &mut Metric, labels: &str, operation: &Operation) {
    let mut sum = 0;
    for (index, count) in operation.times.0.iter().enumerate().take(BUCKETS - 1) {
        sum += count;
        let end = seconds(start(index + 1));
        metric.add("_bucket", &format!("{labels},le=\"{end}\""), sum);
    }
    let count = operation.times.count();
    metric.add("_bucket", &format!("{labels},le=\"+Inf\""), count);
    metric.add("_sum", labels, seconds(operation.nanos));
    metric.add("_count", labels, count);
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

struct Metric {
    name: String,
    text: String,
}

impl Metric {
    fn new(name: &str, kind: &str) -> Self {
        Self { name: name.to_owned(), text: format!("# TYPE {name} {kind}\n") }
    }

    fn add(&mut self, end: &str, labels: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        writeln!(self.text, "{}{end}{{{labels}}} {value}", self.name).unwrap_or_default();
    }
}

fn label(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    // The format has no way to write these out, and the text may go to a terminal.
    let escaped = escaped.replace(|letter: char| letter.is_control(), "\u{fffd}");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Histogram;
    use std::path::PathBuf;

    fn seen() -> Vec<Seen> {
        let mut times = Histogram::default();
        times.0[0] = 2;
        times.0[BUCKETS - 1] = 1;
        let report = Report {
            facts: Facts { lower: "/l\"w".to_owned(), ..Facts::default() },
            numbers: vec![("inodes".to_owned(), 4), ("notifications".to_owned(), 5)],
            operations: vec![Operation {
                name: "lookup".to_owned(),
                errors: 1,
                nanos: 9_000_000_001,
                times,
            }],
        };
        let of = |mountpoint: &str, state| Seen {
            mountpoint: PathBuf::from(mountpoint),
            source: "/s".to_owned(),
            state,
        };
        vec![of("/a", State::Alive(Box::new(report))), of("/b c", State::Dead)]
    }

    #[test]
    fn the_dead_are_listed_with_the_way_out() {
        let text = table(&seen());
        assert!(text.contains("/b c: dead"), "{text}");
        assert!(text.contains("idshift umount '/b c'"), "{text}");
        assert_eq!(table(&[]), "no idshift mounts\n");
    }

    #[test]
    fn names_of_others_do_nothing_to_the_terminal() {
        let [mut alive, mut dead]: [Seen; 2] = seen().try_into().unwrap();
        dead.mountpoint = PathBuf::from("/m\x1b[2J\nidshift");
        dead.source = "\x1b]0;title\x07".to_owned();
        if let State::Alive(report) = &mut alive.state {
            report.facts.lower = "a\n\x1b[31mb".to_owned();
        }
        let (words, words_of_dead) = (words(&alive, None), words(&dead, None));
        assert_eq!(words_of_dead.lines().count(), 1, "{words_of_dead}");
        let table = table(&[alive, dead]);
        assert_eq!(table.lines().count(), 4, "{table}");
        for text in [table, words, words_of_dead] {
            assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn prometheus_gets_each_type_once_and_escaped_labels() {
        let text = prometheus(&seen());
        assert_eq!(text.matches("# TYPE idshift_up gauge\n").count(), 1);
        for line in [
            "idshift_up{mountpoint=\"/a\"} 1",
            "idshift_up{mountpoint=\"/b c\"} 0",
            "idshift_info{mountpoint=\"/a\",lower=\"/l\\\"w\",version=\"\"} 1",
            "idshift_inodes{mountpoint=\"/a\"} 4",
            "idshift_notifications_total{mountpoint=\"/a\"} 5",
            "idshift_request_errors_total{mountpoint=\"/a\",operation=\"lookup\"} 1",
            "idshift_request_seconds_bucket{mountpoint=\"/a\",operation=\"lookup\",le=\"0.000000512\"} 2",
            "idshift_request_seconds_bucket{mountpoint=\"/a\",operation=\"lookup\",le=\"+Inf\"} 3",
            "idshift_request_seconds_sum{mountpoint=\"/a\",operation=\"lookup\"} 9.000000001",
            "idshift_request_seconds_count{mountpoint=\"/a\",operation=\"lookup\"} 3",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }

    #[test]
    fn json_says_what_state_a_mount_is_in() {
        let seen = seen();
        let json = serde_json::to_value(Mounts::from(seen.as_slice())).unwrap();
        assert_eq!(
            (&json["mounts"][0]["state"], &json["mounts"][1]["state"]),
            (&"alive".into(), &"dead".into())
        );
        assert_eq!(json["mounts"][0]["numbers"]["inodes"], 4);
        assert_eq!(json["mounts"][1]["numbers"], serde_json::Value::Null);
    }
}
