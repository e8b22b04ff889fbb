//! What a mount tells of its configuration (`idshift status`).

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{ActAs, IoMode};
use crate::fs::{FileSystem, Role};
use crate::mount::config::MountConfig;
use crate::mount::flags;
use crate::mount::options::table::{self, Shown};
use crate::report::{Cache, Extents, Facts, OptionValue, Possible};

/// A map with more extents is asked for apart: the report has a bounded size.
const MOST_EXTENTS: usize = 12;
/// Paths longer than this are cut, for the same reason.
const LONGEST: usize = 1_500;

/// The facts about a mount; `cache` is how what the kernel caches is kept true. What is agreed on
/// with the kernel is added when it is asked for.
pub(super) fn of(config: &MountConfig, fs: &FileSystem, cache: Cache) -> Facts {
    let path = |path: &Path| cut(path.display().to_string());
    let refused = config.options.no_idmap.then(|| "refused (idmap=deny)".to_owned());
    Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lower: path(&config.lower),
        mountpoint: path(&config.mountpoint),
        source: cut(config.source.clone()),
        user: rustix::process::geteuid().as_raw(),
        map: map(config),
        options: options(config, fs, &cache),
        cache,
        allow_other: config.options.allow_other,
        restart: config.options.restart,
        handles: fs.uses_handles(),
        features: Vec::new(),
        idmapped_mounts: Possible { possible: false, why: refused },
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn map(config: &MountConfig) -> Option<Extents> {
    let count = config.maps.uids.extents().len() + config.maps.gids.extents().len();
    (count <= MOST_EXTENTS).then(|| Extents::from(&config.maps))
}

/// How each option stands that has not its default; of `io` and `cache` always.
fn options(config: &MountConfig, fs: &FileSystem, cache: &Cache) -> BTreeMap<String, OptionValue> {
    let io = match config.options.io {
        IoMode::Passthrough => "passthrough",
        IoMode::Cached => "cached",
    };
    let text = |name: &str, value: &str| (name.to_owned(), OptionValue::Text(value.to_owned()));
    let mut options = BTreeMap::from([text("io", io), text("cache", &cache.mode)]);
    if config.options.act_as == ActAs::Auto {
        options.extend(
            fs.role()
                .map(|role| text("act_as", if role == Role::Caller { "caller" } else { "owner" })),
        );
    }
    let others = table::rows().filter(|row| !matches!(row.names, ["io" | "cache"]));
    options.extend(others.filter_map(|row| (row.shown)(&config.options)).map(
        |Shown { name, value }| {
            (name.to_owned(), value.map_or(OptionValue::Flag(true), OptionValue::Text))
        },
    ));
    let flags = flags::set(config.options.flags);
    options.extend(flags.map(|flag| (flag.name.to_owned(), OptionValue::Flag(true))));
    options
}
