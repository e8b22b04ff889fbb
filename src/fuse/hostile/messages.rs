//! Messages made by hand.

use std::fs;

use rustix::io::Errno;
use tempfile::TempDir;

use crate::fuse::driver::Driver;

pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const SETATTR: u32 = 4;
pub(super) const READLINK: u32 = 5;
pub(super) const SYMLINK: u32 = 6;
pub(super) const MKNOD: u32 = 8;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const RMDIR: u32 = 11;
pub(super) const RENAME: u32 = 12;
pub(super) const LINK: u32 = 13;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const WRITE: u32 = 16;
pub(super) const RELEASE: u32 = 18;
pub(super) const FSYNC: u32 = 20;
pub(super) const SETXATTR: u32 = 21;
pub(super) const GETXATTR: u32 = 22;
pub(super) const LISTXATTR: u32 = 23;
pub(super) const REMOVEXATTR: u32 = 24;
pub(super) const FLUSH: u32 = 25;
pub(super) const OPENDIR: u32 = 27;
pub(super) const READDIR: u32 = 28;
pub(super) const GETLK: u32 = 31;
pub(super) const SETLKW: u32 = 33;
pub(super) const CREATE: u32 = 35;
pub(super) const IOCTL: u32 = 39;
pub(super) const BATCH_FORGET: u32 = 42;
pub(super) const FALLOCATE: u32 = 43;
pub(super) const READDIRPLUS: u32 = 44;
pub(super) const RENAME2: u32 = 45;
pub(super) const LSEEK: u32 = 46;
pub(super) const COPY_FILE_RANGE: u32 = 47;
pub(super) const TMPFILE: u32 = 51;
pub(super) const STATX: u32 = 52;

pub(super) const ROOT: u64 = 1;
/// `FS_IOC_GETFLAGS`.
pub(super) const GETFLAGS: u32 = 0x8008_6601;

pub(super) fn server() -> (TempDir, Driver) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lower")).unwrap();
    let driver = Driver::on(&dir.path().join("lower"));
    (dir, driver)
}

pub(super) fn lower(dir: &TempDir, name: &str) -> std::path::PathBuf {
    dir.path().join("lower").join(name)
}

/// Arguments: 32-bit words, 64-bit words, text, one after the other.
#[derive(Default, Clone)]
pub(super) struct Args(pub(super) Vec<u8>);

impl Args {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn words(mut self, words: &[u32]) -> Self {
        self.0.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        self
    }

    pub(super) fn longs(mut self, longs: &[u64]) -> Self {
        self.0.extend(longs.iter().flat_map(|long| long.to_ne_bytes()));
        self
    }

    pub(super) fn text(mut self, text: &[u8]) -> Self {
        self.0.extend(text);
        self.0.push(0);
        self
    }
}

/// A `struct fuse_read_in`.
pub(super) fn read_args(handle: u64, offset: u64, size: u32) -> Args {
    Args::new().longs(&[handle, offset]).words(&[size, 0]).longs(&[0]).words(&[0, 0])
}

/// A `struct fuse_lk_in` for a lock of the whole file.
pub(super) fn lock_args(handle: u64, flags: u32) -> Args {
    Args::new().longs(&[handle, 1, 0, u64::MAX >> 1]).words(&[1, 0, flags, 0])
}

pub(super) fn node_of(payload: &[u8]) -> u64 {
    u64::from_ne_bytes(payload[..8].try_into().unwrap())
}

impl Driver {
    pub(super) fn look_up(&mut self, name: &str) -> u64 {
        let answer = self.ask(LOOKUP, ROOT, &Args::new().text(name.as_bytes()).0).unwrap();
        assert_eq!(answer.errno, 0, "{name}");
        node_of(&answer.payload)
    }

    pub(super) fn forget(&mut self, nodeid: u64, count: u64) {
        assert_eq!(self.ask(FORGET, nodeid, &count.to_ne_bytes()), None);
    }

    pub(super) fn refuses(&mut self, errno: Errno, opcode: u32, nodeid: u64, args: &Args) {
        let seen = self.errno(opcode, nodeid, &args.0);
        assert_eq!(Errno::from_raw_os_error(seen), errno, "opcode {opcode}, nodeid {nodeid}");
    }
}
