//! The ioctls that reach the lower file, and that no other does.

use std::os::fd::AsFd;
use std::path::Path;

use crate::common::raw::ioctl;
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{
    self, Caller, Errno, Mount, OFlags, assert_errno, lo, open, put_dir, put_file,
};

crate::common::tests!(
    flags_are_the_lower_ones,
    flags_are_for_the_owner,
    another_number_for_flags_opens_nothing,
    immutable_file,
    fsxattr,
    generation,
    directories,
    others_are_unknown,
    terminal_calls,
);

const FS_IOC_GETFLAGS: u64 = 0x8008_6601;
const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
const FS_IOC_GETVERSION: u64 = 0x8008_7601;
const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
const NODUMP: u64 = 0x40;
const IMMUTABLE: u64 = 0x10;

fn one_file() -> Mount {
    Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o644, lo(1000), lo(1000));
        put_dir(&lower.join("dir"), 0o755, lo(1000), lo(1000));
    })
}

/// The inode flags. The kernel writes an int where the number says long.
fn flags(path: &Path) -> Result<u64, Errno> {
    let fd = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    let mut flags = 0_u64;
    ioctl(fd.as_fd(), FS_IOC_GETFLAGS, &mut flags)?;
    Ok(flags & 0xffff_ffff)
}

fn set_flags(path: &Path, mut flags: u64) -> Result<(), Errno> {
    let fd = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    ioctl(fd.as_fd(), FS_IOC_SETFLAGS, &mut flags).map(drop)
}

fn needs_flags(path: &Path) {
    if flags(path).is_err() {
        common::skip("needs a lower file system with inode flags");
    }
}

fn flags_are_the_lower_ones() {
    let mount = one_file();
    needs_flags(&mount.low("file"));
    let (up, low) = (mount.up("file"), mount.low("file"));
    assert_eq!(flags(&up), flags(&low));
    let before = flags(&low).unwrap();
    Caller::user(1000).run(|| set_flags(&up, before | NODUMP)).unwrap();
    assert_eq!(flags(&low), Ok(before | NODUMP));
    assert_eq!(flags(&up), Ok(before | NODUMP));
    set_flags(&up, before).unwrap();
    assert_eq!(flags(&low), Ok(before));
}

fn flags_are_for_the_owner() {
    let mount = one_file();
    needs_flags(&mount.low("file"));
    let before = flags(&mount.low("file")).unwrap();
    for stranger in [1001, lo(1000)] {
        let set = Caller::user(stranger).run(|| set_flags(&mount.up("file"), before | NODUMP));
        assert_errno!(set, Errno::PERM);
    }
    assert_eq!(flags(&mount.low("file")), Ok(before));
}

/// What 32-bit programs say for `FS_IOC_SETFLAGS`, said by another: the kernel asks nothing then.
fn another_number_for_flags_opens_nothing() {
    const FS_IOC32_SETFLAGS: u64 = 0x4004_6602;
    let mount = one_file();
    needs_flags(&mount.low("file"));
    let before = flags(&mount.low("file")).unwrap();
    for stranger in [1000, 1001] {
        let set = Caller::user(stranger).run(|| {
            let fd = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
            let mut value = before | NODUMP;
            ioctl(fd.as_fd(), FS_IOC32_SETFLAGS, &mut value).map(drop)
        });
        assert_errno!(set, Errno::NOTTY);
    }
    assert_eq!(flags(&mount.low("file")), Ok(before));
}

fn immutable_file() {
    needs_real_root("chattr +i");
    let mount = one_file();
    needs_flags(&mount.low("file"));
    let before = flags(&mount.low("file")).unwrap();
    let set = Caller::user(1000).run(|| set_flags(&mount.up("file"), before | IMMUTABLE));
    assert_errno!(set, Errno::PERM);
    set_flags(&mount.up("file"), before | IMMUTABLE).unwrap();
    let written = open(&mount.up("file"), OFlags::WRONLY, 0).map(drop);
    let removed = rustix::fs::unlink(mount.up("file"));
    let changed = common::set_mode(&mount.up("file"), 0o600);
    set_flags(&mount.low("file"), before).unwrap();
    assert_errno!(written, Errno::PERM);
    assert_errno!(removed, Errno::PERM);
    assert_errno!(changed, Errno::PERM);
}

#[derive(Default, Debug, PartialEq, Clone, Copy)]
#[repr(C)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

fn fsxattr() {
    let mount = one_file();
    needs_flags(&mount.low("file"));
    let get = |path: &Path| {
        let fd = open(path, OFlags::RDONLY, 0).unwrap();
        let mut value = FsXattr::default();
        ioctl(fd.as_fd(), FS_IOC_FSGETXATTR, &mut value).map(|_| value)
    };
    let below = get(&mount.low("file"));
    assert_eq!(get(&mount.up("file")), below);
    let mut value = below.unwrap();
    value.flags |= 0x80; // FS_XFLAG_NODUMP
    let fd = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
    ioctl(fd.as_fd(), FS_IOC_FSSETXATTR, &mut value).unwrap();
    assert_eq!(get(&mount.low("file")).unwrap().flags & 0x80, 0x80);
    assert_eq!(flags(&mount.up("file")).unwrap() & NODUMP, NODUMP);
}

fn generation() {
    let mount = one_file();
    let get = |path: &Path| {
        let fd = open(path, OFlags::RDONLY, 0).unwrap();
        let mut value = 0_u64;
        ioctl(fd.as_fd(), FS_IOC_GETVERSION, &mut value).map(|_| value & 0xffff_ffff)
    };
    assert_eq!(get(&mount.up("file")), get(&mount.low("file")));
}

fn directories() {
    let mount = one_file();
    needs_flags(&mount.low("dir"));
    assert_eq!(flags(&mount.up("dir")), flags(&mount.low("dir")));
    let before = flags(&mount.low("dir")).unwrap();
    set_flags(&mount.up("dir"), before | NODUMP).unwrap();
    assert_eq!(flags(&mount.low("dir")), Ok(before | NODUMP));
}

/// An ioctl of a device or of another file system must not reach the lower one.
fn others_are_unknown() {
    needs_idshift();
    let mount = one_file();
    let fd = open(&mount.up("file"), OFlags::RDWR, 0).unwrap();
    let mut buffer = [0_u8; 256];
    for request in [
        0x6600_u64,  // _IO('f', 0)
        0x7801,      // no one's
        0x1260,      // BLKGETSIZE
        0x4004_f50a, // some driver's write
        0xc008_6612, // EXT4_IOC_* space
        0x6610,      // EXT4_IOC_MIGRATE's neighbour
    ] {
        assert_errno!(ioctl(fd.as_fd(), request, &mut buffer), Errno::NOTTY);
    }
    assert_eq!(std::fs::read(mount.low("file")).unwrap(), b"x");
}

fn terminal_calls() {
    let mount = one_file();
    let fd = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
    assert!(!std::io::IsTerminal::is_terminal(&fd));
    let mut buffer = [0_u8; 64];
    assert_errno!(ioctl(fd.as_fd(), libc::TCGETS, &mut buffer), Errno::NOTTY);
    // FIONREAD is answered by the kernel for regular files.
    let mut waiting = 0_i32;
    ioctl(fd.as_fd(), libc::FIONREAD, &mut waiting).unwrap();
    assert_eq!(waiting, 1);
}
