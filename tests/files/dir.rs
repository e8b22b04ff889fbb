//! Listing directories, removing from them, and what they do with many or odd names.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::common::{
    self, Caller, Errno, Mount, OFlags, UNMAPPED, assert_errno, create, exists, lo, mkdir, open,
    put_dir, put_file, stat,
};
use rustix::fs::{FileType, RawDir, SeekFrom, rmdir, seek, symlink, unlink};

crate::common::tests!(
    lists_names_types_and_inodes,
    empty_directory,
    many_entries,
    positions_can_be_taken_up_again,
    rewind_sees_what_came_since,
    removal_while_listing,
    two_listings_at_once,
    odd_names,
    removed_directory_stays_open,
    rmdir_rules,
    unlink_rules,
    sticky_directory,
    unmapped_owners_and_removal,
    listing_needs_the_right_to_read,
    directories_of_subdirectories,
    changes_are_seen_by_the_next_listing,
);

/// What getdents64 gives: position, inode, type and name of each entry.
fn entries(fd: impl AsFd, buffer: usize) -> Vec<(i64, u64, FileType, Vec<u8>)> {
    let mut space = vec![MaybeUninit::uninit(); buffer];
    let mut dir = RawDir::new(fd.as_fd(), &mut space);
    let mut list = Vec::new();
    while let Some(entry) = dir.next() {
        let entry = entry.unwrap();
        let position = entry.next_entry_cookie().cast_signed();
        list.push((position, entry.ino(), entry.file_type(), entry.file_name().to_bytes().into()));
    }
    list
}

/// An empty file of upper root.
fn plain(path: &Path) {
    put_file(path, b"", 0o600, lo(0), lo(0));
}

fn names(path: &Path) -> HashSet<Vec<u8>> {
    let fd = open(path, OFlags::DIRECTORY, 0).unwrap();
    let list = entries(fd, 32_768);
    let count = list.len();
    let names: HashSet<Vec<u8>> = list
        .into_iter()
        .map(|entry| entry.3)
        .filter(|name| name != b"." && name != b"..")
        .collect();
    assert_eq!(names.len() + 2, count, "each name once, with . and ..");
    names
}

fn lists_names_types_and_inodes() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("all"), 0o755, lo(0), lo(0));
        let lower = lower.join("all");
        put_file(&lower.join("file"), b"", 0o644, lo(0), lo(0));
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        symlink("x", lower.join("link")).unwrap();
        common::raw::mknod(&lower.join("fifo"), 0o010_644, 0).unwrap();
        common::raw::mknod(&lower.join("socket"), 0o140_644, 0).unwrap();
    });
    let fd = open(&mount.up("all"), OFlags::DIRECTORY, 0).unwrap();
    let list = entries(fd, 4_096);
    let find = |name: &str| {
        list.iter().find(|entry| entry.3 == name.as_bytes()).map(|entry| (entry.1, entry.2))
    };
    for (name, kind) in [
        ("file", FileType::RegularFile),
        ("dir", FileType::Directory),
        ("link", FileType::Symlink),
        ("fifo", FileType::Fifo),
        ("socket", FileType::Socket),
        (".", FileType::Directory),
        ("..", FileType::Directory),
    ] {
        let inode = stat(&mount.low("all").join(name)).st_ino;
        assert_eq!(find(name), Some((inode, kind)), "{name}");
    }
    assert_eq!(list.len(), 7);
}

fn empty_directory() {
    let mount = Mount::new();
    assert!(names(&mount.up("")).is_empty());
    mkdir(&mount.up("dir"), 0o755).unwrap();
    assert!(names(&mount.up("dir")).is_empty());
}

fn many_entries() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("many"), 0o755, lo(0), lo(0));
        for index in 0..5_000 {
            plain(&lower.join(format!("many/a-rather-long-name-{index:06}")));
        }
    });
    assert_eq!(names(&mount.up("many")).len(), 5_000);
    assert_eq!(names(&mount.up("many")), names(&mount.low("many")));
    // The smallest buffer that the kernel takes, so that each answer is cut off.
    let fd = open(&mount.up("many"), OFlags::DIRECTORY, 0).unwrap();
    let list: HashSet<_> = entries(fd, 280).into_iter().map(|entry| entry.3).collect();
    assert_eq!(list.len(), 5_002);
    std::fs::remove_dir_all(mount.up("many")).unwrap();
    assert!(!exists(&mount.low("many")));
}

