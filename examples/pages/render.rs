// Pages are made once, and a String is written to without an error to look at.
#![allow(clippy::format_push_string, clippy::format_collect)]
//! The pages as text. Words stand in `docs/man/*.in`; what the program knows itself is put into
//! them. `tests/host/pages.rs` uses this file too.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use clap::{Arg, Command};
use clap_complete::{Shell, generate};
use idshift::cli;
use idshift::cli::help::EXIT_CODES;
use idshift::mount::options::described::{MAPS, NOTES};
use idshift::mount::options::table::Row;
use idshift::mount::options::{generic, own};

/// The man pages: file name, and the words around what is generated.
pub(crate) const PAGES: &[(&str, &str)] = &[
    ("idshift.1", include_str!("../../docs/man/idshift.1.in")),
    ("mount.fuse.idshift.8", include_str!("../../docs/man/mount.fuse.idshift.8.in")),
    ("idshift-map.5", include_str!("../../docs/man/idshift-map.5.in")),
];

/// The completions: file name as the shell looks for it, and the shell.
pub(crate) const COMPLETIONS: &[(&str, Shell)] =
    &[("idshift.bash", Shell::Bash), ("_idshift", Shell::Zsh), ("idshift.fish", Shell::Fish)];

/// Writes all pages and completions into a directory, which is made if it is not there.
pub(crate) fn write_all(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, words) in PAGES {
        fs::write(directory.join(name), page(words))?;
    }
    for (name, shell) in COMPLETIONS {
        let mut file = File::create(directory.join(name))?;
        generate(*shell, &mut shown(&cli::command()), "idshift", &mut file);
    }
    Ok(())
}

/// The command without what is hidden, which completions would offer all the same.
fn shown(command: &Command) -> Command {
    // A name has to live as long as the program, which ends soon.
    let name: &'static str = command.get_name().to_owned().leak();
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let about = command.get_about().cloned().unwrap_or_default();
    let new = Command::new(name).about(about).args(arguments).disable_help_subcommand(true);
    visible(command).fold(new, |new, command| new.subcommand(shown(command)))
}

fn page(words: &str) -> String {
    let parts = [
        ("@COMMANDS@\n", commands()),
        ("@OPTIONS@\n", options(own::ROWS)),
        ("@GENERIC@\n", options(generic::ROWS)),
        ("@MAPS@\n", entries(MAPS.iter().map(|map| (map.form, map.text)))),
        ("@NOTES@\n", NOTES.iter().map(|note| format!("{}\n", roff(note))).collect()),
        ("@EXITS@\n", entries(EXIT_CODES.iter().copied())),
        ("@VERSION@", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    parts.iter().fold(words.to_owned(), |page, (place, part)| page.replace(place, part))
}

fn options(options: &[Row]) -> String {
    entries(options.iter().map(|option| (option.form, option.text)))
}

fn entries<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    entries.map(|(form, text)| format!(".TP\n\\fB{}\\fR\n{}\n", roff(form), roff(text))).collect()
}

/// Text as a line of man(7).
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn commands() -> String {
    let mut page = String::new();
    for command in visible(&cli::command()) {
        describe(command, "idshift", &mut page);
    }
    page
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// One command and those below it.
fn describe(command: &Command, parent: &str, page: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
        .collect();
    let (positionals, options): (Vec<&Arg>, Vec<&Arg>) =
        arguments.iter().copied().partition(|argument| argument.is_positional());
    page.push_str(&format!(".SS {}\n\\fB{0}\\fR", roff(&name)));
    for argument in options.iter().chain(&positionals) {
        let word = if argument.is_positional() { value(argument) } else { option(argument, "|") };
        let (open, close) = if argument.is_required_set() { ("", "") } else { ("[", "]") };
        page.push_str(&format!(" {open}{word}{close}"));
    }
    if command.has_subcommands() {
        page.push_str(" \\fIcommand\\fR");
    }
    page.push_str("\n.PP\n");
    let about = command.get_long_about().or_else(|| command.get_about());
    page.push_str(&paragraphs(&about.map(ToString::to_string).unwrap_or_default()));
    for argument in options.iter().chain(&positionals) {
        let head = if argument.is_positional() { value(argument) } else { option(argument, ", ") };
        let help = argument.get_long_help().or_else(|| argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let choices: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|choice| !choice.is_hide_set() && argument.get_action().takes_values())
            .map(|choice| format!("\\fB{}\\fR", roff(choice.get_name())))
            .collect();
        page.push_str(&format!(".TP\n{head}\n{}", paragraphs(&help)));
        if !choices.is_empty() {
            page.push_str(&format!("(one of: {})\n", choices.join(", ")));
        }
        for default in argument.get_default_values() {
            if argument.get_action().takes_values() {
                page.push_str(&format!("(default: {})\n", roff(&default.to_string_lossy())));
            }
        }
    }
    for command in visible(command) {
        describe(command, &name, page);
    }
}

/// `-m, --map SPEC`, with this between the two forms.
fn option(argument: &Arg, between: &str) -> String {
    let short = argument.get_short().map(|short| format!("\\fB\\-{short}\\fR"));
    let long = argument.get_long().map(|long| format!("\\fB\\-\\-{}\\fR", roff(long)));
    let forms: Vec<String> = short.into_iter().chain(long).collect();
    let forms = forms.join(between);
    let may_be_left_out = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
    match (argument.get_action().takes_values(), may_be_left_out) {
        (false, _) => forms,
        (true, true) => format!("{forms}[={}]", value(argument)),
        (true, false) => format!("{forms} {}", value(argument)),
    }
}

fn value(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let more = match argument.get_num_args() {
        Some(range) if range.max_values() > names.len() => " ...",
        _ => "",
    };
    format!("\\fI{}\\fR{more}", roff(&names.join(" ")))
}

/// Text of several lines: an empty one parts paragraphs, an indented one is an example.
fn paragraphs(text: &str) -> String {
    let mut page = String::new();
    for line in text.lines() {
        match line.strip_prefix("  ") {
            _ if line.trim().is_empty() => page.push_str(".PP\n"),
            Some(example) => {
                page.push_str(&format!(".PP\n.in +4n\n.nf\n{}\n.fi\n.in\n", roff(example.trim())));
            }
            None => page.push_str(&format!("{}\n", roff(line))),
        }
    }
    page
}
