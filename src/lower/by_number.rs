//! Finding a file by nothing but its inode number: what the mount's own file handles need, which
//! NFS clients and open_by_handle_at(2) keep while the kernel forgets the file.
//!
//! A handle of an ext4 or a btrfs says a number and a generation, and a generation of 0 means any.
//! Nothing tells whether what is found lies below the lower directory, so that must be all of the
//! file system or subvolume. Others want the generation as well, which the kernel does not tell.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::inode::Inode;
use super::stat::LowerStat;
use super::table::{Lookup, ROOT_ID};
use super::{Births, LowerTree, open_path_at};
use crate::error::{CallExt, FsError};
use crate::state::in_flight::InFlight;
use crate::sys::handle::{self, FileHandle};

/// A handle in which only the number has to be filled in.
#[derive(Debug)]
pub(super) struct Template {
    handle: FileHandle,
    bytes: usize,
}

/// `FILEID_INO32_GEN`: number and generation, of 32 bits each.
const INO32_GEN: i32 = 1;
/// `FILEID_BTRFS_WITHOUT_PARENT`: number and subvolume, of 64 bits each, and generation.
const BTRFS: i32 = 0x4d;

impl Template {
    /// Of the root's handle, if the root is that of its file system.
    pub(super) fn of(root: &LowerStat, fs_type: i64, handle: &FileHandle) -> Option<Self> {
        let (kind, number, bytes, length) = match fs_type {
            libc::EXT4_SUPER_MAGIC => (INO32_GEN, 2, 4, 8),
            libc::BTRFS_SUPER_MAGIC => (BTRFS, 256, 8, 20),
            _ => return None,
        };
        let is_root = root.identity().ino == number;
        let fits = handle.kind == kind && handle.data.len() == length;
        let mut handle = handle.clone();
        handle.data[length - 4..].fill(0);
        (is_root && fits).then_some(Self { handle, bytes })
    }

    fn with(&self, number: u64) -> Option<FileHandle> {
        let mut handle = self.handle.clone();
        let place = handle.data.get_mut(..self.bytes)?;
        match self.bytes {
            4 => place.copy_from_slice(&u32::try_from(number).ok()?.to_ne_bytes()),
            _ => place.copy_from_slice(&number.to_ne_bytes()),
        }
        Some(handle)
    }
}

impl LowerTree {
    /// Whether files are found by their numbers.
    pub fn finds_by_number(&self) -> bool {
        self.template.is_some()
    }

    /// Counts a lookup of the inode itself, which the kernel may have forgotten.
    pub fn lookup_self<'t>(
        &'t self,
        in_flight: InFlight<'t>,
        nodeid: u64,
    ) -> Result<(Lookup<'t>, LowerStat), FsError> {
        if let Ok(inode) = self.inode(nodeid) {
            let stat = LowerStat::of(self.path_fd(&inode)?)?;
            return self.found(in_flight, &stat, self.path_fd(&inode)?.as_fd());
        }
        let handle = self.template.as_ref().and_then(|template| template.with(nodeid));
        let handle = handle.ok_or(FsError::Stale)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = self
            .retrying(|| {
                handle::open_by_handle(&self.handle_mount, handle.kind, &handle.data, flags)
                    .call("open_by_handle_at")
            })
            .map_err(|_| FsError::Stale)?;
        let stat = LowerStat::of(&fd)?;
        if stat.identity().dev != self.inodes.root_device() || stat.identity().ino != nodeid {
            return Err(FsError::Stale);
        }
        self.found(in_flight, &stat, fd.as_fd())
    }

    /// Counts a lookup of the directory above this one.
    pub fn lookup_parent<'t>(
        &'t self,
        in_flight: InFlight<'t>,
        dir: &Inode,
    ) -> Result<(Lookup<'t>, LowerStat), FsError> {
        if dir.nodeid == ROOT_ID {
            return self.lookup_self(in_flight, ROOT_ID);
        }
        let below = self.path_fd(dir)?;
        let parent: OwnedFd = self.retrying(|| open_path_at(below.as_fd(), OsStr::new("..")))?;
        self.found(in_flight, &LowerStat::of(&parent)?, parent.as_fd())
    }

    fn found<'t>(
        &'t self,
        in_flight: InFlight<'t>,
        stat: &LowerStat,
        fd: BorrowedFd<'_>,
    ) -> Result<(Lookup<'t>, LowerStat), FsError> {
        let lookup = self.inodes.intern_unnamed(in_flight, (self.identity(stat), stat.kind()));
        let inode = *lookup.inode().ok_or(FsError::Stale)?;
        if let Ok(handle) = handle::name_to_handle(fd) {
            self.inodes.set_handle(&inode, handle.kind, &handle.data);
        }
        Ok((lookup, *stat))
    }

    /// What tells a file from others that have had its number: the same as long as it lives. 0 where
    /// that is not known for sure.
    pub fn generation(&self, stat: &LowerStat) -> u32 {
        let born = if self.births == Births::Tell { stat.identity().born } else { 0 };
        let [low, high] = [born & 0xffff_ffff, born >> 32 & 0xffff_ffff];
        u32::try_from(low ^ high).unwrap_or(0)
    }
}
