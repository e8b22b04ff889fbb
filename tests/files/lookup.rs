//! Finding names and what stat(2) says of them.

use std::path::Path;

use crate::common::{
    self, AtFlags, CWD, Caller, Errno, Mount, OFlags, assert_errno, create, lo, mkdir, open,
    put_dir, put_file, stat,
};
use rustix::fs::{Access, StatxFlags, accessat, linkat, lstat, statx, symlink, unlink};

crate::common::tests!(
    stat_is_the_lower_one,
    missing_names,
    not_a_directory,
    loops_and_long_paths,
    symlinks,
    search_right_is_needed,
    dot_and_dot_dot,
    two_names_are_one_inode,
    link_count_of_directories,
    replaced_file_is_a_new_inode,
    reused_inode_number,
    access_for_real_and_effective_ids,
    access_by_owner_group_and_other,
    path_descriptors,
    protected_symlinks,
    deep_tree,
);

fn stat_is_the_lower_one() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), &vec![7; 70_000], 0o4751, lo(1000), lo(1001));
        put_dir(&lower.join("dir"), 0o1750, lo(3), lo(4));
        symlink("file", lower.join("link")).unwrap();
        common::raw::mknod(&lower.join("fifo"), 0o010_000 | 0o600, 0).unwrap();
    });
    for name in ["file", "dir", "link", "fifo"] {
        let (upper, lower) = (stat(&mount.up(name)), stat(&mount.low(name)));
        assert_eq!(upper.st_ino, lower.st_ino, "{name}");
        assert_eq!(upper.st_mode, lower.st_mode, "{name}");
        assert_eq!(upper.st_nlink, lower.st_nlink, "{name}");
        assert_eq!(upper.st_size, lower.st_size, "{name}");
        assert_eq!(upper.st_blocks, lower.st_blocks, "{name}");
        assert_eq!(upper.st_blksize, lower.st_blksize, "{name}");
        assert_eq!((upper.st_mtime, upper.st_mtime_nsec), (lower.st_mtime, lower.st_mtime_nsec));
        assert_eq!((upper.st_ctime, upper.st_ctime_nsec), (lower.st_ctime, lower.st_ctime_nsec));
        assert_eq!((upper.st_atime, upper.st_atime_nsec), (lower.st_atime, lower.st_atime_nsec));
    }
    assert_eq!(common::owner(&mount.up("file")), (1000, 1001));
    let device = stat(&mount.up("")).st_dev;
    assert_eq!(stat(&mount.up("file")).st_dev, device, "one file system");
    let flags = StatxFlags::BASIC_STATS;
    let wanted = statx(CWD, mount.up("file"), AtFlags::empty(), flags).unwrap();
    assert_eq!(wanted.stx_uid, 1000);
}

fn missing_names() {
    let mount = Mount::new();
    assert_errno!(lstat(mount.up("missing")), Errno::NOENT);
    assert_errno!(lstat(mount.up("missing/below")), Errno::NOENT);
    assert_errno!(unlink(mount.up("missing")), Errno::NOENT);
    assert_errno!(open(&mount.up("missing"), OFlags::RDONLY, 0), Errno::NOENT);
    // Now it comes to be: what was remembered of it must not stay.
    create(&mount.up("missing"), 0o600).unwrap();
    assert!(lstat(mount.up("missing")).is_ok());
    unlink(mount.up("missing")).unwrap();
    assert_errno!(lstat(mount.up("missing")), Errno::NOENT);
}

fn not_a_directory() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"", 0o644, lo(0), lo(0));
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
    });
    assert_errno!(lstat(mount.up("file/below")), Errno::NOTDIR);
    assert_errno!(open(&mount.up("file"), OFlags::DIRECTORY, 0), Errno::NOTDIR);
    assert_errno!(open(&mount.up("dir"), OFlags::WRONLY, 0), Errno::ISDIR);
    assert_errno!(unlink(mount.up("dir")), Errno::ISDIR);
    assert_errno!(rustix::fs::rmdir(mount.up("file")), Errno::NOTDIR);
}

fn loops_and_long_paths() {
    let mount = Mount::new();
    symlink("b", mount.up("a")).unwrap();
    symlink("a", mount.up("b")).unwrap();
    assert_errno!(open(&mount.up("a"), OFlags::RDONLY, 0), Errno::LOOP);
    assert_errno!(lstat(mount.up("x".repeat(256))), Errno::NAMETOOLONG);
    let long = "d/".repeat(2_100);
    assert_errno!(lstat(mount.up(long)), Errno::NAMETOOLONG);
}

