//! Which subject runs which workload when.

use std::collections::HashMap;

use crate::args::Args;
use crate::burner::Burners;
use crate::client::{self, Settings};
use crate::failure::Result;
use crate::results::{Results, Situation};
use crate::stage::Stage;
use crate::subject::Subject;
use crate::workload::{self, Workload};

/// Runs everything that the command line asks for.
pub(crate) fn run(
    args: &Args,
    stage: &Stage,
    subjects: &[Subject],
    results: &mut Results,
) -> Result<()> {
    results.set_subjects(subjects);
    let workloads = chosen(args, results);
    let situations: &[Situation] =
        if args.busy { &[Situation::Quiet, Situation::Busy] } else { &[Situation::Quiet] };
    for situation in situations {
        let burners = (*situation == Situation::Busy).then(Burners::start).transpose()?;
        for workload in &workloads {
            let only = workload.wanted_measures(&args.only);
            let settings = Settings { window: args.window(), data: args.data_size(), only };
            rounds(args, stage, subjects, workload, &settings, *situation, results);
        }
        drop(burners);
    }
    Ok(())
}

/// One workload on all subjects, round by round. Each round begins with another subject, so that
/// none is always the one that comes after a certain other.
fn rounds(
    args: &Args,
    stage: &Stage,
    subjects: &[Subject],
    workload: &Workload,
    settings: &Settings,
    situation: Situation,
    results: &mut Results,
) {
    eprintln!("{} ({situation})", workload.name);
    let mut failed: HashMap<&str, String> = HashMap::new();
    for round in 0..args.rounds().min(workload.most_rounds) {
        for turn in 0..subjects.len() {
            let subject = &subjects[(turn + round) % subjects.len()];
            if failed.contains_key(subject.name.as_str()) || !subject.takes(workload) {
                continue;
            }
            match client::run(stage, subject, workload, settings) {
                Ok(run) => results.add(situation, subject, workload, run),
                Err(why) => {
                    eprintln!("  {} fails: {why}", subject.name);
                    failed.insert(&subject.name, why);
                }
            }
        }
    }
    for (subject, why) in failed {
        results.add_failure(situation, subject, workload, why);
    }
}

/// The workloads that are asked for and whose programs are there.
fn chosen(args: &Args, results: &mut Results) -> Vec<&'static Workload> {
    let mut chosen = Vec::new();
    for workload in workload::ALL {
        let named = args.only.is_empty() || workload.is_named(&args.only);
        let small = !args.quick || workload.quick || !args.only.is_empty();
        let fits = workload.name != "walk-large" || args.large;
        if workload.name == "check" || !(named && small && fits) {
            continue;
        }
        match workload.missing_program() {
            None => chosen.push(workload),
            Some(program) => {
                let why = format!("needs the program {program}");
                eprintln!("left out: {}: {why}", workload.name);
                results.left_out.push((format!("workload {}", workload.name), why));
            }
        }
    }
    chosen
}
