//! Callers and trees that mean harm, on a real mount. What no kernel sends is tried in
//! `src/fuse/hostile.rs`, against a server without one.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::mount::wait_for;
use crate::common::raw;
use crate::common::{
    self, ACL_ACCESS, AtFlags, CWD, Caller, Errno, GROUP_OBJ, MASK, Mode, Mount, NO_ID, OFlags,
    OTHER, USER, USER_OBJ, acl, assert_errno, eventually, get_xattr, lo, mkdir, open, put_dir,
    put_file, set_mode, set_xattr,
};
use rustix::fs::{FlockOperation, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, kill_process_group};

crate::common::tests!(
    link_swapped_for_a_directory,
    directories_moved_while_walked,
    directory_changed_while_listed,
    special_files_are_not_opened,
    deeper_than_a_path_can_be,
    callers_killed_in_the_middle,
    caller_that_waits_can_be_killed,
    connection_aborted,
    capabilities_of_every_length,
    attributes_of_64_kib,
    long_acls,
);

/// How long the races run.
const RACE: Duration = Duration::from_millis(1_500);

fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).ok();
}

/// Runs `disturb` over and over while `work` runs until the race is over.
fn race(disturb: impl Fn(usize) + Sync, work: impl Fn() + Sync) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut step = 0;
            while !over.load(Ordering::Relaxed) {
                disturb(step);
                step += 1;
            }
        });
        let start = Instant::now();
        while start.elapsed() < RACE {
            work();
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// A name is a directory for one moment and a link out of the tree for the next. The kernel follows
/// links, with the caller's rights; a server that did would do it with its own.
fn link_swapped_for_a_directory() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("d"), 0o777, lo(1000), lo(1000));
        put_file(&lower.join("d/secret"), b"inside", 0o666, lo(1000), lo(1000));
        let outside = lower.parent().unwrap().join("outside");
        put_dir(&outside, 0o700, 0, 0);
        put_file(&outside.join("secret"), b"outside", 0o666, 0, 0);
        rustix::fs::symlink(&outside, lower.join("l")).unwrap();
    });
    let outside = mount.beside().join("outside");
    let (up, low) = (mount.up(""), mount.low(""));
    for side in [&up, &low] {
        race(
            |_| exchange(&side.join("d"), &side.join("l")),
            || {
                Caller::user(1000).run(|| {
                    for name in ["d", "l"] {
                        let dir = up.join(name);
                        let secret = dir.join("secret");
                        if let Ok(content) = fs::read(&secret) {
                            assert_eq!(content, b"inside");
                        }
                        fs::read_dir(&dir).ok().into_iter().flatten().for_each(drop);
                        set_mode(&secret, 0o666).ok();
                        set_xattr(&secret, "user.mine", b"x").ok();
                        fs::write(dir.join("new"), "x").ok();
                        rustix::fs::rename(dir.join("new"), dir.join("newer")).ok();
                        rustix::fs::link(dir.join("secret"), dir.join("hard")).ok();
                        fs::remove_file(dir.join("hard")).ok();
                        fs::remove_file(dir.join("newer")).ok();
                        mkdir(&dir.join("sub"), 0o700).ok();
                        fs::remove_dir(dir.join("sub")).ok();
                    }
                });
            },
        );
    }
    let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"outside");
    assert_eq!(common::stat(&outside.join("secret")).st_nlink, 1);
    assert_errno!(get_xattr(&outside.join("secret"), "user.mine"), Errno::NODATA);
}

/// A directory goes up and down the tree while its files are looked up: what is found is the file
/// itself, and what is not there is missing, or has gone meanwhile.
fn directories_moved_while_walked() {
    let mount = Mount::with(common::MAP, |lower| {
        for dir in ["a", "a/b", "a/b/c", "x", "x/y"] {
            put_dir(&lower.join(dir), 0o777, lo(0), lo(0));
        }
        put_file(&lower.join("a/b/c/file"), b"mine", 0o666, lo(0), lo(0));
        put_file(&lower.join("x/y/file"), b"other", 0o666, lo(0), lo(0));
    });
    let places = ["a/b/c", "x/y/c", "c", "x/c", "a/c"];
    let (up, low) = (mount.up(""), mount.low(""));
    for side in [&up, &low] {
        race(
            |step| {
                let (from, to) = (places[step % 5], places[(step + 1) % 5]);
                rustix::fs::rename(side.join(from), side.join(to)).unwrap();
            },
            || {
                for place in places {
                    match fs::read(up.join(place).join("file")) {
                        Ok(content) => assert_eq!(content, b"mine", "{place}"),
                        Err(error) => {
                            let errno = Errno::from_io_error(&error).unwrap();
                            assert!(
                                matches!(errno, Errno::NOENT | Errno::STALE),
                                "{place}: {errno}"
                            );
                        }
                    }
                }
                assert_eq!(fs::read(up.join("x/y/file")).unwrap(), b"other");
            },
        );
        let found = places.iter().filter(|place| side.join(place).join("file").exists());
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1);
        rustix::fs::rename(side.join(found[0]), side.join("moved")).unwrap();
        rustix::fs::rename(side.join("moved"), side.join("a/b/c")).unwrap();
        eventually("seen above", || up.join("a/b/c/file").exists());
    }
}

