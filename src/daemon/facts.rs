//! What a mount tells of its configuration in words (`idshift status`).

use crate::config::{ActAs, IoMode};
use crate::fs::{FileSystem, Role};
use crate::mount::config::MountConfig;
use crate::mount::flags;
use crate::mount::options::table;
use crate::shift::describe::describe_with;

/// Of a map with many extents so many lines are told, and no line is longer than that.
const MAP_LINES: usize = 12;
/// Paths longer than this are cut: the report has a bounded size.
const LONGEST: usize = 1_500;

/// The facts about a mount; `cache` is how what the kernel remembers is kept true.
pub(super) fn of(config: &MountConfig, fs: &FileSystem, cache: String) -> Vec<(String, String)> {
    let path = |path: &std::path::Path| cut(path.display().to_string());
    let facts = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("lower", path(&config.lower)),
        ("mountpoint", path(&config.mountpoint)),
        ("source", cut(config.source.clone())),
        ("user", rustix::process::geteuid().as_raw().to_string()),
        ("map", map(config)),
        ("options", options(config, fs, &cache).join(", ")),
        ("cache", cache),
        ("handles", if fs.uses_handles() { "yes" } else { "no" }.to_owned()),
    ];
    facts.map(|(name, text)| (name.to_owned(), text)).to_vec()
}

fn cut(text: String) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn map(config: &MountConfig) -> String {
    let text = describe_with(
        &config.maps,
        config.options.policies.unmapped,
        config.options.policies.creators,
    );
    let mut lines: Vec<&str> = text.lines().take(MAP_LINES).collect();
    if text.lines().count() > MAP_LINES {
        lines.push("…");
    }
    lines.join("\n")
}

/// How each option stands that has not its default; of `io` and `cache` always.
fn options(config: &MountConfig, fs: &FileSystem, cache: &str) -> Vec<String> {
    let io = match config.options.io {
        IoMode::Passthrough => "passthrough",
        IoMode::Cached => "cached",
    };
    let mut options = vec![format!("io={io}"), format!("cache={cache}")];
    if config.options.act_as == ActAs::Auto {
        options.extend(fs.role().map(|role| {
            let word = if role == Role::Caller { "caller" } else { "owner" };
            format!("act_as={word}")
        }));
    }
    let others = table::rows().filter(|row| !matches!(row.names, ["io" | "cache"]));
    options.extend(others.filter_map(|row| (row.shown)(&config.options)));
    options.extend(flags::set(config.options.flags).map(|flag| flag.name.to_owned()));
    options
}
