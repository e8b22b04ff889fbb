//! Opening and closing files and directories.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::config::IoMode;
use crate::error::FsError;
use crate::lower::caller::{Capability, ProcCaller};
use crate::lower::inode::Inode;
pub use crate::lower::open_files::Opened;
use crate::lower::stat::LowerStat;

use super::attr::Of;
use super::rights::has_privilege_bits;
use super::{Caller, FileSystem};

/// `__FMODE_EXEC` (include/linux/fs.h): the file is opened to be run.
const FMODE_EXEC: u32 = 0o40;
/// How many milliseconds a program that has just ended may still count as running.
const PATIENCE: u32 = 5;

/// The caller's open flags that mean the same on the lower file. `O_DIRECT` is left to the kernel
/// above: the server's buffers are not aligned as the lower file system would demand.
fn same_below(flags: u32) -> OFlags {
    let kept = OFlags::ACCMODE
        | OFlags::APPEND
        | OFlags::SYNC // and O_DSYNC, which is one of its two bits
        | OFlags::NOATIME
        | OFlags::LARGEFILE;
    OFlags::from_bits_retain(flags) & kept
}

/// A lower file for the kernel to use by itself.
pub struct BackingFile {
    /// The file.
    pub fd: Arc<OwnedFd>,
    /// Whether the kernel may keep it when no caller has it open any more. Not if it may be open for
    /// writing: a program that was made through the mount would stay busy below (ETXTBSY).
    pub lasting: bool,
}

/// A regular file that has been opened.
pub struct Opening<'a> {
    /// The open file.
    pub opened: Opened<'a>,
    /// Whether `O_TRUNC` has cleared set-user-ID or set-group-ID bits: what the kernel above knows
    /// of the mode is wrong from here on.
    pub mode_changed: bool,
}

impl FileSystem {
    /// The flags with which a file is opened below.
    pub(super) fn lower_flags(&self, flags: u32) -> OFlags {
        let kept = same_below(flags);
        match self.io {
            IoMode::Passthrough => kept,
            // The kernel fills its pages from any open file, and writes them back through any.
            IoMode::Cached => (kept - OFlags::ACCMODE - OFlags::APPEND) | OFlags::RDWR,
        }
    }

    /// Whether somebody may have this inode open for writing.
    pub(super) fn may_be_written(&self, nodeid: u64) -> bool {
        self.io == IoMode::Cached || self.lower.open_files.any_writer(nodeid)
    }

    /// Opens a regular file; `clear_privileges` goes with `O_TRUNC` by somebody without
    /// `CAP_FSETID` (`FUSE_OPEN_KILL_SUIDGID`); it is `None` where the request does not say whether
    /// it is. With `passthrough` the kernel reads and writes the lower file itself; then one that
    /// is opened for reading only is not opened here until something needs it.
    ///
    /// Opening for writing is never put off: the lower file system may refuse it (immutable and
    /// append-only files, a read-only mount, a running program).
    pub fn open(
        &self,
        caller: Caller,
        nodeid: u64,
        flags: u32,
        clear_privileges: Option<bool>,
        passthrough: bool,
    ) -> Result<Opening<'_>, FsError> {
        let inode = self.regular(nodeid)?;
        let kept = self.lower_flags(flags);
        self.refuse_to_empty_a_program(nodeid, OFlags::from_bits_retain(flags))?;
        let mut mode_changed = false;
        let fd = if OFlags::from_bits_retain(flags).contains(OFlags::TRUNC) {
            let open = || self.lower.open_file(&inode, kept | OFlags::TRUNC);
            let privileged = || ProcCaller::read(caller.tid).has(Capability::Fsetid);
            Some(if clear_privileges.unwrap_or_else(|| !privileged()) {
                let path = self.lower.path_fd(&inode)?;
                let before = self.recorded(Of::Fd(path.as_fd()), &LowerStat::of(&path)?)?;
                let kept = self.kept_bits(Of::Fd(path.as_fd()), &before)?;
                let fd = self.clearing(caller, path.as_fd(), &before, open)?;
                let after = || self.recorded(Of::Fd(fd.as_fd()), &LowerStat::of(&fd)?);
                mode_changed =
                    kept != 0 || has_privilege_bits(&before) && after()?.mode != before.mode;
                fd
            } else if self.shadows(inode.kind) {
                let path = self.lower.path_fd(&inode)?;
                self.with_kept(path.as_fd(), inode.kind, open)?
            } else {
                open()?
            })
        } else if passthrough && kept & OFlags::ACCMODE == OFlags::RDONLY {
            None
        } else {
            Some(self.lower.open_file(&inode, kept)?)
        };
        let opened = self.opened(&inode, kept, fd);
        if flags & FMODE_EXEC != 0 {
            self.lower.open_files.set_program(opened.handle());
        }
        Ok(Opening { opened, mode_changed })
    }

    /// `ETXTBSY` where `O_TRUNC` would empty a program that runs. The kernel above checks that
    /// before a file is opened for writing; with `O_RDONLY` only after the server has truncated
    /// (`handle_truncate`, fs/namei.c).
    fn refuse_to_empty_a_program(&self, nodeid: u64, flags: OFlags) -> Result<(), FsError> {
        if !flags.contains(OFlags::TRUNC) || flags & OFlags::ACCMODE != OFlags::RDONLY {
            return Ok(());
        }
        // The message that it has ended may be with another worker.
        for _ in 0..PATIENCE {
            if !self.lower.open_files.any_program(nodeid) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(FsError::Refused(Errno::TXTBSY))
    }

    /// The lower file, for the kernel to read and write by itself.
    pub fn backing_file(&self, nodeid: u64) -> Result<BackingFile, FsError> {
        let fd = self.lower.path_fd(&self.regular(nodeid)?)?;
        Ok(BackingFile { fd, lasting: !self.lower.open_files.any_writer(nodeid) })
    }

    /// Fifos, sockets and devices are opened by the kernel itself, never by the server.
    pub(super) fn regular(&self, nodeid: u64) -> Result<Arc<Inode>, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let regular = inode.kind == FileType::RegularFile;
        if regular { Ok(inode) } else { Err(FsError::Refused(Errno::NXIO)) }
    }

    /// Opens a directory for listing.
    pub fn opendir(&self, nodeid: u64) -> Result<Opened<'_>, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.lower.open_file(&inode, flags)?;
        Ok(self.opened(&inode, flags, Some(fd)))
    }

    pub(super) fn opened(
        &self,
        inode: &Arc<Inode>,
        flags: OFlags,
        fd: Option<OwnedFd>,
    ) -> Opened<'_> {
        self.lower.open_files.insert(Arc::clone(inode), flags, fd)
    }

    /// The lower descriptor of an open file.
    pub(super) fn open_fd(&self, handle: u64) -> Result<Arc<OwnedFd>, FsError> {
        let file = self.lower.open_files.get(handle)?;
        self.lower.file_fd(&file)
    }

    /// Closes a file or directory.
    pub fn release(&self, handle: u64) {
        self.lower.open_files.remove(handle);
        self.lower.drop_locks_through(handle);
    }
}
