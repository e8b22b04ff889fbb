//! The few ioctls on files that are passed to the lower file.

use std::os::fd::AsFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::sys::ioctl::{FileIoctl, file_ioctl};

use super::FileSystem;

/// What an ioctl gives back.
#[derive(Debug, Clone, Copy)]
pub struct IoctlReply {
    value: [u8; 32],
    length: usize,
    /// Whether it may have changed the file.
    pub changed: bool,
}

impl IoctlReply {
    /// The bytes for the caller.
    pub fn bytes(&self) -> &[u8] {
        &self.value[..self.length]
    }
}

impl FileSystem {
    /// Runs an ioctl of the allow-list; `ENOTTY` for all others, as from a file system that does
    /// not know them.
    pub fn ioctl(
        &self,
        nodeid: u64,
        request: u32,
        input: &[u8],
        out_size: u32,
    ) -> Result<IoctlReply, FsError> {
        let ioctl = FileIoctl::from_request(request).ok_or(FsError::Refused(Errno::NOTTY))?;
        let mut value = [0; 32];
        if ioctl.sets() {
            let given = input.get(..ioctl.size()).ok_or(FsError::Refused(Errno::INVAL))?;
            value[..given.len()].copy_from_slice(given);
        }
        let inode = self.lower.inode(nodeid)?;
        if ioctl.sets() {
            self.may_change(self.lower.path_fd(&inode)?.as_fd(), Errno::PERM)?;
        }
        // The caller's descriptor may be a directory's or one that only writes: any will do.
        let file = self.lower.open_file(&inode, OFlags::RDONLY | OFlags::NONBLOCK)?;
        file_ioctl(&file, ioctl, &mut value).call("ioctl")?;
        let wanted = usize::try_from(out_size).unwrap_or(0).min(value.len());
        let length = if ioctl.sets() { 0 } else { wanted };
        Ok(IoctlReply { value, length, changed: ioctl.sets() })
    }
}
