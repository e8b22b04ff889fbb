//! `idshift upgrade`: another program goes on with a mount, and nobody who uses it notices.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::mount::{is_mounted, temp_dir};
use crate::common::program::{Called, call, copy_program, idshift, program, servers_of};
use crate::common::restart::{Tar, kill, mounted, needs_resending};
use crate::common::runner::{needs_idshift, needs_kernel, needs_program, needs_real_root};
use crate::common::{self, Mount, eventually, lo, machine, put_dir, put_file, raw, set_mode};

crate::common::tests!(
    tar_through_three_upgrades,
    open_and_removed_files_and_locks_stay,
    rights_are_what_they_were,
    nothing_is_left_over,
    kills_and_changes_below_afterwards,
    what_the_map_was_made_from_may_be_gone,
    guarded_mount_in_the_background,
    mount_made_by_the_helper,
    other_layout_is_refused,
    other_programs_are_refused,
    others_may_not_ask,
    without_restart,
    signal_alone_does_nothing,
);

/// A second program: the same, elsewhere.
fn second() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let copy = machine().base.join("second-idshift");
        copy_program(&machine().binary, &copy);
        set_mode(&copy, 0o755).unwrap();
        copy
    })
}

fn upgrade(mount: &Path, binary: &dyn AsRef<std::ffi::OsStr>) -> Called {
    needs_kernel((5, 3), "pidfd_open(2)");
    idshift(&[&"upgrade", &mount, &"--binary", binary])
}

/// Upgrades to the second program, which then serves in the same process.
fn upgraded(mount: &Mount) -> Duration {
    let (main, server) = (mount.main_pid(), mount.server_pid());
    let start = Instant::now();
    let called = upgrade(&mount.up(""), &second());
    let took = start.elapsed();
    assert_eq!(called.code, 0, "{}", called.err);
    assert!(called.err.contains("serves"), "{}", called.err);
    assert_eq!(fs::read_link(format!("/proc/{main}/exe")).unwrap(), second());
    assert_ne!(mount.server_pid(), server, "another server");
    assert_eq!(fs::read_to_string(format!("/proc/{main}/comm")).unwrap(), "idshift\n");
    took
}

/// Whether the same server is there as before, and well.
fn refused(mount: &Mount, server: u32, called: &Called, why: &str) {
    assert_eq!(called.code, 32, "{}", called.err);
    assert!(called.err.contains(why), "{}", called.err);
    assert_eq!(mount.server_pid(), server);
    fs::write(mount.up("still"), "here").unwrap();
    assert_eq!(fs::read(mount.low("still")).unwrap(), b"here");
}

fn tar_through_three_upgrades() {
    let mount = mounted("locks=lower,");
    let mut tar = Tar::start(&mount);
    let mut took = Vec::new();
    while tar.is_running() && took.len() < 3 {
        thread::sleep(Duration::from_millis(100));
        took.push(upgraded(&mount));
    }
    assert_eq!(took.len(), 3, "tar was too quick");
    tar.finish(&mount);
    println!("upgrade: tar of 5,050 files through three upgrades, which took {took:.0?}");
}

fn open_and_removed_files_and_locks_stay() {
    use rustix::fs::{FlockOperation, flock};
    for options in ["locks=lower,", "locks=lower,suid=deny,"] {
        let mount = mounted(options);
        let create = |name: &str| {
            File::options().read(true).write(true).create_new(true).open(mount.up(name)).unwrap()
        };
        let (mut open, mut removed) = (create("open"), create("removed"));
        removed.write_all(b"removed").unwrap();
        fs::remove_file(mount.up("removed")).unwrap();
        fs::create_dir(mount.up("dir")).unwrap();
        let dir = common::open(&mount.up("dir"), common::OFlags::PATH, 0).unwrap();
        fs::remove_dir(mount.up("dir")).unwrap();
        flock(&open, FlockOperation::LockExclusive).unwrap();
        let below = File::open(mount.low("open")).unwrap();
        for n in 1..=2 {
            upgraded(&mount);
            open.write_all(b"more").unwrap();
            assert_eq!(fs::read(mount.low("open")).unwrap(), b"more".repeat(n));
            removed.seek(SeekFrom::Start(0)).unwrap();
            let mut content = String::new();
            removed.read_to_string(&mut content).unwrap();
            assert_eq!((content.as_str(), removed.metadata().unwrap().nlink()), ("removed", 0));
            assert_eq!(rustix::fs::fstat(&dir).unwrap().st_mode & 0o170_000, 0o040_000);
            let taken = flock(&below, FlockOperation::NonBlockingLockShared);
            assert!(taken.is_err(), "the lock is still held");
        }
        drop(open);
        eventually("the lock goes with the file", || {
            flock(&below, FlockOperation::NonBlockingLockShared).is_ok()
        });
    }
}

