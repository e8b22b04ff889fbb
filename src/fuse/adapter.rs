//! Each request: tag the caller and the names, call [`crate::fs`], send what comes back. Nothing
//! is decided here.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::backing::{Backing, Backings};
use super::convert::{caller, dot_attr, errno, file_attr, file_type, set_time};
use super::negotiate::negotiate;
use crate::error::FsError;
use crate::fs::{Attr, Entry, FileSystem, Name, NewFile, Place, Range, SetAttr, XattrReply};
use crate::shift::id::Id;

/// Nodeids are never given to a second file, so that one generation is enough.
const GENERATION: Generation = Generation(0);

/// The file system, as the library calls it.
pub(super) struct Adapter {
    pub(super) fs: FileSystem,
    /// How long the kernel may remember names and attributes.
    pub(super) timeout: Duration,
    /// Whether errors of close(2) matter on this lower file system.
    pub(super) flush: bool,
    /// How deep the lower file system is stacked, counting our own layer.
    pub(super) stack_depth: u32,
    /// Lower files that the kernel reads and writes by itself.
    pub(super) backings: Backings,
}

impl Adapter {
    /// An entry carries one number as nodeid and as `st_ino`. Where the two differ, the attributes
    /// are not to be remembered: the kernel asks for them at once and gets the right number.
    fn attr_timeout(&self, nodeid: u64, attr: &Attr) -> Duration {
        if nodeid == attr.ino { self.timeout } else { Duration::ZERO }
    }

