//! What a mount tells of its configuration in words (`idshift status`).

use crate::config::{IoMode, LockMode, MountConfig, Ownership};
use crate::fs::FileSystem;
use crate::shift::deny_groups::DenyGroups;
use crate::shift::explain::explain_with;
use crate::shift::foreign::{Creators, ForeignOwners};
use crate::shift::id::Id;
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;

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
        ("options", options(config, &cache).join(", ")),
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
    let text = explain_with(&config.maps, config.policies.unmapped, config.policies.creators);
    let mut lines: Vec<&str> = text.lines().take(MAP_LINES).collect();
    if text.lines().count() > MAP_LINES {
        lines.push("…");
    }
    lines.join("\n")
}

fn options(config: &MountConfig, cache: &str) -> Vec<String> {
    let io = match config.io {
        IoMode::Passthrough => "passthrough",
        IoMode::Cached => "cached",
    };
    let mut options = vec![format!("io={io}"), format!("cache={cache}")];
    if config.locks == LockMode::Lower {
        options.push("locks=lower".to_owned());
    }
    if let Ownership::Xattr { label } = &config.ownership {
        let label = label.as_ref().map(|label| format!(":{label}")).unwrap_or_default();
        options.push(format!("ownership=xattr{label}"));
    }
    options.extend(unmapped(config.policies.unmapped).map(|value| format!("unmapped={value}")));
    if config.policies.no_devices {
        options.push("owned-by".to_owned());
    }
    if config.policies.creators == Creators::Squash {
        options.push("creators=squash".to_owned());
    }
    if config.policies.foreign_owners == ForeignOwners::Ignore {
        options.push("chown=ignore".to_owned());
    }
    match config.policies.deny_groups {
        DenyGroups::Off => {}
        DenyGroups::Group => options.push("deny_groups=group".to_owned()),
        DenyGroups::All => options.push("deny_groups=all".to_owned()),
    }
    match config.policies.set_id {
        SetIdPolicy::Pass => {}
        SetIdPolicy::Deny => options.push("suid=deny".to_owned()),
        SetIdPolicy::Shadow => options.push("suid=shadow".to_owned()),
    }
    if config.guard.name() != "none" {
        options.push(format!("guard={}", config.guard.name()));
    }
    let flags = [
        (config.submounts, "submounts"),
        (config.allow_other, "allow_other"),
        (config.restart, "restart=on"),
        (!config.idmap, "idmap=deny"),
        (config.flags.read_only, "ro"),
        (config.flags.nosuid, "nosuid"),
        (config.flags.nodev, "nodev"),
        (config.flags.noexec, "noexec"),
    ];
    options.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    options
}

/// The value of `unmapped=`, if it is not the default.
fn unmapped(policy: UnmappedOwners) -> Option<String> {
    let ids = |word: &str| {
        let (uid, gid) = policy.stand_in().map(|(uid, gid)| (Id::raw(uid), Id::raw(gid)))?;
        Some(format!("{word}:{uid}:{gid}"))
    };
    match policy {
        UnmappedOwners::Overflow => None,
        UnmappedOwners::Restrict => Some("restrict".to_owned()),
        UnmappedOwners::Owner(..) => ids("owner"),
        UnmappedOwners::Squash(..) => ids("squash"),
        UnmappedOwners::Deny => Some("deny".to_owned()),
    }
}
