//! Making files: who owns them, with which mode, and who may not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::runner::needs_real_root;
use crate::common::{
    self, BASE, CWD, Caller, Errno, Mount, OFlags, UNMAPPED, assert_errno, create, exists, lo,
    mkdir, mode, open, owner, put_dir, put_file, stat,
};
use rustix::fs::{linkat, symlink};

crate::common::tests!(
    file_belongs_to_its_creator,
    every_kind_of_node_belongs_to_its_creator,
    device_nodes,
    existing_file_is_not_created_again,
    replaced_below_while_it_is_made,
    open_with_create_on_existing_file_keeps_its_owner,
    umask_cuts_the_mode,
    group_of_a_setgid_directory,
    setgid_is_kept_only_for_members,
    caller_with_another_primary_group,
    unmapped_caller_creates_nothing,
    caller_with_unmapped_group_creates_nothing,
    unmapped_directory_owner,
    no_right_to_write_in_the_directory,
    read_only_mode_of_a_new_file_still_allows_writing,
    hard_link,
    long_and_odd_names,
    tmpfile,
    read_only_mount,
);

const FIFO: u32 = 0o010_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const REGULAR: u32 = 0o100_000;
const SOCKET: u32 = 0o140_000;
const TYPE: u32 = 0o170_000;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn file_belongs_to_its_creator() {
    let mount = Mount::new();
    for uid in [0, 1, 1000, 19_999] {
        let name = format!("by-{uid}");
        let fd = Caller::user(uid).run(|| create(&mount.up(&name), 0o640)).unwrap();
        assert_eq!(owner(&mount.up(&name)), (uid, uid), "shown");
        assert_eq!(owner(&mount.low(&name)), (lo(uid), lo(uid)), "stored");
        assert_eq!(mode(&mount.low(&name)), 0o640);
        let by_fd = rustix::fs::fstat(&fd).unwrap();
        assert_eq!((by_fd.st_uid, by_fd.st_gid), (uid, uid), "on the open file");
    }
}

fn every_kind_of_node_belongs_to_its_creator() {
    let mount = Mount::new();
    let caller = Caller::user(1000).gid(1001);
    caller.run(|| {
        mkdir(&mount.up("dir"), 0o755).unwrap();
        symlink("some/where", mount.up("symlink")).unwrap();
        common::raw::mknod(&mount.up("fifo"), FIFO | 0o644, 0).unwrap();
        common::raw::mknod(&mount.up("socket"), SOCKET | 0o600, 0).unwrap();
        common::raw::mknod(&mount.up("regular"), REGULAR | 0o604, 0).unwrap();
    });
    for (name, kind, bits) in [
        ("dir", 0o040_000, 0o755),
        ("symlink", 0o120_000, 0o777),
        ("fifo", FIFO, 0o644),
        ("socket", SOCKET, 0o600),
        ("regular", REGULAR, 0o604),
    ] {
        assert_eq!(owner(&mount.up(name)), (1000, 1001), "{name} shown");
        assert_eq!(owner(&mount.low(name)), (lo(1000), lo(1001)), "{name} stored");
        for path in [mount.up(name), mount.low(name)] {
            assert_eq!(stat(&path).st_mode, kind | bits, "{}", path.display());
        }
    }
    assert_eq!(std::fs::read_link(mount.up("symlink")).unwrap(), Path::new("some/where"));
    // A bound socket is made by another way through the kernel.
    caller.run(|| std::os::unix::net::UnixListener::bind(mount.up("bound"))).unwrap();
    assert_eq!(owner(&mount.low("bound")), (lo(1000), lo(1001)));
    assert_eq!(stat(&mount.up("bound")).st_mode & TYPE, SOCKET);
}

fn device_nodes() {
    let mount = Mount::new();
    let null = rustix::fs::makedev(1, 3);
    let user = Caller::user(1000);
    assert_errno!(
        user.run(|| common::raw::mknod(&mount.up("user"), CHARACTER | 0o666, null)),
        Errno::PERM
    );
    assert!(!exists(&mount.low("user")));
    needs_real_root("device nodes");
    let disk = rustix::fs::makedev(259, 70_000);
    Caller::user(0).run(|| {
        common::raw::mknod(&mount.up("null"), CHARACTER | 0o666, null).unwrap();
        common::raw::mknod(&mount.up("disk"), BLOCK | 0o660, disk).unwrap();
    });
    for path in [mount.up("null"), mount.low("null")] {
        let stat = stat(&path);
        assert_eq!(stat.st_mode, CHARACTER | 0o666);
        assert_eq!(stat.st_rdev, null);
    }
    assert_eq!(stat(&mount.up("disk")).st_rdev, disk);
    assert_eq!(owner(&mount.low("disk")), (lo(0), lo(0)));
    // It is the device, not a file of that name.
    std::fs::write(mount.up("null"), "swallowed").unwrap();
    assert_eq!(std::fs::read(mount.up("null")).unwrap(), b"");
}