fn positions_can_be_taken_up_again() {
    let mount = Mount::with(common::MAP, |lower| {
        for index in 0..500 {
            plain(&lower.join(format!("file-{index}")));
        }
    });
    let fd = open(&mount.up(""), OFlags::DIRECTORY, 0).unwrap();
    let list = entries(&fd, 4_096);
    let positions: HashSet<i64> = list.iter().map(|entry| entry.0).collect();
    assert_eq!(positions.len(), list.len(), "each position once");
    for index in [0, 1, 7, 250, 499, 500] {
        let position = u64::try_from(list[index].0).unwrap();
        assert_eq!(seek(&fd, SeekFrom::Start(position)), Ok(position));
        let rest: Vec<_> = entries(&fd, 4_096).into_iter().map(|entry| entry.3).collect();
        let expected: Vec<_> = list[index + 1..].iter().map(|entry| entry.3.clone()).collect();
        assert_eq!(rest, expected, "after entry {index}");
    }
}

fn rewind_sees_what_came_since() {
    let mount = Mount::new();
    create(&mount.up("one"), 0o600).unwrap();
    let fd = open(&mount.up(""), OFlags::DIRECTORY, 0).unwrap();
    assert_eq!(entries(&fd, 4_096).len(), 3);
    create(&mount.up("two"), 0o600).unwrap();
    unlink(mount.up("one")).unwrap();
    seek(&fd, SeekFrom::Start(0)).unwrap();
    let list: Vec<_> = entries(&fd, 4_096).into_iter().map(|entry| entry.3).collect();
    assert!(list.contains(&b"two".to_vec()));
    assert!(!list.contains(&b"one".to_vec()));
}

fn removal_while_listing() {
    let mount = Mount::with(common::MAP, |lower| {
        for index in 0..3_000 {
            plain(&lower.join(format!("file-{index}")));
        }
    });
    let fd = open(&mount.up(""), OFlags::DIRECTORY, 0).unwrap();
    let mut space = vec![MaybeUninit::uninit(); 512];
    let mut dir = RawDir::new(fd.as_fd(), &mut space);
    let mut removed = 0;
    while let Some(entry) = dir.next() {
        let name = entry.unwrap().file_name().to_bytes().to_vec();
        if name.starts_with(b"file-") {
            unlink(mount.up(OsStr::from_bytes(&name))).unwrap();
            removed += 1;
        }
    }
    assert_eq!(removed, 3_000);
    assert!(names(&mount.up("")).is_empty());
    assert!(names(&mount.low("")).is_empty());
}

fn two_listings_at_once() {
    let mount = Mount::with(common::MAP, |lower| {
        for index in 0..1_000 {
            plain(&lower.join(format!("file-{index}")));
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(names(&mount.up("")).len(), 1_000);
                }
            });
        }
    });
}

fn odd_names() {
    let long = vec![b'l'; 255];
    let odd: Vec<&[u8]> =
        vec![b"\xff\xfe not text", b"new\nline", b"tab\t", b"...", b" ", b"\\", b"*", &long];
    let mount = Mount::with(common::MAP, |lower| {
        for name in &odd {
            plain(&lower.join(OsStr::from_bytes(name)));
        }
    });
    let expected: HashSet<Vec<u8>> = odd.iter().map(|name| name.to_vec()).collect();
    assert_eq!(names(&mount.up("")), expected);
    for name in odd {
        unlink(mount.up(OsStr::from_bytes(name))).unwrap();
    }
    assert!(names(&mount.low("")).is_empty());
}

fn removed_directory_stays_open() {
    let mount = Mount::new();
    mkdir(&mount.up("dir"), 0o755).unwrap();
    let fd = open(&mount.up("dir"), OFlags::DIRECTORY, 0).unwrap();
    rmdir(mount.up("dir")).unwrap();
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_nlink, 0);
    let made = rustix::fs::openat(
        &fd,
        "file",
        OFlags::CREATE | OFlags::WRONLY,
        common::Mode::from_raw_mode(0o600),
    );
    assert_errno!(made, Errno::NOENT);
    let mut space = [MaybeUninit::uninit(); 4_096];
    let first = RawDir::new(fd.as_fd(), &mut space).next().unwrap().map(drop);
    assert_errno!(first, Errno::NOENT);
}

fn rmdir_rules() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("full"), 0o777, lo(0), lo(0));
        put_file(&lower.join("full/file"), b"", 0o644, lo(0), lo(0));
        put_dir(&lower.join("empty"), 0o755, lo(0), lo(0));
    });
    assert_errno!(rmdir(mount.up("full")), Errno::NOTEMPTY);
    assert_errno!(rmdir(mount.up("missing")), Errno::NOENT);
    assert_errno!(rmdir(mount.up("full/file")), Errno::NOTDIR);
    assert_errno!(rmdir(mount.up("empty/.")), Errno::INVAL);
    assert_errno!(rmdir(mount.up("")), Errno::BUSY);
    rmdir(mount.up("empty")).unwrap();
    assert!(!exists(&mount.low("empty")));
}

