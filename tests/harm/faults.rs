//! Lower file systems and machines that fail: the caller gets the lower errno, nothing that was
//! acknowledged is lost, the server lives, and afterwards everything works again.

mod calls;
mod cgroup;
mod errfs;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::mount::temp_dir;
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{
    self, Errno, Mount, OFlags, assert_errno, create, eventually, lo, mkdir, open, put_dir,
    put_file, skip,
};
use calls::{CALLS, OPEN};
use cgroup::Cgroup;
use errfs::ErrFs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

crate::common::tests!(
    every_call_gets_the_lower_errno,
    lower_server_that_waits,
    lower_server_that_dies,
    full,
    full_of_files,
    over_quota,
    disk_that_stops_writing,
    read_only_in_the_middle,
    lower_directory_removed,
    no_more_descriptors,
    no_more_threads,
    little_memory,
    connection_torn_down,
);

/// A tmpfs of its own as the lower directory.
fn tmpfs(place: &Path, options: &str) -> PathBuf {
    needs_real_root("a file system of its own");
    let lower = place.join("lower");
    put_dir(&lower, 0o777, 0, 0);
    let options = std::ffi::CString::new(format!("mode=0777,{options}")).unwrap();
    mount("none", &lower, "tmpfs", MountFlags::empty(), &*options).unwrap();
    common::chown(&lower, Some(lo(0)), Some(lo(0))).unwrap();
    lower
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes files of this size and brings each to the disk, until that fails: how many came through,
/// and what stopped it.
fn fill(dir: &Path, size: usize) -> (usize, Errno) {
    for nth in 0..100_000 {
        let written = write_and_sync(&dir.join(format!("f{nth}")), &content(nth, size));
        if let Err(errno) = written {
            return (nth, errno);
        }
    }
    panic!("it is never full");
}

fn content(nth: usize, size: usize) -> Vec<u8> {
    nth.to_le_bytes().iter().copied().cycle().take(size).collect()
}

fn write_and_sync(file: &Path, content: &[u8]) -> Result<(), Errno> {
    let file = create(file, 0o644)?;
    let mut rest = content;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    rustix::fs::fsync(&file)
}

/// Whether all these files are there and whole.
fn assert_whole(dir: &Path, files: usize, size: usize) {
    for nth in 0..files {
        let found = fs::read(dir.join(format!("f{nth}"))).unwrap();
        let wanted = content(nth, size);
        let same = found.iter().zip(&wanted).take_while(|(one, other)| one == other).count();
        assert!(found == wanted, "f{nth} of {files}: {} bytes, {same} as written", found.len());
    }
}

const ERRNOS: [Errno; 5] = [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::STALE];

/// Each call, with each errno: above as on the lower file system itself, and well again after it.
fn every_call_gets_the_lower_errno() {
    needs_idshift();
    needs_real_root("mounts a FUSE file system of its own");
    for options in ["cache=none", "cache=none,io=cached"] {
        let place = temp_dir();
        let errfs = ErrFs::mount(place.path());
        let mut tried = 0;
        for nth in 0..CALLS.len() {
            for errno in ERRNOS {
                for side in ["above", "below", "healed"] {
                    let name = format!("{nth}-{}-{side}", errno.raw_os_error());
                    calls::prepare(&errfs.store.join(name));
                }
            }
        }
        let options = format!("map=identity,{options}");
        let mount = Mount::of(temp_dir(), errfs.root().to_path_buf(), &options);
        for (nth, (name, opcode, call)) in CALLS.iter().enumerate() {
            for errno in ERRNOS {
                let dir = |side| format!("{nth}-{}-{side}", errno.raw_os_error());
                if *opcode == OPEN && options.contains("io=cached") {
                    continue; // the lower file is opened when its contents are first used
                }
                errfs.fail(*opcode, errno);
                let below = call(&errfs.root().join(dir("below")));
                let above = call(&mount.up(dir("above")));
                errfs.heal();
                assert_eq!(above, below, "{name}, {errno}, {options}");
                assert_eq!(call(&mount.up(dir("healed"))), Ok(()), "{name} after {errno}");
                tried += usize::from(below.is_err());
            }
        }
        println!("faults: {tried} failures of the lower file system, with {options}");
        assert!(tried > 100, "{tried}");
    }
}

/// A file system that fails as it is told to, with a tree `d` in it, and a mount of that.
fn on_errfs(place: &TempDir, options: &str) -> (ErrFs, Mount) {
    needs_idshift();
    needs_real_root("mounts a FUSE file system of its own");
    let errfs = ErrFs::mount(place.path());
    calls::prepare(&errfs.store.join("d"));
    let mount = Mount::of(temp_dir(), errfs.root().to_path_buf(), options);
    (errfs, mount)
}

/// Callers that wait for a slow lower file system do not keep others waiting.
fn lower_server_that_waits() {
    let place = temp_dir();
    let (errfs, mount) = on_errfs(&place, "map=identity,cache=none");
    let dir = mount.up("d");
    fs::read(dir.join("file")).unwrap();
    errfs.stall(9); // MKDIR
    thread::scope(|scope| {
        let stuck: Vec<_> = (0..3)
            .map(|nth| {
                let dir = dir.join(format!("{nth}"));
                let sub = mount.up(format!("sub{nth}"));
                // Each in a directory of its own: the kernel allows one change of each at a time.
                scope.spawn(move || (mkdir(&dir, 0o755).is_ok(), mkdir(&sub, 0o755).is_ok()))
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        for nth in 0..50 {
            assert_eq!(fs::read(dir.join("file")).unwrap().len(), 10_000, "{nth}");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(stuck.iter().any(|caller| !caller.is_finished()));
        errfs.heal();
        assert!(stuck.into_iter().all(|caller| caller.join().unwrap() == (true, true)));
    });
}

/// A lower file system that goes away for good: errors, as there, and an unmount that works.
fn lower_server_that_dies() {
    let place = temp_dir();
    let (errfs, mount) = on_errfs(&place, "map=identity,cache=none");
    let file = open(&mount.up("d/file"), OFlags::RDWR, 0).unwrap();
    rustix::io::pwrite(&file, b"written", 0).unwrap();
    rustix::fs::fsync(&file).unwrap();
    let stored = fs::File::open(errfs.store.join("d/file")).unwrap();
    drop(errfs);
    for name in ["d/file", "d/new"] {
        let errno = rustix::fs::lstat(mount.up(name)).unwrap_err();
        assert!(matches!(errno, Errno::NOTCONN | Errno::CONNABORTED), "{errno}");
    }
    assert!(rustix::io::pwrite(&file, b"lost", 0).is_err());
    assert!(rustix::fs::fsync(&file).is_err());
    assert!(create(&mount.up("new"), 0o644).is_err());
    drop(file);
    let mut content = [0; 7];
    stored.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"written");
    assert!(mount.unmount().is_some_and(|status| status.success()));
}

fn full() {
    for options in ["", ",io=cached", ",io=cached,cache=exclusive"] {
        let place = temp_dir();
        let lower = tmpfs(place.path(), "size=4m");
        let mount = Mount::of(place, lower, &format!("{}{options}", common::MAP));
        let (files, errno) = fill(&mount.up(""), 100_000);
        assert_eq!(errno, Errno::NOSPC, "{options}");
        println!("faults: {files} files acknowledged before it was full{options}");
        assert!(files >= 38, "{files}");
        assert_whole(&mount.low(""), files, 100_000);
        // Room again, and the next is written.
        fs::remove_file(mount.up("f0")).unwrap();
        fs::remove_file(mount.up("f1")).unwrap();
        eventually("there is room", || {
            fs::remove_file(mount.up("again")).ok();
            write_and_sync(&mount.up("again"), &content(7, 50_000)).is_ok()
        });
        assert!(fs::read(mount.low("again")).unwrap() == content(7, 50_000));
        unmount(mount.low(""), UnmountFlags::DETACH).unwrap();
    }
}

fn full_of_files() {
    let place = temp_dir();
    let lower = tmpfs(place.path(), "size=4m,nr_inodes=20");
    let mount = Mount::of(place, lower, common::MAP);
    let made = (0..100).find_map(|nth| create(&mount.up(format!("{nth}")), 0o644).err());
    assert_eq!(made, Some(Errno::NOSPC));
    assert_errno!(mkdir(&mount.up("d"), 0o755), Errno::NOSPC);
    assert_errno!(rustix::fs::symlink("x", mount.up("l")), Errno::NOSPC);
    fs::remove_file(mount.up("3")).unwrap();
    // The kernel forgets the file a moment later.
    eventually("there is room", || mkdir(&mount.up("d"), 0o755).is_ok());
    unmount(mount.low(""), UnmountFlags::DETACH).unwrap();
}

/// The lower file system's quota holds: the server is no way around it.
fn over_quota() {
    needs_real_root("a file system of its own");
    needs_program("btrfs");
    let place = temp_dir();
    let storage = common::storage::Storage::make("btrfs", place.path())
        .unwrap_or_else(|why| skip(format!("needs btrfs: {why}")));
    let lower = storage.root.join("limited");
    let btrfs = |words: &[&str], path: &Path| Command::new("btrfs").args(words).arg(path).output();
    run(Command::new("btrfs").args(["subvolume", "create"]).arg(&lower));
    let on = btrfs(&["quota", "enable"], &storage.root).unwrap();
    if !on.status.success() {
        skip("needs quotas of btrfs");
    }
    run(Command::new("btrfs").args(["qgroup", "limit", "3m"]).arg(&lower));
    common::chown(&lower, Some(lo(0)), Some(lo(0))).unwrap();
    let mount = Mount::of(temp_dir(), lower.clone(), common::MAP);
    let (files, above) = fill(&mount.up(""), 100_000);
    assert_eq!(above, Errno::DQUOT);
    assert!(files > 5, "{files}");
    assert_whole(&mount.low(""), files, 100_000);
    assert_errno!(write_and_sync(&lower.join("below"), &content(1, 1_000_000)), Errno::DQUOT);
    run(Command::new("btrfs").args(["qgroup", "limit", "none"]).arg(&lower));
    write_and_sync(&mount.up("again"), &content(1, 1_000_000)).unwrap();
    drop(mount);
}

/// A disk image whose own storage runs full: writing blocks fails with EIO. What fsync(2) has said
/// is there, after a crash too.
fn disk_that_stops_writing() {
    const SIZE: usize = 200_000;
    needs_real_root("a file system of its own");
    needs_program("mkfs.ext4");
    let fill_through = |through_mount: bool| {
        let place = temp_dir();
        let store = tmpfs(place.path(), "size=24m");
        let (image, disk) = (store.join("image"), place.path().join("disk"));
        put_dir(&disk, 0o755, 0, 0);
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-J", "size=8"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk));
        let lower = disk.join("lower");
        put_dir(&lower, 0o777, lo(0), lo(0));
        let (files, errno) = if through_mount {
            let mount = Mount::of(temp_dir(), lower.clone(), common::MAP);
            let filled = fill(&mount.up(""), SIZE);
            // The server lives, and reading goes on.
            assert_whole(&mount.up(""), filled.0, SIZE);
            drop(mount);
            filled
        } else {
            fill(&lower, SIZE)
        };
        // As after a crash: nothing counts but what the image has. Its own storage grows, so that
        // it can be mounted again.
        unmount(&disk, UnmountFlags::DETACH).unwrap();
        run(Command::new("mount").args(["-o", "remount,size=80m"]).arg(&store));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk));
        assert_whole(&lower, files, SIZE);
        unmount(&disk, UnmountFlags::DETACH).unwrap();
        unmount(&store, UnmountFlags::DETACH).unwrap();
        (files, errno)
    };
    let (below, errno_below) = fill_through(false);
    let (above, errno_above) = fill_through(true);
    println!("faults: {above} files acknowledged before {errno_above}, below {below}");
    assert_eq!(errno_above, errno_below);
    assert!(above > 10 && above.abs_diff(below) < 10, "{above} and {below}");
}

fn read_only_in_the_middle() {
    needs_real_root("a file system of its own");
    let place = temp_dir();
    let lower = tmpfs(place.path(), "size=4m");
    put_file(&lower.join("file"), b"content", 0o666, lo(0), lo(0));
    let mount = Mount::of(place, lower, common::MAP);
    let reading = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
    let remount = |word: &str| {
        run(Command::new("mount").args(["-o", &format!("remount,{word}")]).arg(mount.low("")));
    };
    eventually("nothing is open for writing", || {
        let options = "remount,ro";
        let mut mount_program = Command::new("mount");
        mount_program.args(["-o", options]).arg(mount.low("")).output().unwrap().status.success()
    });
    assert_errno!(create(&mount.up("new"), 0o644), Errno::ROFS);
    assert_errno!(mkdir(&mount.up("new"), 0o755), Errno::ROFS);
    assert_errno!(open(&mount.up("file"), OFlags::WRONLY, 0), Errno::ROFS);
    assert_errno!(common::set_mode(&mount.up("file"), 0o600), Errno::ROFS);
    assert_errno!(rustix::fs::unlink(mount.up("file")), Errno::ROFS);
    assert_errno!(common::set_xattr(&mount.up("file"), "user.x", b""), Errno::ROFS);
    assert_eq!(fs::read(mount.up("file")).unwrap(), b"content");
    assert_eq!(rustix::io::pread(&reading, &mut [0_u8; 10], 0), Ok(7));
    remount("rw");
    fs::write(mount.up("file"), "new").unwrap();
    create(&mount.up("new"), 0o644).unwrap();
    unmount(mount.low(""), UnmountFlags::DETACH).unwrap();
}

fn lower_directory_removed() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("d"), 0o777, lo(0), lo(0));
        put_file(&lower.join("d/file"), b"content", 0o666, lo(0), lo(0));
    });
    let file = open(&mount.up("d/file"), OFlags::RDWR, 0).unwrap();
    let dir = open(&mount.up("d"), OFlags::DIRECTORY, 0).unwrap();
    fs::remove_dir_all(mount.low("")).unwrap();
    eventually("seen above", || rustix::fs::lstat(mount.up("d")).is_err());
    assert_errno!(rustix::fs::lstat(mount.up("d/file")), Errno::NOENT);
    assert_errno!(create(&mount.up("new"), 0o644), Errno::NOENT);
    assert_errno!(mkdir(&mount.up("new"), 0o755), Errno::NOENT);
    assert_eq!(fs::read_dir(mount.up("")).unwrap().count(), 0);
    let mut content = [0_u8; 10];
    assert_eq!(rustix::io::pread(&file, &mut content, 0), Ok(7));
    assert_eq!(rustix::io::pwrite(&file, b"more", 7), Ok(4));
    rustix::fs::fsync(&file).unwrap();
    assert!(rustix::fs::fstat(&dir).is_ok());
}