fn existing_file_is_not_created_again() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"old", 0o666, lo(7), lo(7));
        put_dir(&lower.join("dir"), 0o755, lo(7), lo(7));
    });
    Caller::user(1000).run(|| {
        for name in ["file", "dir"] {
            let path = mount.up(name);
            assert_errno!(create(&path, 0o600), Errno::EXIST);
            assert_errno!(mkdir(&path, 0o755), Errno::EXIST);
            assert_errno!(symlink("x", &path), Errno::EXIST);
            assert_errno!(common::raw::mknod(&path, FIFO | 0o600, 0), Errno::EXIST);
        }
    });
    assert_eq!(std::fs::read(mount.low("file")).unwrap(), b"old");
}

fn open_with_create_on_existing_file_keeps_its_owner() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"old", 0o666, lo(7), lo(8));
    });
    Caller::user(1000)
        .run(|| open(&mount.up("file"), OFlags::CREATE | OFlags::WRONLY, 0o600))
        .unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(7), lo(8)));
    assert_eq!(mode(&mount.low("file")), 0o666);
}

fn umask_cuts_the_mode() {
    let mount = Mount::new();
    for umask in [0, 0o022, 0o027, 0o077, 0o777] {
        Caller::user(1000).umask(umask).run(|| {
            create(&mount.up(format!("f{umask}")), 0o666).unwrap();
            mkdir(&mount.up(format!("d{umask}")), 0o777).unwrap();
            common::raw::mknod(&mount.up(format!("p{umask}")), FIFO | 0o666, 0).unwrap();
        });
        assert_eq!(mode(&mount.low(format!("f{umask}"))), 0o666 & !umask);
        assert_eq!(mode(&mount.low(format!("d{umask}"))), 0o777 & !umask);
        assert_eq!(mode(&mount.low(format!("p{umask}"))), 0o666 & !umask);
        assert_eq!(mode(&mount.up(format!("f{umask}"))), 0o666 & !umask);
    }
}

fn group_of_a_setgid_directory() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("shared"), 0o2777, lo(0), lo(500));
    });
    Caller::user(1000).run(|| {
        create(&mount.up("shared/file"), 0o664).unwrap();
        mkdir(&mount.up("shared/dir"), 0o755).unwrap();
        symlink("x", mount.up("shared/link")).unwrap();
        common::raw::mknod(&mount.up("shared/fifo"), FIFO | 0o644, 0).unwrap();
    });
    for name in ["file", "dir", "link", "fifo"] {
        let name = Path::new("shared").join(name);
        assert_eq!(owner(&mount.low(&name)), (lo(1000), lo(500)), "{}", name.display());
        assert_eq!(owner(&mount.up(&name)), (1000, 500), "{}", name.display());
    }
    assert_eq!(mode(&mount.low("shared/dir")), 0o2755, "a new directory is setgid in its turn");
    assert_eq!(mode(&mount.low("shared/file")), 0o664);
}

fn setgid_is_kept_only_for_members() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("shared"), 0o2777, lo(0), lo(500));
    });
    let make = |caller: Caller, name: &str| {
        caller.run(|| create(&mount.up("shared").join(name), 0o2771)).unwrap();
        mode(&mount.low("shared").join(name))
    };
    assert_eq!(make(Caller::user(1000), "stranger"), 0o771);
    assert_eq!(make(Caller::user(1000).groups(&[500]), "member"), 0o2771);
    assert_eq!(make(Caller::user(1000).gid(500), "primary"), 0o2771);
    assert_eq!(make(Caller::user(0), "root"), 0o2771);
    let caller = Caller::user(1000);
    caller.run(|| common::raw::mknod(&mount.up("shared/node"), REGULAR | 0o2771, 0)).unwrap();
    assert_eq!(mode(&mount.low("shared/node")), 0o771);
    caller.run(|| create(&mount.up("own-group"), 0o2771)).unwrap();
    assert_eq!(mode(&mount.low("own-group")), 0o2771, "in one's own group it stays");
}

