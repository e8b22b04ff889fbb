//! Finding files and reading what they are: lookup, forget, getattr, readlink.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::stat::LowerStat;
use crate::lower::table::{Lookup, ROOT_ID};

use super::attr::Of;
use super::validity::{How, Valid};
use super::{Attr, Call, FileSystem, KnownAttr, Name};

/// A file that a request found or made: its counted lookup and its attributes.
pub struct Entry<'fs> {
    /// Counted; the count goes back unless it is given to the kernel.
    pub lookup: Lookup<'fs>,
    /// The attributes, ids translated up.
    pub attr: Attr,
    /// How long the kernel may remember both.
    pub valid: Valid,
}

/// What a name stands for.
#[allow(clippy::large_enum_variant)] // most are entries, and a box for each would cost more
pub enum Found<'fs> {
    /// This file.
    Entry(Entry<'fs>),
    /// Nothing, which the kernel may remember for this time.
    Missing(Duration),
}

impl FileSystem {
    /// Looks `name` up in the directory `parent`. `ENOENT` if it is not there and the kernel may not
    /// remember that.
    pub fn lookup<'c>(
        &'c self,
        call: &Call<'c>,
        parent: u64,
        name: Name<'_>,
    ) -> Result<Found<'c>, FsError> {
        let since = self.since(parent);
        match self.find(call, parent, name) {
            Ok(found) => Ok(Found::Entry(self.entry(call, (since, How::LookedUp), found))),
            Err(error @ FsError::Os { errno: Errno::NOENT, .. }) => {
                let time = self.valid_missing(since, parent, name);
                if time.is_zero() { Err(error) } else { Ok(Found::Missing(time)) }
            }
            Err(error) => Err(error),
        }
    }

    /// Looks `name` up in the directory `parent`, for the server itself.
    pub(super) fn find<'c>(
        &'c self,
        call: &Call<'c>,
        parent: u64,
        name: Name<'_>,
    ) -> Result<(Lookup<'c>, Attr), FsError> {
        let parent = self.lower.inode(parent)?;
        let (lookup, stat) = self.lower.lookup(call.in_flight, &parent, name.as_os_str())?;
        let attr = self.shown(Of::Inode(lookup.inode().ok_or(FsError::Stale)?), &stat)?;
        Ok((lookup, attr))
    }

    /// Finds an inode that the kernel knows by its nodeid alone, from a handle of the mount.
    pub fn lookup_self<'c>(&'c self, call: &Call<'c>, nodeid: u64) -> Result<Entry<'c>, FsError> {
        self.unnamed(self.lower.lookup_self(call.in_flight, nodeid)?)
    }

    /// Finds the directory above another.
    pub fn lookup_parent<'c>(&'c self, call: &Call<'c>, nodeid: u64) -> Result<Entry<'c>, FsError> {
        self.unnamed(self.lower.lookup_parent(call.in_flight, &self.lower.inode(nodeid)?)?)
    }

    fn unnamed<'c>(&'c self, found: (Lookup<'c>, LowerStat)) -> Result<Entry<'c>, FsError> {
        let (lookup, stat) = found;
        let attr = self.shown(Of::Inode(lookup.inode().ok_or(FsError::Stale)?), &stat)?;
        let time = self.valid_set();
        Ok(Entry { lookup, attr, valid: Valid { name: time, attr: time } })
    }

    /// The kernel has dropped `count` lookups of `nodeid`; true when it knows it no more.
    pub fn forget(&self, call: &Call<'_>, nodeid: u64, count: u64) -> bool {
        self.lower.forget(call.in_flight, nodeid, count)
    }

    /// How many inodes of the message, which makes the server forget them, another server has
    /// forgotten already.
    pub fn forgotten(&self, call: &Call<'_>) -> u64 {
        call.in_flight.forgotten()
    }

    /// The attributes of an inode, or of the file that a handle has open.
    pub fn getattr(
        &self,
        call: &Call<'_>,
        nodeid: u64,
        handle: Option<u64>,
    ) -> Result<KnownAttr, FsError> {
        let Some(watch) = self.watch() else {
            let valid = self.valid_read_of(nodeid, self.valid_set());
            return Ok(KnownAttr { attr: self.attr_of(nodeid, handle)?, valid });
        };
        let mut epoch = watch.epoch();
        let mut attr = self.attr_of(nodeid, handle)?;
        if let Some(marked) = self.lower.hear_inode(watch, nodeid, attr.ctime) {
            epoch = watch.epoch();
            attr = self.attr_of(nodeid, handle)?;
            watch.confirm(&marked, attr.ctime);
        }
        let valid = self.valid_attr(call, watch, (epoch, nodeid), &attr);
        Ok(KnownAttr { attr, valid })
    }

    /// The attributes of the root, which nobody has asked for.
    pub fn root_attr(&self) -> Result<Attr, FsError> {
        self.attr_of(ROOT_ID, None)
    }

    pub(super) fn attr_of(&self, nodeid: u64, handle: Option<u64>) -> Result<Attr, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let attr = if let Some(handle) = handle {
            let fd = self.open_fd(handle)?;
            self.shown(Of::Fd(fd.as_fd()), &LowerStat::of(&fd)?)?
        } else {
            self.shown(Of::Inode(&inode), &self.lower.stat(&inode)?)?
        };
        self.tell(&inode, &attr);
        Ok(attr)
    }

    /// The target of a symbolic link, as stored.
    pub fn readlink(&self, nodeid: u64) -> Result<Vec<u8>, FsError> {
        let inode = self.lower.inode(nodeid)?;
        if inode.kind != rustix::fs::FileType::Symlink {
            return self.recorded_target(&inode);
        }
        let fd = self.lower.path_fd(&inode)?;
        let target = rustix::fs::readlinkat(&fd, OsStr::new(""), Vec::new()).call("readlinkat")?;
        Ok(target.into_bytes())
    }
}
