//! A report as a person reads it.

use std::fmt::Write;
use std::time::Duration;

use super::{Operation, OptionValue, Report};
use crate::plain;

/// Of a map with many extents no more lines are shown.
const MAP_LINES: usize = 12;

impl Report {
    /// The whole report, with rates and times since the server's start, or since `before`, an
    /// earlier report of the same server. `map` says what its map does.
    pub fn in_words(&self, map: &str, before: Option<&Report>) -> String {
        let mut lines = self.about(map);
        lines.extend(self.holds());
        lines.extend(self.operations_since(before));
        lines.join("\n")
    }

    fn about(&self, map: &str) -> Vec<String> {
        let facts = &self.facts;
        let mut lines = vec![format!(
            "'{}' is shown at '{}' by process {} (idshift {}) for {}",
            plain::line(&facts.lower),
            plain::line(&facts.mountpoint),
            self.number("pid"),
            facts.version,
            self.uptime(),
        )];
        lines.extend(map.lines().take(MAP_LINES).map(|line| format!("  {line}")));
        if map.lines().count() > MAP_LINES {
            lines.push("  …".to_owned());
        }
        let options = facts.options.iter().map(|(name, value)| match value {
            _ if name == "cache" => format!("cache={}", facts.cache),
            OptionValue::Flag(_) => name.clone(),
            OptionValue::Text(text) => format!("{name}={text}"),
        });
        lines.push(format!("  options: {}", options.collect::<Vec<_>>().join(", ")));
        let idmapped = facts.idmapped_mounts.why.as_deref().unwrap_or("possible");
        lines.push(format!("  idmapped mounts of it: {idmapped}"));
        lines.push(format!("  features: {}", facts.features.join(" ")));
        lines
    }

    /// For how long the server has run.
    pub fn uptime(&self) -> String {
        let seconds = self.number("uptime_ms") / 1000;
        match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, s) => format!("{s} s"),
            (0, 0, min, s) => format!("{min} min {s} s"),
            (0, h, min, _) => format!("{h} h {min} min"),
            (d, h, _, _) => format!("{d} d {h} h"),
        }
    }

    /// Resident memory of the server.
    pub fn memory(&self) -> String {
        let tenths = self.number("memory_bytes") * 10 / (1024 * 1024);
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    }

    fn holds(&self) -> Vec<String> {
        let n = |name: &str| self.number(name);
        let (hits, misses) = (n("descriptor_hits"), n("descriptor_misses"));
        let percent = (hits * 100).checked_div(hits + misses).unwrap_or(100);
        vec![
            format!(
                "  memory {}; {} descriptors of {}; {} threads, {} in a request",
                self.memory(),
                n("descriptors"),
                n("descriptor_limit"),
                n("workers"),
                n("in_progress"),
            ),
            format!(
                "  the kernel knows {} inodes ({} lookups) and has {} files open; it holds {} \
                 lower files for passthrough, {} of them idle",
                n("inodes"),
                n("lookups"),
                n("open_files"),
                n("backing_files"),
                n("backing_idle"),
            ),
            format!(
                "  descriptors kept: {}, and {} of unlinked files; found there: {percent} %",
                n("cached_descriptors"),
                n("unlinked_descriptors"),
            ),
            format!(
                "  attributes given for long: {}, for a second: {}, for a moment: {}; \
                 notifications: {}",
                n("trusted_long"),
                n("trusted_short"),
                n("trusted_not"),
                n("notifications"),
            ),
        ]
    }

    fn operations_since(&self, before: Option<&Report>) -> Vec<String> {
        let mut lines =
            vec![row(["requests", "count", "per s", "errors", "50 %", "99 %", "99.9 %"])];
        lines.push(self.operation(&self.all(), before, before.map(Report::all).as_ref()));
        let mut operations: Vec<_> = self.operations.iter().collect();
        operations.sort_by_key(|operation| std::cmp::Reverse(operation.times.count()));
        lines.extend(operations.into_iter().map(|operation| {
            let same = |other: &&Operation| other.name == operation.name;
            let earlier = before.and_then(|before| before.operations.iter().find(same));
            self.operation(operation, before, earlier)
        }));
        lines
    }

    fn all(&self) -> Operation {
        let (errors, times) = (self.errors(), self.times());
        Operation { name: "all".to_owned(), errors, nanos: 0, times }
    }

    fn operation(
        &self,
        operation: &Operation,
        before: Option<&Report>,
        earlier: Option<&Operation>,
    ) -> String {
        let times = match earlier {
            Some(earlier) => operation.times.since(&earlier.times),
            None => operation.times.clone(),
        };
        let start = before.map_or(0, |before| before.number("uptime_ms"));
        let millis = self.number("uptime_ms").saturating_sub(start).max(1);
        let tenths = times.count().saturating_mul(10_000) / millis;
        let rate = if tenths < 1000 {
            format!("{}.{}", tenths / 10, tenths % 10)
        } else {
            (tenths / 10).to_string()
        };
        let at = |share| match times.count() {
            0 => "-".to_owned(),
            _ => short(times.per_mille(share)),
        };
        row([
            &operation.name,
            &operation.times.count().to_string(),
            &rate,
            &operation.errors.to_string(),
            &at(500),
            &at(990),
            &at(999),
        ])
    }
}