fn caller_with_another_primary_group() {
    let mount = Mount::new();
    Caller::user(1000).gid(2000).groups(&[3000]).run(|| create(&mount.up("f"), 0o600)).unwrap();
    assert_eq!(owner(&mount.low("f")), (lo(1000), lo(2000)));
}

fn unmapped_caller_creates_nothing() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"", 0o666, lo(1), lo(1));
    });
    let before = names(&mount.low(""));
    let time = stat(&mount.low("")).st_mtime_nsec;
    Caller::user(UNMAPPED).run(|| {
        assert_errno!(create(&mount.up("new"), 0o600), Errno::OVERFLOW);
        assert_errno!(mkdir(&mount.up("new"), 0o700), Errno::OVERFLOW);
        assert_errno!(symlink("x", mount.up("new")), Errno::OVERFLOW);
        assert_errno!(common::raw::mknod(&mount.up("new"), FIFO | 0o600, 0), Errno::OVERFLOW);
        assert_errno!(common::raw::mknod(&mount.up("new"), REGULAR | 0o600, 0), Errno::OVERFLOW);
        // What needs no new owner works as the file's mode allows.
        std::fs::write(mount.up("file"), "written").unwrap();
    });
    assert_eq!(names(&mount.low("")), before);
    assert_eq!(stat(&mount.low("")).st_mtime_nsec, time, "the directory was not touched");
    assert_eq!(owner(&mount.low("file")), (lo(1), lo(1)));
    assert_eq!(std::fs::read(mount.low("file")).unwrap(), b"written");
}

fn caller_with_unmapped_group_creates_nothing() {
    let mount = Mount::new();
    Caller::user(1000).gid(UNMAPPED).run(|| {
        assert_errno!(create(&mount.up("new"), 0o600), Errno::OVERFLOW);
        assert_errno!(mkdir(&mount.up("new"), 0o700), Errno::OVERFLOW);
        assert_errno!(symlink("x", mount.up("new")), Errno::OVERFLOW);
    });
    assert!(names(&mount.low("")).is_empty());
}

fn unmapped_directory_owner() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("dir"), 0o777, UNMAPPED, UNMAPPED);
        put_dir(&lower.join("setgid"), 0o2777, lo(0), UNMAPPED);
    });
    Caller::user(1000).run(|| {
        for dir in ["dir", "setgid"] {
            assert_errno!(create(&mount.up(dir).join("file"), 0o600), Errno::ACCESS);
            assert_errno!(mkdir(&mount.up(dir).join("sub"), 0o700), Errno::ACCESS);
        }
    });
    assert_eq!(owner(&mount.up("dir")), (65_534, 65_534));
    assert_eq!(owner(&mount.up("setgid")), (0, 65_534));
    assert!(names(&mount.low("dir")).is_empty());
}

fn no_right_to_write_in_the_directory() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("dir"), 0o755, lo(1), lo(2));
        put_dir(&lower.join("group"), 0o775, lo(1), lo(2));
    });
    Caller::user(1000).run(|| {
        assert_errno!(create(&mount.up("dir/x"), 0o600), Errno::ACCESS);
        assert_errno!(mkdir(&mount.up("dir/x"), 0o700), Errno::ACCESS);
        assert_errno!(symlink("x", mount.up("dir/x")), Errno::ACCESS);
        assert_errno!(create(&mount.up("group/x"), 0o600), Errno::ACCESS);
        assert_errno!(create(&mount.up("missing/x"), 0o600), Errno::NOENT);
    });
    Caller::user(1000).groups(&[2]).run(|| create(&mount.up("group/x"), 0o600)).unwrap();
    Caller::user(1).run(|| create(&mount.up("dir/x"), 0o600)).unwrap();
}

fn read_only_mode_of_a_new_file_still_allows_writing() {
    let mount = Mount::new();
    Caller::user(1000).run(|| {
        let fd = create(&mount.up("f"), 0o000).unwrap();
        assert_eq!(rustix::io::write(&fd, b"abc").unwrap(), 3);
        assert_errno!(open(&mount.up("f"), OFlags::RDONLY, 0), Errno::ACCESS);
    });
    assert_eq!(std::fs::read(mount.low("f")).unwrap(), b"abc");
    assert_eq!(mode(&mount.low("f")), 0);
}

