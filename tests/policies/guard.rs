//! `guard=`: what the rest of the host sees of the lower directory while it is shown shifted, and
//! that nothing of it is left afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::common::mount::{free, is_mounted, temp_dir, wait_for};
use crate::common::program::{Called, copy_program, idshift};
use crate::common::runner::{needs_idshift, needs_kernel, needs_program, needs_real_root};
use crate::common::{
    self, Caller, Errno, Mount, chown, eventually, lo, machine, put_dir, put_file, raw, set_mode,
};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use tempfile::TempDir;

crate::common::tests!(
    set_user_id_programs_are_inert_below,
    nothing_runs_below,
    nothing_is_seen_below,
    each_order_of_several_mounts,
    killed_server_leaves_a_guard_that_can_be_undone,
    next_mount_and_umount_clear_up_after_a_killed_server,
    mounts_below_are_guarded_too,
    mount_on_a_guard_keeps_it,
    guard_and_mount_on_one_directory,
    other_namespaces_follow_and_are_freed,
    only_root_and_only_with_a_server,
);

/// One test at a time: every mount clears up after killed servers, also after those of other tests.
static TURN: Mutex<()> = Mutex::new(());

/// What a test holds: its turn, and its directory.
struct Place {
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A lower directory with a set-user-ID program that belongs to lower id 20005.
fn lower() -> (Place, PathBuf) {
    needs_kernel((5, 12), "guards");
    needs_idshift();
    needs_real_root("guard= is for root of the machine");
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = temp_dir();
    let lower = dir.path().join("lower");
    put_dir(&lower, 0o755, lo(0), lo(0));
    put_trap(&lower);
    (Place { dir, _turn: turn }, lower)
}

fn put_trap(dir: &Path) {
    let trap = dir.join("id");
    copy_program("/usr/bin/id", &trap);
    chown(&trap, Some(lo(5)), Some(lo(5))).unwrap();
    set_mode(&trap, 0o4755).unwrap();
}

/// Another mount of that directory, with a mount point of its own.
fn guarded(lower: &Path, guard: &str) -> Mount {
    let options = format!("{},guard={guard}", common::MAP);
    Mount::of(temp_dir(), lower.to_owned(), &options)
}

/// The effective user id with which `id` in this directory runs for user 1000.
fn runs_as(directory: &Path) -> std::io::Result<String> {
    let out = Caller::user(1000).run(|| Command::new(directory.join("id")).arg("-u").output())?;
    Ok(String::from_utf8(out.stdout).unwrap().trim().to_owned())
}

/// The mount table, without the mounts of this test program's other tests.
fn table(dir: &Path) -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(dir.to_str().unwrap()))
        .map(str::to_owned)
        .collect()
}

/// The guard that the mount table shows on a directory.
fn guard_on(lower: &Path) -> &'static str {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let top = mounts.lines().rev().find(|line| line.split(' ').nth(4) == lower.to_str());
    let Some(top) = top else { return "none" };
    let options: Vec<&str> = top.split(' ').nth(5).unwrap().split(',').collect();
    assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{top}");
    assert!(!top.contains("shared:"), "{top}");
    match (top.contains(" - tmpfs "), options.contains(&"noexec")) {
        (true, _) => "hide",
        (false, true) => "noexec",
        (false, false) => "nosuid",
    }
}

fn set_user_id_programs_are_inert_below() {
    let (dir, lower) = lower();
    let before = table(dir.path());
    assert_eq!(runs_as(&lower).unwrap(), lo(5).to_string(), "the trap is a trap");
    let mount = guarded(&lower, "nosuid");
    assert_eq!(guard_on(&lower), "nosuid");
    assert_eq!(runs_as(&lower).unwrap(), "1000");
    assert_eq!(runs_as(&mount.up("")).unwrap(), "5", "inside it works");
    // The attack: a program made through the mount, run by its path below.
    put_file(&mount.up("made"), &fs::read("/usr/bin/id").unwrap(), 0o4755, 5, 5);
    let made = || Caller::user(1000).run(|| Command::new(lower.join("made")).arg("-u").output());
    eventually("the server has closed it", || made().is_ok());
    assert_eq!(made().unwrap().stdout, b"1000\n");
    mount.unmount();
    assert_eq!(table(dir.path()), before);
    assert_eq!(runs_as(&lower).unwrap(), lo(5).to_string(), "as before");
}