fn row(cells: [&str; 7]) -> String {
    let mut line = format!("  {:<14}", cells[0]);
    for (cell, width) in cells[1..].iter().zip([11, 9, 9, 9, 9, 9]) {
        // Writing to a string cannot fail.
        write!(line, " {cell:>width$}").unwrap_or_default();
    }
    line
}

/// A time with two digits or three: "870 ns", "12 µs", "1.4 ms", "3.0 s".
fn short(time: Duration) -> String {
    let nanos = time.as_nanos();
    let with_tenth = |unit: u128| format!("{}.{}", nanos / unit, nanos / (unit / 10) % 10);
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..10_000 => format!("{} µs", with_tenth(1_000)),
        10_000..1_000_000 => format!("{} µs", nanos / 1_000),
        1_000_000..100_000_000 => format!("{} ms", with_tenth(1_000_000)),
        100_000_000..1_000_000_000 => format!("{} ms", nanos / 1_000_000),
        _ => format!("{} s", with_tenth(1_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Facts, Histogram};

    fn report(uptime: u64, lookups: u64) -> Report {
        let mut times = Histogram::default();
        times.0[5] = lookups;
        Report {
            facts: Facts { lower: "/l".to_owned(), ..Facts::default() },
            numbers: vec![("uptime_ms".to_owned(), uptime)],
            operations: vec![Operation { name: "lookup".to_owned(), errors: 3, nanos: 0, times }],
        }
    }

    #[test]
    fn rates_are_since_the_start_or_since_before() {
        let now = report(10_000, 500);
        let line = |text: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with("lookup"));
            line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let fields = line(&now.in_words("", None)).unwrap_or_default();
        assert_eq!(fields[1..4], ["500", "50.0", "3"]);
        let fields = line(&now.in_words("", Some(&report(9_000, 100)))).unwrap_or_default();
        assert_eq!(fields[1..4], ["500", "400", "3"]);
        let fields = line(&now.in_words("", Some(&report(9_000, 500)))).unwrap_or_default();
        assert_eq!(fields[2..], ["0.0", "3", "-", "-", "-"]);
    }

    #[test]
    fn times_are_short() {
        let of = |nanos| short(Duration::from_nanos(nanos));
        assert_eq!(of(870), "870 ns");
        assert_eq!(of(1_940), "1.9 µs");
        assert_eq!(of(43_900), "43 µs");
        assert_eq!(of(3_200_000), "3.2 ms");
        assert_eq!(of(234_000_000), "234 ms");
        assert_eq!(of(8_600_000_000), "8.6 s");
    }
}