/// A server whose descriptors are used up says so, and goes on when some come back.
fn no_more_descriptors() {
    needs_idshift();
    let mount = Mount::with_descriptors(96, common::MAP, |lower| {
        for nth in 0..200 {
            put_file(&lower.join(format!("f{nth}")), b"content", 0o666, lo(0), lo(0));
        }
    });
    let open_rw = |nth| open(&mount.up(format!("f{nth}")), OFlags::RDWR, 0);
    for _ in 0..3 {
        let mut files: Vec<OwnedFd> = Vec::new();
        let errno = (0..200).find_map(|nth| open_rw(nth).map(|file| files.push(file)).err());
        assert_eq!(errno, Some(Errno::MFILE));
        assert!(files.len() > 30, "{}", files.len());
        // What is open works, and so does all that needs none for long.
        for file in &files {
            assert_eq!(rustix::io::pwrite(file, b"changed", 0), Ok(7));
        }
        for nth in 0..200 {
            assert_eq!(common::stat(&mount.up(format!("f{nth}"))).st_size, 7);
        }
        drop(files);
        eventually("closed", || open_rw(199).is_ok());
    }
    for nth in 0..200 {
        assert_eq!(fs::read(mount.up(format!("f{nth}"))).unwrap().len(), 7);
    }
}