fn nothing_runs_below() {
    let (dir, lower) = lower();
    let before = table(dir.path());
    let mount = guarded(&lower, "noexec");
    let refused = runs_as(&lower).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ACCESS));
    assert_eq!(runs_as(&mount.up("")).unwrap(), "5");
    fs::write(lower.join("new"), "from below").unwrap();
    assert_eq!(fs::read(mount.up("new")).unwrap(), b"from below", "it is the same directory");
    mount.unmount();
    assert_eq!(table(dir.path()), before);
}

fn nothing_is_seen_below() {
    let (dir, lower) = lower();
    let before = table(dir.path());
    let mount = guarded(&lower, "hide");
    assert_eq!(fs::read_dir(&lower).unwrap().count(), 0);
    let refused = fs::write(lower.join("new"), "").unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    assert_eq!(runs_as(&mount.up("")).unwrap(), "5");
    fs::write(mount.up("through"), "the mount").unwrap();
    // Another mount of it, by whichever backend, shows the directory and not what covers it.
    let other = Mount::of(temp_dir(), lower.clone(), common::MAP);
    assert_eq!(fs::read(other.up("through")).unwrap(), b"the mount");
    for backend in ["auto", "kernel"] {
        let point = dir.path().join(backend);
        put_dir(&point, 0o755, 0, 0);
        let options = format!("{},backend={backend}", common::MAP);
        let called = idshift(&[&"mount", &"-o", &options, &lower, &point]);
        let seen = fs::read(point.join("through"));
        free(&point);
        fs::remove_dir(&point).unwrap();
        if called.code == 32 && backend == "kernel" {
            continue; // no idmapped mounts on this file system
        }
        assert_eq!(called.code, 0, "{backend}: {}", called.err);
        assert_eq!(seen.unwrap(), b"the mount", "{backend}");
    }
    drop(other);
    mount.unmount();
    assert_eq!(fs::read(lower.join("through")).unwrap(), b"the mount");
    eventually("the guard is undone", || table(dir.path()) == before);
}

/// Whatever order three mounts come and go in, the strongest guard that is asked for is there.
fn each_order_of_several_mounts() {
    const GUARDS: [&str; 3] = ["nosuid", "noexec", "hide"];
    let (dir, lower) = lower();
    let before = table(dir.path());
    let strongest = |mounts: &[(usize, Mount)]| {
        mounts.iter().map(|(strength, _)| *strength).max().map_or("none", |it| GUARDS[it])
    };
    for (come, go) in [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 1, 2], [2, 1, 0]),
        ([2, 0, 1], [2, 0, 1]),
        ([2, 1, 0], [1, 2, 0]),
        ([1, 2, 0], [2, 0, 1]),
        ([1, 0, 2], [1, 0, 2]),
    ] {
        let mut mounts: Vec<(usize, Mount)> = Vec::new();
        for strength in come {
            let mount = guarded(&lower, GUARDS[strength]);
            assert_eq!(runs_as(&mount.up("")).unwrap(), "5");
            mounts.push((strength, mount));
            assert_eq!(guard_on(&lower), strongest(&mounts), "{come:?}");
        }
        for strength in go {
            let at = mounts.iter().position(|(it, _)| *it == strength).unwrap();
            mounts.remove(at).1.unmount();
            assert_eq!(guard_on(&lower), strongest(&mounts), "{come:?} {go:?}");
        }
        assert_eq!(table(dir.path()), before);
    }
}

/// A mount whose server is killed, taken away by umount(2) alone.
fn killed(lower: &Path, guard: &str) {
    let dir = temp_dir();
    let point = dir.path().join("upper");
    put_dir(&point, 0o755, 0, 0);
    let options = format!("{},guard={guard},restart=off", common::MAP);
    let mut server = common::mount::server_command(&options, lower, &point)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it is mounted", || is_mounted(&point));
    assert_eq!(guard_on(lower), guard);
    raw::kill(server.id(), libc::SIGKILL).unwrap();
    wait_for(&mut server).unwrap();
    unmount(&point, UnmountFlags::DETACH).unwrap();
    assert_eq!(guard_on(lower), guard, "a dead server undoes nothing");
}

