//! Renaming, with all the flags.

use std::path::Path;

use crate::common::{
    self, CWD, Caller, Errno, Mount, UNMAPPED, assert_errno, exists, lo, mode, owner, put_dir,
    put_file, stat,
};
use rustix::fs::{RenameFlags, lstat, renameat_with};

crate::common::tests!(
    within_a_directory,
    over_a_file,
    across_directories,
    directories,
    directory_into_itself,
    onto_a_hard_link_of_itself,
    no_replace,
    exchange,
    whiteout,
    whiteout_of_an_unmapped_caller,
    bad_flags,
    out_of_the_mount,
    keeps_owner_mode_and_inode,
    rights,
    setgid_directory_does_not_change_the_group,
    unmapped_caller,
    many_times_in_parallel,
    tree_stays_usable_after_its_parent_moved,
);

fn mv(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

fn plain(from: &Path, to: &Path) -> Result<(), Errno> {
    rustix::fs::rename(from, to)
}

fn two_files() -> Mount {
    Mount::with(common::MAP, fill_two_files)
}

fn fill_two_files(lower: &Path) {
    put_file(&lower.join("a"), b"content of a", 0o640, lo(1), lo(2));
    put_file(&lower.join("b"), b"content of b", 0o604, lo(3), lo(4));
    put_dir(&lower.join("dir"), 0o777, lo(0), lo(0));
}

fn within_a_directory() {
    let mount = two_files();
    plain(&mount.up("a"), &mount.up("c")).unwrap();
    assert!(!exists(&mount.up("a")));
    assert!(!exists(&mount.low("a")));
    assert_eq!(std::fs::read(mount.up("c")).unwrap(), b"content of a");
    assert_errno!(plain(&mount.up("missing"), &mount.up("d")), Errno::NOENT);
    plain(&mount.up("c"), &mount.up("c")).unwrap();
    assert_eq!(std::fs::read(mount.low("c")).unwrap(), b"content of a");
}

fn over_a_file() {
    let mount = two_files();
    plain(&mount.up("a"), &mount.up("b")).unwrap();
    assert_eq!(std::fs::read(mount.up("b")).unwrap(), b"content of a");
    assert_eq!(owner(&mount.up("b")), (1, 2));
    assert!(!exists(&mount.low("a")));
    assert_errno!(plain(&mount.up("b"), &mount.up("dir")), Errno::ISDIR);
    assert_errno!(plain(&mount.up("dir"), &mount.up("b")), Errno::NOTDIR);
}

fn across_directories() {
    let mount = two_files();
    plain(&mount.up("a"), &mount.up("dir/a")).unwrap();
    assert!(!exists(&mount.up("a")));
    assert_eq!(std::fs::read(mount.up("dir/a")).unwrap(), b"content of a");
    plain(&mount.up("dir/a"), &mount.up("back")).unwrap();
    assert_eq!(std::fs::read(mount.low("back")).unwrap(), b"content of a");
    assert_eq!(mount.up("dir").read_dir().unwrap().count(), 0);
}

fn directories() {
    let mount = Mount::new();
    std::fs::create_dir_all(mount.up("x/y/z")).unwrap();
    std::fs::create_dir(mount.up("empty")).unwrap();
    std::fs::create_dir(mount.up("target")).unwrap();
    let links = |name: &str| stat(&mount.up(name)).st_nlink;
    let inode = stat(&mount.up("x/y")).st_ino;
    plain(&mount.up("x/y"), &mount.up("target/moved")).unwrap();
    assert_eq!(stat(&mount.up("target/moved")).st_ino, inode);
    assert!(exists(&mount.up("target/moved/z")));
    assert_eq!(links("x"), stat(&mount.low("x")).st_nlink);
    assert_eq!(links("target"), stat(&mount.low("target")).st_nlink);
    assert_eq!(stat(&mount.up("target/moved/..")).st_ino, stat(&mount.up("target")).st_ino);
    plain(&mount.up("x"), &mount.up("empty")).unwrap();
    assert_errno!(plain(&mount.up("empty"), &mount.up("target")), Errno::NOTEMPTY);
}

fn directory_into_itself() {
    let mount = Mount::new();
    std::fs::create_dir_all(mount.up("a/b/c")).unwrap();
    assert_errno!(plain(&mount.up("a"), &mount.up("a/b/c/d")), Errno::INVAL);
    assert_errno!(plain(&mount.up("a"), &mount.up("a/b")), Errno::INVAL);
    assert_errno!(plain(&mount.up("a/b/c"), &mount.up("a")), Errno::NOTEMPTY);
}

fn onto_a_hard_link_of_itself() {
    let mount = two_files();
    std::fs::hard_link(mount.up("a"), mount.up("dir/link")).unwrap();
    // POSIX: nothing happens, and both names stay.
    plain(&mount.up("a"), &mount.up("dir/link")).unwrap();
    assert!(exists(&mount.up("a")));
    assert!(exists(&mount.up("dir/link")));
    assert_eq!(stat(&mount.up("a")).st_nlink, 2);
    assert_eq!(std::fs::read(mount.up("a")).unwrap(), b"content of a");
    // Over another file's name, its other name keeps counting right.
    std::fs::hard_link(mount.up("b"), mount.up("b2")).unwrap();
    plain(&mount.up("a"), &mount.up("b")).unwrap();
    assert_eq!(stat(&mount.up("b2")).st_nlink, 1);
    assert_eq!(stat(&mount.up("b")).st_nlink, 2);
}

fn no_replace() {
    let mount = two_files();
    let flags = RenameFlags::NOREPLACE;
    assert_errno!(mv(&mount.up("a"), &mount.up("b"), flags), Errno::EXIST);
    assert_eq!(std::fs::read(mount.low("b")).unwrap(), b"content of b");
    mv(&mount.up("a"), &mount.up("dir/new"), flags).unwrap();
    assert_eq!(std::fs::read(mount.low("dir/new")).unwrap(), b"content of a");
}

fn exchange() {
    let mount = two_files();
    let flags = RenameFlags::EXCHANGE;
    let (a, b) = (stat(&mount.up("a")).st_ino, stat(&mount.up("b")).st_ino);
    mv(&mount.up("a"), &mount.up("b"), flags).unwrap();
    assert_eq!((stat(&mount.up("a")).st_ino, stat(&mount.up("b")).st_ino), (b, a));
    assert_eq!(std::fs::read(mount.up("a")).unwrap(), b"content of b");
    assert_eq!(owner(&mount.up("a")), (3, 4));
    // A file and a directory, in two directories.
    std::fs::create_dir_all(mount.up("other/sub")).unwrap();
    mv(&mount.up("a"), &mount.up("other/sub"), flags).unwrap();
    assert!(mount.up("a").is_dir());
    assert_eq!(std::fs::read(mount.up("other/sub")).unwrap(), b"content of b");
    assert_eq!(stat(&mount.up("other")).st_nlink, stat(&mount.low("other")).st_nlink);
    assert_errno!(mv(&mount.up("a"), &mount.up("missing"), flags), Errno::NOENT);
}

fn whiteout() {
    let mount = two_files();
    mv(&mount.up("a"), &mount.up("moved"), RenameFlags::WHITEOUT).unwrap();
    assert_eq!(std::fs::read(mount.up("moved")).unwrap(), b"content of a");
    for path in [mount.up("a"), mount.low("a")] {
        let left = stat(&path);
        assert_eq!(left.st_mode & 0o170_000, 0o020_000, "a character device stays behind");
        assert_eq!(left.st_rdev, 0);
    }
    assert_eq!(owner(&mount.low("a")), (lo(0), lo(0)), "it is the caller's");
    let user = Caller::user(1000);
    std::fs::write(mount.up("dir/file"), "x").unwrap();
    user.run(|| mv(&mount.up("dir/file"), &mount.up("dir/new"), RenameFlags::WHITEOUT)).unwrap();
    assert_eq!(owner(&mount.low("dir/file")), (lo(1000), lo(1000)));
}

fn whiteout_of_an_unmapped_caller() {
    let mount = two_files();
    let caller = Caller::user(UNMAPPED);
    let moved = caller.run(|| mv(&mount.up("a"), &mount.up("moved"), RenameFlags::WHITEOUT));
    assert!(moved.is_err());
    assert!(exists(&mount.low("a")));
    assert!(!exists(&mount.low("moved")));
}

fn bad_flags() {
    let mount = two_files();
    let both = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    assert_errno!(mv(&mount.up("a"), &mount.up("b"), both), Errno::INVAL);
    let unknown = RenameFlags::from_bits_retain(0x80);
    assert_errno!(mv(&mount.up("a"), &mount.up("b"), unknown), Errno::INVAL);
}

fn out_of_the_mount() {
    let mount = two_files();
    assert_errno!(plain(&mount.up("a"), &mount.beside().join("a")), Errno::XDEV);
    let linked = rustix::fs::link(mount.up("a"), mount.beside().join("a"));
    assert_errno!(linked, Errno::XDEV);
    assert!(exists(&mount.low("a")));
}

fn keeps_owner_mode_and_inode() {
    let mount = two_files();
    let before = stat(&mount.up("a"));
    plain(&mount.up("a"), &mount.up("dir/c")).unwrap();
    let after = stat(&mount.up("dir/c"));
    assert_eq!(
        (before.st_ino, before.st_mode, before.st_uid, before.st_gid, before.st_mtime_nsec),
        (after.st_ino, after.st_mode, after.st_uid, after.st_gid, after.st_mtime_nsec)
    );
}

fn rights() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("mine"), 0o755, lo(1000), lo(1000));
        put_file(&lower.join("mine/file"), b"x", 0o600, lo(5), lo(5));
        put_dir(&lower.join("mine/theirs"), 0o755, lo(5), lo(5));
        put_dir(&lower.join("closed"), 0o755, lo(5), lo(5));
        put_dir(&lower.join("open"), 0o777, lo(5), lo(5));
    });
    Caller::user(1000).run(|| {
        assert_errno!(plain(&mount.up("mine/file"), &mount.up("closed/file")), Errno::ACCESS);
        plain(&mount.up("mine/file"), &mount.up("open/file")).unwrap();
        plain(&mount.up("mine/theirs"), &mount.up("mine/renamed")).unwrap();
        // Moving a directory writes its "..", so its own mode counts.
        let moved = plain(&mount.up("mine/renamed"), &mount.up("open/renamed"));
        assert_errno!(moved, Errno::ACCESS);
    });
    assert_eq!(owner(&mount.low("open/file")), (lo(5), lo(5)));
}