/// No further thread can be started: those that are there go on, and say it once.
fn no_more_threads() {
    needs_idshift();
    needs_real_root("a control group, and a FUSE file system of its own");
    let group = Cgroup::make("pids");
    let place = temp_dir();
    let errfs = ErrFs::mount(place.path());
    // Each caller makes its own in another directory: the kernel allows one change of each at a time.
    let dirs = || (0..12).map(|nth| format!("d{nth}"));
    dirs().for_each(|dir| put_dir(&errfs.store.join(dir), 0o777, 0, 0));
    let options = "map=identity,cache=none,threads=16";
    let mount = Mount::of(temp_dir(), errfs.root().to_path_buf(), options);
    group.take(mount.server_pid());
    group.limit("pids.max", "1");
    errfs.stall(9); // MKDIR
    thread::scope(|scope| {
        for dir in dirs() {
            let new = mount.up(dir).join("new");
            scope.spawn(move || mkdir(&new, 0o755).unwrap());
        }
        thread::sleep(Duration::from_millis(700));
        errfs.heal();
    });
    assert!(dirs().all(|dir| mount.low(dir).join("new").is_dir()));
    let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
    let said = log.lines().filter(|line| line.contains("cannot start another thread")).count();
    assert_eq!(said, 1, "{log}");
    // With room again it starts what it needs.
    group.limit("pids.max", "max");
    fs::write(mount.up("d0/after"), "x").unwrap();
}