fn hard_link() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o644, lo(1000), lo(1000));
    });
    let link = |name: &str| {
        linkat(CWD, mount.up("file"), CWD, mount.up(name), rustix::fs::AtFlags::empty())
    };
    Caller::user(1000).run(|| link("second")).unwrap();
    assert_eq!(stat(&mount.up("file")).st_nlink, 2);
    assert_eq!(stat(&mount.up("second")).st_nlink, 2);
    assert_eq!(stat(&mount.up("second")).st_ino, stat(&mount.up("file")).st_ino);
    assert_eq!(stat(&mount.low("second")).st_ino, stat(&mount.low("file")).st_ino);
    Caller::user(1000).run(|| assert_errno!(link("second"), Errno::EXIST));
    Caller::user(UNMAPPED).run(|| assert!(link("third").is_err()));
    assert!(!exists(&mount.low("third")));
}

fn long_and_odd_names() {
    use std::os::unix::ffi::OsStrExt;
    let mount = Mount::new();
    let long = "n".repeat(255);
    create(&mount.up(&long), 0o600).unwrap();
    assert!(exists(&mount.low(&long)));
    assert_errno!(create(&mount.up("n".repeat(256)), 0o600), Errno::NAMETOOLONG);
    for bytes in [&b"\xff\xfe\x80"[..], b"two\nlines", b" ", b"-rf", b"a\\b", b"\x01\x7f"] {
        let name = std::ffi::OsStr::from_bytes(bytes);
        create(&mount.up(name), 0o600).unwrap();
        assert!(exists(&mount.low(name)), "{}", name.display());
        let file = mount.up(name);
        assert!(mount.up("").read_dir().unwrap().any(|entry| entry.unwrap().path() == file));
    }
}

fn tmpfile() {
    let mount = Mount::new();
    let open_it =
        |caller: Caller| caller.run(|| open(&mount.up(""), OFlags::TMPFILE | OFlags::RDWR, 0o640));
    let fd = open_it(Caller::user(1000).gid(1001)).unwrap();
    let seen = rustix::fs::fstat(&fd).unwrap();
    assert_eq!((seen.st_uid, seen.st_gid, seen.st_nlink), (1000, 1001, 0));
    assert_eq!(seen.st_mode & 0o7777, 0o640);
    assert!(names(&mount.low("")).is_empty());
    assert_eq!(rustix::io::write(&fd, b"content").unwrap(), 7);
    // It gets a name, and is the caller's below too.
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let follow = rustix::fs::AtFlags::SYMLINK_FOLLOW;
    linkat(CWD, name, CWD, mount.up("named"), follow).unwrap();
    assert_eq!(owner(&mount.low("named")), (lo(1000), lo(1001)));
    assert_eq!(std::fs::read(mount.up("named")).unwrap(), b"content");
    assert_eq!(stat(&mount.up("named")).st_nlink, 1);
    assert_errno!(open_it(Caller::user(UNMAPPED)), Errno::OVERFLOW);
}

fn read_only_mount() {
    let mount = Mount::with(&format!("{},ro", common::MAP), |lower| {
        put_file(&lower.join("file"), b"x", 0o666, BASE, BASE);
    });
    assert_errno!(create(&mount.up("new"), 0o600), Errno::ROFS);
    assert_errno!(mkdir(&mount.up("new"), 0o700), Errno::ROFS);
    assert_errno!(open(&mount.up("file"), OFlags::RDWR, 0), Errno::ROFS);
    assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"x");
    assert_eq!(names(&mount.low("")), ["file"]);
}

/// What has just been made is exchanged for something of another type before the server looks at
/// it: an answer of the wrong type would be an I/O error, and a lookup that nobody takes back.
fn replaced_below_while_it_is_made() {
    let mount = Mount::new();
    let (up, low) = (mount.up("name"), mount.low("name"));
    let done = AtomicBool::new(false);
    let mut seen = BTreeMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Only what is there is exchanged, so that it is in the way as rarely as can be.
                if rustix::fs::unlink(&low).is_ok() {
                    common::raw::mknod(&low, FIFO | 0o666, 0).ok();
                    rustix::fs::unlink(&low).ok();
                }
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let error = symlink("target", &up).err();
            *seen.entry(error.map(Errno::raw_os_error)).or_insert(0) += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("replaced while made: {seen:?}");
    assert_eq!(seen.get(&Some(Errno::IO.raw_os_error())), None, "{seen:?}");
    assert!(seen.contains_key(&None), "{seen:?}");
    if common::machine().real_root && !common::machine().kernel_backend {
        rustix::fs::unlink(&low).ok();
        common::eventually("no lookup is left", || {
            std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            let report = common::status::report(&mount.up("")).unwrap();
            common::status::number(&report, "lookups") == 0
        });
    }
}
