//! The two directories of a mount are what was named, however the names change meanwhile.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::mount::{free, is_mounted, temp_dir};
use crate::common::program::idshift;
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{Errno, eventually, machine, put_dir, put_file, raw};

crate::common::tests! {
    lower_directory_by_a_descriptor,
    lower_directory_of_another_namespace,
    variables_of_the_environment_mean_nothing,
    mount_that_an_automounter_waits_for,
    guard_covers_what_is_shown,
    mount_point_that_is_exchanged,
}

fn directories(names: &[&str]) -> tempfile::TempDir {
    let dir = temp_dir();
    for name in names {
        put_dir(&dir.path().join(name), 0o755, 0, 0);
    }
    dir
}

/// `/proc/self/fd/N` is what the command has there.
fn lower_directory_by_a_descriptor() {
    needs_idshift();
    needs_real_root("a mount in the background");
    let dir = directories(&["lower", "upper"]);
    put_file(&dir.path().join("lower/file"), b"it", 0o644, 0, 0);
    let upper = dir.path().join("upper");
    let script = "exec 7<lower; exec \"$0\" mount -o map=identity /proc/self/fd/7 upper";
    let status = Command::new("sh")
        .args(["-c", script])
        .arg(&machine().binary)
        .current_dir(dir.path())
        .status()
        .unwrap();
    let shown = fs::read(upper.join("file"));
    let source = fs::read_to_string("/proc/self/mounts").unwrap();
    free(&upper);
    assert!(status.success());
    assert_eq!(shown.unwrap(), b"it");
    let lower = dir.path().join("lower");
    assert!(source.contains(&format!("{} {}", lower.display(), upper.display())), "{source}");
}

/// What `/proc/PID/root/…` leads to is shown, not what the host has under that name.
fn lower_directory_of_another_namespace() {
    needs_idshift();
    needs_real_root("mount namespaces");
    needs_program("unshare");
    let dir = directories(&["lower", "upper"]);
    let [lower, upper] = ["lower", "upper"].map(|name| dir.path().join(name));
    put_file(&lower.join("which"), b"the host's", 0o644, 0, 0);
    let mut other = Command::new("unshare");
    let script =
        "mount -t tmpfs x \"$0\" && echo theirs >\"$0/which\" && echo done && exec sleep 100";
    other.args(["-m", "sh", "-c", script]).arg(&lower).stdout(Stdio::piped());
    raw::die_with_parent(&mut other);
    let mut other = other.spawn().unwrap();
    let there = format!("/proc/{}/root{}", other.id(), lower.display());
    let which = Path::new(&there).join("which");
    eventually("it is there", || fs::read(&which).is_ok_and(|text| text == b"theirs\n"));
    let called = idshift(&[&"mount", &"-o", &"map=identity", &there, &upper]);
    let shown = fs::read(upper.join("which"));
    free(&upper);
    let guarded = idshift(&[&"mount", &"-o", &"map=identity,guard=hide", &there, &upper]);
    let onto = idshift(&[&"mount", &"-o", &"map=identity", &upper, &there]);
    let covered = is_mounted(&lower);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(called.code, 0, "{}", called.err);
    assert_eq!(shown.unwrap(), b"theirs\n");
    assert!(guarded.err.contains("another mount namespace"), "{}", guarded.err);
    assert!(onto.err.contains("another mount namespace"), "{}", onto.err);
    assert!(!covered);
}

/// `mount` of an fstab `user` entry passes the user's environment on.
fn variables_of_the_environment_mean_nothing() {
    needs_idshift();
    needs_real_root("a mount in the background");
    let dir = directories(&["lower", "upper"]);
    let upper = dir.path().join("upper");
    let mut command = Command::new(&machine().binary);
    command.args(["mount", "-o", "map=identity"]).arg(dir.path().join("lower")).arg(&upper);
    let mut child = command.env("IDSHIFT_BACKGROUND", "1").stdin(Stdio::null()).spawn().unwrap();
    eventually("the command ends", || child.try_wait().unwrap().is_some());
    assert!(is_mounted(&upper));
    free(&upper);
}