fn setgid_directory_does_not_change_the_group() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("shared"), 0o2777, lo(0), lo(500));
        put_file(&lower.join("file"), b"x", 0o640, lo(1000), lo(1000));
    });
    Caller::user(1000).run(|| plain(&mount.up("file"), &mount.up("shared/file"))).unwrap();
    assert_eq!(owner(&mount.low("shared/file")), (lo(1000), lo(1000)));
    assert_eq!(mode(&mount.low("shared/file")), 0o640);
}

fn unmapped_caller() {
    let mount = Mount::with(&format!("{},idmap=deny", common::MAP), fill_two_files);
    for caller in [Caller::user(UNMAPPED), Caller::user(1000).gid(UNMAPPED)] {
        let moved = caller.run(|| plain(&mount.up("a"), &mount.up("dir/a")));
        assert_errno!(moved, Errno::OVERFLOW);
    }
    assert!(exists(&mount.low("a")));
    assert_errno!(lstat(mount.low("dir/a")), Errno::NOENT);
}

fn many_times_in_parallel() {
    let mount = Mount::new();
    for directory in 0..4 {
        std::fs::create_dir(mount.up(format!("d{directory}"))).unwrap();
    }
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let mount = &mount;
            scope.spawn(move || {
                let place = |step: usize| mount.up(format!("d{}/f{worker}", (worker + step) % 4));
                std::fs::write(place(0), worker.to_string()).unwrap();
                for step in 0..200 {
                    plain(&place(step), &place(step + 1)).unwrap();
                    assert_eq!(
                        std::fs::read(place(step + 1)).unwrap(),
                        worker.to_string().as_bytes()
                    );
                }
            });
        }
    });
    let left: usize = (0..4)
        .map(|directory| mount.low(format!("d{directory}")).read_dir().unwrap().count())
        .sum();
    assert_eq!(left, 4);
}

/// Where inodes are found again by a walk from the parent, a moved directory must not lead astray.
fn tree_stays_usable_after_its_parent_moved() {
    let mount = Mount::new();
    std::fs::create_dir_all(mount.up("a/b/c")).unwrap();
    std::fs::write(mount.up("a/b/c/file"), "x").unwrap();
    let inside = common::open(&mount.up("a/b/c"), common::OFlags::DIRECTORY, 0).unwrap();
    plain(&mount.up("a/b"), &mount.up("b")).unwrap();
    std::fs::create_dir_all(mount.up("a/b/c")).unwrap();
    std::fs::write(mount.up("a/b/c/file"), "another").unwrap();
    let fd = rustix::fs::openat(&inside, "file", common::OFlags::RDWR, common::Mode::empty());
    let fd = fd.unwrap();
    rustix::io::pwrite(&fd, b"y", 0).unwrap();
    assert_eq!(std::fs::read(mount.low("b/c/file")).unwrap(), b"y");
    assert_eq!(std::fs::read(mount.low("a/b/c/file")).unwrap(), b"another");
}
