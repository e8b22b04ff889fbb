//! The results as files: JSON for programs, Markdown and plots for people.

use std::fs;
use std::path::Path;

use crate::failure::{Result, Say};
use crate::results::{Results, Situation};

mod json;
mod markdown;
mod plot;

/// Writes RESULTS.md, results.json and a plot for each situation to `dir`.
pub(crate) fn write(results: &Results, dir: &Path) -> Result<()> {
    if results.series.is_empty() {
        return Err("nothing was measured".into());
    }
    fs::create_dir_all(dir).say(dir.display())?;
    let put = |name: &str, text: &str| fs::write(dir.join(name), text).say(name);
    put("results.json", &json::text(results))?;
    for situation in situations(results) {
        plot::write(results, situation, &dir.join(plot_name(situation)))?;
    }
    let text = markdown::text(results);
    put("RESULTS.md", &text)?;
    println!("{text}");
    eprintln!("written to {}", dir.display());
    Ok(())
}

fn plot_name(situation: Situation) -> &'static str {
    match situation {
        Situation::Quiet => "results.svg",
        Situation::Busy => "results-busy.svg",
    }
}

/// The situations that were measured.
fn situations(results: &Results) -> Vec<Situation> {
    let mut all = vec![Situation::Quiet, Situation::Busy];
    all.retain(|wanted| results.series.iter().any(|series| series.situation == *wanted));
    all
}

/// A time with the unit that suits it: three digits at least.
fn time(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{} ns", digits(n)),
        n if n < 1e6 => format!("{} µs", digits(n / 1e3)),
        n if n < 1e9 => format!("{} ms", digits(n / 1e6)),
        n => format!("{} s", digits(n / 1e9)),
    }
}

/// A number with three digits that count.
fn digits(number: f64) -> String {
    match number {
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}
