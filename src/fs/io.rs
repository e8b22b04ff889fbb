//! The contents of open files.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::error::{CallExt, FsError};
use crate::lower::no_open::Access;
use crate::lower::open_files::NO_OPEN;
use crate::lower::stat::LowerStat;
use crate::sys::file::append_at;

use super::{Call, FileSystem};

/// The most that one copy_file_range(2) moves (`MAX_RW_COUNT`); the reply has 32 bits for it.
const MAX_COPY: u64 = 0x7fff_f000;

/// The file that a request about contents means.
#[derive(Debug, Clone, Copy)]
pub struct Contents {
    /// Its inode.
    pub nodeid: u64,
    /// The open file, or [`NO_OPEN`] where the kernel opens files without asking.
    pub handle: u64,
}

/// One end of a copy.
#[derive(Debug, Clone, Copy)]
pub struct CopyEnd {
    /// The file.
    pub file: Contents,
    /// The offset in bytes.
    pub offset: u64,
}

/// What is written, and how.
#[derive(Debug, Clone, Copy)]
pub struct Write<'d> {
    /// The offset in bytes; it does not count with `append`.
    pub offset: u64,
    /// The bytes.
    pub data: &'d [u8],
    /// Behind the end of the lower file, wherever that is by now (`O_APPEND`).
    pub append: bool,
    /// By somebody without `CAP_FSETID` (`FUSE_WRITE_KILL_SUIDGID`).
    pub clear_privileges: bool,
    /// All or an error (`FUSE_WRITE_CACHE`): of what the kernel writes from its cache it takes any
    /// success for all of it, and what a full disk has cut off would be lost without a word.
    pub whole: bool,
}