/// What `/proc` says of a process's rights.
fn rights(pid: u32) -> Vec<String> {
    const FIELDS: [&str; 10] = [
        "Uid:",
        "Gid:",
        "Groups:",
        "CapInh:",
        "CapPrm:",
        "CapEff:",
        "CapBnd:",
        "CapAmb:",
        "NoNewPrivs:",
        "Seccomp:",
    ];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines: Vec<String> = status
        .lines()
        .filter(|line| FIELDS.iter().any(|field| line.starts_with(field)))
        .map(str::to_owned)
        .collect();
    lines.push(fs::read_to_string(format!("/proc/{pid}/limits")).unwrap());
    lines
}

fn rights_are_what_they_were() {
    let mount = mounted("");
    let server = |mount: &Mount| {
        // It is in its sandbox when it answers.
        fs::write(mount.up("file"), "x").unwrap();
        let server = mount.server_pid();
        let root = fs::read_dir(format!("/proc/{server}/root/")).map(Iterator::count).ok();
        let environment = fs::read(format!("/proc/{server}/environ")).unwrap_or_default();
        let wiped = environment.iter().all(|byte| *byte == 0);
        (rights(server), root, wiped, fs::metadata(format!("/proc/{server}/")).unwrap().uid())
    };
    let before = (server(&mount), rights(mount.main_pid()));
    upgraded(&mount);
    assert_eq!((server(&mount), rights(mount.main_pid())), before);
    assert!(before.0.2, "a server has no environment");
}

fn nothing_is_left_over() {
    let mount = mounted("cache=coherent,");
    let main = mount.main_pid();
    let descriptors = || fs::read_dir(format!("/proc/{main}/fd")).unwrap().count();
    let settled = || {
        fs::write(mount.up("file"), "x").unwrap();
        descriptors()
    };
    upgraded(&mount);
    let first = settled();
    for n in 0..4 {
        let files: Vec<File> =
            (0..20).map(|m| File::create(mount.up(format!("file-{n}-{m}"))).unwrap()).collect();
        upgraded(&mount);
        drop(files);
    }
    eventually("descriptors are as many as after the first", || settled() <= first + 2);
    let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
    assert!(!log.contains("ERROR"), "{log}");
    assert!(mount.unmount().unwrap().success());
}

fn kills_and_changes_below_afterwards() {
    let mount = mounted("cache=coherent,");
    put_file(&mount.low("file"), b"one", 0o644, lo(0), lo(0));
    fs::metadata(mount.up("file")).unwrap();
    assert!(!mount.up("missing").exists());
    upgraded(&mount);
    fs::write(mount.low("file"), "two").unwrap();
    eventually("it shows", || fs::read(mount.up("file")).unwrap() == b"two");
    fs::write(mount.low("missing"), "").unwrap();
    eventually("the new file shows", || mount.up("missing").exists());
    kill(&mount);
    fs::write(mount.up("after"), "x").unwrap();
    assert_eq!(fs::read(mount.low("after")).unwrap(), b"x");
    upgraded(&mount);
    fs::write(mount.low("file"), "three").unwrap();
    eventually("it still shows", || fs::read(mount.up("file")).unwrap() == b"three");
}

