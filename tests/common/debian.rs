//! A Debian root file system, made once by debootstrap and kept in
//! `${XDG_CACHE_HOME:-$HOME/.cache}/idshift-tests`; the mirror is the one in apt's configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::runner::{needs_program, needs_real_root, skip};

/// Runs a command to its end; its output, or a failed test that shows it.
pub(crate) fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}\n{text}\n{errors}", out.status);
    text
}

/// The mirror and the name of the release, from apt's own configuration.
fn mirror() -> (String, String) {
    let format = "$(REPO_URI)|$(CODENAME)";
    let out = Command::new("apt-get").args(["indextargets", "--format", format]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let targets = text.lines().filter_map(|line| line.split_once('|'));
    // The release itself: its updates and security fixes have a dash in the name.
    targets
        .filter(|(_, release)| !release.contains('-'))
        .map(|(address, release)| (address.to_owned(), release.to_owned()))
        .next()
        .unwrap_or_else(|| skip("needs a package source in apt's configuration (apt-get update)"))
}

fn cache() -> PathBuf {
    let home =
        || Path::new(&std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    base.join("idshift-tests")
}

/// The root file system as debootstrap makes it, made only once. Two tests may ask at once.
pub(crate) fn pristine() -> PathBuf {
    needs_real_root("debootstrap and chroot");
    for program in ["debootstrap", "apt-get", "chroot", "nsenter", "unshare"] {
        needs_program(program);
    }
    let (address, release) = mirror();
    let cache = cache();
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let ready = cache.join(format!("{release}-minbase"));
    if ready.exists() {
        return ready;
    }
    let new = cache.join("new");
    if new.exists() {
        fs::remove_dir_all(&new).unwrap();
    }
    println!("rootfs: debootstrap of {release}, kept in {}", ready.display());
    let out = Command::new("debootstrap")
        .args(["--variant=minbase", &release])
        .arg(&new)
        .arg(address)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stdout);
        let last: Vec<&str> = text.lines().rev().take(3).collect();
        skip(format!("needs debootstrap and a mirror: {}", last.join(" / ")));
    }
    fs::rename(&new, &ready).unwrap();
    ready
}
