//! What the lower file system says of itself.

use crate::error::{CallExt, FsError};

use super::FileSystem;

/// The answer to statfs(2), in the lower file system's own numbers.
#[derive(Debug, Clone, Copy)]
pub struct Statfs {
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Blocks free for callers without privileges.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// The preferred transfer size in bytes.
    pub bsize: u32,
    /// The longest name in bytes.
    pub namelen: u32,
    /// The unit of the block counts in bytes.
    pub frsize: u32,
}

impl FileSystem {
    /// Brings everything of the lower file system to the disk.
    pub fn syncfs(&self) -> Result<(), FsError> {
        self.lower.syncfs()
    }

    /// The numbers of the file system that an inode is on.
    pub fn statfs(&self, nodeid: u64) -> Result<Statfs, FsError> {
        let fd = self.lower.path_fd(&self.lower.inode(nodeid)?)?;
        let raw = rustix::fs::fstatvfs(&fd).call("fstatfs")?;
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Statfs {
            blocks: raw.f_blocks,
            bfree: raw.f_bfree,
            bavail: raw.f_bavail,
            files: raw.f_files,
            ffree: raw.f_ffree,
            bsize: narrow(raw.f_bsize),
            namelen: narrow(raw.f_namemax),
            frsize: narrow(raw.f_frsize),
        })
    }
}