fn what_the_map_was_made_from_may_be_gone() {
    needs_real_root("restart=on");
    needs_resending();
    let dir = temp_dir();
    let (lower, map) = (dir.path().join("lower"), dir.path().join("map"));
    put_dir(&lower, 0o777, lo(0), lo(0));
    put_file(&lower.join("file"), b"", 0o644, lo(7), lo(8));
    fs::write(&map, format!("b {} 0 1000\n", lo(0))).unwrap();
    let options = format!("map=file:{},restart=on", map.display());
    let mount = Mount::of(dir, lower, &options);
    eventually("the server is there", || mount.server_pid() != mount.main_pid());
    fs::remove_file(map).unwrap();
    upgraded(&mount);
    let meta = fs::metadata(mount.up("file")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
}

/// A mount point, a lower directory, and a mount in the background.
fn in_background(name: Option<&str>, options: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    needs_idshift();
    needs_real_root("restart=on");
    needs_resending();
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o777, lo(0), lo(0));
    put_dir(&upper, 0o755, 0, 0);
    let options = format!("{},restart=on,{options}", common::MAP);
    let called = match name {
        None => idshift(&[&"mount", &"-o", &options, &lower, &upper]),
        Some(name) => {
            let helper = dir.path().join(name);
            std::os::unix::fs::symlink(&machine().binary, &helper).unwrap();
            program(&helper, &[&lower, &upper, &"-o", &options, &"-n"])
        }
    };
    assert_eq!(called.code, 0, "{}", called.err);
    (dir, lower, upper)
}

fn takes_over_in_the_background(upper: &Path) {
    let before = servers_of(upper);
    let called = upgrade(upper, &second());
    assert_eq!(called.code, 0, "{}", called.err);
    fs::write(upper.join("file"), "x").unwrap();
    assert!(servers_of(upper) != before && servers_of(upper).len() == 1);
}

fn ends(upper: &Path) {
    let called = idshift(&[&"umount", &upper]);
    assert_eq!(called.code, 0, "{}", called.err);
    eventually("all processes end", || common::program::processes_of(upper).is_empty());
}

/// The helper, which stays, undoes the guard.
fn guarded_mount_in_the_background() {
    let (_dir, lower, upper) = in_background(None, "guard=hide");
    for _ in 0..2 {
        takes_over_in_the_background(&upper);
        assert_eq!(fs::read_dir(&lower).unwrap().count(), 0, "it is hidden");
        assert!(is_mounted(&lower));
    }
    let ranges = idshift(&[&"ranges"]);
    assert!(ranges.out.contains(&*upper.to_string_lossy()), "{}", ranges.out);
    ends(&upper);
    assert_eq!(fs::read(lower.join("file")).unwrap(), b"x");
    assert!(!is_mounted(&lower));
}

fn mount_made_by_the_helper() {
    let (_dir, lower, upper) = in_background(Some("mount.fuse.idshift"), "rw");
    takes_over_in_the_background(&upper);
    takes_over_in_the_background(&upper);
    ends(&upper);
    assert_eq!(fs::read(lower.join("file")).unwrap(), b"x");
}