fn symlinks() {
    let target = "t".repeat(4_095);
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"content", 0o644, lo(0), lo(0));
        symlink("file", lower.join("relative")).unwrap();
        symlink("nowhere/at/all", lower.join("dangling")).unwrap();
    });
    assert_eq!(std::fs::read(mount.up("relative")).unwrap(), b"content");
    assert_eq!(std::fs::read_link(mount.up("dangling")).unwrap(), Path::new("nowhere/at/all"));
    assert_errno!(open(&mount.up("dangling"), OFlags::RDONLY, 0), Errno::NOENT);
    assert_errno!(open(&mount.up("relative"), OFlags::NOFOLLOW, 0), Errno::LOOP);
    symlink(&*target, mount.up("long")).unwrap();
    assert_eq!(std::fs::read_link(mount.up("long")).unwrap(), Path::new(&target));
    assert_eq!(stat(&mount.up("long")).st_size, 4_095);
    assert_errno!(symlink("", mount.up("empty")), Errno::NOENT);
    assert_errno!(rustix::fs::readlink(mount.up("file"), Vec::new()), Errno::INVAL);
}

fn search_right_is_needed() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("closed"), 0o700, lo(1), lo(1));
        put_file(&lower.join("closed/file"), b"x", 0o644, lo(1000), lo(1000));
        put_dir(&lower.join("group"), 0o710, lo(1), lo(5));
        put_file(&lower.join("group/file"), b"x", 0o644, lo(1000), lo(1000));
    });
    let look = |caller: Caller, name: &str| caller.run(|| lstat(mount.up(name)).map(drop));
    assert_errno!(look(Caller::user(1000), "closed/file"), Errno::ACCESS);
    assert_errno!(look(Caller::user(1000), "closed/missing"), Errno::ACCESS);
    assert_errno!(look(Caller::user(1000), "group/file"), Errno::ACCESS);
    assert_eq!(look(Caller::user(1000).groups(&[5]), "group/file"), Ok(()));
    assert_eq!(look(Caller::user(1), "closed/file"), Ok(()));
    assert_eq!(look(Caller::user(0), "closed/file"), Ok(()));
    assert_eq!(look(Caller::user(lo(1)), "closed/file"), Err(Errno::ACCESS), "a lower id");
}

fn dot_and_dot_dot() {
    let mount = Mount::with(common::MAP, |lower| put_dir(&lower.join("a"), 0o755, lo(0), lo(0)));
    mkdir(&mount.up("a/b"), 0o755).unwrap();
    assert_eq!(stat(&mount.up("a/b/..")).st_ino, stat(&mount.up("a")).st_ino);
    assert_eq!(stat(&mount.up("a/b/.")).st_ino, stat(&mount.up("a/b")).st_ino);
    assert_eq!(stat(&mount.up("a/..")).st_ino, stat(&mount.low("")).st_ino);
    assert_eq!(stat(&mount.up("..")).st_ino, stat(mount.beside()).st_ino, "out of the mount");
}

fn two_names_are_one_inode() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("one"), b"abc", 0o644, lo(0), lo(0));
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        std::fs::hard_link(lower.join("one"), lower.join("dir/two")).unwrap();
    });
    assert_eq!(stat(&mount.up("one")).st_ino, stat(&mount.up("dir/two")).st_ino);
    std::fs::write(mount.up("one"), "longer than before").unwrap();
    assert_eq!(stat(&mount.up("dir/two")).st_size, 18);
    assert_eq!(std::fs::read(mount.up("dir/two")).unwrap(), b"longer than before");
    common::set_mode(&mount.up("dir/two"), 0o600).unwrap();
    assert_eq!(common::mode(&mount.up("one")), 0o600);
    unlink(mount.up("one")).unwrap();
    assert_eq!(stat(&mount.up("dir/two")).st_nlink, 1);
}

fn link_count_of_directories() {
    let mount = Mount::new();
    mkdir(&mount.up("dir"), 0o755).unwrap();
    assert_eq!(stat(&mount.up("dir")).st_nlink, stat(&mount.low("dir")).st_nlink);
    for name in ["a", "b", "c"] {
        mkdir(&mount.up("dir").join(name), 0o755).unwrap();
        assert_eq!(stat(&mount.up("dir")).st_nlink, stat(&mount.low("dir")).st_nlink);
    }
    rustix::fs::rmdir(mount.up("dir/a")).unwrap();
    assert_eq!(stat(&mount.up("dir")).st_nlink, stat(&mount.low("dir")).st_nlink);
}

fn replaced_file_is_a_new_inode() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"old", 0o644, lo(0), lo(0));
    });
    let old = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
    std::fs::write(mount.up("new"), "new content").unwrap();
    std::fs::rename(mount.up("new"), mount.up("file")).unwrap();
    assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"new content");
    let old_stat = rustix::fs::fstat(&old).unwrap();
    assert_eq!(old_stat.st_nlink, 0);
    assert_eq!(old_stat.st_size, 3);
    assert_ne!(old_stat.st_ino, stat(&mount.up("file")).st_ino);
    let mut buffer = [0; 8];
    assert_eq!(rustix::io::read(&old, &mut buffer).unwrap(), 3);
    assert_eq!(&buffer[..3], b"old");
}

