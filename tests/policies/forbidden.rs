//! What is forbidden below stays so through the mount: what the lower mounts forbid, set-ID bits that
//! nobody may give, and room that the lower file system keeps.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, StatVfs, copy_file_range, fallocate, linkat, makedev, rename,
    statvfs,
};
use rustix::mount::{UnmountFlags, unmount};

use crate::common::mount::{mount_line, temp_dir};
use crate::common::program::idshift;
use crate::common::raw::{mknod, try_exec};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{
    Caller, Errno, MAP, Mount, OFlags, assert_errno, create, kernel, lo, mode, open, owner,
    put_dir, put_file, set_mode, stat,
};

crate::common::tests!(
    read_only_mounts_below_stay_read_only,
    idmapped_mounts_below_show_the_same_owners,
    no_set_gid_file_of_an_unmapped_directorys_group,
    flags_of_the_lower_mount_are_inherited,
    set_id_bits_from_below_go_with_the_next_write,
    reserved_blocks_stay_reserved,
);

/// Something mounted for a test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], source: &Path, point: &Path) -> Self {
        let mut command = Command::new("mount");
        let output = command.args(arguments).arg(source).arg(point).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(point.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// More files than a server with this limit of descriptors holds open.
const DESCRIPTORS: u64 = 256;
const OTHERS: u32 = 600;

fn put_others(lower: &Path) {
    put_dir(&lower.join("others"), 0o755, lo(0), lo(0));
    for nth in 0..OTHERS {
        fs::write(lower.join(format!("others/{nth}")), "").unwrap();
    }
}

/// Has the server close the descriptors of all other files.
fn look_at_others(mount: &Mount) {
    for nth in 0..OTHERS {
        stat(&mount.up(format!("others/{nth}")));
    }
}

fn read_only_mounts_below_stay_read_only() {
    needs_idshift();
    needs_real_root("mounts below");
    for options in ["cache=none", "cache=coherent", "io=cached"] {
        let mut below = None;
        let options = format!("{MAP},submounts,{options}");
        let mount = Mount::with_descriptors(DESCRIPTORS, &options, |lower| {
            put_others(lower);
            let [source, point] = ["source", "below"].map(|name| lower.join(name));
            put_dir(&source, 0o777, lo(0), lo(0));
            put_dir(&point, 0o777, lo(0), lo(0));
            put_file(&source.join("file"), b"x", 0o666, lo(0), lo(0));
            below = Some(Mounted::new(&["--bind", "-o", "ro"], &source, &point));
        });
        let _before_the_tree = below;
        let file = mount.up("below/file");
        // What the server knows of the file is by the writable mount, too.
        fs::write(mount.up("source/file"), "y").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"y");
        look_at_others(&mount);
        assert_errno!(open(&file, OFlags::WRONLY, 0), Errno::ROFS);
        assert_errno!(set_mode(&file, 0o4755), Errno::ROFS);
        assert_errno!(create(&mount.up("below/new"), 0o600), Errno::ROFS);
        let out = mount.up("out");
        assert_errno!(linkat(CWD, &file, CWD, &out, AtFlags::empty()), Errno::XDEV);
        assert_errno!(rename(&file, &out), Errno::XDEV);
        assert_eq!(fs::read(mount.low("source/file")).unwrap(), b"y");
        assert_eq!(mode(&mount.low("source/file")), 0o666);
    }
}

fn idmapped_mounts_below_show_the_same_owners() {
    needs_idshift();
    needs_real_root("mounts below");
    let mut below = None;
    let options = "map=identity,submounts,cache=none";
    let mount = Mount::with_descriptors(DESCRIPTORS, options, |lower| {
        put_others(lower);
        let [source, point] = ["source", "below"].map(|name| lower.join(name));
        put_dir(&source, 0o755, lo(0), lo(0));
        put_dir(&point, 0o755, lo(0), lo(0));
        put_file(&source.join("file"), b"x", 0o600, lo(1000), lo(1001));
        kernel::mount(MAP, &source, &point);
        below = Some(Mounted(point));
    });
    let _before_the_tree = below;
    let [shifted, stored] = ["below/file", "source/file"].map(|name| mount.up(name));
    // Held open, so that the kernel goes on with the inode that it knows.
    let held = open(&shifted, OFlags::PATH, 0).unwrap();
    for _ in 0..2 {
        let seen = rustix::fs::fstat(&held).unwrap();
        assert_eq!((seen.st_uid, seen.st_gid), (1000, 1001));
        assert_eq!(owner(&shifted), (1000, 1001));
        assert_eq!(owner(&stored), (lo(1000), lo(1001)));
        look_at_others(&mount);
    }
}

fn no_set_gid_file_of_an_unmapped_directorys_group() {
    needs_idshift();
    let options = format!("{MAP},unmapped=squash:1000:1001");
    let mount = Mount::with(&options, |lower| {
        put_dir(&lower.join("dir"), 0o777, lo(1000), 0);
        set_mode(&lower.join("dir"), 0o2777).unwrap();
    });
    let dir = mount.up("dir");
    // The group is shown as the caller's own, so the kernel above leaves the bit.
    Caller::user(1000).gid(1001).run(|| {
        assert_errno!(create(&dir.join("created"), 0o2755), Errno::PERM);
        assert_errno!(mknod(&dir.join("node"), 0o102_755, 0), Errno::PERM);
        assert_errno!(open(&dir, OFlags::TMPFILE | OFlags::WRONLY, 0o2755), Errno::PERM);
        create(&dir.join("plain"), 0o755).unwrap();
        assert_errno!(set_mode(&dir.join("plain"), 0o2755), Errno::PERM);
    });
    let names = fs::read_dir(mount.low("dir")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["plain"], "nothing is left of what was refused");
    assert_eq!(owner(&mount.low("dir/plain")), (lo(1000), 0));
    assert_eq!(mode(&mount.low("dir/plain")), 0o755);
}

