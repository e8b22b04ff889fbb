//! The calls that meet faults, each with the request that it makes of a FUSE file system below.

use std::path::Path;

use rustix::fs::{
    FallocateFlags, RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags, renameat_with,
};

use crate::common::{AtFlags, CWD, Errno, Mode, OFlags, create, mkdir, open, set_mode, set_xattr};

/// A call: its name, the opcode below, and the call on a directory that has been prepared for it.
pub(crate) type Call = (&'static str, u32, fn(&Path) -> Result<(), Errno>);

/// Fills a directory of the lower file system with what the calls work on.
pub(crate) fn prepare(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    set_mode(dir, 0o777).unwrap();
    for name in ["file", "victim"] {
        std::fs::write(dir.join(name), vec![b'x'; 10_000]).unwrap();
        set_mode(&dir.join(name), 0o666).unwrap();
        set_xattr(&dir.join(name), "user.there", b"value").unwrap();
    }
    std::fs::create_dir(dir.join("empty")).unwrap();
    rustix::fs::symlink("file", dir.join("link")).unwrap();
}

fn rw(dir: &Path) -> Result<rustix::fd::OwnedFd, Errno> {
    open(&dir.join("file"), OFlags::RDWR, 0)
}

/// `FUSE_OPEN`.
pub(crate) const OPEN: u32 = 14;

/// All of them.
pub(crate) const CALLS: &[Call] = &[
    ("stat of a new name", 1, |dir| rustix::fs::lstat(dir.join("file")).map(drop)),
    ("chmod", 4, |dir| set_mode(&dir.join("file"), 0o640)),
    ("truncate", 4, |dir| rustix::fs::ftruncate(rw(dir)?, 5)),
    ("utimens", 4, |dir| {
        let time = Timespec { tv_sec: 5, tv_nsec: 6 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, dir.join("file"), &times, AtFlags::empty())
    }),
    ("readlink", 5, |dir| rustix::fs::readlink(dir.join("link"), Vec::new()).map(drop)),
    ("symlink", 6, |dir| rustix::fs::symlink("x", dir.join("new"))),
    ("mknod", 8, |dir| crate::common::raw::mknod(&dir.join("new"), 0o010_644, 0)),
    ("mkdir", 9, |dir| mkdir(&dir.join("new"), 0o755)),
    ("unlink", 10, |dir| rustix::fs::unlink(dir.join("victim"))),
    ("rmdir", 11, |dir| rustix::fs::rmdir(dir.join("empty"))),
    ("rename", 12, |dir| rustix::fs::rename(dir.join("victim"), dir.join("new"))),
    ("exchange", 45, |dir| {
        let (one, other) = (dir.join("victim"), dir.join("file"));
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
    }),
    ("link", 13, |dir| rustix::fs::link(dir.join("file"), dir.join("new"))),
    ("open to write", OPEN, |dir| rw(dir).map(drop)),
    ("read", 15, |dir| rustix::io::pread(rw(dir)?, &mut [0_u8; 5000], 0).map(drop)),
    ("write", 16, |dir| rustix::io::pwrite(rw(dir)?, b"new", 0).map(drop)),
    ("append", 16, |dir| {
        let file = open(&dir.join("file"), OFlags::WRONLY | OFlags::APPEND, 0)?;
        rustix::io::write(file, b"new").map(drop)
    }),
    ("statfs", 17, |dir| rustix::fs::statfs(dir).map(drop)),
    ("fsync", 20, |dir| {
        let file = rw(dir)?;
        rustix::io::pwrite(&file, b"new", 0)?;
        rustix::fs::fsync(&file)
    }),
    ("fsync of a directory", 30, |dir| {
        rustix::fs::fsync(open(dir, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)
    }),
    ("setxattr", 21, |dir| set_xattr(&dir.join("file"), "user.new", b"value")),
    ("getxattr", 22, |dir| {
        rustix::fs::lgetxattr(dir.join("file"), "user.there", &mut [0_u8; 10]).map(drop)
    }),
    ("listxattr", 23, |dir| rustix::fs::llistxattr(dir.join("file"), &mut [0_u8; 100]).map(drop)),
    ("removexattr", 24, |dir| rustix::fs::lremovexattr(dir.join("file"), "user.there")),
    ("create", 35, |dir| create(&dir.join("new"), 0o644).map(drop)),
    ("fallocate", 43, |dir| rustix::fs::fallocate(rw(dir)?, FallocateFlags::empty(), 0, 20_000)),
    ("seek", 46, |dir| rustix::fs::seek(rw(dir)?, SeekFrom::Hole(0)).map(drop)),
    ("list", 44, |dir| {
        let mut entries = rustix::fs::Dir::read_from(open(dir, OFlags::DIRECTORY, 0)?)?;
        entries.try_for_each(|entry| entry.map(drop))
    }),
    ("tmpfile", 51, |dir| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        rustix::fs::openat(CWD, dir, flags, Mode::RUSR).map(drop)
    }),
    ("setxattr with a flag", 21, |dir| {
        rustix::fs::lsetxattr(dir.join("file"), "user.new", b"value", XattrFlags::CREATE)
    }),
];