/// What stays in a directory is listed exactly once, whatever comes and goes beside it.
fn directory_changed_while_listed() {
    const STAY: usize = 400;
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("d"), 0o777, lo(0), lo(0));
        for nth in 0..STAY {
            put_file(&lower.join(format!("d/stays-{nth}")), b"", 0o644, lo(0), lo(0));
        }
    });
    let (up, low) = (mount.up("d"), mount.low("d"));
    for side in [&up, &low] {
        race(
            |step| {
                let name = |step: usize| side.join(format!("comes-and-goes-{}", step % 90));
                fs::write(name(step), "").unwrap();
                rustix::fs::rename(name(step), name(step + 45)).ok();
                fs::remove_file(name(step + 30)).ok();
            },
            || {
                let mut seen: HashMap<_, usize> = HashMap::new();
                for entry in fs::read_dir(&up).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    if name.starts_with("stays") {
                        *seen.entry(name).or_default() += 1;
                    }
                }
                assert_eq!(seen.len(), STAY);
                assert!(seen.values().all(|&times| times == 1));
            },
        );
    }
}

/// The server's descriptors on a file, and whether each does no more than name it (`O_PATH`).
fn held(pid: u32, file: &Path) -> Vec<bool> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        // The server's own view of the tree has other paths.
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target.file_name() == file.file_name() {
            let number = entry.file_name().into_string().unwrap();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            found.push(flags & OFlags::PATH.bits() != 0);
        }
    }
    found
}

/// Opening a fifo would make the server wait, and opening a device may do anything.
fn special_files_are_not_opened() {
    common::runner::needs_idshift();
    let real_root = common::machine().real_root;
    let mount = Mount::with(common::MAP, |lower| {
        raw::mknod(&lower.join("fifo"), 0o010_666, 0).unwrap();
        raw::mknod(&lower.join("socket"), 0o140_666, 0).unwrap();
        if real_root {
            // A terminal that nobody has: opening it would fail, or take it.
            raw::mknod(&lower.join("device"), 0o020_666, rustix::fs::makedev(1, 8)).unwrap();
        }
        for entry in fs::read_dir(lower).unwrap() {
            common::chown(&entry.unwrap().path(), Some(lo(0)), Some(lo(0))).unwrap();
        }
    });
    let names = ["fifo", "socket", "device"];
    for name in &names[..if real_root { 3 } else { 2 }] {
        let file = mount.up(name);
        let path = open(&file, OFlags::PATH, 0).unwrap();
        set_mode(&file, 0o640).unwrap();
        common::chown(&file, Some(7), Some(8)).unwrap();
        common::chown(&file, Some(0), Some(0)).unwrap();
        rustix::fs::accessat(CWD, &file, rustix::fs::Access::READ_OK, AtFlags::empty()).unwrap();
        get_xattr(&file, "security.capability").unwrap_err();
        set_xattr(&file, "user.x", b"x").unwrap_err();
        rustix::fs::link(&file, mount.up("second")).unwrap();
        rustix::fs::rename(&file, mount.up("third")).unwrap();
        rustix::fs::rename(mount.up("third"), &file).unwrap();
        fs::remove_file(mount.up("second")).unwrap();
        let held = held(mount.server_pid(), &file);
        assert!(!held.is_empty(), "{name}: the server has no descriptor at all");
        assert!(held.iter().all(|&path_only| path_only), "{name} is open: {held:?}");
        drop(path);
    }
    // While one caller waits for a fifo's other end, others are served.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| fs::read(mount.up("fifo")).unwrap());
        thread::sleep(Duration::from_millis(50));
        fs::write(mount.up("file"), "x").unwrap();
        assert_eq!(held(mount.server_pid(), &mount.up("fifo")), [true]);
        fs::write(mount.up("fifo"), "carried").unwrap();
        assert_eq!(waiting.join().unwrap(), b"carried");
    });
}

