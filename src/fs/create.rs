//! Making files: create, mknod, mkdir, symlink. Each is born with its owner in one system call.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::inode::Inode;
use crate::lower::stat::{LowerStat, decode_rdev};
use crate::lower::table::Lookup;

use crate::shift::ownership::{Kind, Stored};

use super::attr::Of;
use super::open::Opened;
use super::owners::{Special, private_file};
use super::store::Birth;
use super::validity::How;
use super::{Attr, Call, Entry, FileSystem, Place};

/// How a file is made.
#[derive(Debug, Clone, Copy)]
pub struct NewFile {
    /// Type and permission bits as asked for, the umask not yet applied.
    pub mode: u32,
    /// The caller's umask; it counts only where the directory has no default ACL.
    pub umask: u32,
}

impl FileSystem {
    /// Makes a regular file and opens it.
    ///
    /// Another process may have made the name since the kernel looked: then the answer is
    /// `ESTALE`, on which the kernel looks again and decides anew whether the caller may open it.
    pub fn create<'c>(
        &'c self,
        call: &Call<'c>,
        place: Place<'_>,
        new: NewFile,
        flags: u32,
    ) -> Result<(Entry<'c>, Opened<'c>), FsError> {
        self.undo_making(call, place, false)?;
        let since = self.since(place.parent);
        let kept = self.lower_flags(flags);
        let flags = kept | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = Some(place.name.as_os_str());
        let made = self.make_open(call, (place.parent, name), new, (flags, kept));
        let (made, opened) = made.map_err(|error| match error {
            FsError::Os { call: "openat", errno: Errno::EXIST } => FsError::Stale,
            other => other,
        })?;
        Ok((self.entry(call, (since, How::Made), made), opened))
    }

    /// Makes a regular file without a name and opens it (`O_TMPFILE`).
    pub fn tmpfile<'c>(
        &'c self,
        call: &Call<'c>,
        parent: u64,
        new: NewFile,
        flags: u32,
    ) -> Result<(Entry<'c>, Opened<'c>), FsError> {
        let since = self.since(parent);
        let kept = self.lower_flags(flags);
        let unlinkable = OFlags::from_bits_retain(flags) & OFlags::EXCL;
        let flags = kept | unlinkable | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (made, opened) = self.make_open(call, (parent, None), new, (flags, kept))?;
        Ok((self.entry(call, (since, How::Made), made), opened))
    }

    /// Makes a regular file with a name or without one, opened with `flags`; of these `kept` are
    /// those by which it is opened again.
    fn make_open<'c>(
        &'c self,
        call: &Call<'c>,
        (parent, name): (u64, Option<&OsStr>),
        new: NewFile,
        (flags, kept): (OFlags, OFlags),
    ) -> Result<((Lookup<'c>, Attr), Opened<'c>), FsError> {
        let creator = self.creator(call.caller, new.umask)?;
        let parent = self.lower.inode(parent)?;
        self.lower.room_to_open()?;
        let dir = self.lower.path_fd(&parent)?;
        self.may_change(dir.as_fd(), Errno::ACCESS)?;
        let new =
            NewFile { mode: self.mode_at_birth(call.caller, parent.nodeid, new.mode)?, ..new };
        let birth = self.birth(dir.as_fd(), FileType::RegularFile, new.mode, call.caller)?;
        let record = self.record_of_file(call, new, dir.as_fd())?;
        let mode = record.map_or_else(|| birth.mode(), |_| private_file());
        let at = name.unwrap_or(OsStr::new("."));
        self.has_room(creator, dir.as_fd())?;
        let fd = self.as_creator(call.caller, creator, || {
            self.lower.retrying(|| rustix::fs::openat(&dir, at, flags, mode).call("openat"))
        })?;
        if let Some(record) = &record {
            self.record_born(&fd, record, dir.as_fd(), name)?;
        }
        // No walk ends at the empty name: while it has none, the open file leads to it.
        self.born_open(call, (&parent, name.unwrap_or_default()), fd, &birth, kept)
    }

    /// What the attribute of a new regular file will say, where owners are kept in attributes.
    fn record_of_file(
        &self,
        call: &Call<'_>,
        new: NewFile,
        dir: BorrowedFd<'_>,
    ) -> Result<Option<Stored>, FsError> {
        self.owners.as_ref().map(|_| self.born_as(call, new, dir, Kind::File)).transpose()
    }

    fn born_open<'c>(
        &'c self,
        call: &Call<'c>,
        (parent, name): (&Inode, &OsStr),
        fd: OwnedFd,
        birth: &Birth,
        flags: OFlags,
    ) -> Result<((Lookup<'c>, Attr), Opened<'c>), FsError> {
        self.after_birth(fd.as_fd(), birth)?;
        let stat = LowerStat::of(&fd)?;
        let lookup = self.lower.intern(call.in_flight, parent, name, &stat);
        let inode = lookup.inode().ok_or(FsError::Stale)?;
        let attr = self.shown(Of::Fd(fd.as_fd()), &stat)?;
        let opened = self.opened(call, inode, flags, Some(fd))?;
        Ok(((lookup, attr), opened))
    }

    /// Makes a node of any type but a directory or a symbolic link.
    pub fn mknod<'c>(
        &'c self,
        call: &Call<'c>,
        place: Place<'_>,
        new: NewFile,
        rdev: u32,
    ) -> Result<Entry<'c>, FsError> {
        self.undo_making(call, place, false)?;
        let new = NewFile { mode: self.mode_at_birth(call.caller, place.parent, new.mode)?, ..new };
        if let Some(owners) = &self.owners {
            return self.make_recorded(call, owners, place, new, &Special::Node(rdev));
        }
        let kind = FileType::from_raw_mode(new.mode);
        let (major, minor) = decode_rdev(rdev);
        let device = rustix::fs::makedev(major, minor);
        self.may_make_node(new.mode, device, call.caller)?;
        self.make(call, place, (kind, new.umask), |dir, name| {
            let birth = self.birth(dir, kind, new.mode, call.caller)?;
            let mode = birth.mode();
            if !birth.goes_on() {
                return rustix::fs::mknodat(dir, name, kind, mode, device).call("mknodat");
            }
            // Only a descriptor is sure to be of the new file: the name may be another's by now.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, name, flags, mode).call("openat")?;
            self.after_birth(fd.as_fd(), &birth)
        })
    }

    /// Makes a directory.
    pub fn mkdir<'c>(
        &'c self,
        call: &Call<'c>,
        place: Place<'_>,
        new: NewFile,
    ) -> Result<Entry<'c>, FsError> {
        self.undo_making(call, place, false)?;
        if let Some(owners) = &self.owners {
            return self.make_recorded(call, owners, place, new, &Special::Dir);
        }
        let mode = Mode::from_bits_truncate(new.mode);
        self.make(call, place, (FileType::Directory, new.umask), |dir, name| {
            rustix::fs::mkdirat(dir, name, mode).call("mkdirat")
        })
    }

    /// Makes a symbolic link; its target is stored as it is given.
    pub fn symlink<'c>(
        &'c self,
        call: &Call<'c>,
        place: Place<'_>,
        target: &OsStr,
    ) -> Result<Entry<'c>, FsError> {
        self.undo_making(call, place, true)?;
        if let Some(owners) = &self.owners {
            let new = NewFile { mode: 0o777, umask: 0 };
            return self.make_recorded(call, owners, place, new, &Special::Symlink(target));
        }
        self.make(call, place, (FileType::Symlink, 0), |dir, name| {
            rustix::fs::symlinkat(target, dir, name).call("symlinkat")
        })
    }

    /// Makes what is of this type, and looks at it by its name. If somebody has put something of
    /// another type in its place by then, the answer is `ESTALE`, on which the kernel tries once
    /// more: a made file of a wrong type is an I/O error for it, and it would forget to drop the
    /// lookup (`create_new_entry` in fs/fuse/dir.c).
    fn make<'c>(
        &'c self,
        call: &Call<'c>,
        Place { parent, name }: Place<'_>,
        (kind, umask): (FileType, u32),
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<(), FsError>,
    ) -> Result<Entry<'c>, FsError> {
        let since = self.since(parent);
        let creator = self.creator(call.caller, umask)?;
        let parent = self.lower.inode(parent)?;
        let dir = self.lower.path_fd(&parent)?;
        self.may_change(dir.as_fd(), Errno::ACCESS)?;
        self.has_room(creator, dir.as_fd())?;
        self.as_creator(call.caller, creator, || make(dir.as_fd(), name.as_os_str()))?;
        let (lookup, stat) = self.lower.lookup(call.in_flight, &parent, name.as_os_str())?;
        if stat.kind() != kind {
            return Err(FsError::Stale);
        }
        let attr = self.shown(Of::Inode(lookup.inode().ok_or(FsError::Stale)?), &stat)?;
        Ok(self.entry(call, (since, How::Made), (lookup, attr)))
    }
}
