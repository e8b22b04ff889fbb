//! Opening and closing files and directories.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::error::FsError;
use crate::lower::inode::Inode;

use super::FileSystem;

/// A file that has been opened.
#[derive(Debug)]
pub struct Opened {
    /// The number by which the kernel calls the open file.
    pub handle: u64,
}

/// The caller's open flags that mean the same on the lower file. `O_DIRECT` is left to the kernel
/// above: the server's buffers are not aligned as the lower file system would demand.
pub(super) fn lower_flags(flags: i32) -> OFlags {
    let kept = OFlags::ACCMODE
        | OFlags::APPEND
        | OFlags::DSYNC
        | OFlags::SYNC
        | OFlags::NOATIME
        | OFlags::LARGEFILE;
    OFlags::from_bits_retain(flags.cast_unsigned()) & kept
}

impl FileSystem {
    /// Opens a regular file.
    pub fn open(&self, nodeid: u64, flags: i32) -> Result<Opened, FsError> {
        let inode = self.lower.inode(nodeid)?;
        // Fifos, sockets and devices are opened by the kernel itself, never by the server.
        if inode.kind != FileType::RegularFile {
            return Err(FsError::Refused(Errno::NXIO));
        }
        let fd = self.lower.open_file(&inode, lower_flags(flags))?;
        Ok(self.opened(&inode, fd))
    }

    /// Opens a directory for listing.
    pub fn opendir(&self, nodeid: u64) -> Result<Opened, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let fd = self.lower.open_file(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(self.opened(&inode, fd))
    }

    pub(super) fn opened(&self, inode: &Arc<Inode>, fd: OwnedFd) -> Opened {
        Opened { handle: self.lower.open_files.insert(Arc::clone(inode), fd) }
    }

    /// Closes a file or directory.
    pub fn release(&self, handle: u64) {
        self.lower.open_files.remove(handle);
    }
}