fn unguard(lower: &Path) -> Called {
    idshift(&[&"unguard", &lower])
}

fn killed_server_leaves_a_guard_that_can_be_undone() {
    let (dir, lower) = lower();
    let before = table(dir.path());
    for guard in ["nosuid", "noexec", "hide"] {
        killed(&lower, guard);
        let called = unguard(&lower);
        assert_eq!(called.code, 0, "{}", called.err);
        assert_eq!(called.out, format!("{}: guard={guard} undone\n", lower.display()));
        assert_eq!(table(dir.path()), before);
        let again = unguard(&lower);
        assert_eq!((again.code, again.out.as_str()), (0, ""));
    }
    // One lives: only what the dead one asked for goes.
    let alive = guarded(&lower, "nosuid");
    killed(&lower, "hide");
    let called = unguard(&lower);
    assert_eq!(called.code, 32, "{}", called.out);
    assert!(called.err.contains(&alive.main_pid().to_string()), "{}", called.err);
    assert_eq!(guard_on(&lower), "nosuid");
    alive.unmount();
    assert_eq!(table(dir.path()), before);
}

fn next_mount_and_umount_clear_up_after_a_killed_server() {
    let (dir, lower) = lower();
    let before = table(dir.path());
    killed(&lower, "hide");
    let other = Mount::new();
    assert_eq!(table(dir.path()), before, "a mount of another directory will do");
    killed(&lower, "hide");
    let point = dir.path().join("kernel");
    put_dir(&point, 0o755, 0, 0);
    let options = format!("{},backend=kernel", common::MAP);
    if idshift(&[&"mount", &"-o", &options, &lower, &point]).code == 0 {
        assert_eq!(runs_as(&point).unwrap(), "5", "the kernel's mount shows what was covered");
        free(&point);
    }
    fs::remove_dir(&point).unwrap();
    assert_eq!(table(dir.path()), before, "so does one of the kernel");
    killed(&lower, "hide");
    let mount = guarded(&lower, "nosuid");
    assert_eq!(guard_on(&lower), "nosuid");
    assert_eq!(runs_as(&mount.up("")).unwrap(), "5", "not what the dead one covered it with");
    mount.unmount();
    killed(&lower, "noexec");
    assert_eq!(idshift(&[&"umount", &other.up("")]).code, 0);
    eventually("umount clears up too", || table(dir.path()) == before);
}

fn mounts_below_are_guarded_too() {
    let (dir, lower) = lower();
    let below = lower.join("below");
    put_dir(&below, 0o755, lo(0), lo(0));
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &below, "tmpfs", flags, Some(c"mode=755")).unwrap();
    put_trap(&below);
    let before = table(dir.path());
    assert_eq!(runs_as(&below).unwrap(), lo(5).to_string());
    let weak = guarded(&lower, "nosuid");
    assert_eq!(runs_as(&below).unwrap(), "1000");
    let strong = guarded(&lower, "noexec");
    runs_as(&below).unwrap_err();
    drop(strong);
    assert_eq!(runs_as(&below).unwrap(), "1000");
    drop(weak);
    assert_eq!(table(dir.path()), before);
    assert_eq!(runs_as(&below).unwrap(), lo(5).to_string());
    unmount(&below, UnmountFlags::empty()).unwrap();
}