/// No path leads there in one call, and no limit of the server's is in the way.
fn deeper_than_a_path_can_be() {
    const LEVELS: usize = 60;
    let mount = Mount::new();
    let name = "d".repeat(200);
    let mut top = open(&mount.up(""), OFlags::DIRECTORY, 0).unwrap();
    let down = |dir: &OwnedFd| {
        rustix::fs::openat(dir, &name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&top, &name, Mode::RWXU).unwrap();
        top = down(&top);
    }
    let bottom = top;
    let create = |name: &str| {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::openat(&bottom, name, flags, Mode::RUSR | Mode::WUSR).unwrap()
    };
    let file = create("file");
    rustix::io::write(&file, b"deep").unwrap();
    // Its whole way moves.
    rustix::fs::rename(mount.up(&name), mount.up("top")).unwrap();
    rustix::fs::renameat(&bottom, "file", &bottom, "moved").unwrap();
    rustix::fs::fchmod(&file, Mode::RWXU).unwrap();
    rustix::fs::fsetxattr(&file, "user.x", b"x", rustix::fs::XattrFlags::empty()).ok();
    create("second");
    // Found again from the top, name by name.
    let mut again = open(&mount.up("top"), OFlags::DIRECTORY, 0).unwrap();
    for _ in 1..LEVELS {
        again = down(&again);
    }
    let stat = rustix::fs::statat(&again, "moved", AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!((stat.st_size, stat.st_mode & 0o777), (4, 0o700));
    let count = rustix::fs::Dir::read_from(&again).unwrap().count();
    assert_eq!(count, 4, "two files, . and ..");
    for name in ["moved", "second"] {
        rustix::fs::unlinkat(&again, name, AtFlags::empty()).unwrap();
    }
    drop((file, again, bottom));
    for depth in (0..LEVELS).rev() {
        let mut dir = open(&mount.up(""), OFlags::DIRECTORY, 0).unwrap();
        for level in 0..depth {
            let name = if level == 0 { "top" } else { &name };
            dir = rustix::fs::openat(&dir, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let last = if depth == 0 { "top" } else { &name };
        rustix::fs::unlinkat(&dir, last, AtFlags::REMOVEDIR).unwrap();
    }
    assert_eq!(fs::read_dir(mount.low("")).unwrap().count(), 0);
}

/// A shell that works in the mount until it is killed, with all that it has started.
fn busy_shell(dir: &Path, nth: usize) -> Child {
    let work = format!(
        "cd '{}' && while :; do echo x >f{nth}; cat f{nth} >/dev/null; mv f{nth} g{nth}; ls >/dev/null; \
         mkdir d{nth}; ls -l d{nth} >/dev/null; rmdir d{nth}; rm g{nth}; done",
        dir.display()
    );
    Command::new("sh")
        .args(["-c", &work])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn kill_all_of(mut shell: Child) {
    kill_process_group(Pid::from_child(&shell), Signal::KILL).unwrap();
    shell.wait().unwrap();
}

/// Answers that find nobody leave nothing behind: no open file, no lookup, no stuck thread.
fn callers_killed_in_the_middle() {
    common::runner::needs_idshift();
    let mount = Mount::new();
    fs::write(mount.up("before"), "x").unwrap();
    let pid = mount.server_pid();
    // Open files of callers that are gone would be what is neither O_PATH nor there before.
    let open_files = || {
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
        let is_open = |info: String| {
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
            (flags & OFlags::PATH.bits() == 0).then_some(())
        };
        infos.filter_map(|info| is_open(fs::read_to_string(info.path()).ok()?)).count()
    };
    let before = open_files();
    for round in 0..40 {
        let shells: Vec<Child> = (0..3).map(|nth| busy_shell(&mount.up(""), nth)).collect();
        thread::sleep(Duration::from_millis(7 + round % 11));
        shells.into_iter().for_each(kill_all_of);
    }
    eventually("every open file is closed", || open_files() <= before);
    // What the shells had started dies a moment after them.
    eventually("nothing is left", || {
        for entry in fs::read_dir(mount.up("")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }.ok();
        }
        fs::read_dir(mount.low("")).unwrap().count() == 0
    });
}

/// A caller that waits for a lock gets its signal at once, and does not get the lock later.
fn caller_that_waits_can_be_killed() {
    common::runner::needs_idshift();
    common::runner::needs_program("flock");
    let mount = Mount::with(&format!("{},locks=lower", common::MAP), |lower| {
        put_file(&lower.join("file"), b"", 0o666, lo(0), lo(0));
    });
    let below = open(&mount.low("file"), OFlags::RDWR, 0).unwrap();
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGUSR1] {
        rustix::fs::flock(&below, FlockOperation::LockExclusive).unwrap();
        let mut waiting: Vec<Child> = (0..3)
            .map(|_| {
                let mut flock = Command::new("flock");
                flock.arg(mount.up("file")).arg("true").process_group(0).spawn().unwrap()
            })
            .collect();
        thread::sleep(Duration::from_millis(100));
        for caller in &mut waiting {
            assert!(caller.try_wait().unwrap().is_none(), "it waits");
            raw::kill(caller.id(), signal).unwrap();
            assert!(wait_for(caller).is_some_and(|status| !status.success()), "it is gone");
        }
        rustix::fs::flock(&below, FlockOperation::Unlock).unwrap();
        thread::sleep(Duration::from_millis(20));
        let free = FlockOperation::NonBlockingLockExclusive;
        eventually("nobody who is gone has the lock", || rustix::fs::flock(&below, free).is_ok());
        rustix::fs::flock(&below, FlockOperation::Unlock).unwrap();
    }
}

/// The connection is torn down under callers and the server: callers get errors, and it ends.
fn connection_aborted() {
    common::runner::needs_idshift();
    common::runner::needs_real_root("fusectl");
    let mount = Mount::with(&format!("{},locks=lower", common::MAP), |lower| {
        put_file(&lower.join("file"), b"content", 0o666, lo(0), lo(0));
    });
    let minor = rustix::fs::minor(common::stat(&mount.up("")).st_dev);
    let abort = format!("/sys/fs/fuse/connections/{minor}/abort");
    if !Path::new(&abort).exists() {
        common::skip("needs fusectl on /sys/fs/fuse/connections");
    }
    let below = open(&mount.low("file"), OFlags::RDWR, 0).unwrap();
    rustix::fs::flock(&below, FlockOperation::LockExclusive).unwrap();
    let above = open(&mount.up("file"), OFlags::RDWR, 0).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rustix::fs::flock(&above, FlockOperation::LockExclusive));
        let busy = scope.spawn(|| {
            let failed = |nth| fs::write(mount.up(format!("f{}", nth % 50)), "x").err();
            (0..).find_map(failed).unwrap()
        });
        thread::sleep(Duration::from_millis(100));
        fs::write(&abort, "1").unwrap();
        assert!(waiting.join().unwrap().is_err());
        let errno = Errno::from_io_error(&busy.join().unwrap()).unwrap();
        assert!(matches!(errno, Errno::CONNABORTED | Errno::NOTCONN | Errno::IO), "{errno}");
    });
    mount.wait_for_server();
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"content");
}

