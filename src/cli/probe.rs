//! `idshift probe`: what is possible here, as one table.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::json;
use crate::error::StartError;
use crate::plain;
use facts::{Answer, Row, init};

pub mod facts;

/// Show what this kernel, this user and LOWER's file system can do
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory that you want to mount shifted
    #[arg(value_hint = clap::ValueHint::DirPath)]
    lower: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
    /// What a child process is started for
    #[arg(long, hide = true)]
    errand: Option<init::Errand>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    if let Some(errand) = args.errand {
        // The reason goes into the parent's table, so it stands there alone.
        return match init::run(errand) {
            Ok(()) => Ok(0),
            Err(why) => {
                complain!("{why}");
                Ok(2)
            }
        };
    }
    let rows = facts::all(args.lower.as_deref());
    if args.json {
        say!("{}", json::text(Facts::from(rows.as_slice()))?);
    } else {
        tell!("{}", table(&rows));
    }
    Ok(0)
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    let mut section = "";
    for row in rows {
        if row.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            section = row.section;
            text.extend([gap, section, "\n"]);
        }
        let line = format!("  {:width$}  {:3}  {}", row.what, row.answer, plain::line(&row.detail));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[derive(Serialize)]
struct Facts<'a> {
    facts: Vec<Fact<'a>>,
}

#[derive(Serialize)]
struct Fact<'a> {
    section: &'a str,
    what: &'a str,
    answer: Option<bool>,
    detail: &'a str,
}

impl<'a> From<&'a [Row]> for Facts<'a> {
    fn from(rows: &'a [Row]) -> Self {
        let fact = |row: &'a Row| Fact {
            section: row.section,
            what: &row.what,
            answer: match row.answer {
                Answer::Yes => Some(true),
                Answer::No => Some(false),
                Answer::Unknown | Answer::Fact => None,
            },
            detail: &row.detail,
        };
        Self { facts: rows.iter().map(fact).collect() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::facts::Answer;
    use super::*;

    fn row(what: &str, answer: Answer, detail: &str) -> Row {
        Row { section: "S", what: what.to_owned(), answer, detail: detail.to_owned() }
    }

    #[test]
    fn the_table_is_aligned_and_headed() {
        let rows = [row("long name", Answer::Yes, "why"), row("x", Answer::No, "")];
        assert_eq!(table(&rows), "S\n  long name  yes  why\n  x          no\n");
    }
}
