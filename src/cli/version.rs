//! `idshift --version --verbose`: what was built, and which interfaces of the kernel it uses.

use std::env::consts;

use crate::fuse::negotiate::{FEATURES, PROTOCOL};

/// Interfaces of the kernel besides the features of FUSE: name, first Linux, what for, and what
/// happens without.
const INTERFACES: &[(&str, &str, &str, &str)] = &[
    ("open_tree", "5.2", "a private clone of the lower tree", "its path is opened"),
    ("mount_setattr", "5.12", "backend=kernel", "FUSE"),
    ("fanotify", "5.17", "cache=coherent", "cache=ttl:1"),
];

/// The version alone, on one line.
pub fn short() -> String {
    format!("idshift {}\n", env!("CARGO_PKG_VERSION"))
}

/// The version, the build and the interfaces.
pub fn long() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let library = if cfg!(target_env = "musl") {
        "musl"
    } else if cfg!(target_env = "gnu") {
        "gnu"
    } else {
        "other"
    };
    let linked = if cfg!(target_feature = "crt-static") { "statically" } else { "dynamically" };
    let rows = [
        ("build", format!("{profile}, {}-{}-{library}, {linked} linked", consts::ARCH, consts::OS)),
        ("features", "all; there is nothing to choose when building".to_owned()),
        ("FUSE", format!("protocol 7.{} to 7.{}", PROTOCOL.0, PROTOCOL.1)),
    ];
    let fuse = FEATURES.iter().map(|it| (it.name, it.since, it.why, it.without));
    let interfaces = INTERFACES.iter().copied().chain(fuse);
    let mut lines: Vec<String> = rows.iter().map(|(what, is)| format!("  {what:9} {is}")).collect();
    lines.push(String::new());
    lines.push("Used where the kernel has it ('idshift probe' says what this one has):".to_owned());
    lines.extend(interfaces.map(|(name, since, why, without)| {
        format!("  {name:24} Linux {since:7} {why}; else: {without}")
    }));
    short() + &lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_listed_and_no_path_is() {
        let text = long();
        assert_eq!(text.lines().count(), 1 + 3 + 2 + INTERFACES.len() + FEATURES.len());
        assert!(text.starts_with(&short()));
        // What describes a build must not tell about the machine that it was made on.
        assert!(!text.contains(env!("CARGO_MANIFEST_DIR")) && !text.contains("/home/"), "{text}");
    }
}