/// Whatever is no capability below is none above either.
fn capabilities_of_every_length() {
    let mount = Mount::with(common::MAP, |lower| {
        for name in ["above", "below"] {
            put_file(&lower.join(name), b"", 0o755, lo(0), lo(0));
        }
    });
    let mut taken = 0;
    for revision in 0..=4_u32 {
        for length in 0..=64 {
            let mut value = vec![0; length];
            if let Some(magic) = value.first_chunk_mut::<4>() {
                *magic = (revision << 24 | 1).to_le_bytes();
            }
            let set = |path: &Path| set_xattr(path, "security.capability", &value);
            let (above, below) = (set(&mount.up("above")), set(&mount.low("below")));
            assert_eq!(above, below, "revision {revision}, {length} bytes");
            taken += usize::from(above.is_ok() && length > 0);
            get_xattr(&mount.up("above"), "security.capability").ok();
        }
    }
    assert_eq!(taken, 2, "revision 2 with 20 bytes and revision 3 with 24");
}

/// A tmpfs lower takes what ext4 has no room for.
fn on_tmpfs(fill: impl FnOnce(&Path)) -> Mount {
    common::runner::needs_real_root("a tmpfs of its own");
    let dir = common::mount::temp_dir();
    let lower = dir.path().join("lower");
    put_dir(&lower, 0o777, 0, 0);
    let data = Some(c"mode=0777,size=64m");
    rustix::mount::mount("none", &lower, "tmpfs", rustix::mount::MountFlags::empty(), data)
        .unwrap();
    common::chown(&lower, Some(lo(0)), Some(lo(0))).unwrap();
    fill(&lower);
    Mount::of(dir, lower, common::MAP)
}

