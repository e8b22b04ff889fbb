//! The tables of RESULTS.md.

use super::{digits, plot_name, situations, time};
use crate::results::{Results, Series, Situation};
use crate::subject::Role;
use crate::workload::{self, Group, Measure, Workload};

/// The whole document.
pub(super) fn text(results: &Results) -> String {
    let mut out = String::from(
        "# idshift beside the kernel and its peers\n\n\
         Made by the command below; do not edit. Each cell of the time tables is the median of all\n\
         rounds, with the least and the most; less is better. Ratios are ratios of medians.\n\n",
    );
    out.push_str(&format!("    {}\n\n", results.command));
    out.push_str("| | |\n|---|---|\n");
    for (name, value) in &results.machine {
        out.push_str(&format!("| {name} | {value} |\n"));
    }
    let rounds = results.series.iter().map(|s| s.samples.len()).max().unwrap_or(0);
    out.push_str(&format!("| rounds | {rounds}, interleaved |\n"));
    for (name, why) in &results.left_out {
        out.push_str(&format!("| left out | {name}: {} |\n", why.replace('|', "\\|")));
    }
    for failure in &results.failures {
        out.push_str(&format!(
            "| failed | {} on {} ({}): {} |\n",
            failure.workload,
            failure.subject,
            failure.situation,
            failure.why.replace('|', "\\|")
        ));
    }
    for situation in situations(results) {
        out.push_str(&format!("\n# On a {situation}\n\n"));
        if situation == Situation::Busy {
            out.push_str(
                "Every CPU has a process of the lowest priority (nice 19) that never sleeps.\n\n",
            );
        }
        out.push_str(&format!("![ratios to the kernel's mount]({})\n", plot_name(situation)));
        for group in Group::ALL.into_iter().filter(|group| *group != Group::Server) {
            times(results, situation, group, &mut out);
            ratios(results, situation, group, &mut out);
        }
        servers(results, situation, &mut out);
    }
    memory(results, &mut out);
    out
}

/// The measures of a group that were taken.
fn taken(results: &Results, situation: Situation, group: Group) -> Vec<&'static Measure> {
    workload::ALL
        .iter()
        .filter(|workload: &&Workload| workload.group == group)
        .flat_map(|workload| workload.measures)
        .filter(|measure| {
            results
                .series
                .iter()
                .any(|series| series.situation == situation && series.measure == measure.name)
        })
        .collect()
}

fn header(first: &str, columns: impl IntoIterator<Item = String>, out: &mut String) {
    let columns: Vec<String> = columns.into_iter().collect();
    out.push_str(&format!("\n| {first} | {} |\n", columns.join(" | ")));
    out.push_str(&format!("|---|{}\n", "---:|".repeat(columns.len())));
}

fn row(first: &str, cells: impl IntoIterator<Item = String>, out: &mut String) {
    let cells: Vec<String> = cells.into_iter().collect();
    out.push_str(&format!("| {first} | {} |\n", cells.join(" | ")));
}

fn names(results: &Results) -> impl Iterator<Item = String> {
    results.subjects.iter().map(|(name, _)| name.clone())
}

fn times(results: &Results, situation: Situation, group: Group, out: &mut String) {
    let measures = taken(results, situation, group);
    if measures.is_empty() {
        return;
    }
    out.push_str(&format!("\n## {}\n", group.title()));
    header("time", names(results), out);
    for measure in measures {
        let cells = results.subjects.iter().map(|(subject, _)| {
            let spread = results.series(situation, subject, measure.name).and_then(Series::time);
            spread.map_or_else(String::new, |spread| {
                format!("{} ({}–{})", time(spread.median), time(spread.least), time(spread.most))
            })
        });
        row(&format!("**{}**: {}", measure.name, measure.what), cells, out);
    }
}

