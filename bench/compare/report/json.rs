//! JSON (RFC 8259), written by hand: there are only strings, numbers, lists and objects.

use std::fmt::Write;

use crate::results::{Results, Series};

/// The whole of the results, every sample included.
pub(super) fn text(results: &Results) -> String {
    let machine = results.machine.iter().map(|(name, value)| pair(name, &string(value)));
    let subjects = results.subjects.iter().map(|(name, role)| {
        object([pair("name", &string(name)), pair("role", &string(&format!("{role:?}")))])
    });
    let left_out = results
        .left_out
        .iter()
        .map(|(name, why)| object([pair("name", &string(name)), pair("why", &string(why))]));
    let failures = results.failures.iter().map(|failure| {
        object([
            pair("situation", &string(&failure.situation.to_string())),
            pair("subject", &string(&failure.subject)),
            pair("workload", &string(failure.workload)),
            pair("why", &string(&failure.why)),
        ])
    });
    let memory = results.memory.iter().map(|memory| {
        object([
            pair("subject", &string(&memory.subject)),
            pair("workload", &string(memory.workload)),
            pair("peak_kib", &memory.kib.to_string()),
        ])
    });
    let whole = object([
        pair("command", &string(&results.command)),
        pair("machine", &object(machine)),
        pair("subjects", &list(subjects)),
        pair("left_out", &list(left_out)),
        pair("failures", &list(failures)),
        pair("memory", &list(memory)),
        pair("series", &list(results.series.iter().map(series))),
    ]);
    format!("{whole}\n")
}

fn series(series: &Series) -> String {
    let samples = |of: fn(&crate::results::Sample) -> f64| {
        list(series.samples.iter().map(|sample| format!("{:.1}", of(sample))))
    };
    object([
        pair("situation", &string(&series.situation.to_string())),
        pair("subject", &string(&series.subject)),
        pair("measure", &string(&series.measure)),
        pair("nanoseconds", &samples(|sample| sample.nanos)),
        pair("server_cpu_nanoseconds", &samples(|sample| sample.server)),
    ])
}

fn object(pairs: impl IntoIterator<Item = String>) -> String {
    format!("{{{}}}", pairs.into_iter().collect::<Vec<_>>().join(", "))
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<_> = items.into_iter().collect();
    // One object per line keeps differences between two runs readable.
    let separator = if items.iter().any(|item| item.starts_with('{')) { ",\n" } else { ", " };
    format!("[{}]", items.join(separator))
}

fn pair(name: &str, value: &str) -> String {
    format!("{}: {value}", string(name))
}

fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if u32::from(c) < 0x20 => {
                // Writing to a string cannot fail.
                write!(quoted, "\\u{:04x}", u32::from(c)).ok();
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