/// The largest value that the kernel lets through, and one that is larger.
fn attributes_of_64_kib() {
    let mount = on_tmpfs(|lower| put_file(&lower.join("file"), b"", 0o644, lo(0), lo(0)));
    let file = mount.up("file");
    for name in ["trusted.big", "user.big"] {
        let value: Vec<u8> = (0..65_536_u32).map(|nth| nth.to_le_bytes()[0]).collect();
        match set_xattr(&mount.low("file"), name, b"") {
            Err(Errno::OPNOTSUPP) => continue, // tmpfs has user.* since Linux 6.6
            other => other.unwrap(),
        }
        set_xattr(&file, name, &value).unwrap();
        assert!(get_xattr(&mount.low("file"), name).unwrap() == value);
        assert!(get_xattr(&file, name).unwrap() == value);
        assert_errno!(set_xattr(&file, name, &vec![0; 65_537]), Errno::TOOBIG);
        assert_errno!(
            rustix::fs::lgetxattr(&file, name, &mut value[..65_535].to_vec()),
            Errno::RANGE
        );
        rustix::fs::lremovexattr(&file, name).unwrap();
    }
    for nth in 0..500 {
        set_xattr(&mount.low("file"), &format!("trusted.{nth:0>200}"), b"").unwrap();
    }
    let listed = |path: &Path| rustix::fs::llistxattr(path, &mut vec![0_u8; 65_536]);
    assert_eq!(listed(&file), listed(&mount.low("file")), "names of more than 64 KiB");
}

fn acl_of(users: u32, rights: u16, first: u32) -> Vec<u8> {
    let mut entries = vec![(USER_OBJ, 6, NO_ID)];
    entries.extend((0..users).map(|nth| (USER, rights, first + nth)));
    entries.extend([(GROUP_OBJ, 0, NO_ID), (MASK, 6, NO_ID), (OTHER, 6, NO_ID)]);
    acl(&entries)
}

/// The kernel's FUSE client takes ACLs of one page. A longer one below lets nobody in.
fn long_acls() {
    common::runner::needs_idshift();
    let mount = on_tmpfs(|lower| {
        for name in ["page", "long"] {
            put_file(&lower.join(name), b"x", 0o666, lo(0), lo(0));
        }
    });
    let fits = acl_of(500, 0, 1000);
    set_xattr(&mount.up("page"), ACL_ACCESS, &fits).unwrap();
    assert!(get_xattr(&mount.up("page"), ACL_ACCESS).unwrap() == fits);
    assert!(get_xattr(&mount.low("page"), ACL_ACCESS).unwrap() == acl_of(500, 0, lo(1000)));
    let read = |uid, name: &str| Caller::user(uid).run(|| open(&mount.up(name), OFlags::RDONLY, 0));
    assert_errno!(read(1499, "page"), Errno::ACCESS);
    assert!(read(1500, "page").is_ok());
    // Above the page: refused above, and where it is there below, for all but the owner.
    assert_errno!(set_xattr(&mount.up("long"), ACL_ACCESS, &acl_of(5_000, 6, 1000)), Errno::TOOBIG);
    set_xattr(&mount.low("long"), ACL_ACCESS, &acl_of(5_000, 6, lo(1000))).unwrap();
    eventually("seen above", || read(1500, "long").is_err());
    assert_errno!(read(1500, "long"), Errno::TOOBIG);
    assert_errno!(read(9_000, "long"), Errno::TOOBIG);
    assert_errno!(get_xattr(&mount.up("long"), ACL_ACCESS), Errno::TOOBIG);
    // It can be removed.
    rustix::fs::lremovexattr(mount.up("long"), ACL_ACCESS).unwrap();
    assert!(get_xattr(&mount.low("long"), ACL_ACCESS).is_err());
    assert!(read(1500, "long").is_ok() && open(&mount.up("long"), OFlags::RDWR, 0).is_ok());
}