    fn reply_entry(&self, reply: ReplyEntry, entry: Result<Entry<'_>, FsError>) {
        match entry {
            Ok(entry) => {
                let nodeid = entry.lookup.nodeid();
                let attr = file_attr(nodeid, &entry.attr);
                entry.lookup.give_to_kernel();
                let attr_timeout = self.attr_timeout(nodeid, &entry.attr);
                reply.entry_with_ttls(&attr_timeout, &self.timeout, &attr, GENERATION);
            }
            Err(error) => reply.error(errno(error)),
        }
    }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_xattr(reply: ReplyXattr, result: Result<XattrReply, FsError>) {
    match result {
        Ok(XattrReply::Size(size)) => reply.size(size),
        Ok(XattrReply::Data(data)) => reply.data(&data),
        Err(error) => reply.error(errno(error)),
    }
}

fn place(parent: INodeNo, name: &OsStr) -> Result<Place<'_>, FsError> {
    Ok(Place { parent: parent.0, name: Name::new(name)? })
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.stack_depth);
        self.backings.offered(config.capabilities());
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.reply_entry(reply, Name::new(name).and_then(|name| self.fs.lookup(parent.0, name)));
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        if self.fs.forget(ino.0, nlookup) {
            self.backings.forget(ino.0);
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.getattr(ino.0, fh.map(|fh| fh.0)) {
            Ok(attr) => reply.attr(&self.timeout, &file_attr(attr.ino, &attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid: uid.map(Id::new),
            gid: gid.map(Id::new),
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            handle: fh.map(|fh| fh.0),
        };
        match self.fs.setattr(caller(request), ino.0, &set) {
            Ok(attr) => reply.attr(&self.timeout, &file_attr(attr.ino, &attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let new = NewFile { caller: caller(request), mode, umask };
        let created = Name::new(name).and_then(|name| self.fs.mknod(parent.0, name, new, rdev));
        self.reply_entry(reply, created);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let new = NewFile { caller: caller(request), mode, umask };
        self.reply_entry(
            reply,
            Name::new(name).and_then(|name| self.fs.mkdir(parent.0, name, new)),
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, place(parent, name).and_then(|place| self.fs.unlink(place)));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, place(parent, name).and_then(|place| self.fs.rmdir(place)));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let created = Name::new(link_name)
            .and_then(|name| self.fs.symlink(parent.0, name, caller(request), target.as_os_str()));
        self.reply_entry(reply, created);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = place(parent, name).and_then(|from| {
            self.fs.rename(caller(request), from, place(newparent, newname)?, flags.bits())
        });
        reply_empty(reply, renamed);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked =
            place(newparent, newname).and_then(|to| self.fs.link(caller(request), ino.0, to));
        self.reply_entry(reply, linked);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let backing =
            self.backings.acquire(ino.0, || Ok(reply.open_backing(self.fs.backing_file(ino.0)?)));
        let backing = match backing {
            Ok(backing) => backing,
            Err(error) => return reply.error(errno(error)),
        };
        match (self.fs.open(caller(request), ino.0, flags.0, backing.is_some()), backing) {
            (Ok(opened), Some(backing)) => {
                let handle = FileHandle(opened.handle);
                reply.opened_passthrough(handle, FopenFlags::empty(), &backing.keep());
            }
            (Ok(opened), None) => reply.opened(FileHandle(opened.handle), FopenFlags::empty()),
            (Err(error), _) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let new = NewFile { caller: caller(request), mode, umask };
        let created = Name::new(name).and_then(|name| self.fs.create(parent.0, name, new, flags));
        let (entry, opened) = match created {
            Ok(created) => created,
            Err(error) => return reply.error(errno(error)),
        };
        let nodeid = entry.lookup.nodeid();
        let attr = file_attr(nodeid, &entry.attr);
        let handle = FileHandle(opened.handle);
        let backing =
            self.backings.acquire(nodeid, || Ok(reply.open_backing(self.fs.backing_file(nodeid)?)));
        let none = FopenFlags::empty();
        match backing {
            Ok(backing) => {
                entry.lookup.give_to_kernel();
                match backing.map(Backing::keep) {
                    Some(id) => reply.created_passthrough(
                        &self.timeout,
                        &attr,
                        GENERATION,
                        handle,
                        none,
                        &id,
                    ),
                    None => reply.created(&self.timeout, &attr, GENERATION, handle, none),
                }
            }
            Err(error) => {
                self.fs.release(opened.handle);
                reply.error(errno(error));
            }
        }
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        match self.fs.read(fh.0, offset, &mut buffer) {
            Ok(read) => reply.data(&buffer[..read]),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.fs.write(caller(request), fh.0, offset, data, kill) {
            Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.flush {
            reply_empty(reply, self.fs.flush(fh.0));
        } else {
            reply.error(Errno::ENOSYS); // the kernel does not ask again
        }
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        self.backings.release(ino.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.fs.fsync(fh.0, datasync));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.opendir(ino.0) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.fs.readdir(fh.0, offset, |entry| {
            !reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.fs.readdirplus(fh.0, offset, |dirent, entry| {
            let (ino, attr, timeout) = match &entry {
                Some(entry) => {
                    let nodeid = entry.lookup.nodeid();
                    let timeout = self.attr_timeout(nodeid, &entry.attr);
                    (nodeid, file_attr(nodeid, &entry.attr), timeout)
                }
                None => (dirent.ino, dot_attr(dirent.ino), self.timeout),
            };
            let full =
                reply.add(INodeNo(ino), dirent.next, dirent.name, &timeout, &attr, GENERATION);
            match entry {
                Some(entry) if !full => entry.lookup.give_to_kernel(),
                _ => {}
            }
            !full
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.fs.fsync(fh.0, datasync));
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs(ino.0) {
            Ok(s) => reply.statfs(
                s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize,
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.fs.setxattr(caller(request), ino.0, name, value, flags));
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        reply_xattr(reply, self.fs.getxattr(ino.0, name, size));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, self.fs.listxattr(caller(request), ino.0, size));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.fs.removexattr(ino.0, name));
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // `default_permissions`: the kernel decides and does not ask.
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        match self.fs.ioctl(ino.0, cmd, in_data, out_size) {
            Ok(result) => reply.ioctl(0, result.bytes()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS); // files are always ready: the kernel's own answer
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.fs.fallocate(fh.0, mode.cast_unsigned(), offset, length));
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = u64::try_from(offset)
            .map_err(|_| FsError::Refused(rustix::io::Errno::NXIO))
            .and_then(|offset| self.fs.lseek(fh.0, offset, whence));
        match found {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = Range { handle: fh_in.0, offset: offset_in };
        let to = Range { handle: fh_out.0, offset: offset_out };
        match self.fs.copy_file_range(from, to, len) {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(errno(error)),
        }
    }
}