/// ext4 gives a freed inode number out again at once: the server must not take the new file for
/// the old one.
fn reused_inode_number() {
    let mount = Mount::new();
    for round in 0..200_u32 {
        let file = mount.up("file");
        if round % 2 == 0 {
            std::fs::write(&file, round.to_string()).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), round.to_string().as_bytes());
            assert_eq!(stat(&file).st_mode & 0o170_000, 0o100_000);
            unlink(&file).unwrap();
        } else {
            mkdir(&file, 0o755).unwrap();
            assert_eq!(stat(&file).st_mode & 0o170_000, 0o040_000);
            create(&file.join("inside"), 0o600).unwrap();
            unlink(file.join("inside")).unwrap();
            rustix::fs::rmdir(&file).unwrap();
        }
    }
}

fn access_for_real_and_effective_ids() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o600, lo(1000), lo(1000));
    });
    // Real root, effective user: access(2) asks for the real one, AT_EACCESS for the effective.
    Caller::user(0).run(|| {
        let (root, user) = (rustix::process::Uid::ROOT, rustix::process::Uid::from_raw(2000));
        rustix::thread::set_thread_res_uid(root, user, root).unwrap();
        let ask = |flags| accessat(CWD, mount.up("file"), Access::READ_OK, flags);
        assert_eq!(ask(AtFlags::empty()), Ok(()));
        assert_errno!(ask(AtFlags::EACCESS), Errno::ACCESS);
        rustix::thread::set_thread_res_uid(root, root, root).unwrap();
    });
}

fn access_by_owner_group_and_other() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o640, lo(1000), lo(2000));
        put_file(&lower.join("less"), b"x", 0o604, lo(1000), lo(2000));
    });
    let can = |caller: Caller, name: &str, wanted: Access| {
        caller.run(|| accessat(CWD, mount.up(name), wanted, AtFlags::empty()))
    };
    assert_eq!(can(Caller::user(1000), "file", Access::READ_OK | Access::WRITE_OK), Ok(()));
    assert_errno!(can(Caller::user(1000), "file", Access::EXEC_OK), Errno::ACCESS);
    assert_eq!(can(Caller::user(5).gid(2000), "file", Access::READ_OK), Ok(()));
    assert_eq!(can(Caller::user(5).groups(&[2000]), "file", Access::READ_OK), Ok(()));
    assert_errno!(can(Caller::user(5).gid(2000), "file", Access::WRITE_OK), Errno::ACCESS);
    assert_errno!(can(Caller::user(5), "file", Access::READ_OK), Errno::ACCESS);
    assert_errno!(can(Caller::user(5).gid(2000), "less", Access::READ_OK), Errno::ACCESS);
    assert_eq!(can(Caller::user(5), "less", Access::READ_OK), Ok(()));
    assert_eq!(can(Caller::user(0), "file", Access::WRITE_OK), Ok(()));
    assert_errno!(can(Caller::user(0), "file", Access::EXEC_OK), Errno::ACCESS);
}

fn path_descriptors() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o000, lo(1000), lo(1000));
    });
    Caller::user(7).run(|| {
        let fd = open(&mount.up("file"), OFlags::PATH, 0).unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        assert_eq!((stat.st_uid, stat.st_mode & 0o7777), (1000, 0));
        assert_errno!(rustix::io::read(&fd, &mut [0_u8; 1]), Errno::BADF);
    });
    // linkat through a descriptor.
    let fd = open(&mount.up("file"), OFlags::PATH, 0).unwrap();
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    linkat(CWD, name, CWD, mount.up("second"), AtFlags::SYMLINK_FOLLOW).unwrap();
    assert_eq!(stat(&mount.up("file")).st_nlink, 2);
}

/// fs.protected_symlinks: in a sticky, world-writable directory a link is followed only by its
/// owner, or where the directory has the same owner; judged by the visible ids.
fn protected_symlinks() {
    let setting = std::fs::read_to_string("/proc/sys/fs/protected_symlinks").unwrap();
    if setting.trim() != "1" {
        common::skip("needs fs.protected_symlinks=1");
    }
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("tmp"), 0o1777, lo(0), lo(0));
        put_file(&lower.join("file"), b"x", 0o644, lo(0), lo(0));
    });
    Caller::user(1000).run(|| symlink("../file", mount.up("tmp/link"))).unwrap();
    let follow = |caller: Caller| caller.run(|| open(&mount.up("tmp/link"), OFlags::RDONLY, 0));
    assert!(follow(Caller::user(1000)).is_ok());
    assert_errno!(follow(Caller::user(2000)), Errno::ACCESS);
    assert_errno!(follow(Caller::user(0)), Errno::ACCESS);
}

fn deep_tree() {
    let mount = Mount::new();
    let mut path = mount.up("");
    for depth in 0..100 {
        path.push(format!("level-{depth}"));
        mkdir(&path, 0o755).unwrap();
    }
    std::fs::write(path.join("file"), "deep").unwrap();
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"deep");
    std::fs::remove_dir_all(mount.up("level-0")).unwrap();
    assert_errno!(lstat(mount.low("level-0")), Errno::NOENT);
}