fn unlink_rules() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("theirs"), 0o755, lo(1), lo(1));
        put_file(&lower.join("theirs/mine"), b"", 0o644, lo(1000), lo(1000));
        put_dir(&lower.join("mine"), 0o755, lo(1000), lo(1000));
        put_file(&lower.join("mine/theirs"), b"", 0o600, lo(1), lo(1));
    });
    Caller::user(1000).run(|| {
        assert_errno!(unlink(mount.up("theirs/mine")), Errno::ACCESS);
        // The directory decides, not the file.
        unlink(mount.up("mine/theirs")).unwrap();
    });
    assert!(!exists(&mount.low("mine/theirs")));
    assert!(exists(&mount.low("theirs/mine")));
}

fn sticky_directory() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("tmp"), 0o1777, lo(0), lo(0));
        for name in ["a", "b", "c"] {
            put_file(&lower.join("tmp").join(name), b"", 0o666, lo(1000), lo(1000));
        }
        put_dir(&lower.join("tmp/dir"), 0o777, lo(1000), lo(1000));
    });
    Caller::user(1001).run(|| {
        assert_errno!(unlink(mount.up("tmp/a")), Errno::PERM);
        assert_errno!(rmdir(mount.up("tmp/dir")), Errno::PERM);
        assert_errno!(rustix::fs::rename(mount.up("tmp/a"), mount.up("tmp/x")), Errno::PERM);
        std::fs::write(mount.up("tmp/mine"), "").unwrap();
        assert_errno!(rustix::fs::rename(mount.up("tmp/mine"), mount.up("tmp/a")), Errno::PERM);
    });
    Caller::user(1000).run(|| unlink(mount.up("tmp/a"))).unwrap();
    Caller::user(0).run(|| unlink(mount.up("tmp/b"))).unwrap();
    assert_eq!(names(&mount.low("tmp")).len(), 3);
}

fn unmapped_owners_and_removal() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("open"), 0o777, lo(0), lo(0));
        put_file(&lower.join("open/file"), b"", 0o666, UNMAPPED, UNMAPPED);
        put_dir(&lower.join("open/dir"), 0o777, UNMAPPED, UNMAPPED);
    });
    for caller in [Caller::user(1000), Caller::user(0)] {
        caller.run(|| {
            assert_errno!(unlink(mount.up("open/file")), Errno::OVERFLOW);
            assert_errno!(rmdir(mount.up("open/dir")), Errno::OVERFLOW);
            let moved = rustix::fs::rename(mount.up("open/file"), mount.up("open/x"));
            assert_errno!(moved, Errno::OVERFLOW);
        });
    }
    assert!(exists(&mount.low("open/file")));
    // An unmapped caller may remove what the directory allows.
    create(&mount.low("open/mapped"), 0o600).unwrap();
    common::chown(&mount.low("open/mapped"), Some(lo(5)), Some(lo(5))).unwrap();
    Caller::user(UNMAPPED).run(|| unlink(mount.up("open/mapped"))).unwrap();
    assert!(!exists(&mount.low("open/mapped")));
}

fn listing_needs_the_right_to_read() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("search"), 0o711, lo(0), lo(0));
        put_file(&lower.join("search/file"), b"x", 0o644, lo(0), lo(0));
        put_dir(&lower.join("read"), 0o744, lo(0), lo(0));
        put_file(&lower.join("read/file"), b"x", 0o644, lo(0), lo(0));
    });
    Caller::user(1000).run(|| {
        assert_errno!(open(&mount.up("search"), OFlags::DIRECTORY, 0), Errno::ACCESS);
        assert_eq!(std::fs::read(mount.up("search/file")).unwrap(), b"x");
        assert_eq!(names(&mount.up("read")).len(), 1);
        assert_errno!(rustix::fs::lstat(mount.up("read/file")), Errno::ACCESS);
    });
}

fn directories_of_subdirectories() {
    let mount = Mount::new();
    for outer in 0..20 {
        for inner in 0..20 {
            std::fs::create_dir_all(mount.up(format!("{outer}/{inner}"))).unwrap();
            std::fs::write(mount.up(format!("{outer}/{inner}/file")), "x").unwrap();
        }
    }
    assert_eq!(names(&mount.low("")).len(), 20);
    let moved = mount.up("moved");
    std::fs::rename(mount.up("7"), &moved).unwrap();
    assert_eq!(names(&moved).len(), 20);
    assert_eq!(std::fs::read(moved.join("3/file")).unwrap(), b"x");
    assert!(!exists(&mount.up("7/3/file")));
}

fn changes_are_seen_by_the_next_listing() {
    let mount = Mount::new();
    for round in 0..50 {
        create(&mount.up(format!("file-{round}")), 0o600).unwrap();
        assert_eq!(names(&mount.up("")).len(), round + 1);
    }
    std::fs::rename(mount.up("file-0"), mount.up("renamed")).unwrap();
    assert!(names(&mount.up("")).contains(&b"renamed"[..]));
    assert!(!names(&mount.up("")).contains(&b"file-0"[..]));
}