/// An automounter lets only its own group of processes pass until something is mounted.
fn mount_that_an_automounter_waits_for() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    needs_idshift();
    needs_real_root("autofs");
    let dir = directories(&["lower", "upper"]);
    put_file(&dir.path().join("lower/file"), b"it", 0o644, 0, 0);
    let upper = dir.path().join("upper");
    let (_requests, kernel) = std::io::pipe().unwrap();
    let group = rustix::process::getpgrp().as_raw_nonzero();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&kernel);
    let options = format!("fd={fd},pgrp={group},minproto=5,maxproto=5,direct");
    let options = std::ffi::CString::new(options).unwrap();
    if mount("autofs", &upper, "autofs", MountFlags::empty(), Some(options.as_c_str())).is_err() {
        crate::common::skip("needs autofs");
    }
    let mut command = Command::new(&machine().binary);
    command.args(["mount", "-o", "map=identity"]).arg(dir.path().join("lower")).arg(&upper);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let start = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = child.try_wait().unwrap();
    let shown = ended.map(|_| fs::read(upper.join("file")));
    unmount(&upper, UnmountFlags::DETACH).ok();
    unmount(&upper, UnmountFlags::DETACH).ok();
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(shown.expect("it hangs").unwrap(), b"it");
}

/// Has `work` done while somebody who owns the directory above exchanges `dir/name` and a link to
/// `elsewhere` all the time.
fn while_exchanging(dir: &Path, name: &str, elsewhere: &Path, mut work: impl FnMut()) {
    let (there, link) = (dir.join(name), dir.join("link"));
    std::os::unix::fs::symlink(elsewhere, &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let exchanged = renameat_with(CWD, &there, CWD, &link, RenameFlags::EXCHANGE);
                // What is covered cannot be renamed.
                assert!(matches!(exchanged, Ok(()) | Err(Errno::BUSY)), "{exchanged:?}");
            }
        });
        work();
        stop.store(true, Ordering::Relaxed);
    });
    eventually("both are where they were", || {
        !fs::symlink_metadata(&there).unwrap().is_symlink()
            || renameat_with(CWD, &there, CWD, &link, RenameFlags::EXCHANGE).is_ok()
    });
}

/// A guard covers the directory that is shown, and no other.
fn guard_covers_what_is_shown() {
    needs_idshift();
    needs_real_root("guard=");
    let dir = directories(&["theirs", "theirs/lower", "victim", "upper"]);
    let [theirs, victim, upper] = ["theirs", "victim", "upper"].map(|name| dir.path().join(name));
    for (at, text) in [(theirs.join("lower"), "theirs"), (victim.clone(), "victim")] {
        put_file(&at.join("which"), text.as_bytes(), 0o644, 0, 0);
    }
    let mut wrong = Vec::new();
    while_exchanging(&theirs, "lower", &victim, || {
        for _ in 0..60 {
            let lower = theirs.join("lower");
            let called = idshift(&[&"mount", &"-o", &"map=identity,guard=hide", &lower, &upper]);
            if called.code == 0 {
                let shown = fs::read_to_string(upper.join("which")).unwrap();
                if is_mounted(&victim) != (shown == "victim") {
                    wrong.push(shown);
                }
            } else if is_mounted(&victim) {
                wrong.push(called.err);
            }
            free(&upper);
            eventually("it is uncovered", || !is_mounted(&victim));
        }
    });
    idshift(&[&"unguard"]);
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Nothing is mounted over a directory that is not the mount point that was checked.
fn mount_point_that_is_exchanged() {
    needs_idshift();
    needs_real_root("a mount in the background");
    let dir = directories(&["lower", "theirs", "theirs/point", "victim"]);
    let (theirs, victim) = (dir.path().join("theirs"), dir.path().join("victim"));
    let (point, lower) = (theirs.join("point"), dir.path().join("lower"));
    let mut wrong = 0;
    while_exchanging(&theirs, "point", &victim, || {
        for _ in 0..60 {
            let called = idshift(&[&"mount", &"-v", &"-o", &"map=identity", &lower, &point]);
            let said_victim = called.err.contains(&format!("at {}", victim.display()));
            if called.code == 0 && is_mounted(&victim) != said_victim {
                wrong += 1;
            }
            free(&victim);
            free(&point);
            free(&theirs.join("link"));
        }
    });
    assert_eq!(wrong, 0, "mounted elsewhere than was said");
}
