//! Each option in each situation: it has an effect that shows, or it is refused or noted by its name. Nothing is
//! accepted silently. Goes through the rows of `idshift::mount::options::table`.

use std::path::PathBuf;

use idshift::mount::options::table::{Remount, Row, rows};
use tempfile::TempDir;

use crate::common::mount::{free, mount_line, temp_dir};
use crate::common::program::{Called, idshift};
use crate::common::runner::{machine, needs_real_root};
use crate::common::{self, chown, eventually, lo, owner, put_dir, put_file, status};

crate::common::tests!(
    a_mount_point_is_made,
    mounting,
    remounting,
    with_the_kernels_mount,
    choosing_the_backend
);

/// What capital letters in a form stand for.
const STANDS_FOR: &[(&str, &str)] = &[
    ("SECONDS", "0.5"),
    ("USER", "1000"),
    ("GROUP", "1000"),
    ("UID", "1000"),
    ("GID", "1000"),
    ("LABEL", "web"),
    ("NAME", "x"),
    ("LEVEL", "debug"),
    ("MODE", "0755"),
    ("SPEC", "b:20000:0:20000"),
    ("N", "2"),
];

/// The ways to write an option.
fn examples(row: &Row) -> Vec<String> {
    if !row.has_value {
        return row.names.iter().map(|name| (*name).to_owned()).collect();
    }
    let values = row.form.split_once('=').map_or("", |(_, values)| values).split(" | ");
    values
        .map(|value| {
            let value = STANDS_FOR
                .iter()
                .fold(value.replace(['[', ']'], ""), |value, (word, it)| value.replace(word, it));
            format!("{}={value}", row.names[0])
        })
        .collect()
}