/// A server of another version would not understand what this one writes down.
fn other_layout_is_refused() {
    let mount = mounted("");
    let (main, server) = (mount.main_pid(), mount.server_pid());
    let memory = fs::read_dir(format!("/proc/{main}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_link(path).is_ok_and(|to| to.starts_with("/memfd:idshift (deleted)")))
        .unwrap();
    let memory = File::options().write(true).open(memory).unwrap();
    let current = upgrade(&mount.up(""), &second());
    assert_eq!(current.code, 0, "{}", current.err);
    assert_ne!(mount.server_pid(), server);
    let server = mount.server_pid();
    memory.write_all_at(&4711_u64.to_ne_bytes(), 0).unwrap();
    refused(&mount, server, &upgrade(&mount.up(""), &second()), "in version 4711");
}

fn other_programs_are_refused() {
    let mount = mounted("");
    let server = mount.server_pid();
    let beside = |name: &str, mode: u32| {
        let path = mount.beside().join(name);
        copy_program("/bin/true", &path);
        set_mode(&path, mode).unwrap();
        path
    };
    let try_with = |binary: &Path| upgrade(&mount.up(""), &binary);
    refused(&mount, server, &try_with(&beside("true", 0o755)), "is not idshift");
    refused(&mount, server, &try_with(&beside("plain", 0o644)), "not an executable file");
    refused(&mount, server, &try_with(&beside("open", 0o757)), "nobody else may write to it");
    let foreign = beside("foreign", 0o755);
    common::chown(&foreign, Some(lo(5)), None).unwrap();
    refused(&mount, server, &try_with(&foreign), "must belong to user 0");
    refused(&mount, server, &try_with(Path::new("/nowhere")), "cannot be opened");
    let script = mount.beside().join("script");
    fs::write(&script, "#!/bin/sh\necho idshift 9.9; exit 3\n").unwrap();
    set_mode(&script, 0o755).unwrap();
    refused(&mount, server, &try_with(&script), "is served as before");
    copy_program(second(), mount.up("inside"));
    refused(&mount, server, &try_with(&mount.up("inside")), "lies in the mount itself");
    // An older one, which knows nothing of this.
    let old = mount.beside().join("old.rs");
    fs::write(&old, OLD).unwrap();
    let binary = mount.beside().join("old");
    let compiled = Command::new("rustc").arg("-o").args([&binary, &old]).status();
    if compiled.is_ok_and(|status| status.success()) {
        set_mode(&binary, 0o755).unwrap();
        refused(&mount, server, &try_with(&binary), "'idshift 0.0.1' cannot go on");
    }
}

/// A program that has idshift's name.
const OLD: &str = r#"
fn main() {
    if std::env::args().any(|word| word == "--version") {
        println!("idshift 0.0.1");
        return;
    }
    eprintln!("error: unexpected argument '--go-on' found");
    std::process::exit(1);
}
"#;

/// Neither an ordinary user, nor a user 0 who has not all of root's rights.
fn others_may_not_ask() {
    needs_program("setpriv");
    let mount = mounted("");
    let server = mount.server_pid();
    let arguments = [
        "upgrade".to_owned(),
        mount.up("").display().to_string(),
        "--binary".to_owned(),
        second().display().to_string(),
    ];
    let mut user = Command::new(second());
    user.args(&arguments).uid(1000).gid(1000);
    let called = call(user);
    assert_eq!(called.code, 1, "{}", called.err);
    assert!(called.err.contains("only root of the machine"), "{}", called.err);
    let mut less = Command::new("setpriv");
    less.args(["--bounding-set=-fsetid", "--inh-caps=-all", "--"]).arg(second());
    let called = call({
        less.args(&arguments);
        less
    });
    refused(&mount, server, &called, "has not all the rights");
    // In a user namespace root is somebody else.
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user"]).arg(second()).args(&arguments);
    let called = call(inside);
    assert_ne!(called.code, 0, "{}", called.err);
    assert_eq!(mount.server_pid(), server);
}

fn without_restart() {
    needs_real_root("an upgrade");
    let mount = Mount::with(common::MAP, |_| ());
    let server = mount.server_pid();
    refused(&mount, server, &upgrade(&mount.up(""), &second()), "has no restart=on");
    let called = upgrade(mount.beside(), &second());
    assert_eq!(called.code, 32);
    assert!(called.err.contains("in no idshift mount"), "{}", called.err);
    let called = idshift(&[&"mount", &"--go-on=3", &"-o", &common::MAP, &"/", &mount.beside()]);
    assert_eq!(called.code, 1, "{}", called.err);
    assert!(called.err.contains("'idshift upgrade' gives it"), "{}", called.err);
}

fn signal_alone_does_nothing() {
    let mount = mounted("");
    let server = mount.server_pid();
    for _ in 0..3 {
        raw::kill(mount.main_pid(), libc::SIGUSR2).unwrap();
        fs::write(mount.up("file"), "x").unwrap();
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(mount.server_pid(), server);
}