impl FileSystem {
    /// Appends up to `size` bytes of the file to `buffer`; fewer only at the end of the file.
    pub fn read(
        &self,
        file: Contents,
        offset: u64,
        size: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), FsError> {
        let fd = self.contents_fd(file, Access::Read)?;
        // The kernel asks for whole pages, also where a file ends at the largest offset there is.
        let room = i64::MAX.cast_unsigned().saturating_sub(offset);
        let size = usize::try_from(room.min(size.into())).unwrap_or(0);
        let made = self.lower.has_made_files()
            && self.lower.is_surely_made(&self.lower.inode(file.nodeid)?);
        let mut done = 0;
        while done < size {
            match append_at(fd.as_fd(), buffer, size - done, offset + done as u64) {
                Ok(0) => break,
                // More may come only when something happens, or be another file's by then.
                Ok(_) if made => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno).call("pread"),
            }
        }
        Ok(())
    }

    /// Writes all of `data`, or as much as fits. With `clear_privileges` the caller's write clears
    /// set-user-ID and set-group-ID bits (`FUSE_WRITE_KILL_SUIDGID`).
    ///
    /// Whether it appends is said anew by each write: fcntl(2) may have changed `O_APPEND` since
    /// the file was opened, and what a memory map has changed is written where it belongs.
    pub fn write(
        &self,
        call: &Call<'_>,
        file: Contents,
        write: Write<'_>,
    ) -> Result<usize, FsError> {
        // What another server has appended already is not appended again.
        let before = self.appended(call, file, &write)?;
        let Write { offset, data, append, clear_privileges, whole } = write;
        let data = &data[before..];
        let fd = self.target_fd(file, append)?;
        let how = if append { ReadWriteFlags::APPEND } else { ReadWriteFlags::empty() };
        let write = || {
            let mut done = 0;
            while done < data.len() {
                let rest = [IoSlice::new(&data[done..])];
                match rustix::io::pwritev2(&fd, &rest, offset + done as u64, how) {
                    Ok(0) if whole => return Err(Errno::IO).call("pwritev2"),
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(Errno::INTR) => {}
                    Err(_) if done > 0 && !whole => break,
                    Err(errno) => return Err(errno).call("pwritev2"),
                }
            }
            Ok(done)
        };
        let written = if clear_privileges {
            let stat = LowerStat::of(&fd)?;
            self.allocating(|| self.clearing(call.caller, fd.as_fd(), &stat, write))
        } else {
            self.allocating(write)
        };
        written.map(|written| before + written)
    }

    /// Brings a file's contents to the disk, and its attributes unless `data_only`.
    pub fn fsync(&self, file: Contents, data_only: bool) -> Result<(), FsError> {
        let inode = self.lower.inode(file.nodeid)?;
        let fd = if file.handle == NO_OPEN && inode.is_dir() {
            self.lower.file_fd(&*self.open_dir(file.nodeid, file.handle)?)?
        } else {
            self.contents_fd(file, Access::Read)?
        };
        if data_only {
            rustix::fs::fdatasync(&fd).call("fdatasync")
        } else {
            rustix::fs::fsync(&fd).call("fsync")
        }
    }

    /// One of several descriptors of an open file is closed: errors that the lower file system
    /// reports only on close(2) reach the caller here.
    pub fn flush(&self, file: Contents) -> Result<(), FsError> {
        let fd = self.contents_fd(file, Access::Write)?;
        let copy = rustix::io::dup(&fd).call("dup")?;
        crate::sys::file::close(copy).call("close")
    }

    /// Allocates or frees space (fallocate(2), all modes).
    pub fn fallocate(
        &self,
        call: &Call<'_>,
        file: Contents,
        mode: u32,
        (offset, length): (u64, u64),
    ) -> Result<(), FsError> {
        let fd = self.contents_fd(file, Access::Write)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        self.changing(call.caller, fd.as_fd(), || {
            rustix::fs::fallocate(&fd, mode, offset, length).call("fallocate")
        })
    }

    /// The same where the kernel keeps size and times: what fails changes neither.
    pub fn fallocate_whole(
        &self,
        call: &Call<'_>,
        file: Contents,
        mode: u32,
        range: (u64, u64),
    ) -> Result<(), FsError> {
        self.keeping_time(file, || {
            if mode == 0 {
                // On a full disk the file would have grown by what there was room for.
                self.fallocate(call, file, FallocateFlags::KEEP_SIZE.bits(), range)?;
            }
            self.fallocate(call, file, mode, range)
        })
    }

    /// The next data (`SEEK_DATA`) or hole (`SEEK_HOLE`) from `offset` on; the kernel does the
    /// other kinds of seeking itself.
    pub fn lseek(&self, file: Contents, offset: u64, whence: i32) -> Result<u64, FsError> {
        let fd = self.contents_fd(file, Access::Read)?;
        let target = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(FsError::Refused(Errno::INVAL)),
        };
        rustix::fs::seek(&fd, target).call("lseek")
    }

    /// The descriptor through which a file's contents are used.
    pub(super) fn contents_fd(
        &self,
        file: Contents,
        access: Access,
    ) -> Result<Arc<OwnedFd>, FsError> {
        if file.handle != NO_OPEN {
            return self.open_fd(file.handle);
        }
        self.lower.no_open_fd(&self.regular(file.nodeid)?, access)
    }

    /// The descriptor for writing where the request says, or at the end if it appends.
    fn target_fd(&self, file: Contents, append: bool) -> Result<Arc<OwnedFd>, FsError> {
        let fd = self.contents_fd(file, Access::Write)?;
        let appends = file.handle != NO_OPEN
            && self.lower.open_files.get(file.handle)?.was_opened_for_appending();
        if appends && !append {
            end_appending(fd.as_fd())?;
        }
        Ok(fd)
    }

    /// Copies within the lower file system, sharing blocks where it can.
    pub fn copy_file_range(
        &self,
        call: &Call<'_>,
        from: CopyEnd,
        to: CopyEnd,
        length: u64,
    ) -> Result<u32, FsError> {
        let source = self.contents_fd(from.file, Access::Read)?;
        // The kernel above has refused files that still append.
        let target = self.target_fd(to.file, false)?;
        let (mut read_at, mut write_at) = (from.offset, to.offset);
        let length = usize::try_from(length.min(MAX_COPY)).unwrap_or(0);
        let copied = self.changing(call.caller, target.as_fd(), || {
            let (from, to) = (Some(&mut read_at), Some(&mut write_at));
            rustix::fs::copy_file_range(&source, from, &target, to, length).call("copy_file_range")
        })?;
        u32::try_from(copied).map_err(|_| FsError::Refused(Errno::OVERFLOW))
    }
}

/// A descriptor that appends ignores offsets. It never has to append again: the writes that do say
/// so. `EPERM` for a file that may only be appended to.
fn end_appending(fd: BorrowedFd<'_>) -> Result<(), FsError> {
    let flags = rustix::fs::fcntl_getfl(fd).call("fcntl")?;
    if flags.contains(OFlags::APPEND) {
        rustix::fs::fcntl_setfl(fd, flags - OFlags::APPEND).call("fcntl")?;
    }
    Ok(())
}
