//! Finding files and reading what they are: lookup, forget, getattr, readlink.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use crate::error::{CallExt, FsError};
use crate::lower::stat::LowerStat;
use crate::lower::table::Lookup;

use super::attr::Of;
use super::{Attr, FileSystem, Name};

/// A file that a request found or made: its counted lookup and its attributes.
pub struct Entry<'fs> {
    /// Counted; the count goes back unless it is given to the kernel.
    pub lookup: Lookup<'fs>,
    /// The attributes, ids translated up.
    pub attr: Attr,
}

impl FileSystem {
    /// Looks `name` up in the directory `parent`.
    pub fn lookup(&self, parent: u64, name: Name<'_>) -> Result<Entry<'_>, FsError> {
        let parent = self.lower.inode(parent)?;
        let (lookup, stat) = self.lower.lookup(&parent, name.as_os_str())?;
        let attr = self.shown(Of::Inode(lookup.inode().ok_or(FsError::Stale)?), &stat)?;
        Ok(Entry { lookup, attr })
    }

    /// The kernel has dropped `count` lookups of `nodeid`; true when it knows it no more.
    pub fn forget(&self, nodeid: u64, count: u64) -> bool {
        self.lower.forget(nodeid, count)
    }

    /// The attributes of an inode, or of the file that a handle has open.
    pub fn getattr(&self, nodeid: u64, handle: Option<u64>) -> Result<Attr, FsError> {
        if let Some(handle) = handle {
            let fd = self.open_fd(handle)?;
            return self.shown(Of::Fd(fd.as_fd()), &LowerStat::of(&fd)?);
        }
        let inode = self.lower.inode(nodeid)?;
        let stat = self.lower.stat(&inode)?;
        self.shown(Of::Inode(&inode), &stat)
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