fn flags_of_the_lower_mount_are_inherited() {
    needs_idshift();
    needs_real_root("a file system of its own");
    let place = temp_dir();
    let [lower, other] = ["lower", "other"].map(|name| place.path().join(name));
    put_dir(&lower, 0o755, 0, 0);
    put_dir(&other, 0o755, 0, 0);
    let arguments = ["-t", "tmpfs", "-o", "mode=755,nosuid,nodev,noexec"];
    let _tmpfs = Mounted::new(&arguments, Path::new("none"), &lower);
    fs::write(lower.join("program"), "no program").unwrap();
    set_mode(&lower.join("program"), 0o4755).unwrap();
    mknod(&lower.join("null"), 0o020_666, makedev(1, 3)).unwrap();
    let mount = Mount::of(temp_dir(), lower.clone(), "map=identity");
    let shown = mount_line(&mount.beside().join("upper")).unwrap()[3].clone();
    for flag in ["nosuid", "nodev", "noexec"] {
        assert!(shown.split(',').any(|word| word == flag), "{flag}: {shown}");
    }
    assert_eq!(try_exec(&mount.up("program")), Errno::ACCESS);
    assert_errno!(open(&mount.up("null"), OFlags::RDONLY, 0), Errno::ACCESS);
    for flag in ["suid", "dev", "exec"] {
        let options = format!("map=identity,{flag}");
        let called = idshift(&[&"mount", &"-o", &options, &lower, &other]);
        assert_eq!(called.code, 1, "{flag}: {}", called.err);
        assert!(called.err.contains(&format!("'{flag}'")), "{flag}: {}", called.err);
    }
    let point = mount.beside().join("upper");
    for flag in ["suid", "dev", "exec"] {
        let called = idshift(&[&"mount", &"-o", &format!("remount,{flag}"), &lower, &point]);
        assert_eq!(called.code, 1, "{flag}: {}", called.err);
        assert!(called.err.contains(&format!("'{flag}'")), "{flag}: {}", called.err);
        assert_eq!(mount_line(&point).unwrap()[3], shown, "{flag}");
    }
}

fn set_id_bits_from_below_go_with_the_next_write() {
    const CALLS: [&str; 4] = ["write", "copy_file_range", "ftruncate", "fallocate"];
    needs_idshift();
    let modes =
        ["cache=none", "cache=coherent", "cache=ttl:1", "cache=none,io=cached", "io=cached"];
    for options in modes.into_iter().chain(["suid=deny", "unmapped=squash:1000:1001"]) {
        let mount = Mount::with(&format!("{MAP},{options}"), |lower| {
            put_file(&lower.join("source"), b"source", 0o644, lo(1000), lo(1000));
            for call in CALLS {
                put_file(&lower.join(call), b"x", 0o755, lo(1000), lo(1000));
            }
        });
        for call in CALLS {
            let stored = mount.low(call);
            let file = Caller::user(1000).run(|| open(&mount.up(call), OFlags::WRONLY, 0)).unwrap();
            set_mode(&stored, 0o6755).unwrap();
            Caller::user(1000).run(|| match call {
                "write" => drop(rustix::io::write(&file, b"z").unwrap()),
                "copy_file_range" => {
                    let source = open(&mount.up("source"), OFlags::RDONLY, 0).unwrap();
                    assert_eq!(copy_file_range(source, None, &file, None, 6).unwrap(), 6);
                }
                "ftruncate" => rustix::fs::ftruncate(&file, 3).unwrap(),
                _ => fallocate(&file, FallocateFlags::empty(), 0, 4096).unwrap(),
            });
            assert_eq!(mode(&stored), 0o755, "{call}, {options}");
        }
    }
}

/// Writes files of 1 MiB until that fails.
fn fill(dir: &Path, name: &str) -> io::Error {
    let content = vec![7; 1 << 20];
    let mut each = (0..1000).map(|nth| fs::write(dir.join(format!("{name}{nth}")), &content));
    each.find_map(Result::err).expect("the file system becomes full")
}

fn reserved_blocks_stay_reserved() {
    needs_idshift();
    needs_real_root("a file system of its own");
    needs_program("mkfs.ext4");
    for options in ["io=passthrough", "io=cached"] {
        let place = temp_dir();
        let [image, disk] = ["image", "disk"].map(|name| place.path().join(name));
        put_dir(&disk, 0o755, 0, 0);
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "30"]).arg(&image).status();
        assert!(made.unwrap().success());
        let _disk = Mounted::new(&["-o", "loop"], &image, &disk);
        let lower = disk.join("lower");
        put_dir(&lower, 0o777, 0, 0);
        let mount = Mount::of(temp_dir(), lower.clone(), &format!("map=identity,{options}"));
        let full = io::ErrorKind::StorageFull;
        let end = Caller::user(1000).run(|| fill(&mount.up(""), "users"));
        assert_eq!(end.kind(), full, "{options}: {end}");
        let end = fill(&mount.up(""), "roots");
        assert_eq!(end.kind(), full, "{options}: {end}");
        rustix::fs::syncfs(open(&lower, OFlags::RDONLY, 0).unwrap()).unwrap();
        let StatVfs { f_blocks, f_bfree, .. } = statvfs(&lower).unwrap();
        assert!(f_bfree * 4 > f_blocks, "{options}: {f_bfree} of {f_blocks} blocks are left");
        // There is room for root below.
        fs::write(lower.join("below"), vec![7; 1 << 20]).unwrap();
    }
}
