//! The few ioctls on files that are passed to the lower file.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::caller::Capability;
use crate::lower::stat::LowerStat;
use crate::sys::ioctl::{FileIoctl, file_ioctl};

use super::attr::Of;
use super::{Call, Caller, FileSystem};

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
        call: &Call<'_>,
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
        // The caller's descriptor may be a directory's or one that only writes: any will do.
        let file = self.lower.open_file(&inode, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if ioctl.sets() {
            self.may_change(file.as_fd(), Errno::PERM)?;
            self.may_flag(call.caller, &inode, file.as_fd())?;
            self.may_set_flags(call.caller, file.as_fd(), ioctl, &value)?;
        }
        self.allocating(|| file_ioctl(&file, ioctl, &mut value).call("ioctl"))?;
        let wanted = usize::try_from(out_size).unwrap_or(0).min(value.len());
        let length = if ioctl.sets() { 0 } else { wanted };
        Ok(IoctlReply { value, length, changed: ioctl.sets() })
    }

    /// Flags are for the file's owner, and what makes it immutable or append-only is for
    /// `CAP_LINUX_IMMUTABLE` (`vfs_fileattr_set`, fs/file_attr.c). Kernels before Linux 5.13 leave
    /// that to the server; from there on it does so itself for all numbers of the allow-list, so that
    /// a caller who is not told need not be known here.
    fn may_set_flags(
        &self,
        caller: Caller,
        file: BorrowedFd<'_>,
        ioctl: FileIoctl,
        value: &[u8; 32],
    ) -> Result<(), FsError> {
        let process = self.callers.read(caller.tid);
        let shown = self.shown(Of::Fd(file), &LowerStat::of(file)?)?;
        let owns = !caller.is_told() || caller.uid.is_some_and(|uid| uid.raw() == shown.uid);
        if !owns && !process.may_act_as_owner(shown.uid) {
            return Err(FsError::NotOwner);
        }
        let mut present = [0; 32];
        file_ioctl(file, ioctl.reading(), &mut present).call("ioctl")?;
        let changes = ioctl.for_the_privileged(&present) != ioctl.for_the_privileged(value);
        if changes && !process.has(Capability::LinuxImmutable) {
            return Err(FsError::Refused(Errno::PERM));
        }
        Ok(())
    }
}
