//! Opening and closing files and directories.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::config::IoMode;
use crate::error::FsError;
use crate::lower::inode::Inode;
pub use crate::lower::open_files::Opened;

use super::{BackingFile, Call, FileSystem, SetIdBits};

/// The caller's open flags that mean the same on the lower file. `O_DIRECT` is left to the kernel
/// above: the server's buffers are not aligned as the lower file system would demand.
fn same_below(flags: u32) -> OFlags {
    let kept = OFlags::ACCMODE
        | OFlags::APPEND
        | OFlags::SYNC // and O_DSYNC, which is one of its two bits
        | OFlags::NOATIME
        | OFlags::NONBLOCK // somebody's lease is then no reason to wait, but EAGAIN
        | OFlags::LARGEFILE;
    OFlags::from_bits_retain(flags) & kept
}

impl FileSystem {
    /// The flags with which a file is opened below.
    pub(super) fn lower_flags(&self, flags: u32) -> OFlags {
        let kept = same_below(flags);
        match self.io {
            IoMode::Passthrough => kept,
            // Who only reads must not need the right to write, nor keep a program busy below.
            IoMode::Cached if kept & OFlags::ACCMODE == OFlags::RDONLY => kept - OFlags::APPEND,
            // The kernel reads what surrounds a small write, and writes back through any writer.
            IoMode::Cached => (kept - OFlags::ACCMODE - OFlags::APPEND) | OFlags::RDWR,
        }
    }

    /// Whether somebody may have this inode open for writing.
    pub(super) fn may_be_written(&self, nodeid: u64) -> bool {
        self.io == IoMode::Cached || self.lower.open_files.any_writer(nodeid)
    }

    /// Opens a regular file. With `passthrough` the kernel reads and writes the lower file itself;
    /// then one that is opened for reading only is not opened here until something needs it.
    ///
    /// Opening for writing is never put off: the lower file system may refuse it (immutable and
    /// append-only files, a read-only mount, a running program). `O_TRUNC` never arrives here: the
    /// kernel truncates when it has opened the file.
    pub fn open(
        &self,
        call: &Call<'_>,
        nodeid: u64,
        flags: u32,
        passthrough: bool,
    ) -> Result<Opened<'_>, FsError> {
        let inode = self.regular(nodeid)?;
        let kept = self.lower_flags(flags);
        let put_off = passthrough && kept & OFlags::ACCMODE == OFlags::RDONLY;
        let fd = if put_off { None } else { Some(self.open_for_caller(&inode, kept)?) };
        self.opened(call, &inode, kept, fd)
    }

    /// Whether the file's contents are made when they are read, so that its size says nothing.
    pub fn is_made(&self, nodeid: u64, flags: u32) -> Result<bool, FsError> {
        self.lower.is_made(&self.regular(nodeid)?, OFlags::from_bits_retain(flags))
    }

    /// The lower file, for the kernel to read and write by itself.
    pub fn backing_file(&self, nodeid: u64, bits: SetIdBits) -> Result<BackingFile, FsError> {
        self.backing(&self.regular(nodeid)?, bits)
    }

    /// Fifos, sockets and devices are opened by the kernel itself, never by the server.
    pub(super) fn regular(&self, nodeid: u64) -> Result<Inode, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let regular = inode.kind == FileType::RegularFile;
        if regular { Ok(inode) } else { Err(FsError::Refused(Errno::NXIO)) }
    }

    /// Opens a directory for listing.
    pub fn opendir(&self, call: &Call<'_>, nodeid: u64) -> Result<Opened<'_>, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.open_for_caller(&inode, flags)?;
        self.opened(call, &inode, flags, Some(fd))
    }

    /// Opens a lower file that stays open as long as a caller likes.
    fn open_for_caller(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, FsError> {
        self.lower.room_to_open()?;
        self.lower.open_file(inode, flags)
    }

    pub(super) fn opened(
        &self,
        call: &Call<'_>,
        inode: &Inode,
        flags: OFlags,
        fd: Option<OwnedFd>,
    ) -> Result<Opened<'_>, FsError> {
        if let Some(fd) = &fd {
            self.lower.opened_for_caller(fd);
        }
        self.lower.open_files.insert(call.in_flight, *inode, flags, fd)
    }

    /// The lower descriptor of an open file.
    pub(super) fn open_fd(&self, handle: u64) -> Result<Arc<OwnedFd>, FsError> {
        let file = self.lower.open_files.get(handle)?;
        self.lower.file_fd(&file)
    }

    /// From now on the kernel uses this new file as it does all others with `io=cached`: as if it had never
    /// opened it, and without closing it.
    pub fn use_without_open(&self, opened: &Opened<'_>, named: bool) -> Result<(), FsError> {
        self.lower.use_without_open(&*self.lower.open_files.get(opened.handle())?, named)
    }

    /// Whether a file or directory is open under this handle number.
    pub fn is_open(&self, handle: u64) -> bool {
        self.lower.open_files.get(handle).is_ok()
    }

    /// Closes a file or directory. Returns whether it used a backing id.
    pub fn release(&self, handle: u64) -> bool {
        let backed = self.lower.open_files.remove(handle);
        self.lower.drop_locks_through(handle);
        backed
    }
}
