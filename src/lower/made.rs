//! Files whose contents are made when they are read: all of /proc, attributes in /sys, cgroup files.
//!
//! Their size says nothing, often 0, and what was read a moment ago is not what is there now. So the
//! kernel must neither stop at their size nor remember their contents, and the server must not wait
//! for more than one read gives.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::OFlags;

use super::LowerTree;
use super::inode::Inode;
use super::stat::LowerStat;
use crate::error::FsError;

/// File systems in which every file is of that kind (linux/magic.h): proc, sysfs, cgroup and cgroup2,
/// debugfs, tracefs, securityfs, configfs, fusectl, binfmt_misc, selinuxfs, smackfs, resctrl, pstore,
/// efivarfs.
const MADE: [u64; 15] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0x6573_5543,
    0x4249_4e4d,
    0xf97c_ff8c,
    0x4341_5d53,
    0x0765_5821,
    0x6165_676c,
    0xde5e_81e4,
];
/// Where some may be: lxcfs and its like show files of size 0.
const FUSE: u64 = 0x6573_5546;

/// The devices that such files are on. They are known from the beginning: nothing is mounted in a
/// server's own mounts later.
#[derive(Debug, Default)]
pub(super) struct Made {
    all: HashSet<u64>,
    some: HashSet<u64>,
}

impl Made {
    /// Looks at what a mount that will be shown is of.
    pub(super) fn look_at(&mut self, mount: BorrowedFd<'_>) {
        let (Ok(fs), Ok(stat)) = (rustix::fs::fstatfs(mount), LowerStat::of(mount)) else { return };
        let kind = fs.f_type.cast_unsigned() & 0xffff_ffff;
        let dev = stat.identity().dev;
        if MADE.contains(&kind) {
            self.all.insert(dev);
        } else if kind == FUSE {
            self.some.insert(dev);
        }
    }
}

impl LowerTree {
    /// Whether there are files whose contents are made when they are read, so that the server has to
    /// know who opens one.
    pub fn has_made_files(&self) -> bool {
        !self.made.all.is_empty()
    }

    /// Whether all files of this one's device are.
    pub fn is_surely_made(&self, inode: &Inode) -> bool {
        !self.made.all.is_empty() && self.made.all.contains(&inode.identity.dev)
    }

    /// Whether a file that is opened with these flags is to be taken for one.
    pub fn is_made(&self, inode: &Inode, flags: OFlags) -> Result<bool, FsError> {
        if self.is_surely_made(inode) {
            return Ok(true);
        }
        // Who writes may map what is written, which the kernel allows of files with a size only.
        let may_be = self.made.some.contains(&inode.identity.dev)
            && flags & OFlags::ACCMODE == OFlags::RDONLY;
        Ok(may_be && LowerStat::of(self.path_fd(inode)?.as_fd())?.size == 0)
    }
}
