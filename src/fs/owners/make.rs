//! Making files whose owner is kept in an attribute.
//!
//! Between the call that makes a file and the one that writes its attribute the file is as one
//! without: root's, and private. Through this mount nobody sees that moment, because the kernel
//! holds the directory meanwhile.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::inode::Inode;
use crate::lower::stat::{LowerStat, decode_rdev};
use crate::shift::ownership::{Device, Kind, Stored};

use super::super::attr::Of;
use super::super::validity::How;
use super::super::{Call, Entry, FileSystem, NewFile, Place};
use super::{Owners, PRIVATE_DIR, PRIVATE_FILE};

/// A new file that is more than its name and mode.
pub(in crate::fs) enum Special<'a> {
    /// A directory.
    Dir,
    /// A symbolic link to this target.
    Symlink(&'a OsStr),
    /// A node of the type in the mode; the number is for devices, as FUSE carries it.
    Node(u32),
}

const S_ISGID: u32 = 0o2000;

impl FileSystem {
    /// The attribute of a file that is about to be made in `dir`, by the rules by which a file
    /// system gives new files their owner and mode (`inode_init_owner`, fs/inode.c).
    pub(in crate::fs) fn born_as(
        &self,
        call: &Call<'_>,
        new: NewFile,
        dir: BorrowedFd<'_>,
        kind: Kind,
    ) -> Result<Stored, FsError> {
        let (uid, gid) = self.born(call.caller)?;
        let (uid, mut gid) = (uid.id(), gid.id());
        let mut mode = new.mode & 0o7777 & !(new.umask & 0o777);
        let parent = self.recorded(Of::Fd(dir), &LowerStat::of(dir)?)?;
        if parent.mode & S_ISGID != 0 {
            gid = parent.gid.ok_or(FsError::UnmappedOwner)?;
            if kind == Kind::Dir {
                mode |= S_ISGID;
            }
        }
        Ok(Stored { uid, gid, mode, kind: Some(kind) })
    }

    /// Makes a directory, a link or a node.
    pub(in crate::fs) fn make_recorded<'c>(
        &'c self,
        call: &Call<'c>,
        owners: &Owners,
        Place { parent, name }: Place<'_>,
        new: NewFile,
        special: &Special<'_>,
    ) -> Result<Entry<'c>, FsError> {
        let since = self.since(parent);
        let creator = self.creator(call.caller, new.umask)?;
        let parent = self.lower.inode(parent)?;
        let dir = self.lower.path_fd(&parent)?;
        let stored = self.born_as(call, new, dir.as_fd(), kind_of(special, new.mode))?;
        let name = name.as_os_str();
        let fd = self.ids.as_creator(creator, || {
            self.lower.retrying(|| match special {
                Special::Dir => make_dir(dir.as_fd(), name),
                Special::Symlink(_) | Special::Node(_) => make_file(dir.as_fd(), name),
            })
        })?;
        let flags =
            if matches!(special, Special::Dir) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let written = || -> Result<(), FsError> {
            if let Special::Symlink(target) = special {
                let copy = fd.try_clone().map_err(|error| failed(&error))?;
                std::fs::File::from(copy)
                    .write_all(target.as_bytes())
                    .map_err(|error| failed(&error))?;
            }
            owners.write(fd.as_fd(), &stored)
        };
        Self::or_undo(written(), dir.as_fd(), name, flags)?;
        let stat = LowerStat::of(&fd)?;
        let lookup = self.lower.intern(call.in_flight, &parent, name, &stat);
        let attr = self.shown(Of::Fd(fd.as_fd()), &stat)?;
        Ok(self.entry(call, (since, How::Made), (lookup, attr)))
    }

    /// Writes the attribute of a file that was just made and opened.
    pub(in crate::fs) fn record_born(
        &self,
        fd: &OwnedFd,
        stored: &Stored,
        dir: BorrowedFd<'_>,
        name: Option<&OsStr>,
    ) -> Result<(), FsError> {
        let Some(owners) = &self.owners else { return Ok(()) };
        let written = owners.write(fd.as_fd(), stored);
        match name {
            Some(name) => Self::or_undo(written, dir, name, AtFlags::empty()),
            None => written,
        }
    }

    /// A file whose owner could not be written is not left behind.
    fn or_undo(
        written: Result<(), FsError>,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        flags: AtFlags,
    ) -> Result<(), FsError> {
        if written.is_err()
            && let Err(errno) = rustix::fs::unlinkat(dir, name, flags)
        {
            tracing::warn!(%errno, "a file without an owner is left");
        }
        written
    }

    /// The target of a symbolic link that is a regular file below; `EINVAL` if it is none.
    pub(in crate::fs) fn recorded_target(&self, inode: &Inode) -> Result<Vec<u8>, FsError> {
        const LONGEST: usize = 4096; // PATH_MAX
        let path = self.lower.path_fd(inode)?;
        let stat = self.recorded(Of::Fd(path.as_fd()), &LowerStat::of(&path)?)?;
        if stat.kind() != FileType::Symlink || inode.kind != FileType::RegularFile {
            return Err(FsError::Refused(Errno::INVAL));
        }
        let fd = self.lower.open_file(inode, OFlags::RDONLY)?;
        let mut target = Vec::with_capacity(LONGEST);
        rustix::io::pread(&fd, rustix::buffer::spare_capacity(&mut target), 0).call("pread")?;
        Ok(target)
    }
}

/// The lower mode of a regular file that is made.
pub(in crate::fs) fn private_file() -> Mode {
    Mode::from_bits_truncate(PRIVATE_FILE)
}

fn kind_of(special: &Special<'_>, mode: u32) -> Kind {
    let Special::Node(rdev) = special else {
        return if matches!(special, Special::Dir) { Kind::Dir } else { Kind::Symlink };
    };
    let (major, minor) = decode_rdev(*rdev);
    let device = Device { major, minor };
    match FileType::from_raw_mode(mode) {
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::Block(device),
        FileType::CharacterDevice => Kind::Char(device),
        _ => Kind::File,
    }
}

fn make_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, FsError> {
    rustix::fs::mkdirat(dir, name, Mode::from_bits_truncate(PRIVATE_DIR)).call("mkdirat")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).call("openat")
}

fn make_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, FsError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, private_file()).call("openat")
}

fn failed(error: &std::io::Error) -> FsError {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    FsError::Os { call: "write", errno }
}