/// What somebody mounts on the guarded directory is his, and is not taken away with the guard.
fn mount_on_a_guard_keeps_it() {
    let (dir, lower) = lower();
    let inner = lower.join("inner");
    put_dir(&inner, 0o755, lo(0), lo(0));
    let before = table(dir.path());
    let mount = guarded(&lower, "nosuid");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &inner, "tmpfs", flags, None).unwrap();
    fs::write(inner.join("file"), "mine").unwrap();
    assert!(!mount.up("inner/file").exists(), "the server's view is its own");
    mount.unmount();
    assert_eq!(guard_on(&lower), "nosuid");
    assert_eq!(fs::read(inner.join("file")).unwrap(), b"mine");
    let called = unguard(&lower);
    assert_eq!(called.code, 32);
    assert!(called.err.contains(inner.to_str().unwrap()), "{}", called.err);
    unmount(&inner, UnmountFlags::empty()).unwrap();
    assert_eq!(unguard(&lower).code, 0);
    assert_eq!(table(dir.path()), before);
}

fn guard_and_mount_on_one_directory() {
    let (dir, lower) = lower();
    let before = table(dir.path());
    let options = format!("{},guard=hide", common::MAP);
    let called = idshift(&[&"mount", &"-o", &options, &lower, &lower]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert_eq!(runs_as(&lower).unwrap(), "5", "the mount is above the guard");
    assert_eq!(idshift(&[&"umount", &lower]).code, 0);
    eventually("both are gone", || table(dir.path()) == before);
    assert_eq!(runs_as(&lower).unwrap(), lo(5).to_string());
}

/// Where the host shares its mounts with other namespaces, they see what the host sees.
fn other_namespaces_follow_and_are_freed() {
    needs_program("unshare");
    let (dir, plain) = lower();
    let shared = dir.path().join("shared");
    put_dir(&shared, 0o755, 0, 0);
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &shared, "tmpfs", flags, Some(c"mode=755")).unwrap();
    mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
    let lower = shared.join("lower");
    put_dir(&lower, 0o755, lo(0), lo(0));
    copy_program(plain.join("id"), lower.join("id"));
    set_mode(&lower.join("id"), 0o755).unwrap();
    let mut other = Command::new("unshare");
    other.args(["--mount", "--propagation", "slave", "sleep", "1000"]);
    raw::die_with_parent(&mut other);
    let mut other = other.spawn().unwrap();
    let there = PathBuf::from(format!("/proc/{}/root{}", other.id(), lower.display()));
    let ours = fs::read_link("/proc/self/ns/mnt").unwrap();
    let theirs = format!("/proc/{}/ns/mnt", other.id());
    eventually("it has its own mounts", || fs::read_link(&theirs).is_ok_and(|it| it != ours));
    let mounts = || fs::read_to_string(format!("/proc/{}/mounts", other.id())).unwrap();
    let (before, theirs_before) = (table(dir.path()), mounts());
    let mount = guarded(&lower, "hide");
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
    mount.unmount();
    assert_eq!(fs::read_dir(&there).unwrap().count(), 1);
    assert_eq!(table(dir.path()), before);
    assert_eq!(mounts(), theirs_before);
    other.kill().unwrap();
    other.wait().unwrap();
    unmount(&shared, UnmountFlags::DETACH).unwrap();
}

fn only_root_and_only_with_a_server() {
    needs_idshift();
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, lo(0), lo(0));
    put_dir(&upper, 0o755, 0, 0);
    let mount = |options: &str| {
        let options = format!("{},{options}", common::MAP);
        idshift(&[&"mount", &"-o", &options, &lower, &upper])
    };
    for guard in ["nosuid", "noexec", "hide"] {
        if machine().real_root {
            let called = mount(&format!("guard={guard},backend=kernel"));
            assert_eq!(called.code, 1, "{}", called.err);
            assert!(called.err.contains("guard="), "{}", called.err);
        } else {
            let called = mount(&format!("guard={guard}"));
            assert_eq!(called.code, 1, "{}", called.err);
            assert!(called.err.contains(&format!("guard={guard}")), "{}", called.err);
            assert!(called.err.contains("root of the machine"), "{}", called.err);
            assert_eq!(idshift(&[&"unguard"]).code, 1);
        }
    }
    assert!(!is_mounted(&upper));
    let called = mount("guard=all");
    assert_eq!(called.code, 1);
    assert!(called.err.contains("none, nosuid, noexec, hide"), "{}", called.err);
    let called = mount("guard=none");
    assert_eq!(called.code, 0, "{}", called.err);
    free(&upper);
}