/// A lower directory and a place to mount it.
struct Place {
    _dir: TempDir,
    lower: PathBuf,
    upper: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = temp_dir();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        put_dir(&lower, 0o755, lo(0), lo(0));
        put_dir(&upper, 0o755, 0, 0);
        put_file(&lower.join("file"), b"content", 0o644, lo(7), lo(7));
        Self { _dir: dir, lower, upper }
    }

    fn mount(&self, options: &str) -> Called {
        idshift(&[&"mount", &"-o", &options, &self.lower, &self.upper])
    }

    fn shown(&self) -> Vec<String> {
        mount_line(&self.upper).unwrap()[3].split(',').map(str::to_owned).collect()
    }

    /// Whether the mount is as a flag says; `None` for what is no flag.
    fn is_as_flag_says(&self, flag: &str) -> Option<bool> {
        let shown = self.shown();
        let has = |name: &str| shown.iter().any(|option| option == name);
        Some(match flag {
            "ro" | "nosuid" | "nodev" | "noexec" | "nosymfollow" | "noatime" | "nodiratime"
            | "sync" | "dirsync" | "lazytime" | "relatime" => has(flag),
            "rw" => !has("ro"),
            "suid" => !has("nosuid"),
            "dev" => !has("nodev"),
            "exec" => !has("noexec"),
            "symfollow" => !has("nosymfollow"),
            "atime" => !has("noatime"),
            "diratime" => !has("nodiratime"),
            "async" => !has("sync"),
            "nolazytime" => !has("lazytime"),
            "strictatime" => !has("noatime") && !has("relatime"),
            "norelatime" | "nostrictatime" => has("relatime") || has("noatime"),
            "user" | "users" => has("nosuid") && has("nodev") && has("noexec"),
            "owner" | "group" => has("nosuid") && has("nodev"),
            "defaults" => !["ro", "nosuid", "nodev", "noexec", "noatime"].into_iter().any(has),
            _ => return None,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        free(&self.upper);
    }
}

/// Whether an error or note names the option.
fn is_named(called: &Called, option: &str) -> bool {
    called.err.contains(option) || called.err.contains(option.split('=').next().unwrap_or(option))
}

/// Options that say in their description that they change nothing.
fn is_said_to_do_nothing(row: &Row) -> bool {
    let words = ["; no effect", "the same", "for /etc/fstab and its readers"];
    row.remount == Remount::Nothing
        && words.iter().any(|words| row.text.starts_with(words) || row.text.ends_with(words))
}

/// Calls with each way to write each option, and says of which nothing was seen.
fn each(situation: &str, accounted_for: impl Fn(&Row, &str) -> bool) {
    let mut silent = Vec::new();
    let mut tried = 0;
    for row in rows().filter(|row| !is_said_to_do_nothing(row)) {
        for option in examples(row) {
            tried += 1;
            if !accounted_for(row, &option) {
                silent.push(option);
            }
        }
    }
    assert!(tried > 60, "{tried}");
    assert!(silent.is_empty(), "{situation}: accepted without a word or an effect: {silent:?}");
}

fn a_mount_point_is_made() {
    let place = Place::new();
    let point = place.upper.join("a/b");
    let mount = |options: &str| {
        let options = format!("{},{options}", common::MAP);
        idshift(&[&"mount", &"-o", &options, &place.lower, &point])
    };
    let called = mount("ro");
    assert!(called.code == 32 && called.err.contains("mkdir"), "{}", called.err);
    let called = mount("X-mount.mkdir=0700");
    assert_eq!(called.code, 0, "{}", called.err);
    assert_eq!(owner(&point.join("file")), (7, 7));
    free(&point);
    assert_eq!(common::mode(&point), 0o700);
}

fn mounting() {
    let place = Place::new();
    each("mount", |row, option| {
        // Owners in attributes are kept in trees of the server's own.
        let root = if option.starts_with("ownership=xattr") { 0 } else { lo(0) };
        // The server of the last mount may just be taking its guard away.
        eventually("no guard", || chown(&place.lower, Some(root), Some(root)).is_ok());
        let options = match row.names {
            ["map" | "owned-by"] => option.to_owned(),
            ["creators"] => format!("{},unmapped=squash:1000:1000,{option}", common::MAP),
            // These have situations of their own.
            ["remount" | "backend"] => return true,
            _ => format!("{},{option}", common::MAP),
        };
        let called = place.mount(&options);
        if called.code != 0 {
            assert!(is_named(&called, option), "{option}: {}", called.err);
            return true;
        }
        let seen = match row.names {
            ["map"] => owner(&place.upper.join("file")) == (7, 7),
            // The mount point is there already; `a_mount_point_is_made` is about others.
            ["X-mount.mkdir"] => true,
            ["fsname"] => mount_line(&place.upper).unwrap()[0] == "x",
            _ => place.is_as_flag_says(option).unwrap_or_else(|| {
                let report = status::report(&place.upper).unwrap();
                // A default is not shown; the cache is shown as it has been decided.
                let usual = |value: &str| row.form.contains(&format!("={value} |"));
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                let report: serde_json::Value = serde_json::from_str(&report).unwrap();
                match &report["facts"]["options"][name] {
                    serde_json::Value::String(shown) => shown == value || usual(value),
                    serde_json::Value::Bool(shown) => *shown,
                    _ => usual(value) || option == "sandbox=on",
                }
            }),
        };
        free(&place.upper);
        seen
    });
}

/// A change shows, or the option is named in the note.
fn remounting() {
    let place = Place::new();
    each("remount", |row, option| {
        assert_eq!(place.mount(common::MAP).code, 0);
        let called = place.mount(&format!("remount,{option}"));
        let fine = match place.is_as_flag_says(option) {
            Some(_) if called.code != 0 => called.err.contains("access times"),
            Some(is_so) => is_so || called.err.contains(option),
            // Root's mounts have allow_other, and it is the mount's own word.
            None if ["remount", "allow_other"].contains(&row.names[0]) => called.code == 0,
            None => called.code == 0 && called.err.contains(option),
        };
        free(&place.upper);
        fine
    });
}

/// What an idmapped mount has, flags apart; everything else must be refused.
const OF_THE_KERNEL: &[&str] = &[
    "map=b:20000:0:20000",
    "cache=coherent",
    "io=passthrough",
    "locks=lower",
    "ownership=chown",
    "guard=none",
    "unmapped=overflow",
    "deny_groups=off",
    "suid=pass",
    "creators=refuse",
    "chown=refuse",
    "submounts",
    "allow_other",
    "restart=off",
    "transport=dev",
    "idmap=deny",
    // Its calls are the callers' own.
    "act_as=auto",
    "act_as=caller",
    "X-mount.mkdir=0755",
    "backend=kernel",
    "log=debug",
];

/// What has to be said beside an option.
fn beside(row: &Row, option: &str) -> String {
    match row.names {
        ["map" | "owned-by"] => "ro".to_owned(),
        _ if option == "creators=squash" => {
            format!("{},unmapped=squash:1000:1000", common::MAP)
        }
        _ => common::MAP.to_owned(),
    }
}

fn with_the_kernels_mount() {
    needs_real_root("the kernel's idmapped mount");
    let place = Place::new();
    if place.mount(&format!("{},backend=kernel", common::MAP)).code != 0 {
        common::skip("needs idmapped mounts of this file system");
    }
    free(&place.upper);
    each("backend=kernel", |row, option| {
        if row.names == ["remount"] || option == "backend=fuse" || option == "backend=auto" {
            return true; // another situation
        }
        let map = beside(row, option);
        let called = place.mount(&format!("{map},backend=kernel,{option}"));
        if called.code != 0 {
            assert_eq!(called.code, 1, "{option}: {}", called.err);
            return is_named(&called, option);
        }
        let line = mount_line(&place.upper).unwrap();
        assert_ne!(line[2], "fuse.idshift", "{option}");
        let is_had = place.is_as_flag_says(option) == Some(true) || OF_THE_KERNEL.contains(&option);
        free(&place.upper);
        is_had || is_named(&called, option)
    });
}

/// `backend=auto` takes the server for what only a server can do, and says so; what is about a server alone
/// it names when it takes the kernel.
fn choosing_the_backend() {
    needs_real_root("the kernel's idmapped mount");
    let place = Place::new();
    let helper = place.lower.with_file_name("mount.fuse.idshift");
    std::os::unix::fs::symlink(&machine().binary, &helper).unwrap();
    let choice = |options: &str| {
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 5] =
            [&place.lower, &place.upper, &"-f", &"-o", &options];
        common::program::program(&helper, &arguments)
    };
    if !choice(&format!("{},backend=auto", common::MAP)).err.contains("backend: kernel") {
        common::skip("needs idmapped mounts of this file system");
    }
    each("backend=auto", |row, option| {
        if ["remount", "backend"].contains(&row.names[0]) {
            return true; // another situation
        }
        let map = beside(row, option);
        let called = choice(&format!("{map},backend=auto,{option}"));
        let is_kernels = called.err.contains("backend: kernel");
        let is_had = OF_THE_KERNEL.contains(&option) || place_flag(option);
        called.code != 0 || is_named(&called, option) || (is_kernels && is_had)
    });
}

/// Flags of a mount, which every mount has; those of a file system an idmapped mount has not.
fn place_flag(option: &str) -> bool {
    let of_file_system = ["sync", "dirsync", "lazytime"];
    !option.contains('=') && !of_file_system.contains(&option)
}