/// Under a memory limit that is far below what passes through, the server is not killed.
fn little_memory() {
    needs_idshift();
    let group = Cgroup::make("memory");
    let mount = Mount::with(&format!("{},io=cached,threads=8", common::MAP), |lower| {
        for nth in 0..3000 {
            put_file(&lower.join(format!("f{nth}")), b"content", 0o666, lo(0), lo(0));
        }
        let big = fs::File::create(lower.join("big")).unwrap();
        big.set_len(1 << 30).unwrap();
        common::set_mode(&lower.join("big"), 0o666).unwrap();
    });
    group.limit("memory.max", "33554432");
    group.take(mount.server_pid());
    thread::scope(|scope| {
        for worker in 0..6_u64 {
            let mount = &mount;
            scope.spawn(move || {
                let big = open(&mount.up("big"), OFlags::RDONLY, 0).unwrap();
                let mut buffer = vec![1; 1 << 20];
                for step in 0..25 {
                    let at = (worker * 25 + step) << 20;
                    assert_eq!(rustix::io::pread(&big, buffer.as_mut_slice(), at), Ok(1 << 20));
                }
                // At once to the disk: what waits in the cache counts as the group's memory too,
                // and in groups of the first version nobody is slowed down who writes too much.
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::DSYNC;
                let file = open(&mount.up(format!("written-{worker}")), flags, 0o644).unwrap();
                for _ in 0..2 {
                    assert_eq!(rustix::io::write(&file, &vec![7; 1 << 20]), Ok(1 << 20));
                }
                for nth in (worker..3000).step_by(6) {
                    assert_eq!(fs::read(mount.up(format!("f{nth}"))).unwrap(), b"content");
                }
                assert_eq!(fs::read_dir(mount.up("")).unwrap().flatten().count() / 3000, 1);
            });
        }
    });
    for worker in 0..6 {
        assert_eq!(fs::metadata(mount.low(format!("written-{worker}"))).unwrap().len(), 2 << 20);
    }
    assert_eq!(group.killed(), 0, "the kernel has killed the server");
    assert!(mount.unmount().is_some_and(|status| status.success()));
}

/// `umount -f` under callers: they get errors, and the server ends as after any unmount.
fn connection_torn_down() {
    needs_idshift();
    let mount = Mount::new();
    fs::write(mount.up("file"), "content").unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (mount, over, mut step) = (&mount, &over, 0);
        scope.spawn(move || {
            // Once it is gone, the name is the empty directory below.
            while !over.load(Ordering::Relaxed) && common::mount::is_mounted(&mount.up("")) {
                step += 1;
                let written = fs::write(mount.up(format!("f{}", step % 50)), "x");
                if written.and_then(|()| fs::read_dir(mount.up("")).map(drop)).is_err() {
                    break;
                }
            }
        });
        thread::sleep(Duration::from_millis(100));
        unmount(mount.up(""), UnmountFlags::FORCE | UnmountFlags::DETACH).unwrap();
        over.store(true, Ordering::Relaxed);
    });
    mount.wait_for_server();
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"content");
}