fn ratios(results: &Results, situation: Situation, group: Group, out: &mut String) {
    let ours: Vec<&str> = results.with_role(Role::Ours).collect();
    let measures = taken(results, situation, group);
    if measures.is_empty() || ours.is_empty() {
        return;
    }
    let Some(kernel) = results.with_role(Role::Kernel).next() else { return };
    out.push_str(
        "\nTimes the kernel's mount / times the best peer. ✓ and ✗: whether all targets are met.\n",
    );
    let columns = ours.iter().map(|name| (*name).to_owned());
    header("ratio", columns.chain(["best peer".to_owned(), "target".to_owned()]), out);
    for measure in measures {
        let limit = results.median(situation, kernel, measure.name);
        let peer = results.best_peer(situation, measure.name);
        let cells = ours.iter().map(|subject| {
            let median = results.median(situation, subject, measure.name);
            let over_kernel = median.zip(limit).map(|(m, l)| m / l);
            let over_peer = median.zip(peer).map(|(m, (_, p))| m / p);
            let text = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), digits);
            let verdict = verdict(measure, over_kernel, over_peer);
            format!("{} / {}{verdict}", text(over_kernel), text(over_peer))
        });
        let peer = peer.map_or_else(String::new, |(name, median)| {
            let ratio = limit.map_or_else(String::new, |l| format!(" {}", digits(median / l)));
            format!("{name}{ratio}")
        });
        row(measure.name, cells.chain([peer, target(measure)]), out);
    }
}

fn verdict(measure: &Measure, over_kernel: Option<f64>, over_peer: Option<f64>) -> &'static str {
    let (kernel, peer) = (measure.target.kernel, measure.target.peer);
    if kernel.is_none() && peer.is_none() {
        return "";
    }
    let within = |limit: Option<f64>, ratio: Option<f64>| match (limit, ratio) {
        (None, _) => Some(true),
        (Some(limit), Some(ratio)) => Some(ratio <= limit),
        (Some(_), None) => None,
    };
    match (within(kernel, over_kernel), within(peer, over_peer)) {
        (Some(true), Some(true)) => " ✓",
        (Some(false), _) | (_, Some(false)) => " ✗",
        _ => "",
    }
}

fn target(measure: &Measure) -> String {
    let kernel = measure.target.kernel.map(|limit| format!("≤ {} kernel", digits(limit)));
    let peer = measure.target.peer.map(|limit| format!("≤ {} peer", digits(limit)));
    kernel.into_iter().chain(peer).collect::<Vec<_>>().join(", ")
}

/// What the servers used, beside the clients' time.
fn servers(results: &Results, situation: Situation, out: &mut String) {
    let served: Vec<&str> =
        results.with_role(Role::Ours).chain(results.with_role(Role::Peer)).collect();
    let groups = [Group::Macro, Group::Parallel];
    let measures: Vec<_> =
        groups.into_iter().flat_map(|group| taken(results, situation, group)).collect();
    let idle = taken(results, situation, Group::Server);
    if served.is_empty() || measures.is_empty() && idle.is_empty() {
        return;
    }
    out.push_str("\n## CPU time of the server (median)\n");
    header("measure", served.iter().map(|name| (*name).to_owned()), out);
    for measure in measures {
        let cells = served.iter().map(|subject| {
            let spread = results.series(situation, subject, measure.name).and_then(Series::server);
            spread.map_or_else(String::new, |spread| time(spread.median))
        });
        row(measure.name, cells, out);
    }
    for measure in idle {
        let cells = served.iter().map(|subject| {
            let series = results.series(situation, subject, measure.name);
            let share = series.and_then(|s| Some(s.server()?.median / s.time()?.median * 100.0));
            share.map_or_else(String::new, |share| format!("{share:.3} %"))
        });
        row("a quiet mount, of one CPU", cells, out);
    }
}

fn memory(results: &Results, out: &mut String) {
    if results.memory.is_empty() {
        return;
    }
    let served: Vec<&str> =
        results.with_role(Role::Ours).chain(results.with_role(Role::Peer)).collect();
    out.push_str("\n# Memory of the server at its peak (MiB)\n");
    header("workload", served.iter().map(|name| (*name).to_owned()), out);
    for workload in workload::ALL {
        let of = |subject: &str| {
            results.memory.iter().find(|m| m.subject == subject && m.workload == workload.name)
        };
        if served.iter().any(|subject| of(subject).is_some()) {
            let cells = served.iter().map(|subject| {
                of(subject).map_or_else(String::new, |m| format!("{:.1}", m.kib as f64 / 1024.0))
            });
            row(workload.name, cells, out);
        }
    }
}
